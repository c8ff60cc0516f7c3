"""Loss terms: reconstruction and the distance between posterior and prior firing rates."""

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.precision import full_precision

MMD_BANDWIDTHS = tuple(0.25 * 2.0**i for i in range(5))  # factors on the mean squared distance


def reconstruction_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error per value of images in [-1, 1], the empirical form of the first term of Eq. 11.

    Both [N, C, H, W]; a scalar.
    """
    return F.mse_loss(reconstruction, images)


def mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two batches of firing rates, Eq. 10.

    The kernel is a sum of five Gaussians, exp(-d2 / b_i) with b_i = b / 4 * 2^i, where d2 is the squared
    Euclidean distance and b the mean d2 over all pairs of the pooled batch (no gradient through b). The
    biased estimate: diagonals are included. Needs N x N memory, not N x N x D. Computed in float32 at least, under
    autocast too: the distances' sum is beyond float16.

    Args:
        x: posterior rates r_p, [N, D].
        y: prior rates r_q, [M, D].

    Returns:
        a scalar >= 0 up to rounding; 0 with a zero gradient where all points coincide.
    """
    pooled = torch.cat([x, y])
    pooled = pooled.to(torch.promote_types(pooled.dtype, torch.float32))
    d2 = _squared_distances(pooled)
    n = len(pooled)
    bandwidth = d2.detach().sum() / (n * n - n)
    inverse = torch.where(bandwidth > 0, 1 / bandwidth, torch.zeros_like(bandwidth))
    kernel = sum(torch.exp(d2 * (-inverse / factor)) for factor in MMD_BANDWIDTHS)
    k_xx, k_xy = kernel[: len(x), : len(x)], kernel[: len(x), len(x) :]
    k_yx, k_yy = kernel[len(x) :, : len(x)], kernel[len(x) :, len(x) :]
    return k_xx.mean() + k_yy.mean() - k_xy.mean() - k_yx.mean()


def _squared_distances(points: Tensor) -> Tensor:
    """[N, D] -> [N, N], from the Gram matrix; exactly 0 on the diagonal."""
    points = points - points[:1].detach()  # distances stay; points that coincide get exactly 0
    with full_precision(points):
        gram = points @ points.T
    norms = gram.diagonal()
    return (norms[:, None] + norms[None, :] - 2 * gram).clamp(min=0)


def postsynaptic_potential(spikes: Tensor) -> Tensor:
    """Low-pass filter of spike trains [T, ...]: psp[t] = psp[t-1] + (s[t] - psp[t-1]) / 2, psp[-1] = 0."""
    potential, steps = torch.zeros_like(spikes[0]), []
    for spike in spikes:
        potential = potential + (spike - potential) / 2
        steps.append(potential)
    return torch.stack(steps)


def psp_mmd(posterior_rate: Tensor, prior_rate: Tensor) -> Tensor:
    """FSVAE's distance: mean squared difference of the filtered rates. Both [T, N, D]."""
    return F.mse_loss(postsynaptic_potential(posterior_rate), postsynaptic_potential(prior_rate))


def bernoulli_kl(posterior_rate: Tensor, prior_rate: Tensor, eps: float = 1e-2) -> Tensor:
    """KL divergence of Bernoulli spikes, posterior with rates q from prior with rates p, [T, N, D] each.

    sum over t and d of q log((q + eps) / (p + eps)) + (1 - q) log((1 - q + eps) / (1 - p + eps)), averaged over N. With
    `eps` it is finite, and so is its gradient, at rates of 0 and 1.
    """

    def term(q: Tensor, p: Tensor) -> Tensor:
        return q * torch.log((q + eps) / (p + eps))

    divergence = term(posterior_rate, prior_rate) + term(1 - posterior_rate, 1 - prior_rate)
    return divergence.sum((0, 2)).mean()


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)), [N, D] each, from N(0, I).

    sum over d of (mean^2 + exp(log_variance) - 1 - log_variance) / 2, averaged over N.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
