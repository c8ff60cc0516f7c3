"""Every run with a result: its scores beside those of trivial answers and real images, and where it was trained."""

from typing import Any

import pandas as pd

from analysis.formats import markdown_table
from analysis.generation import FAD_PROTOCOLS
from analysis.row_results import read_done
from analysis.rows import Places, Plan
from metrics import MEAN_IMAGE

HEADINGS = {"fad": "FAD, `official`", "fad_eval": "FAD, `eval`"}


def run_list(plan: Plan, places: Places) -> str:
    """One line a run as Markdown, in the order of experiments.toml; in brackets what a score is to be seen against.

    Its links are those of a file in results/tables.
    """
    records = [record for row in plan.rows if (record := read_done(row, places))]
    if not records:
        return "No run has a result yet.\n"
    table = pd.DataFrame([_line(record) for record in records])
    return markdown_table(table.columns, table.to_numpy(), left=3) + "\n"


def _line(record: dict[str, Any]) -> dict[str, str]:
    origin, config = record["trained"], record["config"]
    loss, mean_image = record["reconstruction_loss"]["value"], record["baselines"][MEAN_IMAGE]
    return {
        "run": f"[`{record['name']}`](../../pretrained/{record['name']}.md)",
        "seed": str(config["seed"]),
        "recipe and epochs": record["budget"],
        "reconstruction loss (mean training image)": f"{loss:.4f} ({mean_image:.4f})",
        **{f"{HEADINGS[name]} (real images)": _fad(record.get(name)) for name in FAD_PROTOCOLS},
        "training": f"{record['training_seconds'] / 60:.0f} min, {record['images_per_second']:.0f} images/s",
        "on": origin["hardware"],
        "date": origin["date"][:10],
    }


def _fad(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "-"
    real = measured["training_images"]
    text = f"{measured['value']:.2f}" + (f" ({real['value']:.2f})" if real else "")
    return text + (", own autoencoder" if measured.get("own_network") else "")
