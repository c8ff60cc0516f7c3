"""Numbers that others published, from the files in analysis/paper, each with its source."""

from pathlib import Path

import pandas as pd

PAPER = Path(__file__).parent / "paper"
TABLE1_METRICS = ("reconstruction_loss", "inception_score", "fid", "fad")
MODELS = ("SWGAN", "SGAD", "ANN VAE", "FSVAE", "TAID", "ESVAE")
DATASET_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}


def published(name: str) -> pd.DataFrame:
    """table1, table2 or table3 of the paper, or `newer`: one row per data set and model; absent numbers are NaN."""
    return pd.read_csv(PAPER / f"{name}.csv")


def paper_table1(dataset: str) -> pd.DataFrame:
    """The rows of the paper's Table I on a data set (none for `digits`): model, four metrics, source."""
    table = published("table1")
    return table[table["dataset"] == dataset].drop(columns=["dataset", "type"])
