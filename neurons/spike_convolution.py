"""Convolutions and transposed convolutions of spikes on the CPU kernels of spike_convolution.c, with their gradients.

The kernels look sums up instead of multiplying (spike_convolution.c says how), and of the spikes the backward pass
keeps one byte for four. The gradient with respect to the spikes is a dense convolution, PyTorch's.
"""

import ctypes
from ctypes import POINTER, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neurons.library import c_function, n_threads

SpikeLayer = nn.Conv2d | nn.ConvTranspose2d
Size = tuple[int, int]


class _Geometry(ctypes.Structure):
    """`Geometry` of spike_convolution.c."""

    _fields_ = (
        *((name, c_int64) for name in ("n_images", "n_in", "n_out", "c_in", "c_out", "n_taps", "n_groups", "n_phases")),
        *((name, c_void_p) for name in ("inputs", "pixels", "first_pixel", "taps", "first_tap")),
        ("n_threads", c_int32),
    )


_GEOMETRY = POINTER(_Geometry)
_pack_spikes = c_function("pack_spikes", c_void_p, c_int64, c_int64, c_int64, c_int32, c_void_p)
_forward = c_function("spike_conv_forward", _GEOMETRY, *[c_void_p] * 3)
_weight_gradient = c_function("spike_conv_weight_gradient", _GEOMETRY, *[c_void_p] * 3)


def spike_conv(layer: SpikeLayer, spikes: Tensor) -> Tensor:
    """The layer without its bias.

    Args:
        layer: without groups and dilation, padded with zeros; float32 on a CPU.
        spikes: 0 or 1, [N, C, H, W], float32; copied unless channels_last.

    Returns:
        [N, C', H', W'], channels_last.

    Raises:
        ValueError: a value that is neither 0 nor 1, or another layer or other types than these.
    """
    _check(layer, spikes)
    rows = spikes.contiguous(memory_format=torch.channels_last)
    return _SpikeConv.apply(rows, layer.weight, _Shape.of(layer, spikes))


def _check(layer: SpikeLayer, spikes: Tensor) -> None:
    """The kernels know one kind of convolution, and take sizes from it: they would read behind smaller tensors."""
    settings = layer.groups, tuple(layer.dilation), layer.padding_mode, isinstance(layer.padding, str)
    if settings != (1, (1, 1), "zeros", False):
        raise ValueError(f"wants no groups, no dilation and a padding of so many zeros, got {layer}")
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in (layer.weight, spikes)):
        kinds = f"{layer.weight.dtype} on {layer.weight.device} and {spikes.dtype} on {spikes.device}"
        raise ValueError(f"wants weights and spikes in float32 on a CPU, got {kinds}")
    if spikes.dim() != 4 or spikes.shape[1] != layer.in_channels:
        raise ValueError(f"wants spikes [N, {layer.in_channels}, H, W], got {list(spikes.shape)}")


@dataclass(frozen=True)
class _Shape:
    """A layer and the size of its images; enough to know which pixel sees which."""

    transposed: bool
    kernel: Size
    stride: Size
    padding: Size
    size_in: Size
    size_out: Size

    @classmethod
    def of(cls, layer: SpikeLayer, x: Tensor) -> "_Shape":
        transposed = isinstance(layer, nn.ConvTranspose2d)
        settings = layer.kernel_size, layer.stride, layer.padding
        extra = layer.output_padding if transposed else (0, 0)
        sizes = zip(x.shape[2:], *settings, extra, strict=True)
        if transposed:
            size_out = tuple((n - 1) * stride - 2 * padding + k + more for n, k, stride, padding, more in sizes)
        else:
            size_out = tuple((n + 2 * padding - k) // stride + 1 for n, k, stride, padding, _ in sizes)
        return cls(transposed, *settings, tuple(x.shape[2:]), size_out)

    @property
    def extra(self) -> Size:
        """What the kernel, walking over the larger of the two images, does not reach."""
        large, small = (self.size_out, self.size_in) if self.transposed else (self.size_in, self.size_out)
        pairs = zip(large, small, self.kernel, self.stride, self.padding, strict=True)
        return tuple(n - ((m - 1) * stride - 2 * padding + k) for n, m, k, stride, padding in pairs)


class _SpikeConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor, weight: Tensor, shape: _Shape) -> Tensor:
        packed = _pack(spikes)
        ctx.save_for_backward(packed, weight)
        ctx.shape = shape
        c_out = weight.shape[1 if shape.transposed else 0]
        out = torch.empty((len(spikes), *shape.size_out, c_out))
        _forward(_geometry(shape, spikes.shape[1], out), packed, _taps_first(weight, shape), out)
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        packed, weight = ctx.saved_tensors
        grad_out = grad_out.contiguous(memory_format=torch.channels_last)
        needs_spikes, needs_weight, *_ = ctx.needs_input_grad
        grad_spikes = _gradient_of_spikes(weight, grad_out, ctx.shape) if needs_spikes else None
        grad_weight = _gradient_of_weight(weight, packed, grad_out, ctx.shape) if needs_weight else None
        return grad_spikes, grad_weight, None


