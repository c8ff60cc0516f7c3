"""Small models whose neurons fire, for tests that need no trained ones."""

from pathlib import Path

import pytest
import torch

from data import load_split, to_unit_range
from models import ModelConfig, build_model, save_model
from neurons import ThresholdDependentBatchNorm


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of model -> file of an untrained one, T = 4 and D = 8, with running statistics of real digits."""
    folder = tmp_path_factory.mktemp("small")
    x = to_unit_range(load_split("digits", "train", limit=50).images)
    paths = {}
    for kind in ("esvae", "fsvae", "taid", "ann_vae"):
        torch.manual_seed(0)
        model = build_model(ModelConfig(kind, image_channels=1, widths=(8, 8, 8, 8), n_steps=4, latent_dim=8))
        for norm in model.modules():
            if isinstance(norm, ThresholdDependentBatchNorm):
                norm.momentum = 1.0  # one batch gives the running statistics
        with torch.no_grad():
            model(x)
        paths[kind] = folder / f"{kind}.safetensors"
        save_model(model, paths[kind], {"epochs": 0, "config": {"dataset": "digits"}})
    return paths
