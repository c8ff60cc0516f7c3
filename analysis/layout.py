"""Table I as a reader sees it: rounded, the difference to the paper's number in brackets."""

from typing import Any

import pandas as pd

from analysis.comparison import OWN_FAD
from analysis.markdown import markdown_table
from analysis.published import DATASET_NAMES
from analysis.table1 import PROTOCOLS_JOINED_BY

HEADINGS = {
    "reconstruction_loss": "reconstruction loss",
    "inception_score": "IS",
    "fid": "FID",
    "fad": "FAD",
    OWN_FAD: "FAD, own autoencoder",
}
NOTHING = "-"


def markdown_layout(table: pd.DataFrame) -> str:
    """One Markdown table per data set, followed by the protocols of our numbers."""
    parts = []
    for dataset, lines in table.groupby("dataset", sort=False):
        cells = _cells(lines)
        cells["run"] = [f"`{name}`" if name else "" for name in cells["run"]]
        ours = lines[lines["origin"] == "ours"]["protocol"].dropna()
        protocols = dict.fromkeys(protocol for joined in ours for protocol in joined.split(PROTOCOLS_JOINED_BY))
        notes = "\n".join(f"- {protocol}" for protocol in protocols)
        parts.append(f"### {DATASET_NAMES[dataset]}\n\n{markdown_table(cells.columns, cells.to_numpy(), left=3)}\n")
        parts += [f"Ours by these protocols:\n\n{notes}\n"] if notes else []
    return "\n".join(parts)


def latex_layout(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of all data sets in one table of cells."""
    names = table["dataset"].map(DATASET_NAMES)
    first = names.where(table["dataset"] != table["dataset"].shift(), "")
    cells = _cells(table).drop(columns="run")
    cells.insert(0, "data set", first.to_list())
    return cells


def _cells(lines: pd.DataFrame) -> pd.DataFrame:
    """All cells as text; without the column of our own FAD where nothing is in it."""
    cells = pd.DataFrame([_row(line) for line in lines.to_dict("records")])
    empty = (cells[HEADINGS[OWN_FAD]] == NOTHING).all()
    return cells.drop(columns=HEADINGS[OWN_FAD]) if empty else cells


def _row(line: dict[str, Any]) -> dict[str, str]:
    ours = line["origin"] == "ours"
    return {
        "model": f"{line['model']}, {line['origin']}",
        "run": line["runs"] if ours else "",
        "recipe": f"{line['protocol']}; {line['recipe']}" if line["origin"] == "newer" else line["recipe"],
        "epochs": _epochs(line) if ours else "",
        "seeds": _seeds(line) if ours else "",
        **{heading: _number(line, column) for column, heading in HEADINGS.items()},
        "trained on": line["trained_on"] if line["status"] == "done" else "",
    }


def _epochs(line: dict[str, Any]) -> str:
    return f"{line['epochs']:.0f} of {line['full_epochs']:.0f}" if line["status"] == "done" else line["status"]


def _seeds(line: dict[str, Any]) -> str:
    n_seeds, n_planned = int(line["n_seeds"]), int(line["n_planned"])
    return str(n_seeds) if n_seeds == n_planned else f"{n_seeds} of {n_planned}"


def _number(line: dict[str, Any], column: str) -> str:
    """Mean ± standard deviation (difference to the paper), and n where not every seed has the metric."""
    value, deviation, difference = (line.get(f"{column}{kind}") for kind in ("", "_std", "_difference"))
    if pd.isna(value):
        return NOTHING
    if line["origin"] != "ours":
        return f"{value:g}"  # with all digits that were published
    text = f"{value:.4g}" + ("" if pd.isna(deviation) else f" ± {deviation:.2g}")
    text += "" if pd.isna(difference) else f" ({difference:+.3g})"
    n = int(line[f"{column}_n"])
    return text if n == line["n_seeds"] else f"{text}, n = {n}"
