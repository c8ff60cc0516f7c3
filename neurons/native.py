"""The C code of native.c, tdBN and LIF, called on tensors."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from neurons.layer import FusedLayer
from neurons.library import c_function, n_threads
from neurons.tdbn import ThresholdDependentBatchNorm, affine, input_gradient_factors


class _Layer(ctypes.Structure):
    """`Layer` of native.c."""

    _fields_ = (
        *((name, c_int64) for name in ("n_steps", "n_neurons", "n_channels")),
        *((name, c_float) for name in ("decay", "fires_from", "box_middle", "box_half", "box_height")),
        ("n_threads", c_int32),
    )


_LAYER = ctypes.POINTER(_Layer)
_channel_statistics = c_function("channel_statistics", c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p)
_lif_forward = c_function("lif_forward", _LAYER, c_void_p, c_int64, *[c_void_p] * 6)
_lif_backward = c_function(
    "lif_backward", _LAYER, c_void_p, c_int64, *[c_void_p] * 6, c_int64, c_void_p, c_int32, *[c_void_p] * 4
)
_combine = c_function("combine", *[c_void_p] * 5, c_int64, c_int64, c_int64)


def channels_last(x: Tensor, dense: bool = False) -> Tensor:
    """x [T, N, C, ...] itself if each step lies dense in memory with its channels last, else such a copy.

    The distance between steps is free, and 0 where all steps are one; `dense` asks for steps without a gap.
    """
    last = x.movedim(2, -1) if x.dim() > 3 else x
    if not (last if dense else last[0]).is_contiguous():
        last = last.contiguous()
    return last.movedim(-1, 2) if x.dim() > 3 else last


@dataclass(frozen=True)
class NativeLayer(FusedLayer):
    """The passes over one layer's activations. Every tensor is float32 and `channels_last`."""

    def forward(self, slope: Tensor, offset: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Spikes [n_steps, N, ...], or their sum, and the last membrane [N, ...] for a current slope * x + offset."""
        spikes = self._like_x(self.n_steps) if self.coefficients is None else self._state()
        v_last = self._state()
        _lif_forward(self._layer(), *self._input(), slope, offset, v, self.coefficients, spikes, v_last)
        return spikes, v_last

    def backward(
        self,
        slope: Tensor,
        offset: Tensor,
        mean: Tensor,
        v: Tensor | None,
        grad_spikes: Tensor,
        grad_v_last: Tensor | None,
        needs_grad_v: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradient of the current, like x; sums of it, and of it times x - mean, float64 [2, C]; gradient of v."""
        grad_y = self._like_x(len(self.x))
        grad_v = self._state() if needs_grad_v else None
        sums = torch.empty((2, self.n_channels), dtype=torch.float64)
        _lif_backward(
            *(self._layer(), *self._input(), slope, offset, mean, v, self.coefficients),
            *(grad_spikes, grad_spikes.stride(0), grad_v_last, self.constant, grad_y, grad_v, sums[0], sums[1]),
        )
        return grad_y, sums, grad_v

    def batch_affine_(self, norm: ThresholdDependentBatchNorm, gain: Tensor, x_bias: Tensor) -> tuple[Tensor, ...]:
        """Batch mean, its inverse deviation, slope and offset of tdBN per channel, [C], of a dense x.

        Moves norm's running statistics. `gain` is norm.gain, a product, which a caller has computed once already.
        """
        mean, variance = channel_statistics(self.x)
        mean, inverse_std = mean.float(), (variance + norm.eps).rsqrt().float()
        norm.update_running(mean + x_bias, inverse_std, self.n_values)
        return mean, inverse_std, *affine(gain, norm.bias, mean, inverse_std)

    def input_gradient_(
        self, grad: Tensor, sums: Tensor, gain: Tensor, mean: Tensor, inverse_std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn the gradient of tdBN's output into that of a dense x, in place; gradients of gain and bias, [C].

        `grad` and `sums` are what `backward` returns.
        """
        grad_bias, grad_gain = sums[0].to(gain), (sums[1] * inverse_std).to(gain)
        n = self.x.numel() // len(gain)
        combine_(grad, self.x, *input_gradient_factors(gain, mean, inverse_std, grad_gain, grad_bias, n))
        return grad_gain, grad_bias

    def _input(self) -> tuple[int, int]:
        return self.x.data_ptr(), 0 if self.constant else self.x.stride(0)

    def _layer(self) -> _Layer:
        c, n_neurons = self.constants, self.x[0].numel()
        box = c.decay, c.fires_from, c.middle, c.half, c.height
        return _Layer(self.n_steps, n_neurons, self.n_channels, *box, n_threads(self.n_steps * n_neurons))


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a dense channels_last x [T, N, C, ...], in float64."""
    mean, variance = torch.empty((2, x.shape[2]), dtype=torch.float64)
    n_rows = x.numel() // x.shape[2]
    _channel_statistics(x, n_rows, x.shape[2], n_threads(x.numel()), mean, variance)
    return mean, variance


def combine_(grad: Tensor, x: Tensor, on_grad: Tensor, on_x: Tensor, constant: Tensor) -> None:
    """grad <- on_grad * grad + on_x * x + constant, per channel, in place; both dense and channels_last."""
    _combine(grad, x, on_grad, on_x, constant, x.numel(), x.shape[2], n_threads(x.numel()))
