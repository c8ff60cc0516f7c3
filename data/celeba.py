"""CelebA's aligned images, from a folder or a zip file, cropped and reduced to 64x64."""

import contextlib
import functools
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data.cache import Source
from data.specs import DatasetSpec, Split
from errors import UserError, reason_of

IMAGES = "img_align_celeba"
PARTITION = "list_eval_partition.txt"

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_SPLIT_CODES = MappingProxyType({"0": "train", "1": "validation", "2": "test"})
_LAST_TRAIN, _LAST_VALIDATION = 162_770, 182_637  # the official split by image number
_CROP = 148 / 178  # of the width: the usual square around the face

# What PIL and zipfile raise for a file that is cut short, far too large, something else, or encrypted.
_READ_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)


def find(spec: DatasetSpec, split: str, data_dir: Path) -> Source:
    """The CelebA files under `data_dir`/celeba, or else under `data_dir` itself.

    Accepted are a folder img_align_celeba of images, img_align_celeba.zip or the only zip file there (images
    at any depth), or the images themselves; beside them, optionally, list_eval_partition.txt.

    Raises UserError where none of these is found.
    """
    for root in (data_dir / "celeba", data_dir):
        place = _find_images(root)
        if place is None:
            continue
        partition = root / PARTITION
        images = [place / name for name in _listed(place)] if place.is_dir() else [place]
        files = (*images, partition) if partition.is_file() else tuple(images)
        return Source(files, functools.partial(_build, spec, split, place, partition))
    raise UserError(
        f"celeba: no images in {data_dir / 'celeba'}: download {IMAGES}.zip and {PARTITION} by hand from the "
        "CelebA project page (aligned & cropped images) and put both there, or name the folder above with "
        "--data-dir"
    )


def _find_images(root: Path) -> Path | None:
    """The folder or zip file under `root` that holds the images."""
    if _listed(root / IMAGES):
        return root / IMAGES
    archives = sorted(path for path in root.glob("*.zip") if not path.name.startswith("."))
    named = [path for path in archives if path.stem == IMAGES]
    if named or len(archives) == 1:
        return (named or archives)[0]
    return root if _listed(root) else None


def _listed(folder: Path) -> list[str]:
    """The names of the images in a folder, sorted; none where it is no folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if _is_image(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"celeba: {folder} cannot be read ({error.strerror})") from error


def _is_image(name: str) -> bool:
    # A name with a leading dot is what macOS puts beside each file in a zip: no image.
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _build(spec: DatasetSpec, split: str, place: Path, partition_file: Path) -> Split:
    partition = _read_partition(partition_file) if partition_file.is_file() else None
    with _opened(place) as (names, read):
        chosen = [name for name in names if _split_of(name, partition, place) == split]
        if not chosen:
            reason = f"by {partition_file}" if partition is not None else "by their numbers"
            raise UserError(
                f"celeba: none of the {len(names)} images in {place} is in the {split} split {reason}: "
                "choose another split or get the whole data set"
            )
        images = _decode_all(chosen, read, spec.image_size, place)
    return Split(torch.from_numpy(images), None)


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The image names in a folder or zip file, sorted, and a function that reads one; safe across threads."""
    if place.is_dir():
        yield _listed(place), lambda name: (place / name).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"celeba: {place} is no sound zip file ({error}): download it again") from error
    with archive:
        yield sorted(filter(_is_image, archive.namelist())), archive.read


def _read_partition(path: Path) -> dict[str, str]:
    """The split of each image, by file name without its suffix, from lines such as '000001.jpg 0'."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"celeba: {path} cannot be read ({error.strerror}): restore or remove it") from error
    partition = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in _SPLIT_CODES:
            raise UserError(f"celeba: {path} line {number} is not an image's name and 0, 1 or 2: correct it")
        partition[PurePosixPath(fields[0]).stem] = _SPLIT_CODES[fields[1]]
    return partition


def _split_of(name: str, partition: dict[str, str] | None, place: Path) -> str:
    stem = PurePosixPath(name).stem
    if partition is not None:
        if stem not in partition:
            raise UserError(f"celeba: {name} in {place} is not in {PARTITION}: remove it or add a line")
        return partition[stem]
    digits = re.search(r"\d+", stem)
    if digits is None:
        raise UserError(f"celeba: {name} in {place} has no number to tell its split by: add {PARTITION}")
    if int(digits[0]) <= _LAST_TRAIN:
        return "train"
    return "validation" if int(digits[0]) <= _LAST_VALIDATION else "test"


def _decode_all(names: list[str], read: Callable[[str], bytes], size: int, place: Path) -> np.ndarray:
    """The images as uint8 [N, 3, size, size], decoded by a few threads straight into their places."""
    images = np.empty((len(names), 3, size, size), dtype=np.uint8)

    def decode(index: int) -> None:
        try:
            images[index] = _decode(read(names[index]), size)
        except _READ_ERRORS as error:
            what = f"{names[index]} in {place} is no sound aligned image ({reason_of(error)})"
            raise UserError(f"celeba: {what}: download it again") from error

    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        done = pool.imap_unordered(decode, range(len(names)), chunksize=64)
        # disable=None: no bar unless stderr is a terminal
        for _ in tqdm(done, total=len(names), desc="preparing celeba", unit="image", disable=None):
            pass
    return images


def _decode(content: bytes, size: int) -> np.ndarray:
    """One image file as uint8 [3, size, size]: the central square, reduced by PIL's bilinear filter."""
    with Image.open(BytesIO(content)) as image:
        width, height = image.size
        side = round(width * _CROP)  # 148 of 178 columns, 74 of 89
        if side > height:
            raise ValueError(f"{width}x{height} pixels, wider than high")
        # Half pixels are rounded as torchvision's CenterCrop rounds them.
        left, top = round((width - side) / 2), round((height - side) / 2)
        square = image.convert("RGB").crop((left, top, left + side, top + side))
    reduced = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(reduced).transpose(2, 0, 1)
