"""The two pixel scales: uint8 0..255 on disk and in memory, float32 -1..1 at the model."""

import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """Map uint8 pixels of any shape to float32 in [-1, 1]: x / 255 * 2 - 1.

    Raises TypeError for pixels that are not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"to_unit_range takes uint8 pixels, not {images.dtype}")
    # A tensor as divisor: given a Python number, CUDA multiplies by 1/255, which rounds differently.
    full_scale = torch.full((), 255.0, device=images.device)
    return images.to(torch.float32) / full_scale * 2 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map float pixels of any shape from [-1, 1] to uint8: rounded to nearest, values outside clamped."""
    return ((images + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8)
