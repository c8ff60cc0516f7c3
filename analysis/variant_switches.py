"""What each difference between paper and released code does: one switch at a time, on short runs of real images.

    python -m analysis.variant_switches     # MNIST, 400 steps of 16 images, 3 seeds: 40 minutes on one core
    python -m analysis.variant_switches --dataset cifar10

Starts from variant `paper` and changes a single field to what the released code has (docs/variants.md); `all` changes
every one. Adds a line per finished run to results/variant_switches.csv; a trial that stands there is not run again.
Prints the mean and deviation over seeds of the reconstruction loss of the first 1,000 test images.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.formats import as_text
from analysis.trials import SAME_ARITHMETIC, run_trials
from cli import parse_arguments, run_program
from metrics import evaluate_reconstruction
from training.config import Config, Dataset, preset
from training.run import Run

SETTINGS = ("lif_surrogate", "strict_threshold", "sampler_surrogate", "latent_dim", "lr", "batch_size")
N_SCORED = 1_000


@dataclass(frozen=True)
class Arguments:
    """Study the switches between paper and released code."""

    dataset: Dataset = "mnist"
    """images to train and test on"""
    train_images: int = 6_400
    """images of each run, seen once"""
    batch_size: int = 16
    """images per step; smaller than the paper's, because so few steps of 256 learn nothing"""
    seeds: tuple[int, ...] = (42, 43, 44)
    """one run each per switch"""
    data_dir: Path | None = None
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    out: Path = Path("results/variant_switches.csv")
    """file to add to"""

    def base(self) -> Config:
        """Variant `paper` at this budget."""
        budget = {"epochs": 1, "train_images": self.train_images, "batch_size": self.batch_size}
        return replace(preset(self.dataset), data_dir=self.data_dir, **budget, **SAME_ARITHMETIC)


def switches(dataset: str, batch_size: int) -> dict[str, dict[str, Any]]:
    """Name -> fields that it changes to the released code's; only those that differ on the data set.

    The released program multiplies its learning rate by the batch size.
    """
    paper, code = preset(dataset), preset(dataset, variant="code")
    code = replace(code, lr=code.lr * batch_size / code.batch_size)
    changes = {name: getattr(code, name) for name in SETTINGS if getattr(code, name) != getattr(paper, name)}
    return {"paper": {}} | {name: {name: value} for name, value in changes.items()} | {"all": changes}


def main(argv: list[str]) -> None:
    """Run the trials that are missing, then print the effect of each switch."""
    a = parse_arguments(Arguments, argv, __doc__)
    changes = switches(a.dataset, a.batch_size).values()
    configs = (replace(a.base(), seed=seed, **change) for change in changes for seed in a.seeds)
    table = run_trials(configs, SETTINGS, first_test_images_loss, a.out)
    print(as_text(effects(table, a)))


def first_test_images_loss(run: Run) -> float:
    """Reconstruction loss of the first test images."""
    return evaluate_reconstruction(run.model, run.test.images[:N_SCORED])


def effects(table: pd.DataFrame, a: Arguments) -> pd.DataFrame:
    """Per switch: mean and deviation of the loss over the n of `runs` seeds that did not diverge, and the difference
    to variant `paper`.
    """
    base = {"dataset": a.dataset, "train_images": a.train_images}
    budget = table[(table[list(base)] == pd.Series(base)).all(axis=1) & table["seed"].isin(a.seeds)]
    rows = []
    for name, change in switches(a.dataset, a.batch_size).items():
        config = replace(a.base(), **change)
        same = (budget[list(SETTINGS)] == pd.Series({s: getattr(config, s) for s in SETTINGS})).all(axis=1)
        loss = budget.loc[same, "loss"]
        numbers = {"mean": loss.mean(), "deviation": loss.std(), "n": loss.count(), "runs": len(loss)}
        rows.append({"switch": name} | numbers)
    result = pd.DataFrame(rows)
    return result.assign(difference=result["mean"] - result["mean"].iloc[0])


if __name__ == "__main__":
    sys.exit(run_program(main))
