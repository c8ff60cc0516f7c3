"""Images of any origin in one .npz file, brought to what the models see."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.pixels import check_range, resized, to_unit_range
from data.specs import DATASETS, DatasetSpec
from errors import UserError

SOURCE_SIZES = {"mnist": 28, "fashion_mnist": 28}  # of the original images, which the data sets enlarge


def read_image_set(path: Path, dataset: str, limit: int | None = None) -> Tensor:
    """The images of an archive, to be compared with a data set's: float32 [N, C, H, W] in [-1, 1].

    Args:
        path: .npz file with one array, under any name: uint8 0..255 or floats in [-1, 1], [N, H, W] or [N, H, W, C].
            28x28 pixels are enlarged for MNIST and Fashion-MNIST as the data sets are (floats are not rounded).
        limit: take the first so many images.

    Raises:
        UserError: no file that can be read, damaged, more than one array, or images of another shape, type or range.
    """
    spec = DATASETS[dataset]
    pixels = _checked(_only_array(path), spec, path)
    if limit is not None and not 1 <= limit <= len(pixels):
        raise UserError(f"--n-images {limit}: must be at least 1 and at most {len(pixels)}, the images in {path}")
    pixels = pixels[:limit]
    if pixels.dtype != np.uint8:
        pixels = _checked_floats(pixels, path)
    elif pixels.max() <= 1:
        print(f"{path}: no value is above 1; uint8 is taken to be 0 to 255, where white is 255", file=sys.stderr)
    if pixels.shape[1] != spec.image_size:
        images = resized(np.ascontiguousarray(pixels[..., 0]), spec.image_size)
    else:
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return to_unit_range(images) if images.dtype == torch.uint8 else images


def _only_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"no file {path}: give an .npz archive of images")
    try:
        opened = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with opened as file, np.load(file, allow_pickle=False) as archive:  # NumPy leaves a damaged one open
            names = archive.files
            if len(names) == 1:
                return archive[names[0]]
    except MemoryError as error:
        raise UserError(f"{path} holds, or claims to, more than fits in memory") from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is damaged or no .npz archive of plain arrays ({type(error).__name__})") from error
    raise UserError(f"{path} holds {len(names)} arrays ({', '.join(names[:5])}): save one, the images")


def _checked(pixels: np.ndarray, spec: DatasetSpec, path: Path) -> np.ndarray:
    """Images [N, h, w, C] that fit the data set; UserError for another shape or type."""
    shape = list(pixels.shape)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    sizes = sorted({SOURCE_SIZES.get(spec.name, spec.image_size), spec.image_size})
    fits = [(size, size, spec.channels) for size in sizes]
    if pixels.shape[1:] not in fits or len(pixels) == 0:
        wanted = " or ".join(f"[N, {h}, {w}{f', {c}' if c > 1 else ''}]" for h, w, c in fits)
        raise UserError(f"{path} holds an array {shape}: images of {spec.name} are {wanted}")
    if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
        raise UserError(f"{path} holds {pixels.dtype}: save uint8 from 0 to 255, or floats from -1 to 1")
    return pixels


def _checked_floats(pixels: np.ndarray, path: Path) -> np.ndarray:
    """As float32; UserError for values that are not in [-1, 1], a word about images that seem to be in [0, 1]."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        pixels = pixels.astype(np.float32)
    try:
        check_range(torch.from_numpy(pixels))
    except UserError as error:
        raise UserError(f"{path}: {error}; uint8 from 0 to 255 would do too") from error
    if pixels.min() >= 0:
        print(f"{path}: no value is below 0; floats are taken to be in [-1, 1], where black is -1", file=sys.stderr)
    return pixels
