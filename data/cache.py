"""One safetensors file per prepared split, beside the data, used while the source files stay the same."""

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data.specs import DatasetSpec, Split
from errors import UserError, reason_of
from files import remove_half_written, replaced

FOLDER = ".esvae-cache"

# Raise this whenever the same source files would give other pixels: cropping, resizing or order have changed.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Source:
    """The files that a split is made from, and the function that makes it."""

    files: tuple[Path, ...]
    build: Callable[[], Split]


def cached(spec: DatasetSpec, split: str, data_dir: Path, source: Source) -> Split:
    """The split from its cache file under `data_dir`, else built from `source` and cached for the next time.

    A damaged cache file is rebuilt and an unwritable folder done without; each is said in a line on stderr.
    """
    stem = f"{spec.name}-{split}-{spec.image_size}-"
    path = data_dir / FOLDER / f"{stem}{_key(source.files)}.safetensors"
    remove_half_written(path.parent, stem)
    loaded = _read(path, spec)
    if loaded is None:
        loaded = source.build()
        _write(path, loaded, stem)
    return loaded


def _key(files: Iterable[Path]) -> str:
    """Sixteen hex digits that change with any source file's name, size or modification time."""
    digest = hashlib.sha256(f"format {FORMAT_VERSION}".encode())
    for file in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): restore or remove it") from error
        digest.update(f"\0{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _read(path: Path, spec: DatasetSpec) -> Split | None:
    """The split kept in `path`, or None where there is none or it is damaged."""
    if not os.path.isfile(path):  # Path.is_file raises where the folder may not be read
        return None
    try:
        tensors = load_file(path)
        loaded = Split(tensors["images"], tensors.get("labels"))
        _check(loaded, spec)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _notice(f"cache file {path} is damaged ({reason_of(error)}); building it again")
        return None
    return loaded


def _check(loaded: Split, spec: DatasetSpec) -> None:
    """ValueError unless the tensors are what a split of this data set must look like."""
    images, labels = loaded.images, loaded.labels
    if images.dtype != torch.uint8 or images.shape[1:] != (spec.channels, spec.image_size, spec.image_size):
        raise ValueError(f"images are {images.dtype} {list(images.shape)}")
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}")


def _write(path: Path, loaded: Split, stem: str) -> None:
    """Put the split in `path` in one step and drop what was kept of earlier source files."""
    tensors = {"images": loaded.images} | ({} if loaded.labels is None else {"labels": loaded.labels})
    try:
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as temporary:
            save_file(tensors, temporary)
        for old in path.parent.glob(f"{stem}*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        _notice_once(f"{path.parent} cannot be written ({reason}); prepared data are not kept for later")


def _notice(message: str) -> None:
    print(f"data: {message}", file=sys.stderr)


# Train and test split meet the same unwritable folder: the memory of this function keeps it to one line.
_notice_once = functools.cache(_notice)
