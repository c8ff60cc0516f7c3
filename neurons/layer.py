"""What the compiled kernels of one layer start from, in C and in Triton."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neurons.scan import LIFConstants, dense_like


@dataclass(frozen=True)
class FusedLayer:
    """A layer's activations and constants. Subclasses have the passes over them.

    `forward` and `backward` are those of the LIF behind a slope and an offset per channel, which `batch_affine_` takes
    from a batch's statistics as tdBN's; `input_gradient_` is tdBN's own part of the way back.

    x: input [T, N, C, ...], or [1, N, C, ...] for the same input at each of `n_steps` steps; `n_channels` tells
    how the vectors `slope`, `offset` and `mean` repeat along a step's memory. With `coefficients`, float32 [T], the
    spikes are never stored: `forward` gives the sum over t of coefficients[t] * spikes[t], float32 [N, C, ...], and
    `backward` starts from the gradient of that, the same at every step of grad_spikes [T, N, C, ...].
    """

    x: Tensor
    n_steps: int
    n_channels: int
    constants: LIFConstants
    coefficients: Tensor | None = None

    @property
    def constant(self) -> bool:
        return len(self.x) < self.n_steps

    @property
    def n_values(self) -> int:
        """Per channel, over all steps."""
        return self.n_steps * self.x[0].numel() // self.n_channels

    def _like_x(self, n_steps: int) -> Tensor:
        """Uninitialised [n_steps, N, ...] in the type of x, each step laid out as one of x is."""
        return dense_like(self.x[:1].expand(n_steps, *self.x.shape[1:]))

    def _state(self) -> Tensor:
        """Uninitialised float32 [N, ...], laid out as a step of x is."""
        return torch.empty_like(self.x[0], dtype=torch.float32)
