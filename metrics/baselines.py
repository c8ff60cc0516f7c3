"""What trivial reconstructions score: the range in which a model's loss has a meaning."""

import torch
from torch import Tensor

from data import batches, to_uint8, to_unit_range

BATCH = 1000

MEAN_IMAGE = "mean training image"  # names of the baselines in records
EIGHT_BIT = "8-bit copy"


def mean_image_loss(train_images: Tensor, test_images: Tensor) -> float:
    """Mean squared error on [-1, 1] of answering every test image with the mean training image.

    Args:
        train_images, test_images: uint8 [N, C, H, W].
    """
    total = sum(x.sum(0, dtype=torch.float64) for x in batches(train_images, BATCH))
    mean = (total / len(train_images)).float()
    return _mean_squared_error(test_images, lambda x: mean.expand_as(x))


def eight_bit_loss(test_images: Tensor) -> float:
    """Mean squared error on [-1, 1] of copying the input through 8 bits per value: the loss of no loss."""
    return _mean_squared_error(test_images, lambda x: to_unit_range(to_uint8(x)))


def _mean_squared_error(images: Tensor, reconstruct) -> float:  # noqa: ANN001
    errors = (((reconstruct(x) - x).double() ** 2).sum() for x in batches(images, BATCH))
    return (sum(errors) / images.numel()).item()
