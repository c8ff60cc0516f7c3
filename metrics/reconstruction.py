"""Reconstruction loss over a whole split."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from data import batches
from losses import reconstruction_loss

EVALUATION_BATCH = 64
NOISE_SEED = 0


@torch.no_grad()
def evaluate_reconstruction(
    model: nn.Module,
    images: Tensor,
    batch_size: int = EVALUATION_BATCH,
    seed: int = NOISE_SEED,
    before_batch: Callable[[], None] | None = None,
) -> float:
    """Mean squared error per pixel on the [-1, 1] scale, each image with the same weight.

    The posterior is sampled, as in training; `seed` fixes its noise, so that the same weights score the same.

    Args:
        model: in evaluation mode; called as model(x, generator=...).
        images: uint8 [N, C, H, W], on the model's device.
        before_batch: called before each batch; may raise to give up.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for x in batches(images, batch_size):
        if before_batch:
            before_batch()
        error = reconstruction_loss(model(x, generator=generator).reconstruction, x)
        total += error.double().cpu() * len(x)
    return (total / len(images)).item()
