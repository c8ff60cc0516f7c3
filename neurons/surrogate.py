"""Spike nonlinearities: a step in the forward pass, a box in the backward pass.

The LIF neuron (Eq. 2) and the Poisson sampler (Eq. 8) share one family: a Heaviside step whose
derivative is replaced by a rectangle of unit area.
"""

from typing import Any

import torch
from torch import Tensor, nn

# `paper`: width 0.5 (alpha), hence height 2. `code`: width 1, height 1, as in the authors' program.
BOX_WIDTH = {"paper": 0.5, "code": 1.0}


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: "Rectangular") -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return surrogate.step(x)

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_spikes * ctx.surrogate.derivative(x), None


class Rectangular(nn.Module):
    """Heaviside step with a rectangular surrogate derivative.

    Forward: 1 where x >= 0 (`strict`: where x > 0), else 0. Backward: 1 / width where
    ``|x - centre| < width / 2``, else 0. For a neuron x is the membrane potential minus the threshold.

    References:
        Wu et al., "Direct training for spiking neural networks: faster, larger, better", AAAI 2019.
    """

    def __init__(self, width: float, centre: float = 0.0, strict: bool = False) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width must be positive, got {width}")
        self.width, self.centre, self.strict = width, centre, strict

    def step(self, x: Tensor) -> Tensor:
        """Spikes (0 or 1) of x, same shape and dtype, without a gradient."""
        return (x > 0 if self.strict else x >= 0).to(x)

    def derivative(self, x: Tensor) -> Tensor:
        """The box at x, same shape and dtype."""
        return ((x - self.centre).abs() < self.width / 2).to(x) / self.width

    def forward(self, x: Tensor) -> Tensor:
        return _Step.apply(x, self)

    def shifted(self, threshold_shift: float) -> "Rectangular":
        """The same window seen from a threshold moved up by `threshold_shift`, firing at >=."""
        return Rectangular(self.width, self.centre - threshold_shift, strict=False)

    def cuda_codes(self, y: str, x: str, dtype: str) -> str:
        """CUDA statement `y = box(x)` for SpikingJelly's CuPy kernels; `y` already carries its type.

        Raises ValueError for another `dtype` than float, the only one that this project's kernels have.
        """
        if dtype != "float":
            raise ValueError(f"this project's CuPy kernels compute in float, not {dtype}")
        centre, half, height = (f"{value!r}f" for value in (self.centre, self.width / 2, 1 / self.width))
        return f"{y} = fabsf({x} - ({centre})) < {half} ? {height} : 0.0f;"

    def extra_repr(self) -> str:
        return f"width={self.width}, centre={self.centre}, strict={self.strict}"


def lif_surrogate(kind: str, v_threshold: float, strict: bool) -> Rectangular:
    """Surrogate of the LIF's step: `paper` centres the box on the threshold, `code` on a membrane of 0."""
    centre = {"paper": 0.0, "code": -v_threshold}[kind]
    return Rectangular(BOX_WIDTH[kind], centre, strict)


def sampler_surrogate(kind: str) -> Rectangular:
    """Surrogate of the sampler's step, Eq. 8. Strict: the sampler fires where u < r, so r = 0 never fires."""
    return Rectangular(BOX_WIDTH[kind], strict=True)
