"""The data sets that libraries can read: scikit-learn's digits, and torchvision's MNIST kin and CIFAR-10.

torchvision and scikit-learn take a second or more to import, so each is imported where it is used.
"""

import functools
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.cache import Source
from data.pixels import resized
from data.specs import DATASETS, DatasetSpec, Split
from errors import UserError, reason_of

EXPECTED_IMAGES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {name: {"train": spec.n_train, "test": spec.n_test} for name, spec in DATASETS.items()}
)

# What torchvision lets through without a network, or where a file is unreadable, cut short or another thing.
_TORCHVISION_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    HTTPException,
)


def digits(split: str) -> Split:
    """scikit-learn's 1,797 digits of 8x8 pixels, enlarged to 32x32; nothing is downloaded or cached.

    The split is fixed: a permutation by NumPy's legacy generator with seed 0, whose stream NumPy promises
    never to change; its first 1,500 images are train, the other 297 test.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.images))
    n_train = DATASETS["digits"].n_train
    chosen = order[:n_train] if split == "train" else order[n_train:]
    pixels = np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    images = resized(pixels, DATASETS["digits"].image_size)
    return Split(images, torch.from_numpy(bunch.target[chosen].astype(np.int64)))


def original_images(spec: DatasetSpec, split: str, data_dir: Path) -> Tensor:
    """The images of a split as their files have them, uint8 [N, C, h, w]: MNIST and Fashion-MNIST are 28x28 there.

    Raises UserError where files are missing and cannot be downloaded, or are damaged.
    """
    find(spec, split, data_dir)
    pixels, _ = _read(spec, split, data_dir)
    return _channels_first(pixels)


def find(spec: DatasetSpec, split: str, data_dir: Path) -> Source:
    """The source files of MNIST, Fashion-MNIST or CIFAR-10 in torchvision's layout, downloaded where missing.

    Where all files are there the network is not touched. Raises UserError where some are missing and cannot
    be downloaded.
    """
    if not is_at_hand(spec, data_dir):
        _download(spec, data_dir)
    files = _files(spec.name, split, data_dir)
    return Source(files, functools.partial(_build, spec, split, data_dir))


def is_at_hand(spec: DatasetSpec, data_dir: Path) -> bool:
    """Whether the files of all splits, which torchvision would download together, are under `data_dir`."""
    return not _missing(spec, data_dir)


def _missing(spec: DatasetSpec, data_dir: Path) -> list[Path]:
    needed = (path for split in spec.splits for path in _files(spec.name, split, data_dir))
    return [path for path in dict.fromkeys(needed) if not path.is_file()]


def _torchvision_class(dataset: str) -> Any:
    from torchvision import datasets

    classes = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
    return classes[dataset]


def _files(dataset: str, split: str, data_dir: Path) -> tuple[Path, ...]:
    """The files that torchvision reads for one split, whether they exist or not."""
    if dataset == "cifar10":
        names = [f"data_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_batch"]
        return tuple(data_dir / "cifar-10-batches-py" / name for name in (*names, "batches.meta"))
    folder = data_dir / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset] / "raw"
    prefix = "train" if split == "train" else "t10k"
    return folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"


def _download(spec: DatasetSpec, data_dir: Path) -> None:
    reason = "its files did not appear"
    # Of the folders that lead to the files, innermost first: one that is new here should not stay behind empty.
    absent = [folder for folder in _files(spec.name, "train", data_dir)[0].parents if not folder.exists()]
    try:
        _torchvision_class(spec.name)(str(data_dir), download=True)
    except _TORCHVISION_ERRORS as error:
        reason = reason_of(error)
    if missing := _missing(spec, data_dir):
        for folder in absent:
            with suppress(OSError):  # it has something in it, or never came to be
                folder.rmdir()
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{spec.name}: {missing[0].name}{more} not found in {missing[0].parent} and the download failed "
            f"({reason}): put the files there, or name the folder that holds the data sets with --data-dir"
        )


def _build(spec: DatasetSpec, split: str, data_dir: Path) -> Split:
    """One split, brought to the models' image size."""
    pixels, labels = _read(spec, split, data_dir)
    return Split(_channels_first(pixels) if spec.channels == 3 else resized(pixels, spec.image_size), labels)


def _read(spec: DatasetSpec, split: str, data_dir: Path) -> tuple[np.ndarray, Tensor]:
    """Read one split through torchvision and check that it is whole: pixels [N, h, w] or [N, h, w, C], and labels."""
    try:
        dataset = _torchvision_class(spec.name)(str(data_dir), train=split == "train", download=False)
    except _TORCHVISION_ERRORS as error:
        reason = _wrong_checksums(data_dir) if spec.name == "cifar10" else reason_of(error)
        raise _damaged(spec.name, data_dir, reason or reason_of(error)) from error
    pixels = np.asarray(dataset.data)
    labels = torch.as_tensor(dataset.targets, dtype=torch.int64)
    count = EXPECTED_IMAGES[spec.name][split]
    shape = (count, 32, 32, 3) if spec.channels == 3 else (count, 28, 28)
    if pixels.shape != shape or labels.shape != (count,):
        found = f"{split} images {list(pixels.shape)} and {len(labels)} labels instead of {list(shape)}"
        raise _damaged(spec.name, data_dir, found)
    return pixels, labels


def _channels_first(pixels: np.ndarray) -> Tensor:
    """[N, h, w] or [N, h, w, C] -> [N, C, h, w], a copy."""
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def _damaged(dataset: str, data_dir: Path, reason: str) -> UserError:
    folder = _files(dataset, "train", data_dir)[0].parent
    return UserError(f"{dataset}: {folder} is damaged ({reason}): delete it and run again to download it")


def _wrong_checksums(data_dir: Path) -> str:
    """Which of CIFAR-10's files are not what torchvision expects: it only says that some are not."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = data_dir / CIFAR10.base_folder
    listed = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    wrong = [name for name, md5 in listed if not check_integrity(folder / name, md5)]
    return f"wrong checksum: {', '.join(wrong)}" if wrong else ""
