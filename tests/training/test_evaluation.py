"""The reconstruction loss of a split is the mean over its images, and the baselines are what they say."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data import to_unit_range
from metrics import eight_bit_loss, evaluate_reconstruction, mean_image_loss
from training.evaluation import evaluation_batch


class KnownError(nn.Module):
    """Misses every value of an image by the image's first pixel, on [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, generator: torch.Generator) -> SimpleNamespace:
        assert x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
        assert not torch.is_grad_enabled()
        self.batches.append(len(x))
        return SimpleNamespace(reconstruction=x + self.weight * x[:, :1, :1, :1])


class Noise(nn.Module):
    """Misses by the generator's noise."""

    def forward(self, x: Tensor, generator: torch.Generator) -> SimpleNamespace:
        return SimpleNamespace(reconstruction=x + torch.rand(x.shape, generator=generator, device=x.device))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("batch_size", "batches"), [(4, [4, 4, 2]), (10, [10]), (64, [10]), (3, [3, 3, 3, 1])])
def test_each_image_counts_the_same_whatever_its_batch(images: Tensor, batch_size: int, batches: list[int]) -> None:
    model = KnownError()
    errors = to_unit_range(images)[:, 0, 0, 0].double() ** 2
    assert evaluate_reconstruction(model, images, batch_size) == pytest.approx(errors.mean().item(), rel=1e-6)
    assert model.batches == batches


def test_the_seed_fixes_the_noise_and_the_global_generator_has_no_part(images: Tensor) -> None:
    torch.manual_seed(1)
    first = evaluate_reconstruction(Noise(), images, seed=5)
    torch.manual_seed(2)
    assert evaluate_reconstruction(Noise(), images, seed=5) == first
    assert evaluate_reconstruction(Noise(), images, seed=6) != first
    assert evaluate_reconstruction(Noise(), images) == evaluate_reconstruction(Noise(), images, seed=0)


def test_the_mean_image_baseline_is_numpys(images: Tensor) -> None:
    train, test = images[:7], images[7:]
    scaled = images.numpy().astype(np.float64) / 255 * 2 - 1
    expected = np.mean((scaled[7:] - scaled[:7].mean(0)) ** 2)
    assert mean_image_loss(train, test) == pytest.approx(expected, rel=1e-5)


def test_the_mean_image_of_many_batches(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mean_image_loss(images, images)
    monkeypatch.setattr("metrics.baselines.BATCH", 3)
    assert mean_image_loss(images, images) == pytest.approx(whole, rel=1e-6)


def test_eight_bits_lose_nothing() -> None:
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert 0 <= eight_bit_loss(every_value) < 1e-12


def test_batches_of_an_evaluation_are_small_on_a_cpu() -> None:
    assert evaluation_batch(torch.empty(2, 3, 64, 64)) == 64


@pytest.mark.gpu
def test_batches_of_an_evaluation_have_as_many_pixels_whatever_the_images_on_a_gpu() -> None:
    assert [evaluation_batch(torch.empty((2, 3, n, n), device="cuda")) for n in (32, 64, 1024)] == [256, 64, 1]
