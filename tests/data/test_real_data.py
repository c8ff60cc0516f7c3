"""The real data sets, where ESVAE_DATA_DIR names a folder that holds them."""

from pathlib import Path

import pytest
import torch

from data import DATASETS, load_split, to_unit_range

SIZES = {"mnist": (60_000, 10_000), "fashion_mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}

# Measured, and for MNIST and Fashion-MNIST confirmed by torchvision's Resize(32) outside this package.
MEAN_IMAGE_ERROR = {"mnist": 0.2271, "fashion_mnist": 0.3087, "cifar10": 0.2471}

FOLDERS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
    "celeba": "celeba",
}


def require(real_data: Path, dataset: str) -> None:
    if not (real_data / FOLDERS[dataset]).is_dir():
        pytest.skip(f"{dataset} is not in ESVAE_DATA_DIR")


@pytest.mark.parametrize("dataset", SIZES)
def test_published_sizes_and_classes(real_data: Path, dataset: str) -> None:
    require(real_data, dataset)
    spec = DATASETS[dataset]
    for split, count in zip(("train", "test"), SIZES[dataset], strict=True):
        loaded = load_split(dataset, split)
        assert loaded.images.shape == (count, spec.channels, spec.image_size, spec.image_size)
        assert loaded.labels.unique(return_counts=True)[0].tolist() == list(range(10))


@pytest.mark.parametrize("dataset", SIZES)
def test_error_of_the_mean_training_image(real_data: Path, dataset: str) -> None:
    require(real_data, dataset)
    train, test = (load_split(dataset, split).images for split in ("train", "test"))
    mean = torch.stack([to_unit_range(part).sum(0) for part in train.split(5000)]).sum(0) / len(train)
    error = sum((to_unit_range(part) - mean).square().sum().item() for part in test.split(5000)) / test.numel()
    assert error == pytest.approx(MEAN_IMAGE_ERROR[dataset], abs=0.003)


def test_celeba_images_fill_the_value_range(real_data: Path) -> None:
    require(real_data, "celeba")
    images = load_split("celeba", "train", limit=100).images
    assert images.shape == (100, 3, 64, 64)
    assert images.min() == 0 and images.max() == 255
