"""The LIF recurrence over all time steps as one autograd function, in PyTorch alone.

Eq. 1 to 3 step by step, with the hard reset inside the gradient. The forward pass keeps one tensor, the
membrane potential before the reset; everything else that the backward pass needs follows from it.
Neurons are independent, so both passes walk through the batch in chunks small enough for the cache: each
chunk's state stays there for all T steps, and main memory is read and written once per pass.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurons.precision import full_precision

CHUNK_ELEMENTS = 1 << 17  # neurons per chunk: three float32 buffers of it fit two cores' L2 caches


@dataclass(frozen=True)
class LIFConstants:
    """decay: factor on the membrane between steps; [lower, upper]: the surrogate's window on the membrane."""

    decay: float
    v_threshold: float
    strict: bool
    lower: float
    upper: float

    @property
    def height(self) -> float:
        return 1.0 / (self.upper - self.lower)

    @property
    def middle(self) -> float:
        return (self.lower + self.upper) / 2

    @property
    def half(self) -> float:
        """Half the window's width."""
        return (self.upper - self.lower) / 2

    @property
    def fires_from(self) -> float:
        """The lowest float32 membrane that fires."""
        threshold = np.float32(self.v_threshold)
        return float(np.nextafter(threshold, np.float32(np.inf)) if self.strict else threshold)


def lif_scan(current: Tensor, v: Tensor, constants: LIFConstants) -> tuple[Tensor, Tensor]:
    """Run LIF neurons over time.

    Args:
        current: input current, [T, N, ...].
        v: membrane potential before the first step, [N, ...].
        constants: decay, threshold and surrogate window.

    Returns:
        spikes [T, N, ...] in the dtype of `current`, and the membrane after the last step [N, ...].
    """
    if torch.is_grad_enabled() and (current.requires_grad or v.requires_grad):
        return _LIFScan.apply(current, v, constants)
    spikes, v_last, _ = _forward(current, v, constants, keep_membrane=False)
    return spikes, v_last


def _chunks(current: Tensor) -> list[slice]:
    """Slices of the batch axis that hold about CHUNK_ELEMENTS neurons each."""
    per_sample = max(1, math.prod(current.shape[2:]))
    size = max(1, CHUNK_ELEMENTS // per_sample)
    return [slice(start, start + size) for start in range(0, current.shape[1], size)]


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Membranes are kept in float32 at least: in bfloat16 0.2 has two correct digits."""
    return torch.promote_types(dtype, torch.float32)


def _forward(current: Tensor, v: Tensor, c: LIFConstants, keep_membrane: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    dtype = _accumulation_dtype(current.dtype)
    spikes = dense_like(current)
    v_last = torch.empty_like(spikes[0], dtype=dtype)
    membrane = dense_like(current, dtype) if keep_membrane else None
    fires = torch.gt if c.strict else torch.ge
    for chunk in _chunks(current):
        state = v[chunk].to(dtype, copy=True)
        buffer = torch.empty_like(state)
        for t in range(current.shape[0]):
            m = membrane[t, chunk] if keep_membrane else buffer
            torch.add(current[t, chunk], state, alpha=c.decay, out=m)  # Eq. 1
            spike = spikes[t, chunk]
            fires(m, c.v_threshold, out=spike)  # Eq. 2
            torch.addcmul(m, m, spike, value=-1.0, out=state)  # Eq. 3, v_reset = 0
        v_last[chunk] = state
    return spikes, v_last, membrane


def sum_over_time(coefficients: Tensor, spikes: Tensor) -> Tensor:
    """Sum over t of coefficients[t] * spikes[t]: [T] and [T, N, C, ...] -> [N, C, ...], in the dtype of `spikes`.

    In the order in which channels_last steps lie in memory, so that they are not copied.
    """
    steps = spikes.movedim(2, -1)
    with full_precision(spikes):  # autocast would round the coefficients to bfloat16
        rows = coefficients.to(spikes) @ steps.flatten(1)
    return rows.view(steps.shape[1:]).movedim(-1, 1)


def dense_like(current: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised [T, N, ...] with each step laid out as current[0] is (channels_last survives)."""
    step = torch.empty_like(current[0], dtype=dtype, device="meta")
    full = torch.empty((current.shape[0], step.numel()), dtype=step.dtype, device=current.device)
    return full.as_strided(current.shape, (step.numel(), *step.stride()))


def _backward(
    membrane: Tensor, grad_spikes: Tensor | None, grad_v_last: Tensor | None, c: LIFConstants
) -> tuple[Tensor, Tensor]:
    """Gradients of the current and of the initial membrane.

    With g = dL/dspike and q = dL/dv after the reset, the reset v = m (1 - s) gives
    dL/dm = (g - q m) box(m) + q (1 - s), and one step earlier q = decay dL/dm.
    """
    grad_current = dense_like(membrane)
    grad_v = torch.empty_like(membrane[0])
    below = torch.le if c.strict else torch.lt
    for chunk in _chunks(membrane):
        q = grad_v[chunk]
        q.zero_() if grad_v_last is None else q.copy_(grad_v_last[chunk])
        box, silent = torch.empty_like(q), torch.empty_like(q)
        for t in reversed(range(membrane.shape[0])):
            m, grad_m = membrane[t, chunk], grad_current[t, chunk]
            torch.lt(torch.sub(m, c.middle, out=box).abs_(), c.half, out=box)
            torch.mul(q, m, out=grad_m).neg_()
            if grad_spikes is not None:
                grad_m += grad_spikes[t, chunk]
            grad_m.mul_(box).mul_(c.height)
            grad_m.addcmul_(q, below(m, c.v_threshold, out=silent))
            torch.mul(grad_m, c.decay, out=q)
    return grad_current, grad_v


class _LIFScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, v: Tensor, constants: LIFConstants) -> tuple[Tensor, Tensor]:
        spikes, v_last, membrane = _forward(current, v, constants, keep_membrane=True)
        ctx.save_for_backward(membrane)
        ctx.constants, ctx.dtypes = constants, (current.dtype, v.dtype)
        ctx.set_materialize_grads(False)
        return spikes, v_last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_v_last: Tensor | None):
        (membrane,) = ctx.saved_tensors
        grad_current, grad_v = _backward(membrane, grad_spikes, grad_v_last, ctx.constants)
        return grad_current.to(ctx.dtypes[0]), grad_v.to(ctx.dtypes[1]), None
