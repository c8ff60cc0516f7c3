"""Where each row of experiments.toml stands, and how long it would take to finish it here."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.row_results import read_result
from analysis.rows import Places, Plan, Row
from data import DATASETS
from errors import UserError
from provenance import device_types
from training.device import resolve_device
from training.folder import is_running, starts_of
from training.log import METRICS_FILE
from training.state import STATE_FILE


@dataclass(frozen=True)
class Speeds:
    """Images per second of one kind of device: measured by network, assumed by image size."""

    measured: Mapping[tuple[str, int], float]
    assumed: Mapping[str, float]

    def of(self, row: Row) -> float:
        """What a row is expected to train with."""
        return self.measured.get(_network(row), self.assumed[str(DATASETS[row.dataset].image_size)])


def status_table(plan: Plan, places: Places, device: str = "auto") -> pd.DataFrame:
    """One line a row: epochs trained, status, hours left on this kind of device, what it feeds.

    Raises:
        UserError: a damaged result or log, or no such device.
    """
    kind = resolve_device(device).type
    results = {row.name: read_result(row, places) for row in plan.rows}
    measured = {_network(row): r["images_per_second"] for row in plan.rows if _is_of(r := results[row.name], kind)}
    speeds = Speeds(measured, plan.assumed_images_per_second[kind])
    return pd.DataFrame([_status_line(row, results[row.name], speeds, kind, places) for row in plan.rows])


def _network(row: Row) -> tuple[str, int]:
    """What decides how fast a row trains."""
    return row.model, DATASETS[row.dataset].image_size


def _is_of(result: dict[str, Any] | None, kind: str) -> bool:
    """Whether a result has a speed of such a device."""
    return bool(result and result.get("images_per_second")) and device_types(result["trained"]["hardware"]) == {kind}


def _status_line(row: Row, result: dict[str, Any] | None, speeds: Speeds, kind: str, places: Places) -> dict[str, Any]:
    log = _log(row, places)
    epochs = max(len(log), (result or {}).get("epochs") or 0)
    if log and _is_all_of(starts_of(places.runs / row.name, len(log)), kind):
        speed = float(log[-1]["images_per_second"])
    else:
        speed = result["images_per_second"] if _is_of(result, kind) else speeds.of(row)
    # Training goes on from a run folder, not from a reduced result.
    left = 0 if epochs >= row.epochs else row.epochs - len(log)
    return {
        "name": row.name,
        "epochs": f"{epochs}/{row.epochs}",
        "status": _status(row, epochs, result, places),
        "hours left": round(left * row.n_images / speed / 3600, 2),
        "recipe": row.label,
        "feeds": row.feeds,
    }


def _status(row: Row, epochs: int, result: dict[str, Any] | None, places: Places) -> str:
    if any(is_running(folder) for folder in places.run_folders(row)):
        return "running"
    if result and result["status"] == "failed":
        return "failed"
    if result and result["epochs"] >= row.epochs:
        return "done"
    return "partial" if epochs or (places.runs / row.name / STATE_FILE).exists() else "not run"


def _is_all_of(starts: list[dict[str, Any]], kind: str) -> bool:
    """Whether they were on such a device alone: of which start an epoch of a log is, the log does not say."""
    return set().union(*(device_types(start["hardware"]) for start in starts)) == {kind}


def _log(row: Row, places: Places) -> list[dict[str, str]]:
    file = places.runs / row.name / METRICS_FILE
    if not file.exists():
        return []
    try:
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        for row in rows:
            if not 0 < float(row["images_per_second"]) < math.inf:
                raise ValueError(f"{row['images_per_second']} images/s")
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(f"{file} is damaged ({error}); remove it, or its line that is") from error
    return rows
