"""Train FAD's autoencoder, for data sets whose published weights are not at hand.

    python -m metrics.train_fad --dataset cifar10               # 150 epochs, runs/fad-cifar10
    python -m metrics.train_fad --dataset cifar10 --epochs 2    # a reduced budget, labelled so beside every FAD
    python evaluate.py --checkpoint X --metrics fad --fad-weights runs/fad-cifar10

The same command goes on where a run stopped. FAD values of such a network compare only with those of the same file.

The recipe is the released program's (github.com/QgZhan/ESVAE, main_ann_ae.py, 2023-11): mean squared error, AdamW with
lr 1e-3 and PyTorch's weight decay 0.01, batch 250, 150 epochs, no schedule, flips for CelebA only. It saves the weights
of the last epoch and of the best test loss, and does not say which were published: ours are the last.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from cli import parse_arguments, run_program
from metrics.fad import FULL_EPOCHS, PUBLISHED_NAMES, load_feature_network
from training.config import Config, Dataset
from training.device import keep_freed_memory
from training.loop import fit


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
    fresh: bool = False
    """start over, replacing the run in the folder"""


def recipe(dataset: str) -> Config:
    """The released program's settings as a run of the training loop."""
    return Config(
        dataset=dataset,
        model="autoencoder",  # no choice of train.py: it generates nothing
        epochs=FULL_EPOCHS,
        batch_size=250,
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
    keep_freed_memory()
    settings = {f: getattr(a, f) for f in ("epochs", "train_images", "seed", "data_dir", "runs_dir", "device")}
    folder = fit(replace(recipe(a.dataset), **settings), a.fresh)
    print(load_feature_network(a.dataset, folder).description)
    print(f"to use it: python evaluate.py --checkpoint X --metrics fad --fad-weights {folder}")


if __name__ == "__main__":
    sys.exit(run_program(main))
