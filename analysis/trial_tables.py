"""The trials of recipe_search, variant_switches and precisions as Markdown, for docs/trials.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import precisions, recipe_search, variant_switches
from analysis.formats import markdown_table
from analysis.published import DATASET_NAMES
from analysis.subjects import MODEL_NAMES
from analysis.trials import read_trials

NOT_RUN = "No trial has been run yet.\n"
DIVERGED = "diverged"


def recipe_table(file: Path) -> str:
    """A line per recipe, seed and data set, best first for the first model; a column per model."""
    if not file.exists():
        return NOT_RUN
    trials = read_trials(file, recipe_search.SETTINGS)
    trials["text"] = [DIVERGED if pd.isna(loss) else f"{loss:.4f}" for loss in trials["loss"]]
    what = ["dataset", "train_images", "seed", *recipe_search.SETTINGS]
    by_model = trials.set_index([*what, "model"]).unstack("model")
    models = [model for model in MODEL_NAMES if model in set(trials["model"])]
    order = by_model["loss"].sort_values(["dataset", models[0]], na_position="last").index
    lines = by_model["text"].loc[order, models].fillna("-").reset_index()
    rows = [[_cell(name, line[name]) for name in lines.columns] for _, line in lines.iterrows()]
    heads = ["data set", "images", "seed", "batch", "lr", "bottleneck's factor", "decay", "warm-up"]
    return markdown_table([*heads, *(MODEL_NAMES[model] for model in models)], rows) + "\n"


def switch_table(file: Path) -> str:
    """A line per switch and data set, at the default budget: mean and deviation of the loss over the runs that did not
    diverge, and the difference to variant `paper`.
    """
    if not file.exists():
        return NOT_RUN
    trials = read_trials(file, variant_switches.SETTINGS)
    rows = []
    for dataset, its_trials in trials.groupby("dataset", sort=False):
        asked = variant_switches.Arguments(dataset, seeds=tuple(its_trials["seed"]))
        for line in variant_switches.effects(its_trials, asked).to_dict("records"):
            nothing = [DIVERGED if line["runs"] else "not run", "-"]
            numbers = [_over_seeds(line), f"{line['difference']:+.4f}"] if line["n"] else nothing
            seeds = f"{line['n']} of {line['runs']}"
            rows.append([DATASET_NAMES.get(dataset, dataset), f"`{line['switch']}`", *numbers, seeds])
    heads = ["data set", "switch to the code's", "reconstruction loss", "difference to `paper`", "seeds"]
    return markdown_table(heads, rows, left=2) + "\n"


def precision_table(file: Path) -> str:
    """A line per budget and precision: mean and deviation of the loss over the runs that did not diverge."""
    if not file.exists():
        return NOT_RUN
    rows = []
    for line in precisions.effects(read_trials(file, precisions.SETTINGS)).to_dict("records"):
        images = "all" if pd.isna(line["train_images"]) else f"{line['train_images']:g}"
        budget = f"{line['epochs']:g} of {images} images, `{line['recipe']}`"
        what = [DATASET_NAMES.get(line["dataset"], line["dataset"]), MODEL_NAMES[line["model"]], budget, line["device"]]
        loss = _over_seeds(line) if line["n"] else DIVERGED
        rows.append([*what, line["precision"], loss, f"{line['n']} of {line['runs']}"])
    heads = ["data set", "model", "epochs and recipe", "device", "precision", "reconstruction loss", "seeds"]
    return markdown_table(heads, rows, left=5) + "\n"


def _over_seeds(line: Mapping[str, Any]) -> str:
    """Mean and deviation; no deviation of a single one."""
    return f"{line['mean']:.4f}" + (f" ± {line['deviation']:.4f}" if line["n"] > 1 else "")


def _cell(name: str, value: object) -> str:
    if name == "dataset":
        return DATASET_NAMES.get(value, value)
    return str(value) if isinstance(value, str) else f"{value:g}"
