"""Tables: our numbers beside the paper's."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.generation import METRICS as MEASURED

PAPER = Path(__file__).parent / "paper"
METRICS = ("reconstruction_loss", "inception_score", "fid", "fad")
EVERY_METRIC = ("reconstruction_loss", *MEASURED)


def paper_table1(dataset: str) -> pd.DataFrame:
    """The rows of the paper's Table I on a data set (none for `digits`): model, four metrics, source."""
    table = pd.read_csv(PAPER / "table1.csv")
    return table[table["dataset"] == dataset].drop(columns=["dataset", "type"])


def comparison(record: dict[str, Any]) -> pd.DataFrame:
    """An evaluation record's metrics above its baselines and the paper's rows."""
    measured = {metric: record[metric]["value"] for metric in METRICS if metric in record}
    rows = [{"model": _name(record), "source": "this run"} | measured]
    for baseline, loss in record["baselines"].items():
        rows.append({"model": baseline, "source": "baseline, measured", "reconstruction_loss": loss})
    real = {metric: record[metric]["training_images"]["value"] for metric in measured if _has_real(record[metric])}
    if real:
        rows.append({"model": "real training images", "source": "baseline"} | real)
    table = pd.concat([pd.DataFrame(rows), paper_table1(record["dataset"])], ignore_index=True)
    return table.reindex(columns=["model", *METRICS, "source"])


def _name(record: dict[str, Any]) -> str:
    if "images" in record:
        return Path(record["images"]).name
    config = record["config"] or {}
    return f"{record['model']['model']} ({config.get('variant', 'unknown variant')}), {record['epochs']} epochs"


def _has_real(measured: dict[str, Any]) -> bool:
    return measured.get("training_images") is not None


def metric_lines(record: dict[str, Any]) -> list[str]:
    """Each number with its protocol and what real images score; then what was left out, and why."""
    lines = [_metric_line(name, record[name]) for name in EVERY_METRIC if name in record]
    if "lif_backend" in record:
        lines.append(f"{record['epoch_rule']}; LIF backend {record['lif_backend']}")
    return lines + [f"{name} left out: {reason}" for name, reason in record["left_out"].items()]


def _metric_line(name: str, measured: dict[str, Any]) -> str:
    line = f"{name} {measured['value']:.6f}: {measured['protocol']}"
    if measured["feature_network"] is None:
        return line
    split = f", {measured['split']} split" if measured["split"] else ""
    line += f"; n = {measured['n_images']}{split}; {measured['feature_network']}"
    if "training_images" not in measured:
        return line
    real = measured["training_images"]
    if real is None:
        return line + "; real training images: not known, the data set is not at hand"
    return line + f"; real training images score {real['value']:.4f} (n = {real['n_images']}, {real['source']})"


def as_text(table: pd.DataFrame) -> str:
    """Fixed-width text, empty cells as '-'."""
    return table.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}")
