"""Fig. 7: how the latent firing rates changed over the epochs that a run recorded in firing_rates.csv."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.drawing import new_figure, set_title, styled
from analysis.rate_histograms import Histogram, as_shares
from analysis.subjects import Subject
from errors import UserError
from models.checkpoint import MODEL_FILE
from training.log import RATES_FILE

RESULTS = Path("results")
STAGES = {"posterior": "training", "prior": "generation"}  # as recorded, and as the paper calls them

Epochs = dict[str, dict[int, Histogram]]  # stage -> epoch -> histogram


def find_rate_log(subject: Subject, results: Path = RESULTS) -> Path | None:
    """Where a model's rates over epochs are: in its run folder, or for a released model in results/.

    A file that only has the name of a released one is another training.
    """
    folder = subject.path if subject.path.is_dir() else subject.path.parent
    in_run = subject.path.is_dir() or subject.path.name == MODEL_FILE
    is_released = folder.resolve() == results.resolve().parent / "pretrained"
    candidates = [folder / RATES_FILE] * in_run + [results / f"{subject.name}-{RATES_FILE}"] * is_released
    return next((path for path in candidates if path.is_file()), None)


def read_rate_log(subject: Subject, results: Path = RESULTS) -> Epochs | None:
    """Histograms by stage and epoch; None where no training recorded any, or for an epoch that --keep-every kept.

    Raises:
        UserError: a damaged file, or one that ends at another epoch than the model.
    """
    path = find_rate_log(subject, results)
    return None if path is None else read_rates(path, subject.model.config.n_steps, subject.run.get("epochs"))


def read_rates(path: Path, n_steps: int, n_epochs: int | None) -> Epochs:
    """Histograms by stage and epoch of a run of so many epochs.

    Raises:
        UserError: a damaged file, or one that ends at another epoch.
    """
    try:
        table = pd.read_csv(path)
        fired = [f"fired_{k}" for k in range(n_steps + 1)]
        found = {
            name: {int(row["epoch"]): as_shares(row[fired].to_numpy(float)) for _, row in part.iterrows()}
            for stage, name in STAGES.items()
            if not (part := table[table["stage"] == stage]).empty
        }
        if len(found) < len(STAGES):
            raise ValueError(f"it lacks {' and '.join(STAGES.keys() - set(table['stage']))}")
        if (last := table["epoch"].max()) != n_epochs:
            raise ValueError(f"it ends with epoch {last}, the model with {n_epochs}")
        return found
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or of another model: {error}") from error


@styled
def draw_epochs(models: Mapping[str, Epochs]) -> Figure:
    """A column per model, training above generation; a line per epoch, the later the lighter."""
    figure, axes = new_figure(3.2 * len(models) + 1.2, 5.0, len(STAGES), len(models), sharex=True, sharey=True)
    last = max(epoch for stages in models.values() for epochs in stages.values() for epoch in epochs)
    colors = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(1, max(last, 2)), "viridis")
    for column, (label, stages) in enumerate(models.items()):
        for axis, (stage, epochs) in zip(axes[:, column], stages.items(), strict=True):
            for epoch, histogram in epochs.items():
                axis.plot(np.linspace(0, 1, len(histogram)), histogram, color=colors.to_rgba(epoch), marker=".", lw=1)
            set_title(axis, f"{label}\n{stage}")
        axes[-1, column].set_xlabel("firing rate [spikes per step]")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of units")
    figure.colorbar(colors, ax=axes, label="epoch", shrink=0.6, ticks=MaxNLocator(integer=True))
    return figure
