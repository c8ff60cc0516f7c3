"""Table I from result files: our numbers, over seeds, beside the paper's and newer ones.

A line of the table is one published row, or the runs that differ in nothing but their seed. Runs of the same recipe
that went to different epochs are lines of their own: no mean mixes budgets.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.comparison import COLUMNS, compared
from analysis.experiments import Experiments, Places, Row, read_result
from analysis.published import DATASET_NAMES, METRICS, MODELS, PAPER_NAMES, published
from analysis.release import trained
from errors import UserError

Record = dict[str, Any]
PROTOCOLS_JOINED_BY = " | "
LABELS = (
    *("dataset", "model", "origin", "status", "runs", "recipe", "variant"),
    *("seeds", "n_seeds", "n_planned", "epochs", "full_epochs"),
)
KINDS = ("", "_std", "_n", "_difference")  # of a metric
ORIGINS = ("trained_on", "protocol")
DATASETS = list(DATASET_NAMES)


def table1(experiments: Experiments, places: Places) -> pd.DataFrame:
    """All lines by data set and model: the paper's row, ours in the order of experiments.toml; then newer systems.

    Columns: LABELS, where origin is `paper`, `ours` or `newer` and status `published`, `done`, `failed` or `not run`;
    for each metric its value (of ours the mean over seeds), <metric>_std (over seeds, n - 1 in the denominator),
    <metric>_n and <metric>_difference (to the paper's number); ORIGINS.

    Raises:
        UserError: a damaged result, or seeds of one line measured by different protocols.
    """
    paper = published("table1").set_index(["dataset", "model"])
    lines = [_published_line(row, "paper") for row in published("table1").to_dict("records")]
    for rows in seed_groups(experiments.rows):
        lines += _our_lines(rows, [read_result(row, places) for row in rows], paper)
    lines += [_published_line(row, "newer") for row in published("newer").to_dict("records")]
    lines = [line for line in lines if line["dataset"] in DATASETS]
    ordered = sorted(lines, key=_place)  # sorting is stable: experiments.toml's order stays
    return pd.DataFrame(ordered, columns=[*LABELS, *(f"{c}{kind}" for c in COLUMNS for kind in KINDS), *ORIGINS])


def _place(line: Record) -> tuple[int, int, int]:
    known = line["model"] in MODELS and line["origin"] != "newer"
    model = MODELS.index(line["model"]) if known else len(MODELS)
    return DATASETS.index(line["dataset"]), model, line["origin"] == "ours"


def seed_groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that differ in name, seed and what they feed alone, in order of first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        recipe = {key: value for key, value in asdict(row).items() if key not in ("name", "seed", "feeds")}
        groups.setdefault(json.dumps(recipe, sort_keys=True), []).append(row)
    return list(groups.values())


def _published_line(row: Mapping[str, Any], origin: str) -> Record:
    numbers = {metric: row[metric] for metric in METRICS if metric in row}
    return {
        "dataset": row["dataset"],
        "model": row["model"],
        "origin": origin,
        "status": "published",
        "recipe": row["source"],
        "protocol": row.get("protocol"),
    } | numbers


def _our_lines(rows: Sequence[Row], results: Sequence[Record | None], paper: pd.DataFrame) -> list[Record]:
    """One line for each number of epochs that seeds have reached, one for the failed, one if nothing was run."""
    by_status: dict[tuple[str, int], list[tuple[Row, Record]]] = {}
    for row, record in zip(rows, results, strict=True):
        key = (record["status"], record["epochs"]) if record else ("not run", 0)
        by_status.setdefault(key, []).append((row, record or {}))
    if len(by_status) > 1:
        by_status.pop(("not run", 0), None)  # seeds still to come show in "1 of 3"
    return [_our_line(status, epochs, found, len(rows), paper) for (status, epochs), found in by_status.items()]


def _our_line(
    status: str, epochs: int, found: Sequence[tuple[Row, Record]], n_planned: int, paper: pd.DataFrame
) -> Record:
    row, records = found[0][0], [record for _, record in found]
    model = PAPER_NAMES[row.model]
    goals = paper.loc[(row.dataset, model)] if (row.dataset, model) in paper.index else {}
    return {
        "dataset": row.dataset,
        "model": model,
        "origin": "ours",
        "status": status,
        "runs": ", ".join(row.name for row, _ in found),
        "recipe": row.label + (f"; failed: {records[0]['error']}" if status == "failed" else ""),
        "variant": row.variant,
        "seeds": ", ".join(str(row.seed) for row, _ in found),
        "n_seeds": len(found) if status == "done" else 0,
        "n_planned": n_planned,
        "epochs": epochs,
        "full_epochs": row.epochs,
        **(_measured(records, goals) if status == "done" else {}),
    }


def _measured(records: Sequence[Record], goals: Mapping[str, float]) -> Record:
    """Mean, standard deviation, n and difference of each metric; where it was trained; by which protocols."""
    line: Record = {}
    protocols = {}
    for column in COLUMNS:
        numbers = [compared(record)[column] for record in records if column in compared(record)]
        if not numbers:
            continue
        values = pd.Series([number["value"] for number in numbers])
        line |= {column: values.mean(), f"{column}_std": values.std(), f"{column}_n": len(values)}
        line[f"{column}_difference"] = values.mean() - goals.get(column, float("nan"))
        protocols[column] = _protocol(column, numbers, records)
    hardware = sorted({trained(record)["hardware"] for record in records})
    return line | {"trained_on": "; ".join(hardware), "protocol": PROTOCOLS_JOINED_BY.join(protocols.values())}


def _protocol(column: str, numbers: Sequence[Record], records: Sequence[Record]) -> str:
    """How all of the numbers were measured, in words."""
    found = sorted({describe(column, number) for number in numbers})
    if len(found) > 1:
        names = " ".join(record["name"] for record in records)
        raise UserError(
            f"{column} of {names} was measured by different protocols ({' / '.join(found)}): measure them again "
            f"with `python reproduce.py --evaluate {names}`"
        )
    return found[0]


def describe(column: str, number: Record) -> str:
    """A metric's protocol, images and feature network in words."""
    network = f", {number['feature_network']}" if number["feature_network"] else ""
    split = f", {number['split']} split" if number["split"] else ""
    return f"{column}: {number['protocol']}, n = {number['n_images']:,}{split}{network}"
