"""A model's latents in training and in generation, which the paper's Fig. 4, 6 and 7 compare."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from analysis.subjects import Subject
from data import to_unit_range
from training.evaluation import evaluation_batch
from training.run import stream_seed

STAGES = ("training", "generation")


@torch.no_grad()
def latents(subject: Subject, images: Tensor, stage: str, seed: int) -> Iterator[Tensor]:
    """Batches of z [T, n, D], one z for each of the images (uint8 [N, C, H, W]).

    At `training` from the image's posterior, in evaluation mode; at `generation` from the prior.
    """
    model, generator = subject.model, subject.generator(stream_seed(seed, 1 + STAGES.index(stage)))
    parts = images.split(evaluation_batch(images))
    for part in tqdm(parts, f"{subject.label}, {stage}", unit="batch", disable=None, leave=False):
        if stage == "training":
            yield model.sample_posterior(model.encode(to_unit_range(part)), generator)
        else:
            yield model.sample_latent(len(part), generator)
