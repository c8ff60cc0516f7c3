"""tdBN and the LIF recurrence as one autograd function on compiled kernels: backends `native` and `triton`.

The normalised current is never stored. The backward pass takes it from the synapse's output again, so that output
is all that a layer keeps. Membranes, statistics and vectors per channel are float32 whatever the activations are.
In C, forward membranes round as those of `neurons.scan` do.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurons.layer import FusedLayer
from neurons.native import NativeLayer, channels_last
from neurons.scan import LIFConstants, sum_over_time
from neurons.tdbn import ThresholdDependentBatchNorm


def fused_lif(
    x: Tensor, v: Tensor | None, constants: LIFConstants, n_repeats: int = 1, kernels: type[FusedLayer] = NativeLayer
) -> tuple[Tensor, Tensor]:
    """`lif_scan` on compiled kernels.

    Args:
        x: input current, [T, N, ...]; [1, N, ...] if `n_repeats` steps have the same one.
        v: membrane potential before the first step, [N, ...]; None for 0.
        constants: decay, threshold and surrogate window.
        n_repeats: steps that every step of x stands for.
        kernels: what computes, `NativeLayer` or `TritonLayer`.

    Returns:
        spikes [T, N, ...], and the membrane after the last step [N, ...].
    """
    return _FusedLIF.apply(x, v, constants, len(x) * n_repeats, kernels)


def fused_norm_lif(
    x: Tensor,
    v: Tensor | None,
    constants: LIFConstants,
    norm: ThresholdDependentBatchNorm,
    x_bias: Tensor | None,
    n_repeats: int = 1,
    kernels: type[FusedLayer] = NativeLayer,
    coefficients: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fused_lif` of norm(x, x_bias, n_repeats), in one pass wherever that is worth it.

    With `coefficients`, float32 [T] without a gradient, the spikes' weighted sum over time [N, ...] takes their place.
    """
    n_steps = len(x) * n_repeats
    if norm.training:
        x_bias = torch.zeros_like(norm.bias) if x_bias is None else x_bias
        parameters = x_bias, norm.gain, norm.bias
        return _FusedNormLIF.apply(x, v, *parameters, norm, constants, n_repeats, kernels, coefficients)
    if torch.is_grad_enabled():  # no model trains on running statistics: not worth a third function
        spikes, v_last = fused_lif(norm(x, x_bias), v, constants, n_repeats, kernels)
        return spikes if coefficients is None else sum_over_time(coefficients, spikes), v_last
    layer = kernels(channels_last(x), n_steps, x.shape[2], constants, coefficients)
    return layer.forward(*norm.running_affine(x_bias), _like_steps(v))


class _FusedLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, constants: LIFConstants, n_steps: int, kernels: type[FusedLayer]
    ):
        ctx.layer = constants, n_steps, kernels
        ctx.set_materialize_grads(False)
        x, v = channels_last(x), _like_steps(v)
        ctx.save_for_backward(x, v)
        return kernels(x, n_steps, 1, constants).forward(*_identity(x), v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v_last: Tensor | None):
        x, v = ctx.saved_tensors
        constants, n_steps, kernels = ctx.layer
        layer = kernels(x, n_steps, 1, constants)
        grads = _dense_gradients(layer, grad_spikes, grad_v_last)
        slope, offset = _identity(x)
        grad_x, _, grad_v = layer.backward(slope, offset, offset, v, *grads, ctx.needs_input_grad[1])
        return grad_x, grad_v, None, None, None


class _FusedNormLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        x_bias: Tensor,
        gain: Tensor,
        bias: Tensor,
        norm: ThresholdDependentBatchNorm,
        constants: LIFConstants,
        n_repeats: int,
        kernels: type[FusedLayer],
        coefficients: Tensor | None,
    ):
        x, v, n_steps = channels_last(x, dense=True), _like_steps(v), len(x) * n_repeats
        layer = kernels(x, n_steps, x.shape[2], constants, coefficients)
        mean, inverse_std, slope, offset = layer.batch_affine_(norm, gain, x_bias)
        out, v_last = layer.forward(slope, offset, v)
        ctx.save_for_backward(x, v, gain, slope, offset, mean, inverse_std, coefficients)
        ctx.layer = constants, n_steps, kernels
        ctx.set_materialize_grads(False)
        return out, v_last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_v_last: Tensor | None):
        x, v, gain, slope, offset, mean, inverse_std, coefficients = ctx.saved_tensors
        constants, n_steps, kernels = ctx.layer
        layer = kernels(x, n_steps, x.shape[2], constants, coefficients)
        if coefficients is not None and grad_out is not None:
            grad_out = channels_last(grad_out[None]).expand(n_steps, *grad_out.shape)
        grads = _dense_gradients(layer, grad_out, grad_v_last)
        grad, sums, grad_v = layer.backward(slope, offset, mean, v, *grads, ctx.needs_input_grad[1])
        grad_gain, grad_bias = layer.input_gradient_(grad, sums, gain, mean, inverse_std)
        return grad, grad_v, torch.zeros_like(gain), grad_gain, grad_bias, *[None] * 5


def _identity(x: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of a current that is taken as it is."""
    return torch.ones(1, device=x.device), torch.zeros(1, device=x.device)


def _like_steps(v: Tensor | None) -> Tensor | None:
    """A membrane [N, ...] laid out as the steps of the current are."""
    return None if v is None else channels_last(v[None])[0]


def _dense_gradients(
    layer: FusedLayer, grad_spikes: Tensor | None, grad_v_last: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if grad_spikes is None:  # only the last membrane was used
        step = layer.x[0]
        grad_spikes = torch.zeros_like(step).expand(layer.n_steps, *step.shape)
    return channels_last(grad_spikes), _like_steps(grad_v_last)
