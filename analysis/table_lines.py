"""Lines of the paper's tables: published ones, and ours over seeds beside them.

A line of ours stands for runs that differ in nothing but their seed. Runs of one recipe that went to different epochs
or had another schedule are lines of their own: no mean mixes budgets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.published import DATASET_NAMES, MODELS
from analysis.rows import Row
from analysis.subjects import MODEL_NAMES

Line = dict[str, Any]

LABELS = (
    *("dataset", "model", "origin", "status", "runs", "recipe", "variant"),
    *("seeds", "n_seeds", "n_planned", "epochs", "full_epochs"),
)
KINDS = ("", "_std", "_n", "_difference")  # of a number
ORIGINS = ("hardware", "protocol")
PROTOCOLS_JOINED_BY = " | "
NOT_RUN = "not run"


def frame(lines: Iterable[Line], columns: Iterable[str]) -> pd.DataFrame:
    """The lines by data set and model: the paper's, then ours in the order given; newer systems last.

    Args:
        lines: those of data sets that the paper has not got are left out.
        columns: of numbers. The table has LABELS (origin is `paper`, `ours` or `newer`, status `published`, `done`,
            `failed` or `not run`); of each column its value (of ours the mean over seeds), <column>_std (over seeds,
            n - 1 in the denominator), <column>_n and <column>_difference (to the paper's number); ORIGINS.
    """
    ordered = sorted((line for line in lines if line["dataset"] in DATASET_NAMES), key=_place)  # a stable order
    return pd.DataFrame(ordered, columns=[*LABELS, *(f"{c}{kind}" for c in columns for kind in KINDS), *ORIGINS])


def _place(line: Line) -> tuple[int, int, bool]:
    known = line["model"] in MODELS and line["origin"] != "newer"
    model = MODELS.index(line["model"]) if known else len(MODELS)
    return list(DATASET_NAMES).index(line["dataset"]), model, line["origin"] == "ours"


def published_line(row: Mapping[str, Any], origin: str, numbers: Mapping[str, float]) -> Line:
    """A line of somebody else's; `row` has dataset, model and source."""
    known = {"dataset": row["dataset"], "model": row["model"], "origin": origin, "status": "published"}
    return known | {"recipe": row["source"], "protocol": row.get("protocol")} | dict(numbers)


def our_line(rows: Sequence[Row], n_planned: int, status: str, epochs: int, scheduled: int | None = None) -> Line:
    """The labels of a line of ours; `scheduled` are the epochs that its schedule was laid out for."""
    row = rows[0]
    schedule = "" if scheduled in (None, epochs) else f", by the schedule of {scheduled} epochs"
    return {
        "dataset": row.dataset,
        "model": MODEL_NAMES[row.model],
        "origin": "ours",
        "status": status,
        "runs": ", ".join(row.name for row in rows),
        "recipe": row.label + schedule,
        "variant": row.variant,
        "seeds": ", ".join(str(row.seed) for row in rows),
        "n_seeds": len(rows) if status == "done" else 0,
        "n_planned": n_planned,
        "epochs": epochs,
        "full_epochs": row.epochs,
    }


def goal_of(row: Row, paper: pd.DataFrame) -> Line:
    """The row of a published table that a run's numbers compare with; an empty one if there is none."""
    same = (paper["dataset"] == row.dataset) & (paper["model"] == MODEL_NAMES[row.model])
    return next(iter(paper[same & row.is_comparable].to_dict("records")), {})


def over_seeds(column: str, values: Sequence[float], goal: float = float("nan")) -> Line:
    """Mean, standard deviation and n of a number, and its difference to the paper's, which may be NaN."""
    series = pd.Series(values, dtype=float)
    numbers = (series.mean(), series.std(), len(series), series.mean() - goal)
    return {f"{column}{kind}": number for kind, number in zip(KINDS, numbers, strict=True)}


def origins(hardware: Iterable[str], protocols: Iterable[str]) -> Line:
    """Where a line's numbers come from and how they were measured, each once."""
    return {
        "hardware": "; ".join(dict.fromkeys(hardware)),
        "protocol": PROTOCOLS_JOINED_BY.join(dict.fromkeys(protocols)),
    }
