"""Lines of a table as a reader sees them: rounded, the difference to the paper's number in brackets."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.formats import markdown_table, with_deviation
from analysis.published import DATASET_NAMES
from analysis.table_lines import NOT_RUN, PROTOCOLS_JOINED_BY

NOTHING = "-"


def markdown_layout(table: pd.DataFrame, headings: Mapping[str, str]) -> str:
    """One Markdown table per data set, what has not been run in a line below it; last the protocols of our numbers.

    Args:
        table: as `analysis.table_lines.frame` makes it.
        headings: of its columns of numbers.
    """
    parts = []
    for dataset, lines in table.groupby("dataset", sort=False):
        cells = _cells(lines, headings)
        cells["run"] = [f"`{name}`" if name else "" for name in cells["run"]]
        parts.append(f"### {DATASET_NAMES[dataset]}\n\n{markdown_table(cells.columns, cells.to_numpy(), left=3)}\n")
        parts += _not_run_note(lines)
    return "\n".join(parts + _protocol_notes(table))


def _not_run_note(lines: pd.DataFrame) -> list[str]:
    """Runs that a line would be made of, or the model where no run is planned for it alone."""
    missing = lines[lines["status"] == NOT_RUN].to_dict("records")
    names = [line["model"] if pd.isna(line["runs"]) else f"`{line['runs'].replace(', ', '`, `')}`" for line in missing]
    return [f"Not run yet: {', '.join(names)}.\n"] if names else []


def _protocol_notes(table: pd.DataFrame) -> list[str]:
    """Each protocol once, with the data sets that it was used on where it was not used on all."""
    ours = table[table["origin"] == "ours"].dropna(subset=["protocol"])
    datasets: dict[str, dict[str, None]] = {}  # names in order, each once
    for dataset, joined in zip(ours["dataset"], ours["protocol"], strict=True):
        for protocol in joined.split(PROTOCOLS_JOINED_BY):
            datasets.setdefault(protocol, {})[DATASET_NAMES[dataset]] = None
    everywhere = ours["dataset"].nunique()
    notes = [f"- {p}" + (f" ({', '.join(d)})" if len(d) < everywhere else "") for p, d in datasets.items()]
    return ["\n".join(["Ours by these protocols:", "", *notes, ""])] if notes else []


def latex_layout(table: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """The lines of all data sets that have been run in one table of cells; arguments as for `markdown_layout`."""
    table = table[table["status"] != NOT_RUN]
    names = table["dataset"].map(DATASET_NAMES)
    first = names.where(table["dataset"] != table["dataset"].shift(), "")
    cells = _cells(table, headings).drop(columns="run")
    cells.insert(0, "data set", first.to_list())
    return cells


def _cells(lines: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """All cells as text, without the columns of numbers that are empty."""
    shown = lines[lines["status"] != NOT_RUN]
    cells = pd.DataFrame([_row(line, headings) for line in shown.to_dict("records")])
    return cells.drop(columns=[heading for heading in cells.columns if (cells[heading] == NOTHING).all()])


def _row(line: dict[str, Any], headings: Mapping[str, str]) -> dict[str, str]:
    ours = line["origin"] == "ours"
    return {
        "model": f"{line['model']}, {line['origin']}",
        "run": line["runs"] if ours else "",
        "recipe": f"{line['protocol']}; {line['recipe']}" if line["origin"] == "newer" else line["recipe"],
        "epochs": _epochs(line) if ours else "",
        "seeds": _seeds(line) if ours else "",
        **{heading: _number(line, column) for column, heading in headings.items()},
    }


def _epochs(line: dict[str, Any]) -> str:
    if line["status"] != "done":
        return line["status"]
    return "unknown" if pd.isna(line["epochs"]) else f"{line['epochs']:.0f} of {line['full_epochs']:.0f}"


def _seeds(line: dict[str, Any]) -> str:
    n_seeds, n_planned = int(line["n_seeds"]), int(line["n_planned"])
    return str(n_seeds) if n_seeds == n_planned else f"{n_seeds} of {n_planned}"


def _number(line: dict[str, Any], column: str) -> str:
    """Mean ± standard deviation (difference to the paper), and n where not every seed has the number."""
    value, deviation, difference = (line[f"{column}{kind}"] for kind in ("", "_std", "_difference"))
    if pd.isna(value):
        return NOTHING
    if line["origin"] != "ours":
        return f"{value:g}"  # with all digits that were published
    text = with_deviation(value, deviation)
    text += "" if pd.isna(difference) else f" ({difference:+.3g})"
    n = int(line[f"{column}_n"])
    return text if n == line["n_seeds"] else f"{text}, n = {n}"
