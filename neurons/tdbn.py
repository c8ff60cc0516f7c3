"""Threshold-dependent batch normalisation."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 17  # values worked on at a time, so that temporaries stay in the cache
ROW_PIXELS = 64  # pixels put side by side in one row: long rows let per-channel arithmetic run at full width


class ThresholdDependentBatchNorm(nn.Module):
    """tdBN: statistics over time and batch (and space), scaled to the firing threshold.

    y = weight * (alpha * v_threshold * (x - mean) / sqrt(var + eps)) + bias, per channel (axis 2).

    The factor alpha * v_threshold stands outside the learned weight, which starts at 1: an implementation that
    starts the weight at alpha * v_threshold has the same forward pass but another gradient scale and weight decay.

    Args:
        n_features: channels C of an input [T, N, C, ...].
        v_threshold: firing threshold of the neurons behind it.
        alpha: scale, 1 everywhere except FSVAE's prior and posterior networks.

    References:
        Zheng et al., "Going deeper with directly-trained larger spiking neural networks", AAAI 2021.
    """

    def __init__(
        self, n_features: int, v_threshold: float, alpha: float = 1.0, momentum: float = 0.1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.scale, self.momentum, self.eps = alpha * v_threshold, momentum, eps
        self.weight = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))

    def forward(self, x: Tensor, x_bias: Tensor | None = None, n_repeats: int = 1) -> Tensor:
        """Normalise x [T, N, C, ...].

        Args:
            x: input. One of a smaller type than the weights', as under autocast, is normalised in theirs.
            x_bias: bias [C] of the layer that made x, if that layer left it out. The batch mean takes it out
                again, so in training it moves the running mean only and its gradient is exactly zero.
            n_repeats: every step of x stands for that many identical ones. The batch statistics are the same;
                only the unbiased running variance, n / (n - 1) of the biased one, counts that many values more.
        """
        if not self.training:
            shape = (-1,) + (1,) * (x.dim() - 3)
            slope, offset = (vector.view(shape) for vector in self.running_affine(x_bias))
            return torch.addcmul(offset, x, slope)
        if x_bias is None:
            x_bias = torch.zeros_like(self.bias)
        x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        y, mean, inverse_std = _BatchNorm.apply(x, x_bias, self.gain, self.bias, self.eps)
        self.update_running(mean + x_bias.detach(), inverse_std, x.numel() // x.shape[2] * n_repeats)
        return y

    @property
    def gain(self) -> Tensor:
        """Learned weight times threshold scale, [C]."""
        return self.weight * self.scale

    def running_affine(self, x_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Slope and offset [C] of the evaluation mode, y = slope * x + offset."""
        mean = self.running_mean if x_bias is None else self.running_mean - x_bias
        return affine(self.gain, self.bias, mean, torch.rsqrt(self.running_var + self.eps))

    @torch.no_grad()
    def update_running(self, mean: Tensor, inverse_std: Tensor, n: int) -> None:
        """Move the running statistics towards a batch's, which are of n values per channel."""
        variance = inverse_std.to(torch.float64).pow(-2) - self.eps
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * unbiasing_factor(n)).to(self.running_var), self.momentum)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, scale={self.scale}, momentum={self.momentum}, eps={self.eps}"


def unbiasing_factor(n: int) -> float:
    """What a variance of n values is multiplied with, to be an estimate of all values'."""
    return n / max(n - 1, 1)


def affine(gain: Tensor, bias: Tensor, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset per channel: gain * (x - mean) * inverse_std + bias = slope * x + offset."""
    slope = gain * inverse_std
    return slope, bias - mean * slope


def input_gradient_factors(
    gain: Tensor, mean: Tensor, inverse_std: Tensor, grad_gain: Tensor, grad_bias: Tensor, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors per channel of dL/dx = on_g * g + on_x * x + constant, with g = dL/dy over n values per channel.

    It is gain / std * (g - mean(g) - xhat * mean(g * xhat)) with xhat = (x - mean) / std.
    """
    on_g = gain * inverse_std
    on_x = -on_g * inverse_std * grad_gain / n
    return on_g, on_x, -on_g * grad_bias / n - on_x * mean


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation over all axes but the third; the gradient in two passes over channels-last rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_bias: Tensor, gain: Tensor, bias: Tensor, eps: float):
        y, mean, inverse_std = torch.native_batch_norm(x.flatten(0, 1), gain, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, gain, mean, inverse_std)
        ctx.mark_non_differentiable(mean, inverse_std)
        return y.unflatten(0, x.shape[:2]), mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, *_: Tensor):
        x, gain, mean, inverse_std = ctx.saved_tensors
        grad_x, grad_gain, grad_bias = _batch_norm_backward(grad_y, x, gain, mean, inverse_std)
        return grad_x, torch.zeros_like(gain), grad_gain, grad_bias, None


def _batch_norm_backward(
    grad_y: Tensor, x: Tensor, gain: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gain and bias."""
    g_rows, x_rows, n_tile = _rows(grad_y), _rows(x), _tile(x)
    sum_g, sum_gx = torch.zeros_like(x_rows[0]), torch.zeros_like(x_rows[0])
    tiled_mean = mean.repeat(n_tile)
    for g, value in _chunks(g_rows, x_rows):
        sum_g += g.sum(0)
        sum_gx += torch.sub(value, tiled_mean).mul_(g).sum(0)
    grad_bias = sum_g.view(n_tile, -1).sum(0)
    grad_gain = sum_gx.view(n_tile, -1).sum(0) * inverse_std
    factors = input_gradient_factors(gain, mean, inverse_std, grad_gain, grad_bias, x.numel() // len(gain))
    on_g, on_x, constant = (vector.repeat(n_tile) for vector in factors)
    grad_x = torch.empty_like(x_rows)
    for g, value, out in _chunks(g_rows, x_rows, grad_x):
        torch.addcmul(constant, g, on_g, out=out).addcmul_(value, on_x)
    return _from_rows(grad_x, x), grad_gain, grad_bias


def _tile(x: Tensor) -> int:
    """How many pixels make a row: a divisor of the number of pixels."""
    return math.gcd(math.prod(x.shape[3:]), ROW_PIXELS)


def _rows(x: Tensor) -> Tensor:
    """[T, N, C, ...] -> [rows, pixels per row * C], channels last; a view if x is laid out so."""
    return x.movedim(2, -1).reshape(-1, _tile(x) * x.shape[2])


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    shape = (*like.shape[:2], *like.shape[3:], like.shape[2])
    return rows.view(shape).movedim(-1, 2)


def _chunks(*rows: Tensor):
    size = max(1, CHUNK_ELEMENTS // rows[0].shape[1])
    return zip(*(tensor.split(size) for tensor in rows), strict=True)
