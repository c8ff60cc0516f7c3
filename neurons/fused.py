"""tdBN and the LIF recurrence as one autograd function on the C kernels of neurons.native: backend `native`.

The normalised current is never stored. The backward pass takes it from the synapse's output again, so that output
is all that a layer keeps. float32 on a CPU; forward membranes round as those of `neurons.scan` do.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurons.native import NativeLayer, channel_statistics, channels_last, combine_
from neurons.scan import LIFConstants
from neurons.tdbn import ThresholdDependentBatchNorm, affine, input_gradient_factors


def native_lif(x: Tensor, v: Tensor | None, constants: LIFConstants, n_repeats: int = 1) -> tuple[Tensor, Tensor]:
    """`lif_scan` in C.

    Args:
        x: input current, [T, N, ...]; [1, N, ...] if `n_repeats` steps have the same one.
        v: membrane potential before the first step, [N, ...]; None for 0.
        constants: decay, threshold and surrogate window.
        n_repeats: steps that every step of x stands for.

    Returns:
        spikes [T, N, ...], and the membrane after the last step [N, ...].
    """
    return _NativeLIF.apply(x, v, constants, len(x) * n_repeats)


def native_norm_lif(
    x: Tensor,
    v: Tensor | None,
    constants: LIFConstants,
    norm: ThresholdDependentBatchNorm,
    x_bias: Tensor | None,
    n_repeats: int = 1,
) -> tuple[Tensor, Tensor]:
    """`native_lif` of norm(x, x_bias, n_repeats), in one pass wherever that is worth it."""
    n_steps = len(x) * n_repeats
    if norm.training:
        x_bias = torch.zeros_like(norm.bias) if x_bias is None else x_bias
        parameters = x_bias, norm.gain, norm.bias
        spikes, v_last, mean, inverse_std = _NativeNormLIF.apply(x, v, *parameters, norm.eps, constants, n_steps)
        norm.update_running(mean + x_bias.detach(), inverse_std, x.numel() // x.shape[2] * n_repeats)
        return spikes, v_last
    if torch.is_grad_enabled():  # no model trains on running statistics: not worth a third function
        return native_lif(norm(x, x_bias), v, constants, n_repeats)
    layer = NativeLayer(channels_last(x), n_steps, x.shape[2], constants)
    return layer.forward(*norm.running_affine(x_bias), _like_steps(v))


class _NativeLIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor | None, constants: LIFConstants, n_steps: int):
        ctx.layer = constants, n_steps
        ctx.set_materialize_grads(False)
        x, v = channels_last(x), _like_steps(v)
        ctx.save_for_backward(x, v)
        return NativeLayer(x, n_steps, 1, constants).forward(*_identity(), v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v_last: Tensor | None):
        x, v = ctx.saved_tensors
        constants, n_steps = ctx.layer
        layer = NativeLayer(x, n_steps, 1, constants)
        grads = _dense_gradients(layer, grad_spikes, grad_v_last)
        grad_x, _, _, grad_v = layer.backward(*_identity(), torch.zeros(1), v, *grads, ctx.needs_input_grad[1])
        return grad_x, grad_v, None, None


class _NativeNormLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        x_bias: Tensor,
        gain: Tensor,
        bias: Tensor,
        eps: float,
        constants: LIFConstants,
        n_steps: int,
    ):
        x, v = channels_last(x, dense=True), _like_steps(v)
        mean, variance = channel_statistics(x)
        inverse_std = (variance + eps).rsqrt().to(x)
        mean = mean.to(x)
        slope, offset = affine(gain, bias, mean, inverse_std)
        spikes, v_last = NativeLayer(x, n_steps, x.shape[2], constants).forward(slope, offset, v)
        ctx.save_for_backward(x, v, gain, slope, offset, mean, inverse_std)
        ctx.layer = constants, n_steps
        ctx.mark_non_differentiable(mean, inverse_std)
        ctx.set_materialize_grads(False)
        return spikes, v_last, mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v_last: Tensor | None, *_: None):
        x, v, gain, slope, offset, mean, inverse_std = ctx.saved_tensors
        constants, n_steps = ctx.layer
        layer = NativeLayer(x, n_steps, x.shape[2], constants)
        grads = _dense_gradients(layer, grad_spikes, grad_v_last)
        grad_y, sum_g, sum_gx, grad_v = layer.backward(slope, offset, mean, v, *grads, ctx.needs_input_grad[1])
        grad_bias, grad_gain = sum_g.to(gain), (sum_gx * inverse_std).to(gain)
        factors = input_gradient_factors(gain, mean, inverse_std, grad_gain, grad_bias, x.numel() // len(gain))
        grad_x = combine_(grad_y, x, *factors)
        return grad_x, grad_v, torch.zeros_like(gain), grad_gain, grad_bias, None, None, None


def _identity() -> tuple[Tensor, Tensor]:
    """Slope and offset of a current that is taken as it is."""
    return torch.ones(1), torch.zeros(1)


def _like_steps(v: Tensor | None) -> Tensor | None:
    """A membrane [N, ...] laid out as the steps of the current are."""
    return None if v is None else channels_last(v[None])[0]


def _dense_gradients(
    layer: NativeLayer, grad_spikes: Tensor | None, grad_v_last: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if grad_spikes is None:  # only the last membrane was used
        step = layer.x[0]
        grad_spikes = torch.zeros_like(step).expand(layer.n_steps, *step.shape)
    return channels_last(grad_spikes), _like_steps(grad_v_last)