def _pack(spikes: Tensor) -> Tensor:
    """Spikes [N, C, H, W], channels_last -> [N, H, W, groups], one byte for four channels; an even number of groups."""
    n, c, h, w = spikes.shape
    packed = torch.empty((n, h, w, -(-c // 8) * 2), dtype=torch.uint8)
    width = w if c % 8 == 0 else 1  # pixels without padding follow each other: long rows are faster
    _pack_spikes(spikes, n * h * w // width, width * c, width * packed.shape[-1], n_threads(spikes.numel()), packed)
    return packed


def _gradient_of_spikes(weight: Tensor, grad_out: Tensor, shape: _Shape) -> Tensor:
    operands = grad_out, weight, None, shape.stride, shape.padding
    return F.conv2d(*operands) if shape.transposed else F.conv_transpose2d(*operands, shape.extra)


def _gradient_of_weight(weight: Tensor, packed: Tensor, grad_out: Tensor, shape: _Shape) -> Tensor:
    rows = grad_out.permute(0, 2, 3, 1)
    c_in = weight.shape[0 if shape.transposed else 1]
    grad = torch.empty((*shape.kernel, c_in, rows.shape[-1]))
    _weight_gradient(_geometry(shape, c_in, rows), packed, rows, grad)
    return grad.permute(2, 3, 0, 1) if shape.transposed else grad.permute(3, 2, 0, 1)


def _taps_first(weight: Tensor, shape: _Shape) -> Tensor:
    """[kernel height, kernel width, c_in, c_out]"""
    return weight.detach().permute((2, 3, 0, 1) if shape.transposed else (2, 3, 1, 0)).contiguous()


def _geometry(shape: _Shape, c_in: int, out: Tensor) -> _Geometry:
    """What the kernels are told about images out [N, H', W', c_out]."""
    links = _Links.of(shape)
    n_images, c_out = len(out), out.shape[-1]
    n_out, n_taps = links.inputs.shape
    n_in, n_groups, n_phases = int(np.prod(shape.size_in)), -(-c_in // 8) * 2, len(links.first_pixel) - 1
    tables = links.inputs, links.pixels, links.first_pixel, links.taps, links.first_tap
    counts = n_images, n_in, n_out, c_in, c_out, n_taps, n_groups, n_phases
    return _Geometry(*counts, *(table.ctypes.data for table in tables), n_threads(out.numel()))


@dataclass(frozen=True)
class _Links:
    """Which input pixel an output pixel sees through which tap: the tables of `Geometry`, int32."""

    inputs: np.ndarray
    pixels: np.ndarray
    first_pixel: np.ndarray
    taps: np.ndarray
    first_tap: np.ndarray

    @staticmethod
    @cache
    def of(shape: _Shape) -> "_Links":
        rows, columns = (_inputs_along(shape, axis) for axis in (0, 1))
        both = rows[:, None, :, None] * shape.size_in[1] + columns[None, :, None, :]
        missing = (rows < 0)[:, None, :, None] | (columns < 0)[None, :, None, :]
        inputs = np.where(missing, -1, both).reshape(rows.shape[0] * columns.shape[0], -1)
        pixels, taps = _phases(shape, inputs)
        flat = (np.concatenate(lists).astype(np.int32) for lists in (pixels, taps))
        starts = (np.cumsum([0, *map(len, lists)]).astype(np.int32) for lists in (pixels, taps))
        (all_pixels, all_taps), (first_pixel, first_tap) = flat, starts
        return _Links(inputs.astype(np.int32), all_pixels, first_pixel, all_taps, first_tap)


def _inputs_along(shape: _Shape, axis: int) -> np.ndarray:
    """Input coordinate for every output coordinate and tap along one axis, -1 for none: [size_out, kernel]."""
    n_in, n_out = shape.size_in[axis], shape.size_out[axis]
    stride, padding = shape.stride[axis], shape.padding[axis]
    out, tap = np.arange(n_out)[:, None], np.arange(shape.kernel[axis])[None, :]
    if shape.transposed:
        source, remainder = np.divmod(out + padding - tap, stride)
    else:
        source, remainder = out * stride - padding + tap, 0
    return np.where((remainder == 0) & (source >= 0) & (source < n_in), source, -1)


def _phases(shape: _Shape, inputs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Output pixels that use the same taps, and these taps: one phase, or one per offset of a transposed stride."""
    grid = np.arange(len(inputs)).reshape(shape.size_out)
    steps = shape.stride if shape.transposed else (1, 1)
    pixels = [grid[a :: steps[0], b :: steps[1]].ravel() for a in range(steps[0]) for b in range(steps[1])]
    return pixels, [np.flatnonzero((inputs[phase] >= 0).any(0)) for phase in pixels]
