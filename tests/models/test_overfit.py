"""Every model, with the weights that its own preset gives the terms of its loss, can learn a few images."""

from dataclasses import replace
from statistics import mean

import pytest
import torch

from data import load_split, to_unit_range
from models import MODELS, ModelConfig, build_model
from training.config import preset

SMALL = {"n_steps": 4, "widths": (16, 32, 64, 128), "latent_dim": 64, "n_candidates": 8}  # for the time it takes
MNIST_BATCHES = 240  # per epoch; the ANN VAE's KL weighs one over it, and drowns the images where it weighs 1
LR, WARMUP = 1.5e-2, 20
MAX_UPDATES = 400  # about 90 are needed by ESVAE, 140 by the ANN VAE, 200 by FSVAE and TAID


def small_config(name: str) -> ModelConfig:
    return replace(preset("mnist", name).model_config(), **SMALL)


@pytest.mark.parametrize("name", MODELS)
def test_sixteen_digits_are_learnt_to_a_quarter_of_the_mean_images_error(name: str) -> None:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    images = to_unit_range(load_split("digits", "train", limit=16).images)
    model = build_model(small_config(name)).train()
    model.start_epoch(0, 1, MNIST_BATCHES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.001)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1, (update + 1) / WARMUP))
    mean_image_error = (images - images.mean(0)).square().mean().item()
    errors: list[float] = []
    while len(errors) < MAX_UPDATES:
        optimizer.zero_grad()
        terms = model.loss(model(images, rng), images)
        terms["loss"].backward()
        optimizer.step()
        schedule.step()
        errors.append(terms["reconstruction"].item())
        if len(errors) >= 5 and mean(errors[-5:]) < mean_image_error / 4:
            return
    pytest.fail(f"error {mean(errors[-5:])} after {MAX_UPDATES} updates; mean image {mean_image_error}")
