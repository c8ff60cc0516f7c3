"""Which data sets there are, and what a loaded split looks like."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from errors import UserError


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as the models see it: square images of `channels` x `image_size` x `image_size`.

    `n_train` and `n_test` count the images of the whole splits.
    """

    name: str
    channels: int
    image_size: int
    n_train: int
    n_test: int
    splits: tuple[str, ...] = ("train", "test")

    def check_images_of(self, file: Path, channels: int, size: int) -> None:
        """UserError where what `file` holds is for images of another shape than this data set's."""
        if (channels, size) != (self.channels, self.image_size):
            raise UserError(
                f"{file} is for {channels}x{size}x{size} images, but {self.name} has "
                f"{self.channels}x{self.image_size}x{self.image_size}: give another file, or another --dataset"
            )


@dataclass(frozen=True, eq=False)
class Split:
    """One split in memory.

    `images`: uint8 [N, C, H, W]. `labels`: int64 [N], or None where the data set has no classes (CelebA).
    """

    images: Tensor
    labels: Tensor | None


_SPECS = (
    DatasetSpec("digits", 1, 32, 1_500, 297),
    DatasetSpec("mnist", 1, 32, 60_000, 10_000),
    DatasetSpec("fashion_mnist", 1, 32, 60_000, 10_000),
    DatasetSpec("cifar10", 3, 32, 50_000, 10_000),
    DatasetSpec("celeba", 3, 64, 162_770, 19_962, ("train", "validation", "test")),
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def spec_of(dataset: str, split: str) -> DatasetSpec:
    """The spec of `dataset`; UserError where there is no such data set or it has no such split."""
    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}")
    spec = DATASETS[dataset]
    if split not in spec.splits:
        raise UserError(f"{dataset} has no split {split!r}: choose one of {', '.join(spec.splits)}")
    return spec
