"""Reconstruction loss over a whole split."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from data import batches
from losses import reconstruction_loss
from training.graph import Graphed

NOISE_SEED = 0


def evaluation_batch(images: Tensor) -> int:
    """How many of these images, [N, C, H, W] on the model's device, make a batch where no gradient is asked for.

    A GPU takes as long for 64 as for more, but 256 of 32x32, recorded as a graph, need as much memory as training.
    """
    return max(1, 256 * 32**2 // images[0, 0].numel()) if images.is_cuda else 64


class ReconstructionTest:
    """Mean squared error per value on the [-1, 1] scale, each image with the same weight; asked again for new weights.

    The posterior is sampled, as in training.

    Args:
        model: called as model(x, generator=...).
        images: uint8 [N, C, H, W], on the model's device.
        batch_size: images in a batch; `evaluation_batch` if None.
        records: whether to replay a batch as a CUDA graph, where `resolve_graph` allows it. It is recorded once, in
            the first test: every recording has a stream of its own, with memory that cuBLAS never gives back.
    """

    def __init__(self, model: nn.Module, images: Tensor, batch_size: int | None = None, records: bool = False) -> None:
        noise, batch_size = Generator(images.device), batch_size or evaluation_batch(images)

        def error(x: Tensor) -> dict[str, Tensor]:
            return {"error": reconstruction_loss(model(x, generator=noise).reconstruction, x)}

        self.images, self.batch_size, self.noise = images, batch_size, noise
        self.error = Graphed(error, batch_size, noise) if records else error

    @torch.no_grad()
    def __call__(self, seed: int = NOISE_SEED, before_batch: Callable[[], None] | None = None) -> float:
        """The error of the model as it is, which must be in evaluation mode.

        Args:
            seed: of the posterior's noise: the same weights score the same on the same kind of device.
            before_batch: called before each batch; may raise to give up.
        """
        self.noise.manual_seed(seed)
        total = torch.zeros((), dtype=torch.float64)
        for x in batches(self.images, self.batch_size):
            if before_batch:
                before_batch()
            total += self.error(x)["error"].double().cpu() * len(x)
        return (total / len(self.images)).item()


def evaluate_reconstruction(
    model: nn.Module, images: Tensor, batch_size: int | None = None, seed: int = NOISE_SEED
) -> float:
    """A `ReconstructionTest` that is asked once; same arguments."""
    return ReconstructionTest(model, images, batch_size)(seed)
