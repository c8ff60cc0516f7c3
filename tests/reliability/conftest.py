"""A folder with one of everything that the programs read, and what changes in it."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import train
from cli import run_program
from data import load_split, sources
from models import ModelConfig, build_model, save_model

SIZE = ("--train-images", "50", "--batch-size", "25", "--n-steps", "2", "--latent-dim", "8", "--epochs", "1")
EXPERIMENTS = """
[assumed_images_per_second]
cpu = { 32 = 50 }
cuda = { 32 = 5000 }
[[run]]
name = "finished"
dataset = "digits"
epochs = 4
label = "a test's"
feeds = "nothing"
overrides = { train_images = 50, n_steps = 2, latent_dim = 8 }
"""


read_digits = functools.cache(sources.digits)  # once for all tests: it takes longer than most of them


@pytest.fixture(scope="session")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("world")
    arguments = [
        "--dataset",
        "digits",
        *SIZE,
        "--device",
        "cpu",
        "--runs-dir",
        str(world / "runs"),
        "--name",
        "finished",
    ]
    assert run_program(train.main, arguments) == 0
    shutil.copy(world / "runs/finished/model.safetensors", world / "model.safetensors")
    save_model(
        build_model(ModelConfig(model="autoencoder", image_channels=1, latent_dim=16)), world / "fad.safetensors"
    )
    np.savez(world / "images.npz", load_split("digits", "train").images[:100, 0].numpy())
    (world / "experiments.toml").write_text(EXPERIMENTS)
    return world


@pytest.fixture
def world(_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the test's own, and the working directory: a finished run, model files, images, experiments."""
    folder = tmp_path / "world"
    shutil.copytree(_world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sources, "digits", read_digits)
    return folder


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, bytes | None]]]:
    """Everything below a folder: when it was changed, and the bytes of files."""

    def read(folder: Path) -> dict[str, tuple[int, bytes | None]]:
        return {str(e): (e.lstat().st_mtime_ns, e.read_bytes() if e.is_file() else None) for e in folder.rglob("*")}

    return read
