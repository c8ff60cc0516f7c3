"""Histograms of firing rates, how far two of them agree, and how widely a posterior samples (Sec. IV-F)."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

Histogram = np.ndarray  # [T + 1], share of units per rate 0/T .. T/T, sums to 1


def rate_histograms(rates: Tensor, n_steps: int) -> np.ndarray:
    """Of each row of rates [N, D] in [0, 1] the shares that are nearest to k / T, k = 0 .. T: [N, T + 1]."""
    bins = (rates * n_steps).round().long()
    counts = torch.zeros(len(bins), n_steps + 1, dtype=torch.float64, device=bins.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    return as_shares(counts.cpu().numpy())


def as_shares(counts: np.ndarray) -> Histogram:
    """Counts [..., T + 1] divided by their sum."""
    return counts / counts.sum(-1, keepdims=True)


def intersection(p: Histogram, q: Histogram) -> float:
    """Mass that two histograms share: 1 where they are equal, 0 where no rate occurs in both."""
    return float(np.minimum(p, q).sum())


def wasserstein(p: np.ndarray, q: Histogram) -> float:
    """1-D Wasserstein distance in units of the firing rate: the area between the two cumulated sums.

    `p` may be several histograms [N, T + 1]: then the mean of their distances from `q`.
    """
    return float(np.abs(np.cumsum(p - q, axis=-1)).sum(-1).mean() / (len(q) - 1))


@dataclass(frozen=True, eq=False)
class StageRates:
    """Histograms of a model's rates in one stage.

    Attributes:
        pooled: of the rates of all images and units; the mean of the images' own histograms.
        unit_means: of each unit's mean rate over all images.
        single: of the units' rates in the first image.
        single_to_pooled, single_to_unit_means: Wasserstein distance of a single image's histogram from these two,
            mean over the images.
    """

    pooled: Histogram
    unit_means: Histogram
    single: Histogram
    single_to_pooled: float
    single_to_unit_means: float


def stage_rates(latents: Iterable[Tensor]) -> StageRates:
    """From batches of z [T, n, D]; keeps T + 1 numbers per image."""
    images, total = [], 0
    for z in latents:
        rates = z.mean(0)
        images.append(rate_histograms(rates, len(z)))
        total = total + rates.double().sum(0)
    of_images = np.concatenate(images)
    pooled = of_images.mean(0)
    (unit_means,) = rate_histograms((total / len(of_images))[None], len(pooled) - 1)
    distances = wasserstein(of_images, pooled), wasserstein(of_images, unit_means)
    return StageRates(pooled, unit_means, of_images[0], *distances)


@dataclass(frozen=True)
class SamplingRange:
    """How widely z varies over draws for one and the same image.

    Attributes:
        rate_variance: variance over draws of a unit's firing rate in z, mean over units and images.
        varying_units: share of units whose rate is not the same in all draws.
        distinct_z: different z among the draws of an image, mean over images.
        distinct_rates: different vectors of rates among them.
    """

    rate_variance: float
    varying_units: float
    distinct_z: float
    distinct_rates: float


def mean_range(latents: Iterable[Tensor]) -> SamplingRange:
    """Mean over images, each given by the z [T, draws, D] drawn for it."""
    ranges = [astuple(_range_of_image(z)) for z in latents]
    return SamplingRange(*np.mean(ranges, axis=0).tolist())


def _range_of_image(z: Tensor) -> SamplingRange:
    rates = z.mean(0)
    varying = (rates != rates[0]).any(0).double().mean().item()
    distinct = (len(torch.unique(values.flatten(1), dim=0)) for values in (z.transpose(0, 1), rates))
    return SamplingRange(rates.double().var(0).mean().item(), varying, *distinct)
