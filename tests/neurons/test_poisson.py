import pytest
import torch
from torch import Tensor

from neurons import PoissonSampler, Rectangular, sampler_surrogate

ONE_BEFORE_1 = 1 - 2**-24


def sampler(variant: str = "paper", n_steps: int = 16) -> PoissonSampler:
    return PoissonSampler(n_steps, sampler_surrogate(variant))


def draw(rate: float, n: int, rng: torch.Generator) -> Tensor:
    return sampler()(torch.full((n, 1), rate), generator=rng)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_low_rates_are_drawn_right_in_any_type(dtype: torch.dtype, rng: torch.Generator) -> None:
    rate = torch.full((50_000, 1), 2.0**-10, dtype=dtype, requires_grad=True)
    spikes = sampler()(rate, generator=rng)
    spikes.sum().backward()
    assert spikes.dtype == rate.grad.dtype == dtype and rate.grad.any()
    sigma = (2.0**-10 / spikes.numel()) ** 0.5
    assert abs(spikes.double().mean().item() - 2.0**-10) < 4 * sigma


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_spike_counts_follow_the_binomial_law(rate: float, rng: torch.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    n = 50_000
    counts = draw(rate, n, rng).sum(0).flatten().long()
    expected = n * torch.from_numpy(stats.binom.pmf(range(17), 16, rate))
    observed = torch.bincount(counts, minlength=17).double()
    often = expected >= 5
    pooled = [torch.cat([h[often], h[~often].sum()[None] + 1e-9]) for h in (observed, expected)]
    assert stats.chisquare(*pooled).pvalue > 1e-3


def test_steps_samples_and_units_draw_independently(rng: torch.Generator) -> None:
    spikes = sampler(n_steps=8)(torch.full((4, 2000), 0.5), generator=rng).flatten(0, 1)  # 32 rows of 2,000 units
    correlation = torch.corrcoef(spikes) - torch.eye(32)
    assert correlation.abs().max() < 5 / 2000**0.5
    correlation = torch.corrcoef(spikes.T.reshape(40, -1)) - torch.eye(40)
    assert correlation.abs().max() < 5 / 1600**0.5


def test_fires_exactly_where_the_given_noise_is_below_the_rate(rng: torch.Generator) -> None:
    rate, uniform = torch.rand(3, 5, generator=rng), torch.rand(16, 3, 5, generator=rng)
    uniform[4] = rate  # equal: silent
    spikes = sampler()(rate, uniform=uniform)
    assert torch.equal(spikes, (uniform < rate).float())
    assert not spikes[4].any()


@pytest.mark.parametrize(("variant", "width"), [("paper", 0.5), ("code", 1.0)])
def test_gradient_is_the_box_of_eq_8_summed_over_time(variant: str, width: float, rng: torch.Generator) -> None:
    rate = torch.rand(7, 11, generator=rng).requires_grad_()
    uniform, weight = torch.rand(2, 16, 7, 11, generator=rng)
    (sampler(variant)(rate, uniform=uniform) * weight).sum().backward()
    expected = torch.zeros(7, 11)
    for n in range(7):
        for d in range(11):
            for t in range(16):
                if abs(rate[n, d].item() - uniform[t, n, d].item()) < width / 2:
                    expected[n, d] += weight[t, n, d] / width
    torch.testing.assert_close(rate.grad, expected)


def test_a_generator_seed_decides_the_spikes() -> None:
    rate = torch.full((4, 50), 0.5)
    first, again, other = (sampler()(rate, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(16, 2, 3\), got \(2, 3\)"):
        sampler()(torch.zeros(2, 3), uniform=torch.zeros(2, 3))


def test_a_step_that_fires_at_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="strict"):
        PoissonSampler(16, Rectangular(0.5, strict=False))
