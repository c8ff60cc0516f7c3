"""Train FAD's autoencoder, for data sets whose published weights are not at hand.

    python -m metrics.train_fad --dataset cifar10               # 150 epochs, runs/fad-cifar10
    python -m metrics.train_fad --dataset cifar10 --epochs 2    # a reduced budget, labelled so beside every FAD
    python evaluate.py --checkpoint X --metrics fad --fad-weights runs/fad-cifar10
    python -m metrics.train_fad --dataset cifar10 --epochs 2 --release    # pretrained/fad-cifar10.safetensors, card

The same command goes on where a run stopped. FAD values of such a network compare only with those of the same file:
releasing another one means measuring all rows of the data set again (`python reproduce.py --evaluate`).

The recipe is the released program's (github.com/QgZhan/ESVAE, main_ann_ae.py, 2023-11): mean squared error, AdamW with
lr 1e-3 and PyTorch's weight decay 0.01, batch 250, 150 epochs, no schedule, flips for CelebA only. It saves the weights
of the last epoch and of the best test loss, and does not say which were published: ours are the last.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cli import parse_arguments, run_program
from data import DATASETS
from errors import flag_of
from files import write_atomically
from metrics.fad import (
    FULL_EPOCHS,
    OWN,
    PROTOCOLS,
    PUBLISHED_NAMES,
    FeatureNetwork,
    load_feature_network,
    training_images,
)
from models import load_model, save_model
from provenance import card_lines, combine
from training.config import Config, Dataset
from training.folder import starts_of
from training.log import METRICS_FILE
from training.loop import fit

BATCH = 250


@dataclass(frozen=True)
class Arguments:
    """Train FAD's autoencoder."""

    dataset: Dataset
    """images to train on"""
    epochs: int = FULL_EPOCHS
    """passes over the training images; a finished run may be continued with more"""
    train_images: int | None = None
    """use the first so many training images, a reduced budget; all of them if None"""
    seed: int = 42
    """fixes initialisation and order of images"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    runs_dir: Path = Path("runs")
    """folder of the run folders"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    release: bool = False
    """make it the one that is used where the authors' weights are not at hand"""
    fresh: bool = False
    """start over, replacing the run in the folder"""


def recipe(dataset: str, n_images: int | None = None) -> Config:
    """The released program's settings as a run of the training loop; fewer than 250 training images are one batch."""
    return Config(
        dataset=dataset,
        model="autoencoder",  # no choice of train.py: it generates nothing
        epochs=FULL_EPOCHS,
        batch_size=max(2, min(BATCH, n_images or DATASETS[dataset].n_train)),
        lr=1e-3,
        weight_decay=0.01,
        latent_dim=PUBLISHED_NAMES.get(dataset, ("digits", 64))[1],
        horizontal_flip=dataset == "celeba",
        drop_last=False,
        name=f"fad-{dataset}",
    )


def main(argv: list[str]) -> None:
    """Parse, train, and say how to use what was trained."""
    a = parse_arguments(Arguments, argv, __doc__)
    settings = {f: getattr(a, f) for f in ("epochs", "train_images", "seed", "data_dir", "runs_dir", "device")}
    folder = fit(replace(recipe(a.dataset, a.train_images), **settings), a.fresh)
    if a.release:
        for path in release(a.dataset, folder, a.data_dir):
            print(path)
        return
    print(load_feature_network(a.dataset, folder).description)
    print(f"to use it: python evaluate.py --checkpoint X --metrics fad --fad-weights {folder}")


def release(dataset: str, folder: Path, data_dir: Path | None = None) -> list[Path]:
    """Write pretrained/fad-<dataset>.safetensors, in half precision, and its card from a run folder."""
    file = OWN / f"fad-{dataset}.safetensors"
    model = load_model(folder)
    save_model(model, file, model.run, torch.float16)
    network = load_feature_network(dataset, file)
    write_atomically(file.with_suffix(".md"), card(network, folder, data_dir).encode())
    return [file, file.with_suffix(".md")]


def card(network: FeatureNetwork, folder: Path, data_dir: Path | None = None) -> str:
    """What a user of the released weights must know, as Markdown."""
    run, log = network.network.run, pd.read_csv(folder / METRICS_FILE)
    origin = combine(starts_of(folder, run["epochs"]))
    config = run["config"]
    lines = {
        "network": network.description,
        "use": f"FAD on {network.dataset} where the authors' weights are not at hand; compares with nothing else",
        "recipe": f"AdamW, lr {config['lr']:g}, weight decay {config['weight_decay']:g}, batch {config['batch_size']}, "
        f"seed {config['seed']}, {run['epochs']} epochs (the released recipe's {FULL_EPOCHS}), last epoch",
        "test reconstruction loss": f"{run['test_reconstruction']:.5f}",
        **{f"training images, `{protocol}`": _real_images(network, protocol, data_dir) for protocol in PROTOCOLS},
        "command": f"`{_command(network.dataset, run['epochs'], config)}`",
        "training time": f"{log['seconds'].sum():.0f} s",
        **card_lines(origin),
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in lines.items())
    return f"# {network.file.stem}\n\n| | |\n|---|---|\n{rows}\n"


def _command(dataset: str, epochs: int, config: dict[str, Any]) -> str:
    """What trains and releases such a network, on any machine."""
    defaults = Arguments(dataset)
    changed = [name for name in ("train_images", "seed") if config[name] != getattr(defaults, name)]
    flags = "".join(f" {flag_of(name)} {config[name]}" for name in changed)
    return f"python -m metrics.train_fad --dataset {dataset} --epochs {epochs}{flags} --release"


def _real_images(network: FeatureNetwork, protocol: str, data_dir: Path | None) -> str:
    real = training_images(network, protocol, data_dir)
    return f"FAD {real['value']:.3f} (n = {real['n_images']})"


if __name__ == "__main__":
    sys.exit(run_program(main))
