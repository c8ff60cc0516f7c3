"""One evaluation beside the paper's rows, and its protocols in words: what evaluate.py prints."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.generation import METRICS
from analysis.published import TABLE1_METRICS, paper_table1
from analysis.subjects import model_label

OWN_FAD = "fad_own"  # by an autoencoder that is not the authors': a column apart from the paper's numbers
FID_ORIGINAL = "fid_original"  # as the published FID of grey images seems to be measured
COLUMNS = (*TABLE1_METRICS, FID_ORIGINAL, OWN_FAD)
EVERY_METRIC = ("reconstruction_loss", *METRICS)


def compared(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measured metrics of Table I by the column that they belong to."""
    measured = {metric: record[metric] for metric in COLUMNS if metric in record}
    return {OWN_FAD if number.get("own_network") else name: number for name, number in measured.items()}


def comparison(record: dict[str, Any]) -> pd.DataFrame:
    """An evaluation record's metrics above its baselines and the paper's rows."""
    measured = compared(record)
    rows = [{"model": _name(record), "source": "this run"} | {name: m["value"] for name, m in measured.items()}]
    for baseline, loss in record["baselines"].items():
        rows.append({"model": baseline, "source": "baseline, measured", "reconstruction_loss": loss})
    real = {name: m["training_images"]["value"] for name, m in measured.items() if _has_as_many_real(m)}
    if real:
        rows.append({"model": "real training images", "source": "baseline"} | real)
    table = pd.concat([pd.DataFrame(rows), paper_table1(record["dataset"])], ignore_index=True)
    shown = [name for name in COLUMNS if name in TABLE1_METRICS or name in measured]
    return table.reindex(columns=["model", *shown, "source"])


def _has_as_many_real(measured: dict[str, Any]) -> bool:
    """Whether as many real images are known, a baseline; a Frechet distance of more images is smaller."""
    real = measured.get("training_images")
    return real is not None and real["n_images"] == measured["n_images"]


def _name(record: dict[str, Any]) -> str:
    if "images" in record:
        return Path(record["images"]).name
    return model_label(record["model"]["model"], record, record["dataset"])


def metric_lines(record: dict[str, Any]) -> list[str]:
    """Each number with its protocol and what real images score; then what was left out, and why."""
    lines = [_metric_line(name, record[name]) for name in EVERY_METRIC if name in record]
    if "lif_backend" in record:
        backend = f"; LIF backend {record['lif_backend']}" if record["lif_backend"] else ""  # none: it does not spike
        lines.append(record["epoch_rule"] + backend)
    return lines + [f"{name} left out: {reason}" for name, reason in record.get("left_out", {}).items()]


def _metric_line(name: str, measured: dict[str, Any]) -> str:
    parts = measured.get("standard_deviation")
    deviation = "" if parts is None else f" ± {parts:.4f} (over its parts)"
    split = f", {measured['split']} split" if measured["split"] else ""
    line = f"{name} {measured['value']:.6f}{deviation}: {measured['protocol']}; n = {measured['n_images']}{split}"
    line += f"; {measured['feature_network']}" if measured["feature_network"] else ""
    if "training_images" not in measured:
        return line
    real = measured["training_images"]
    if real is None:
        return line + "; real training images: not known, the data set is not at hand"
    return line + f"; real training images score {real['value']:.4f} (n = {real['n_images']}, {real['source']})"
