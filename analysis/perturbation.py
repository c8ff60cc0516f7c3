"""What an altered latent does to the reconstruction: the alterations, the losses and the pictures (Sec. II-B, IV-D).

Time is the first axis: z is [T, N, D].
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

import pandas as pd
import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from analysis.subjects import Subject
from data import batches, to_unit_range
from losses import reconstruction_loss
from training.evaluation import evaluation_batch

REBINARISED_AT = 0.5
NOISE_SEED_OFFSET = 1
LOSSES = ("loss_vs_original", "loss_vs_vanilla")


def shuffle_time(z: Tensor, generator: Generator, shared: bool = False) -> Tensor:
    """Permute the steps of z [T, N, D]: of every unit on its own, or of all units of an image alike if `shared`."""
    t, n, d = z.shape
    return _permuted(z, 0, (t, n, 1 if shared else d), generator)


def shuffle_length(z: Tensor, generator: Generator, shared: bool = False) -> Tensor:
    """Permute the units of z [T, N, D]: at every step anew, or at all steps of an image alike if `shared`."""
    t, n, d = z.shape
    return _permuted(z, 2, (1 if shared else t, n, d), generator)


def _permuted(z: Tensor, axis: int, shape: tuple[int, int, int], generator: Generator) -> Tensor:
    order = torch.rand(shape, generator=generator, device=z.device).argsort(axis)
    return z.gather(axis, order.expand_as(z))


def add_noise(z: Tensor, probability: float, generator: Generator) -> Tensor:
    """Hit each entry of z with that probability: add N(0, 1) to it, then make it 1 above 0.5 and 0 below.

    A hit entry changes with probability P(N(0, 1) > 0.5) = 0.309, be it 0 or 1.
    """
    hit = torch.rand(z.shape, generator=generator, device=z.device) < probability
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    return torch.where(hit, (z + noise > REBINARISED_AT).to(z), z)


def flip(z: Tensor, probability: float, generator: Generator) -> Tensor:
    """Invert each entry of z with that probability."""
    hit = torch.rand(z.shape, generator=generator, device=z.device) < probability
    return torch.where(hit, 1 - z, z)


class Alterations(Protocol):
    """Yields what to compare with the vanilla reconstruction: (name, reconstruction [N, C, H, W])."""

    def __call__(self, model: nn.Module, x: Tensor, z: Tensor, noise: Generator) -> Iterable[tuple[str, Tensor]]: ...


@torch.no_grad()
def altered_losses(subject: Subject, images: Tensor, alterations: Alterations, seed: int) -> pd.DataFrame:
    """Losses of the vanilla reconstruction and of the altered ones, over all images with the same weight.

    The vanilla reconstruction decodes the same z unaltered; its loss is that of evaluate.py under the same seed.

    Args:
        subject: the model.
        images: uint8 [N, C, H, W], on the model's device.
        alterations: as many per batch as it likes, each under a name of its own.
        seed: of the posterior's noise and of the alterations'.

    Returns:
        columns latent (`vanilla`, then the names), loss_vs_original, loss_vs_vanilla: mean squared errors per value on
        [-1, 1].
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))
    posterior, noise = _generators(subject, seed)
    with tqdm(total=len(images), desc=subject.label, unit="img", disable=None, leave=False) as bar:
        for x in batches(images, evaluation_batch(images)):
            output = subject.model(x, generator=posterior)
            sums["vanilla"] += _losses(output.reconstruction, x, output.reconstruction)
            for name, reconstruction in alterations(subject.model, x, output.z, noise):
                sums[name] += _losses(reconstruction, x, output.reconstruction)
            bar.update(len(x))
    rows = [[name, *(total / len(images)).tolist()] for name, total in sums.items()]
    return pd.DataFrame(rows, columns=["latent", *LOSSES])


def _losses(reconstruction: Tensor, x: Tensor, vanilla: Tensor) -> Tensor:
    """Both losses, summed over the images, float64 [2]."""
    losses = [reconstruction_loss(reconstruction, target) for target in (x, vanilla)]
    return torch.stack(losses).double().cpu() * len(x)


@torch.no_grad()
def altered_images(subject: Subject, images: Tensor, alterations: Alterations, seed: int) -> dict[str, Tensor]:
    """Rows of images by name: `original`, `vanilla`, then the altered reconstructions; arguments as above."""
    posterior, noise = _generators(subject, seed)
    x = to_unit_range(images)
    output = subject.model(x, generator=posterior)
    altered = dict(alterations(subject.model, x, output.z, noise))
    return {"original": x, "vanilla": output.reconstruction, **altered}


def _generators(subject: Subject, seed: int) -> tuple[Generator, Generator]:
    """Noise of the posterior, the same as evaluate.py's under that seed, and of the alterations."""
    return subject.generator(seed), subject.generator(seed + NOISE_SEED_OFFSET)
