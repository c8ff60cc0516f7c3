"""Threshold-dependent batch normalisation."""

import torch
from torch import Tensor, nn


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
        steps = x.to(torch.promote_types(x.dtype, self.weight.dtype)).flatten(0, 1)
        offset = self.bias + 0 * x_bias  # gives x_bias its gradient of zero: without one AdamW would not decay it
        y, mean, inverse_std = torch.native_batch_norm(steps, self.gain, offset, None, None, True, 0.0, self.eps)
        self.update_running(mean + x_bias, inverse_std, x.numel() // x.shape[2] * n_repeats)
        return y.unflatten(0, x.shape[:2])

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
