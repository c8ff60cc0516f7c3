"""Search for a recipe that learns fast: many short runs, each scored on training images that it has not seen.

    python -m analysis.recipe_search --dataset mnist --model esvae --stage rates
    python -m analysis.recipe_search --dataset mnist --model esvae --stage shape --lr 1e-3 --batch-size 16

`rates` tries learning rates and batch sizes together; `shape` keeps one pair and changes one thing at a time: the
bottleneck's factor, the warm-up, the decay. Every model gets the same trials. Adds a line per finished run to
results/recipe_search.csv; a trial that stands there is not run again, so the same command goes on where it stopped.
The test split is not touched. A trial of 6,400 images takes about two minutes on one core.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from analysis.formats import as_text
from analysis.trials import SAME_ARITHMETIC, run_trials
from cli import parse_arguments, run_program
from data import load_split
from errors import UserError
from metrics import evaluate_reconstruction
from training.config import Config, Dataset, Model, preset

N_HELD_OUT = 1_000
SETTINGS = ("batch_size", "lr", "bottleneck_lr_factor", "schedule", "warmup")
# Batch sizes and learning rates, the likeliest first: a larger batch takes fewer steps and bears a larger rate.
RATES = ((32, 4e-3), (16, 1e-3), (64, 4e-3), (32, 2e-3), (64, 2e-3), (32, 1e-3), (16, 2e-3), (32, 8e-3), (16, 4e-3))
RATES += ((64, 8e-3), (256, 8e-3), (256, 3e-2))
SHAPES: tuple[dict[str, Any], ...] = (
    {"bottleneck_lr_factor": 1.0},
    {"warmup": 0.0},
    {"warmup": 0.3},
    {"schedule": "constant"},
    {"schedule": "constant", "warmup": 0.0},
)


@dataclass(frozen=True)
class Arguments:
    """Search for a recipe."""

    dataset: Dataset = "mnist"
    """images to train on"""
    model: Model = "esvae"
    """model to train"""
    stage: Literal["rates", "shape"] = "rates"
    """what to vary"""
    lr: float | None = None
    """stage `shape`: the learning rate that is kept; 0.001 if None"""
    batch_size: int | None = None
    """stage `shape`: the batch size that is kept; 16 if None"""
    train_images: int = 6_400
    """images of each trial, seen once"""
    seed: int = 42
    """of every trial"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    out: Path = Path("results/recipe_search.csv")
    """file to add to"""

    def __post_init__(self) -> None:
        if self.stage == "rates" and not self.lr is self.batch_size is None:
            raise UserError("--lr and --batch-size are kept in --stage shape; stage rates varies them: leave them out")

    def trials(self) -> list[Config]:
        """The runs of the stage, around a cosine after a warm-up of a tenth."""
        base = replace(
            preset(self.dataset, self.model),
            recipe="fast",
            seed=self.seed,
            epochs=1,
            train_images=self.train_images,
            data_dir=self.data_dir,
            schedule="cosine",
            warmup=0.1,
            **SAME_ARITHMETIC,
        )
        if self.stage == "rates":
            changes = [{"batch_size": size, "lr": lr} for size, lr in RATES]
        else:
            kept = {"batch_size": self.batch_size or 16, "lr": self.lr or 1e-3}
            changes = [kept | shape for shape in SHAPES]
        return [replace(base, **change) for change in changes]


def main(argv: list[str]) -> None:
    """Run the trials that are missing, then print all of the data set and model, best first."""
    a = parse_arguments(Arguments, argv, __doc__)
    images = held_out(a)
    table = run_trials(
        a.trials(), SETTINGS, lambda run: evaluate_reconstruction(run.model, images.to(run.device)), a.out
    )
    shown = table[(table["dataset"] == a.dataset) & (table["model"] == a.model)]
    print(as_text(shown.drop(columns="commit").sort_values("loss", na_position="last")))


def held_out(a: Arguments) -> Tensor:
    """The training images that follow those of the trials: uint8 [N, C, H, W].

    Raises:
        UserError: there are too few.
    """
    images = load_split(a.dataset, "train", a.data_dir).images[a.train_images :][:N_HELD_OUT]
    if len(images) < N_HELD_OUT:
        raise UserError(f"--train-images {a.train_images} leaves fewer than {N_HELD_OUT} to score")
    return images


if __name__ == "__main__":
    sys.exit(run_program(main))
