"""Tables: our numbers beside the paper's."""

from pathlib import Path
from typing import Any

import pandas as pd

PAPER = Path(__file__).parent / "paper"
METRICS = ("reconstruction_loss", "inception_score", "fid", "fad")


def paper_table1(dataset: str) -> pd.DataFrame:
    """The rows of the paper's Table I on a data set (none for `digits`): model, four metrics, source."""
    table = pd.read_csv(PAPER / "table1.csv")
    return table[table["dataset"] == dataset].drop(columns=["dataset", "type"])


def comparison(record: dict[str, Any]) -> pd.DataFrame:
    """An evaluation record's metrics above its baselines and the paper's rows."""
    config = record["config"] or {}
    name = f"{record['model']['model']} ({config.get('variant', 'unknown variant')}), {record['epochs']} epochs"
    measured = {metric: record[metric]["value"] for metric in METRICS if metric in record}
    rows = [{"model": name, "source": "this run"} | measured]
    for baseline, loss in record["baselines"].items():
        rows.append({"model": baseline, "source": "baseline, measured", "reconstruction_loss": loss})
    table = pd.concat([pd.DataFrame(rows), paper_table1(record["dataset"])], ignore_index=True)
    return table.reindex(columns=["model", *METRICS, "source"])


def as_text(table: pd.DataFrame) -> str:
    """Fixed-width text, empty cells as '-'."""
    return table.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}")
