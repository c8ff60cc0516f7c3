"""Frechet distance between two sets of features, each taken for a Gaussian.

References:
    Dowson, Landau, "The Frechet distance between multivariate normal distributions", 1982.
    Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import UserError

Array = Tensor | np.ndarray | Sequence
Statistics = tuple[Tensor, Tensor]  # mean and covariance of features


def frechet_distance(mu1: Array, s1: Array, mu2: Array, s2: Array) -> float:
    """|mu1 - mu2|^2 + Tr(s1 + s2 - 2 (s1 s2)^(1/2)), in float64; covariances may be rank-deficient.

    The trace of (s1 s2)^(1/2) is the sum of the singular values of s1^(1/2) s2^(1/2): real by construction, where
    the square root of the product itself is complex as soon as rounding makes an eigenvalue negative.

    Args:
        mu1, mu2: means [D].
        s1, s2: covariances [D, D], symmetric.

    Raises:
        ValueError: shapes that do not fit each other, or values that are not finite.
    """
    mu1, s1, mu2, s2 = (torch.as_tensor(a, dtype=torch.float64, device="cpu") for a in (mu1, s1, mu2, s2))
    if mu1.dim() != 1 or mu1.shape != mu2.shape or not s1.shape == s2.shape == (len(mu1), len(mu1)):
        shapes = ", ".join(str(list(a.shape)) for a in (mu1, s1, mu2, s2))
        raise ValueError(f"means and covariances must be [D], [D, D], [D], [D, D], not {shapes}")
    if not all(a.isfinite().all() for a in (mu1, s1, mu2, s2)):
        raise ValueError("means and covariances must be finite")
    overlap = torch.linalg.svdvals(_root(s1) @ _root(s2)).sum()
    distance = (mu1 - mu2).square().sum() + s1.trace() + s2.trace() - 2 * overlap
    return max(distance.item(), 0.0)  # rounding may leave equal Gaussians a little below 0


def _root(covariance: Tensor) -> Tensor:
    """Symmetric root of a covariance, in which eigenvalues below the rounding error count as 0.

    A root would turn an error of 1e-16 into one of 1e-8.
    """
    values, vectors = torch.linalg.eigh(covariance)
    error = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return vectors * values.where(values > error, 0).sqrt() @ vectors.T


def statistics(features: Tensor) -> Statistics:
    """Mean [D] and unbiased covariance [D, D] of features [N, D], in float64.

    Raises:
        UserError: fewer than D + 1 images, whose covariance has not full rank, or values that are not finite.
    """
    n_images, n_dimensions = features.shape
    if n_images <= n_dimensions:
        raise UserError(
            f"{n_images} images are too few for the covariance of {n_dimensions} features: give at least "
            f"{n_dimensions + 1}"
        )
    if not features.isfinite().all():
        raise UserError("some features of the images are not finite: check the images and the feature network's file")
    features = features.to("cpu", torch.float64)
    return features.mean(0), torch.cov(features.T).reshape(n_dimensions, n_dimensions)


def score_of_training_images(measured: Statistics, reference: Statistics, n_images: int) -> dict[str, Any]:
    """The distance that the first `n_images` of a training split have: the scale on which a model's has a meaning."""
    source = f"measured on the first {n_images:,} of the training split"
    return {"value": frechet_distance(*measured, *reference), "n_images": n_images, "source": source}
