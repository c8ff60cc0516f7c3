"""Table I from result files: our numbers, over seeds, beside the paper's and newer ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.comparison import COLUMNS, FID_ORIGINAL, OWN_FAD, compared
from analysis.generation import FID_PROTOCOLS
from analysis.published import TABLE1_METRICS, published
from analysis.row_results import read_result
from analysis.rows import Places, Plan, Row
from analysis.table_lines import NOT_RUN, Line, frame, goal_of, origins, our_line, over_seeds, published_line
from errors import UserError
from training.config import scheduled_epochs

Record = dict[str, Any]
Found = list[tuple[Row, Record]]
Budget = tuple[str, int, int | None]  # status, epochs, epochs that the schedule was laid out for
NO_BUDGET: Budget = (NOT_RUN, 0, None)

HEADINGS = {
    "reconstruction_loss": "reconstruction loss",
    "inception_score": "IS",
    "fid": "FID",
    "fad": "FAD",
    FID_ORIGINAL: "FID, original size",
    OWN_FAD: "FAD, own autoencoder",
}


def table1(plan: Plan, places: Places) -> pd.DataFrame:
    """All lines with COLUMNS, as `analysis.table_lines.frame` orders them.

    Raises:
        UserError: a damaged result, or seeds of one line measured by different protocols.
    """
    paper = published("table1").assign(**{FID_ORIGINAL: lambda table: table["fid"]})  # what both FIDs stand beside
    lines = [published_line(row, "paper", _numbers(row)) for row in paper.to_dict("records")]
    for rows in _by_recipe(plan.rows):
        lines += _our_lines(rows, [read_result(row, places) for row in rows], paper)
    lines += [published_line(row, "newer", _numbers(row)) for row in published("newer").to_dict("records")]
    return frame(lines, COLUMNS)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {metric: row[metric] for metric in TABLE1_METRICS if metric in row}


def _by_recipe(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.recipe_key, []).append(row)
    return list(groups.values())


def _our_lines(rows: Sequence[Row], results: Sequence[Record | None], paper: pd.DataFrame) -> list[Line]:
    """One line for each budget that seeds have reached, one for the failed, one if nothing was run."""
    groups: dict[Budget, Found] = {}
    for row, record in zip(rows, results, strict=True):
        groups.setdefault(_budget(record), []).append((row, record or {}))
    if len(groups) > 1:
        groups.pop(NO_BUDGET, None)  # seeds still to come show in "1 of 3"
    return [_our_line(*budget, found, len(rows), paper) for budget, found in groups.items()]


def _budget(record: Record | None) -> Budget:
    if record is None:
        return NO_BUDGET
    is_done = record["status"] == "done"
    scheduled = scheduled_epochs(record["config"], record["epochs"]) if is_done else None
    return record["status"], record["epochs"], scheduled


def _our_line(
    status: str, epochs: int, scheduled: int | None, found: Found, n_planned: int, paper: pd.DataFrame
) -> Line:
    line = our_line([row for row, _ in found], n_planned, status, epochs, scheduled)
    if status == "failed":
        errors = dict.fromkeys(record["error"] for _, record in found)
        line["recipe"] += f"; failed: {'; '.join(errors)}"
    if status == "done":
        line |= _measured([record for _, record in found], goal_of(found[0][0], paper))
    return line


def _measured(records: Sequence[Record], goal: Mapping[str, float]) -> Line:
    """Each metric over seeds, where it was trained, by which protocols."""
    line: Line = {}
    protocols = []
    for column in COLUMNS:
        numbers = [compared(record)[column] for record in records if column in compared(record)]
        if numbers:
            line |= over_seeds(column, [n["value"] for n in numbers], goal.get(column, float("nan")))
            protocols.append(_protocol(column, numbers, records))
    return line | origins([record["trained"]["hardware"] for record in records], protocols)


def _protocol(column: str, numbers: Sequence[Record], records: Sequence[Record]) -> str:
    """How all of the numbers were measured, in words."""
    found = sorted({_describe(column, number) for number in numbers})
    if len(found) > 1:
        names = " ".join(record["name"] for record in records)
        file = " --inception-weights FILE" if column in FID_PROTOCOLS else ""
        raise UserError(
            f"{column} of {names} was measured by different protocols ({' / '.join(found)}): measure them again "
            f"with `python reproduce.py --evaluate {names}{file}`"
        )
    return found[0]


def _describe(column: str, number: Record) -> str:
    network = f", {number['feature_network']}" if number["feature_network"] else ""
    split = f", {number['split']} split" if number["split"] else ""
    return f"{HEADINGS[column]}: {number['protocol']}; n = {number['n_images']:,}{split}{network}"
