"""Tables II and III from the results of their experiments, in the form of Table I."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.experiment_result import read_experiment
from analysis.published import DATASET_NAMES, published
from analysis.row_results import read_result
from analysis.rows import Places, Plan, Row
from analysis.table_lines import NOT_RUN, Line, frame, goal_of, origins, our_line, over_seeds, published_line
from training.config import scheduled_epochs


@dataclass(frozen=True)
class Column:
    """A number of a table, and where an experiment's table has it.

    Attributes:
        heading: for readers.
        rows: what the experiment's row has in which column.
        number: the experiment's column.
        paper: column of the paper's table, None if the paper has no such number.
    """

    heading: str
    rows: tuple[str, str]
    number: str
    paper: str | None = None


@dataclass(frozen=True)
class ExperimentTable:
    """One of the paper's tables that an experiment of ours measures.

    Attributes:
        name: of the paper's table.
        experiment: module in `analysis`, and name of its results.
        columns: by name.
    """

    name: str
    experiment: str
    columns: Mapping[str, Column]

    @property
    def headings(self) -> dict[str, str]:
        """Of the columns."""
        return {name: column.heading for name, column in self.columns.items()}


SHUFFLED, TRAINED = ("latent", "time-shuffled"), ("features", "trained encoder")
TABLE2 = ExperimentTable(
    "table2",
    "time_shuffle",
    {
        "loss_vs_original": Column("time-shuffled, against original", SHUFFLED, "loss_vs_original", "loss_vs_original"),
        "loss_vs_vanilla": Column(
            "time-shuffled, against vanilla", SHUFFLED, "loss_vs_vanilla", "loss_vs_vanilla_reconstruction"
        ),
        "vanilla": Column("vanilla, against original", ("latent", "vanilla"), "loss_vs_original"),
    },
)
TABLE3 = ExperimentTable(
    "table3",
    "encoder_classification",
    {
        "accuracy": Column("accuracy [%]", TRAINED, "test_accuracy", "accuracy_percent"),
        "untrained": Column("untrained encoder", ("features", "untrained encoder"), "test_accuracy"),
    },
)


def experiment_table(table: ExperimentTable, plan: Plan, places: Places) -> pd.DataFrame:
    """All lines, as `table_lines.frame` orders them; models that the paper has and results/ has not are `not run`.

    Raises:
        UserError: a damaged result.
    """
    paper = published(table.name)
    ours = [line for dataset in DATASET_NAMES for line in _our_lines(table, dataset, plan, places, paper)]
    lines = [published_line(row, "paper", _paper_numbers(table, row)) for row in paper.to_dict("records")] + ours
    measured = {(line["dataset"], line["model"]) for line in ours}
    missing = [key for key in zip(paper["dataset"], paper["model"], strict=True) if key not in measured]
    lines += [{"dataset": dataset, "model": model, "origin": "ours", "status": NOT_RUN} for dataset, model in missing]
    return frame(lines, table.columns)


def _paper_numbers(table: ExperimentTable, row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[column.paper] for name, column in table.columns.items() if column.paper}


def _our_lines(table: ExperimentTable, dataset: str, plan: Plan, places: Places, paper: pd.DataFrame) -> list[Line]:
    """One line a recipe and budget."""
    folder, name = places.results / "analysis", f"{table.experiment}-{dataset}"
    if not (folder / f"{name}.json").exists():
        return []
    record, numbers = read_experiment(folder, name)
    planned = Counter(row.recipe_key for row in plan.rows)
    groups: dict[tuple[str, int, int | None, int | None, bool], list[tuple[Row, pd.DataFrame]]] = {}
    for subject in record["subjects"]:
        row, epochs = _row(subject, plan), subject["epochs"]
        n_planned = planned[row.recipe_key]
        scheduled = None if epochs is None else scheduled_epochs(subject["config"] or {}, epochs)
        is_replaced = _is_replaced(row, subject["sha256"], places)
        mine = numbers[numbers["model"] == subject["label"]]
        groups.setdefault((row.recipe_key, n_planned, epochs, scheduled, is_replaced), []).append((row, mine))
    origin = origins([record["hardware"]], [record["protocol"]])
    return [_our_line(table, found, *budget, paper) | origin for (_, *budget), found in groups.items()]


def _row(subject: Mapping[str, Any], plan: Plan) -> Row:
    """The row of experiments.toml that a subject is the model of, else what is known of the subject."""
    known = {row.name: row for row in plan.rows}
    config = subject["config"] or {}
    unknown = Row(
        subject["name"],
        subject["dataset"],
        config.get("epochs") or subject["epochs"] or 0,
        feeds="",
        model=subject["model"]["model"],
        variant=config.get("variant", "unknown"),
        seed=config.get("seed", -1),
        label=subject["label"],
        overrides={name: config[name] for name in ("train_images",) if config.get(name)},
    )
    return known.get(subject["name"], unknown)


def _is_replaced(row: Row, measured: str, places: Places) -> bool:
    """Whether the row was released anew since it was measured, by the checksum of its weights, where that is known.

    The file itself is not asked: some do not come with the repository, and tables must not depend on which are there.
    """
    released = (read_result(row, places) or {}).get("checkpoint_sha256")
    return released not in (None, measured)


def _our_line(
    table: ExperimentTable,
    found: list[tuple[Row, pd.DataFrame]],
    n_planned: int,
    epochs: int | None,
    scheduled: int | None,
    is_replaced: bool,
    paper: pd.DataFrame,
) -> Line:
    """Numbers of weights that are replaced by now say so, and stand beside no published ones."""
    line = our_line([row for row, _ in found], max(n_planned, len(found)), "done", epochs, scheduled)
    line["recipe"] += "; weights that are replaced by now" if is_replaced else ""
    goal = {} if is_replaced else goal_of(found[0][0], paper)
    for name, column in table.columns.items():
        where, what = column.rows
        parts = [mine[mine[where] == what][column.number] for _, mine in found]
        values = [float(part.iloc[0]) for part in parts if len(part)]
        if values:
            line |= over_seeds(name, values, goal.get(column.paper, float("nan")))
    return line
