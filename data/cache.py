"""Safetensors files beside the data of what is slow to make from them: prepared splits, and what metrics measure."""

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
from torch import Tensor

from data.specs import DatasetSpec, Split
from errors import UserError, reason_of
from files import remove_half_written, replaced

Tensors = dict[str, Tensor]

FOLDER = ".esvae-cache"

# Raise this whenever the same source files would give other pixels: cropping, resizing or order have changed.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Source:
    """The files that a split is made from, and the function that makes it."""

    files: tuple[Path, ...]
    build: Callable[[], Split]


def cached(spec: DatasetSpec, split: str, data_dir: Path, source: Source) -> Split:
    """The split from its cache file under `data_dir`, used while the source files stay the same, else from `source`."""

    def build() -> Tensors:
        loaded = source.build()
        return {"images": loaded.images} | ({} if loaded.labels is None else {"labels": loaded.labels})

    stem = f"{spec.name}-{split}-{spec.image_size}-"
    tensors = kept(data_dir, stem, _key(source.files), build, lambda found: _check(found, spec))
    return Split(tensors["images"], tensors.get("labels"))


def kept(
    data_dir: Path, stem: str, key: str, build: Callable[[], Tensors], check: Callable[[Tensors], None]
) -> Tensors:
    """Tensors from their cache file under `data_dir`, else from `build` and cached for the next time.

    A damaged cache file is rebuilt and an unwritable folder done without; each is said in a line on stderr.

    Args:
        data_dir: folder of the data sets.
        stem, key: of the file's name. What was kept by the same stem and another key goes.
        build: makes the tensors.
        check: raises KeyError or ValueError for tensors that `build` would not make.
    """
    path = data_dir / FOLDER / f"{stem}{key}.safetensors"
    remove_half_written(path.parent, stem)
    tensors = _read(path, check)
    if tensors is None:
        tensors = build()
        _write(path, tensors, stem)
    return tensors


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


def _read(path: Path, check: Callable[[Tensors], None]) -> Tensors | None:
    """The tensors kept in `path`, or None where there are none or they are damaged."""
    if not os.path.isfile(path):  # Path.is_file raises where the folder may not be read
        return None
    try:
        tensors = load_file(path)
        check(tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _notice(f"cache file {path} is damaged ({reason_of(error)}); building it again")
        return None
    return tensors


def _check(tensors: Tensors, spec: DatasetSpec) -> None:
    """KeyError or ValueError unless the tensors are what a split of this data set must look like."""
    images, labels = tensors["images"], tensors.get("labels")
    if images.dtype != torch.uint8 or images.shape[1:] != (spec.channels, spec.image_size, spec.image_size):
        raise ValueError(f"images are {images.dtype} {list(images.shape)}")
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}")


def _write(path: Path, tensors: Tensors, stem: str) -> None:
    """Put the tensors in `path` in one step and drop what was kept under the same stem."""
    try:
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as temporary:
            save_file(tensors, temporary)
        for old in path.parent.glob(f"{stem}*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        _notice_once(f"{path.parent} cannot be written ({reason}); what is made from the data is not kept for later")


def _notice(message: str) -> None:
    print(f"data: {message}", file=sys.stderr)


# Train and test split meet the same unwritable folder: the memory of this function keeps it to one line.
_notice_once = functools.cache(_notice)
