"""The rows of experiments.toml, and where each of them stands."""

import csv
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from data import DATASETS
from errors import UserError
from training.config import Config, preset
from training.folder import is_running
from training.log import METRICS_FILE
from training.state import STATE_FILE

EXPERIMENTS_FILE = Path("experiments.toml")

RESULT_FIELDS = {"name", "config", "budget", "reconstruction_loss", "baselines", "training_seconds"}
RESULT_FIELDS |= {"images_per_second", "commit", "versions", "hardware", "date"}


@dataclass(frozen=True)
class Row:
    """One run behind a table or figure.

    Attributes:
        name: of the row, its run folder, its result and its weights.
        dataset, model, variant, recipe: the preset.
        epochs: the full budget.
        feeds: tables and figures that need it.
        seed: of the run.
        label: what it is if it is not the paper's recipe.
        overrides: fields of the configuration that differ from the preset.
    """

    name: str
    dataset: str
    epochs: int
    feeds: str
    model: str = "esvae"
    variant: str = "paper"
    seed: int = 42
    recipe: str = "paper"
    label: str = "paper's recipe"
    overrides: dict[str, Any] = field(default_factory=dict)

    def config(self, epochs: int | None = None, **runtime: Any) -> Config:
        """The run's configuration; `runtime` sets fields such as device and runs_dir."""
        base = preset(self.dataset, self.model, self.variant, self.recipe)
        config = replace(base, seed=self.seed, epochs=epochs or self.epochs)
        # A reduced run grows into the full one, unless the training schedule depends on the total.
        config = replace(config, **self.overrides, **runtime)
        reduced = config.schedule_needs_epochs and config.epochs != self.epochs
        return replace(config, name=f"{self.name}-of-{config.epochs}-epochs" if reduced else self.name)

    @property
    def n_images(self) -> int:
        """Training images per epoch."""
        return self.overrides.get("train_images", DATASETS[self.dataset].n_train)


@dataclass(frozen=True)
class Places:
    """Folders that reproduce.py reads and writes."""

    runs: Path = Path("runs")
    results: Path = Path("results")
    pretrained: Path = Path("pretrained")

    def result(self, row: Row) -> Path:
        """The row's numbers."""
        return self.results / f"{row.name}.json"

    def weights(self, row: Row) -> Path:
        """The row's released model."""
        return self.pretrained / f"{row.name}.safetensors"


@dataclass(frozen=True)
class Experiments:
    """All rows, in order, and the speed by image size assumed until one is measured."""

    rows: tuple[Row, ...]
    assumed_images_per_second: dict[str, float]

    def select(self, names: tuple[str, ...]) -> tuple[Row, ...]:
        """Rows by name, in the order given; all of them for no names.

        Raises:
            UserError: no such row.
        """
        by_name = {row.name: row for row in self.rows}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise UserError(f"no row {', '.join(unknown)} in {EXPERIMENTS_FILE}; rows: {', '.join(by_name)}")
        return tuple(by_name[name] for name in names) or self.rows


