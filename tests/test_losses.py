import pytest
import torch
from torch import Tensor

from losses import mmd2, reconstruction_loss


def rates(n: int, d: int = 5, seed: int = 0, shift: float = 0.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=rng, dtype=torch.float64) + shift


def naive_mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Eq. 10 with all pairwise differences [N, N, D] and the bandwidth of the released program."""
    pooled = torch.cat([x, y])
    d2 = ((pooled[None] - pooled[:, None]) ** 2).sum(2)
    n = len(pooled)
    base = d2.sum().detach() / (n * n - n)
    kernel = sum(torch.exp(-d2 / (base / 4 * 2**i)) for i in range(5))
    a = len(x)
    return kernel[:a, :a].mean() + kernel[a:, a:].mean() - kernel[:a, a:].mean() - kernel[a:, :a].mean()


@pytest.mark.parametrize(("n", "m"), [(8, 8), (3, 11), (1, 1), (1, 4)])
def test_mmd2_and_its_gradient_are_the_naive_form(n: int, m: int) -> None:
    x, y = rates(n).requires_grad_(), rates(m, seed=1, shift=0.2).requires_grad_()
    found, expected = mmd2(x, y), naive_mmd2(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(value, (x, y)) for value in (found, expected)]
    assert expected > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


def test_mmd2_in_float32_at_the_papers_size_stays_near_float64() -> None:
    rng = torch.Generator().manual_seed(2)
    posterior = torch.randint(0, 17, (256, 128), generator=rng) / 16
    prior = torch.rand(256, 128, generator=rng)
    found, expected = mmd2(posterior, prior), naive_mmd2(posterior.double(), prior.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_mmd2_is_not_rounded_by_autocast() -> None:
    x, y = torch.rand((2, 64, 16), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = mmd2(x, y)
    assert found.equal(mmd2(x, y))


@pytest.mark.parametrize(("n", "m", "d"), [(7, 4, 5), (3, 3, 7), (5, 9, 33), (64, 64, 128)])
def test_mmd2_where_all_points_coincide_is_zero_with_a_zero_gradient(n: int, m: int, d: int) -> None:
    for point in (torch.zeros(d), torch.full((d,), 0.3), rates(1, d)[0].float(), rates(1, d, seed=5)[0].float()):
        x, y = (point.expand(count, d).clone().requires_grad_() for count in (n, m))
        loss = mmd2(x, y)
        gradients = torch.autograd.grad(loss, (x, y))
        assert loss == 0
        assert not any(gradient.any() for gradient in gradients)


def test_reconstruction_loss_is_the_mean_over_images_and_pixels() -> None:
    reconstruction, images = torch.tensor([[[[0.5, -1.0]]], [[[1.0, 1.0]]]]), torch.zeros(2, 1, 1, 2)
    assert reconstruction_loss(reconstruction, images) == pytest.approx(3.25 / 4)
