"""From a data set's name to its tensors: `load_split`, and `load_original_images`."""

import os
from pathlib import Path

import torch
from torch import Tensor

from data import celeba, sources
from data.cache import cached
from data.specs import DatasetSpec, Split, spec_of
from errors import UserError

DATA_DIR_VARIABLE = "ESVAE_DATA_DIR"


def load_split(
    dataset: str,
    split: str,
    data_dir: Path | str | None = None,
    *,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Split:
    """Load one split: images uint8 [N, C, H, W] and labels int64 [N] (None for CelebA) on `device`.

    `data_dir` holds the data sets; without it the folder that ESVAE_DATA_DIR names, else ./datasets. `limit`
    keeps the first so many images. The first use prepares the split and caches it under `data_dir`; MNIST,
    Fashion-MNIST and CIFAR-10 are downloaded where they are missing. Digits come with scikit-learn and use no
    folder.

    Raises UserError for an unknown name, for the home of an unknown user as `data_dir`, for missing or damaged data and
    for a limit beyond the split.
    """
    spec = spec_of(dataset, split)
    loaded = _whole(spec, split, data_dir)
    if limit is not None:
        loaded = _first(loaded, limit, f"{split} split of {dataset}")
    labels = loaded.labels
    return Split(loaded.images.to(device), None if labels is None else labels.to(device))


def load_original_images(
    dataset: str, split: str, data_dir: Path | str | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """A split's images as their files have them, before they get the models' size: uint8 [N, C, h, w].

    Raises UserError as `load_split`, and for data sets that are not read by torchvision, digits and CelebA.
    """
    spec = spec_of(dataset, split)
    if dataset in ("digits", "celeba"):
        raise UserError(f"original images are those of mnist, fashion_mnist and cifar10, not {dataset}")
    return sources.original_images(spec, split, data_folder(data_dir)).to(device)


def is_at_hand(dataset: str, split: str, data_dir: Path | str | None = None) -> bool:
    """Whether `load_split` would find the split's files without a download.

    Raises UserError for an unknown name, and for the home of an unknown user as `data_dir`.
    """
    spec = spec_of(dataset, split)
    if spec.name == "celeba":
        try:
            celeba.find(spec, split, data_folder(data_dir))
        except UserError:
            return False
        return True
    return spec.name == "digits" or sources.is_at_hand(spec, data_folder(data_dir))


def data_folder(data_dir: Path | str | None = None) -> Path:
    """Where the data sets are: `data_dir`, else the folder that ESVAE_DATA_DIR names, else ./datasets.

    Raises UserError for the home of an unknown user.
    """
    folder = Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "datasets")
    try:
        return folder.expanduser()
    except RuntimeError as error:  # ~ of a user that there is not
        raise UserError(f"no folder {folder} ({error}): name the one of the data sets with --data-dir") from error


def _whole(spec: DatasetSpec, split: str, data_dir: Path | str | None) -> Split:
    if spec.name == "digits":
        return sources.digits(split)
    folder = data_folder(data_dir)
    find = celeba.find if spec.name == "celeba" else sources.find
    return cached(spec, split, folder, find(spec, split, folder))


def _first(loaded: Split, limit: int, what: str) -> Split:
    """The first `limit` images, copied so that the rest can be freed."""
    if limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    if limit > len(loaded.images):
        raise UserError(f"limit {limit}: the {what} has only {len(loaded.images)} images")
    labels = loaded.labels
    return Split(loaded.images[:limit].clone(), None if labels is None else labels[:limit].clone())
