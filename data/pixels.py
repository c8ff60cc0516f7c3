"""The two pixel scales, uint8 0..255 on disk and in memory, float32 -1..1 at the model; and the way to 32x32."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import UserError

ROUNDING = 1e-6  # by which scaling in float32 may leave [-1, 1]


def to_unit_range(images: Tensor) -> Tensor:
    """Map uint8 pixels of any shape to float32 in [-1, 1]: x / 255 * 2 - 1.

    Raises TypeError for pixels that are not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"to_unit_range takes uint8 pixels, not {images.dtype}")
    # A tensor as divisor: given a Python number, CUDA multiplies by 1/255, which rounds differently.
    full_scale = torch.full((), 255.0, device=images.device)
    return images.to(torch.float32) / full_scale * 2 - 1


def check_range(images: Tensor) -> None:
    """UserError for images of any shape that are not floats in [-1, 1]: they would be scored as others."""
    if not images.is_floating_point():
        raise UserError(
            f"images are to be floats in [-1, 1], not {images.dtype}: data.to_unit_range makes them of uint8"
        )
    low, high = (value.item() for value in images.aminmax())
    if not max(-low, high) <= 1 + ROUNDING:
        raise UserError(f"images are to be in [-1, 1], these go from {low:g} to {high:g}")


def to_uint8(images: Tensor) -> Tensor:
    """Map float pixels of any shape from [-1, 1] to uint8: rounded to nearest, values outside clamped."""
    return ((images + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8)


def resized(pixels: np.ndarray, size: int) -> Tensor:
    """Grey pixels [N, h, w] as [N, 1, size, size], by PIL's bilinear filter as in torchvision.

    uint8 stays uint8, rounded; float32 stays float32, unrounded.
    """
    images = np.empty((len(pixels), 1, size, size), dtype=pixels.dtype)
    for image, source in zip(images, pixels, strict=True):
        image[0] = Image.fromarray(source).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(images)