def read_experiments(path: Path = EXPERIMENTS_FILE) -> Experiments:
    """Read the rows and check each against the configuration.

    Raises:
        UserError: no file, no TOML, or a row that makes no configuration.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    runs, speeds = content.get("run", []), content.get("assumed_images_per_second", {})
    if not (isinstance(runs, list) and all(isinstance(values, dict) for values in runs) and isinstance(speeds, dict)):
        raise UserError(f"{path}: rows are tables [[run]], speeds the table [assumed_images_per_second]")
    rows = tuple(_row(values, path) for values in runs)
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a row twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    if unassumed := {str(DATASETS[row.dataset].image_size) for row in rows} - speeds.keys():
        raise UserError(f"{path}: [assumed_images_per_second] has no image size {', '.join(sorted(unassumed))}")
    return Experiments(rows, speeds)


def _row(values: dict[str, Any], path: Path) -> Row:
    unknown = values.keys() - {f.name for f in fields(Row)}
    if unknown:
        raise UserError(f"{path}: row {values.get('name')!r} has unknown fields {', '.join(sorted(unknown))}")
    try:
        row = Row(**values)
        row.config()
        if not isinstance(row.name, str):
            raise TypeError("its name is no text")
    except TypeError as error:
        raise UserError(f"{path}: row {values.get('name')!r} is not a run: {error}") from error
    return row


def read_result(row: Row, places: Places) -> dict[str, Any] | None:
    """The row's committed result, if there is one.

    Raises:
        UserError: a damaged file.
    """
    file = places.result(row)
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        if not isinstance(record["epochs"], int) or not isinstance(record["status"], str):
            raise ValueError("epochs or status of another kind")
        if record["status"] == "done" and (missing := RESULT_FIELDS - record.keys()):
            raise ValueError(f"without {', '.join(sorted(missing))}")
    except (OSError, ValueError, RecursionError, TypeError, LookupError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it to run the row again") from error
    return record


def is_done(row: Row, places: Places) -> bool:
    """Whether the row has a result with numbers, at whatever budget."""
    return (read_result(row, places) or {}).get("status") == "done"


def status_table(experiments: Experiments, places: Places) -> pd.DataFrame:
    """One line a row: epochs trained, status, hours left, what it feeds."""
    results = {row.name: read_result(row, places) for row in experiments.rows}
    speeds = {_network(row): r["images_per_second"] for row in experiments.rows if _is_measured(r := results[row.name])}
    return pd.DataFrame([_status_line(row, results[row.name], speeds, experiments, places) for row in experiments.rows])


def _network(row: Row) -> tuple[str, int]:
    """What decides how fast a row trains."""
    return row.model, DATASETS[row.dataset].image_size


def _is_measured(result: dict[str, Any] | None) -> bool:
    return bool(result and result.get("images_per_second"))


def _status_line(
    row: Row,
    result: dict[str, Any] | None,
    speeds: Mapping[tuple[str, int], float],
    experiments: Experiments,
    places: Places,
) -> dict[str, Any]:
    trained = _trained(row, places)
    epochs = max(len(trained), (result or {}).get("epochs") or 0)
    speed = _images_per_second(row, trained, result, speeds, experiments)
    # A reduced run that does not grow into the full one, `Row.config`, leaves all of that to do.
    kept = len(trained) if row.config().schedule_needs_epochs and epochs < row.epochs else epochs
    left = max(row.epochs - kept, 0) * row.n_images / speed / 3600
    return {
        "name": row.name,
        "epochs": f"{epochs}/{row.epochs}",
        "status": _status(row, epochs, result, places),
        "hours left": round(left, 2),
        "recipe": row.label,
        "feeds": row.feeds,
    }


def _status(row: Row, epochs: int, result: dict[str, Any] | None, places: Places) -> str:
    if is_running(places.runs / row.name):
        return "running"
    if result and result["status"] == "failed":
        return "failed"
    if result and result["epochs"] >= row.epochs:
        return "done"
    return "partial" if epochs or (places.runs / row.name / STATE_FILE).exists() else "not run"


def _trained(row: Row, places: Places) -> list[dict[str, str]]:
    file = places.runs / row.name / METRICS_FILE
    if not file.exists():
        return []
    try:
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        for row in rows:
            float(row["images_per_second"])
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(f"{file} is damaged ({error}); remove it, or its line that is") from error
    return rows


def _images_per_second(
    row: Row,
    trained: list[dict[str, str]],
    result: dict[str, Any] | None,
    speeds: Mapping[tuple[str, int], float],
    experiments: Experiments,
) -> float:
    """Of this row's last epoch here, else of its result, else of one of the same network, else assumed."""
    if trained:
        return float(trained[-1]["images_per_second"])
    if _is_measured(result):
        return result["images_per_second"]
    assumed = experiments.assumed_images_per_second[str(DATASETS[row.dataset].image_size)]
    return speeds.get(_network(row), assumed)
