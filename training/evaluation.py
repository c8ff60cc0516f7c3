"""Reconstruction loss over a whole split."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from data import batches
from losses import reconstruction_loss
from training.graph import Graphed

NOISE_SEED = 0


def evaluation_batch(images: Tensor) -> int:
    """How many of these images, [N, C, H, W] on the model's device, make a batch where no gradient is asked for.

    A GPU takes as long for 64 as for more, but 256 of 32x32, recorded as a graph, need as much memory as training.
    """
    return max(1, 256 * 32**2 // images[0, 0].numel()) if images.is_cuda else 64


@torch.no_grad()
def evaluate_reconstruction(
    model: nn.Module,
    images: Tensor,
    batch_size: int | None = None,
    seed: int = NOISE_SEED,
    before_batch: Callable[[], None] | None = None,
    records: bool = False,
) -> float:
    """Mean squared error per pixel on the [-1, 1] scale, each image with the same weight.

    The posterior is sampled, as in training; `seed` fixes its noise, so that the same weights score the same on the
    same kind of device.

    Args:
        model: in evaluation mode; called as model(x, generator=...).
        images: uint8 [N, C, H, W], on the model's device.
        batch_size: images in a batch; `evaluation_batch` if None.
        before_batch: called before each batch; may raise to give up.
        records: whether to replay a batch as a CUDA graph; where `resolve_graph` allows it.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    batch_size = batch_size or evaluation_batch(images)

    def test(x: Tensor) -> dict[str, Tensor]:
        return {"error": reconstruction_loss(model(x, generator=generator).reconstruction, x)}

    if records:
        test = Graphed(test, batch_size, generator)
    total = torch.zeros((), dtype=torch.float64)
    for x in batches(images, batch_size):
        if before_batch:
            before_batch()
        total += test(x)["error"].double().cpu() * len(x)
    return (total / len(images)).item()
