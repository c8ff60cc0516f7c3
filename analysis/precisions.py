"""Whether training in bfloat16 ends where training in float32 ends: runs of both, over seeds.

    python -m analysis.precisions                   # CIFAR-10, 10 epochs each
    python -m analysis.precisions --model fsvae

Adds a line per finished run to results/precisions.csv; a run that stands there is not run again. Prints mean and
deviation over the seeds of the reconstruction loss of the test split. Needs a GPU.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pandas as pd

from analysis.formats import as_text
from analysis.trials import run_trials
from cli import parse_arguments, run_program
from errors import UserError
from metrics import evaluate_reconstruction
from training.config import Config, Dataset, Model, Precision, Recipe, preset
from training.device import resolve_device
from training.run import Run

SETTINGS = ("recipe", "precision", "device")
BUDGET = ["dataset", "model", "recipe", "train_images", "epochs", "device"]


@dataclass(frozen=True)
class Arguments:
    """Compare training in bfloat16 with training in float32."""

    dataset: Dataset = "cifar10"
    """images to train and test on"""
    model: Model = "esvae"
    """model to train"""
    recipe: Recipe = "paper"
    """as train.py has it"""
    epochs: int = 10
    """of each run"""
    train_images: int | None = None
    """use the first so many training images; all of them if None"""
    seeds: tuple[int, ...] = (42, 43, 44)
    """one run each per precision"""
    device: str = "auto"
    """cuda, cuda:1, ...; auto takes CUDA if there is one"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    out: Path = Path("results/precisions.csv")
    """file to add to"""

    def configs(self) -> list[Config]:
        """A run for each precision and seed; all precisions of a seed before the next seed.

        Raises:
            UserError: no GPU.
        """
        base = preset(self.dataset, self.model, recipe=self.recipe)
        shared = {"epochs": self.epochs, "train_images": self.train_images, "data_dir": self.data_dir}
        device = resolve_device(self.device)
        if device.type == "cpu":
            raise UserError("nothing is computed in bfloat16 on a CPU: give --device cuda where there is an NVIDIA GPU")
        base = replace(base, device=str(device), **shared)
        return [replace(base, seed=seed, precision=name) for seed in self.seeds for name in get_args(Precision)]


def main(argv: list[str]) -> None:
    """Run what is missing, then print all that the file holds."""
    a = parse_arguments(Arguments, argv, __doc__)
    print(as_text(effects(run_trials(a.configs(), SETTINGS, split_loss, a.out))))


def split_loss(run: Run) -> float:
    """Reconstruction loss of the test split."""
    return evaluate_reconstruction(run.model, run.test.images)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """A line per budget and precision: mean and deviation of the loss over n runs that did not diverge."""
    groups = table.groupby([*BUDGET, "precision"], dropna=False, sort=False)["loss"]
    return groups.agg(mean="mean", deviation="std", n="count", runs="size").reset_index()


if __name__ == "__main__":
    sys.exit(run_program(main))
