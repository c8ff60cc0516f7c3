"""The passes of neurons.native for a GPU, on neurons.triton_kernels: backend `triton`. Needs Triton to be imported."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from neurons import triton_kernels as kernels
from neurons.layer import FusedLayer
from neurons.tdbn import ThresholdDependentBatchNorm, unbiasing_factor

# Steps that a kernel unrolls, with two or three registers per neuron for each. More steps run in such segments, the
# membrane between two of them in memory.
SEGMENT_STEPS = 16
MAX_TILE_CHANNELS = 64
LIF_TILE, ELEMENTWISE_TILE, STATISTICS_TILE = 256, 1024, 4096  # values that a program holds
STATISTICS_PARTS = 512  # at most so many rows of programs, each of which goes on through its share of a large input
VECTOR_CHANNELS = 8
BYTES_PER_WARP = 128  # of a step in the LIF's kernels: with more, a thread's 16 steps leave too few threads


class _Tiles:
    """Tiles of about `n_values` that cover a matrix [n_rows, n_channels].

    A kernel's program does one, or as many below each other as leave at most `max_high` rows of programs.
    """

    def __init__(self, n_rows: int, n_channels: int, n_values: int, max_high: int | None = None) -> None:
        self.n_rows, self.n_channels = n_rows, n_channels
        self.channels = min(triton.next_power_of_2(n_channels), MAX_TILE_CHANNELS)
        self.rows = n_values // self.channels
        n_high = triton.cdiv(n_rows, self.rows)
        self.n_loops = triton.cdiv(n_high, max_high or n_high)
        self.n_high = triton.cdiv(n_high, self.n_loops)

    def empty_sums(self, device: torch.device) -> Tensor:
        """Room for two sums per channel of every program, [2, n_high, n_channels]."""
        return torch.empty((2, self.n_high, self.n_channels), dtype=torch.float32, device=device)

    def run(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """`arguments` start with a tensor, whose device runs the kernel."""
        grid = self.n_high, triton.cdiv(self.n_channels, self.channels)
        constants |= {
            "n_rows": self.n_rows,
            "n_channels": self.n_channels,
            "ROWS": self.rows,
            "CHANNELS": self.channels,
        }
        with torch.cuda.device_of(arguments[0]):
            kernel[grid](*arguments, **constants)


@dataclass(frozen=True)
class TritonLayer(FusedLayer):
    """`NativeLayer` on a GPU: the same fields, methods and layout; x in float32, bfloat16 or float16.

    Spikes and the gradients of spikes and current have the type of x; membranes and vectors are float32.
    """

    def forward(self, slope: Tensor, offset: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Spikes [n_steps, N, ...], or their sum, and the last membrane [N, ...] for a current slope * x + offset."""
        segments = self._segments()
        if self.coefficients is None:
            spikes = self._like_x(self.n_steps)
            parts = [spikes[steps] for steps in segments]
        else:
            parts = [self._state() for _ in segments]
        for steps, part in zip(segments, parts, strict=True):
            v = self._forward(steps, slope, offset, v, self._weights(steps), part)
        return spikes if self.coefficients is None else sum(parts[1:], parts[0]), v

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
        segments, starts = self._segments(), [v]
        for steps in segments[:-1]:
            starts.append(self._forward(steps, slope, offset, starts[-1], None, None))
        grad_y = self._like_x(len(segments) if self.constant else self.n_steps)
        q, sums = grad_v_last, []
        for i in reversed(range(len(segments))):
            steps = segments[i]
            vectors = slope, offset, mean, starts[i], self._weights(steps)
            outputs = grad_y[i if self.constant else steps.stop - 1], self._state() if i > 0 or needs_grad_v else None
            grads = grad_spikes[steps], grad_spikes.stride(0), q
            sums.append(self._backward(steps, *vectors, *grads, *outputs))
            q = outputs[1]
        for more in grad_y[1:] if self.constant else ():
            grad_y[0] += more
        return grad_y[: len(self.x)], sum(sums[1:], sums[0]), q

    def batch_affine_(self, norm: ThresholdDependentBatchNorm, gain: Tensor, x_bias: Tensor) -> tuple[Tensor, ...]:
        """As `NativeLayer`'s, in two kernels."""
        x, n_channels = self.x, self.n_channels
        n_rows = x.numel() // n_channels
        tiles = _Tiles(n_rows, n_channels, STATISTICS_TILE, STATISTICS_PARTS)
        means, squares = tiles.empty_sums(x.device)
        tiles.run(kernels.moments, x, means, squares, N_LOOPS=tiles.n_loops)

        vectors = torch.empty((4, n_channels), dtype=torch.float32, device=x.device).unbind()
        running = norm.running_mean, norm.running_var
        unbiased = unbiasing_factor(self.n_values)
        numbers = tiles.n_high, tiles.n_loops * tiles.rows, n_rows, n_channels, unbiased, norm.momentum, norm.eps
        with torch.cuda.device_of(x):
            kernels.statistics[(triton.cdiv(n_channels, VECTOR_CHANNELS),)](
                *(means, squares, gain, norm.bias, x_bias, *vectors, *running, *numbers),
                PARTS=triton.next_power_of_2(tiles.n_high),
                CHANNELS=VECTOR_CHANNELS,
                num_warps=8,
            )
        return vectors

    def input_gradient_(
        self, grad: Tensor, sums: Tensor, gain: Tensor, mean: Tensor, inverse_std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `NativeLayer`'s, in one kernel."""
        tiles = _Tiles(self.x.numel() // self.n_channels, self.n_channels, ELEMENTWISE_TILE)
        grad_gain, grad_bias = torch.empty_like(gain), torch.empty_like(gain)
        tiles.run(kernels.input_gradient, grad, self.x, sums, gain, mean, inverse_std, grad_gain, grad_bias)
        return grad_gain, grad_bias

    def _segments(self) -> list[slice]:
        starts = range(0, self.n_steps, SEGMENT_STEPS)
        return [slice(start, min(start + SEGMENT_STEPS, self.n_steps)) for start in starts]

    def _weights(self, steps: slice) -> Tensor | None:
        return None if self.coefficients is None else self.coefficients[steps]

    def _forward(self, steps: slice, *arguments: Tensor | None) -> Tensor:
        """The membrane after some steps; the kernel's other arguments are given."""
        v_last, c = self._state(), self.constants
        self._run(kernels.forward, steps, *arguments, v_last, c.decay, c.fires_from)
        return v_last

    def _backward(self, steps: slice, *arguments: Any) -> Tensor:
        """Runs the kernel on its inputs and outputs for some steps; returns the sums over them, float64 [2, C]."""
        c = self.constants
        sums = self._tiles().empty_sums(self.x.device)
        numbers = c.decay, c.fires_from, c.middle, c.half, c.height
        self._run(kernels.backward, steps, *arguments, *sums, *numbers, SUM_STEPS=self.constant)
        return sums.sum(1, dtype=torch.float64)

    def _tiles(self) -> _Tiles:
        return _Tiles(self.x[0].numel() // self.n_channels, self.n_channels, LIF_TILE)

    def _run(self, kernel: Any, steps: slice, *arguments: Any, **constants: Any) -> None:
        x, stride = (self.x, 0) if self.constant else (self.x[steps], self.x.stride(0))
        constants |= {"n_neurons": x[0].numel(), "N_STEPS": steps.stop - steps.start}
        self._tiles().run(kernel, x, stride, *arguments, **constants, num_warps=lif_warps(x.itemsize))


def lif_warps(itemsize: int) -> int:
    """Warps of a program of the LIF's kernels, whose activations have so many bytes each."""
    return min(8, max(1, LIF_TILE * itemsize // BYTES_PER_WARP))
