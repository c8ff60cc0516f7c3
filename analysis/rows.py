"""The rows of experiments.toml."""

import json
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from data import DATASETS
from errors import UserError
from training.config import Config, preset

EXPERIMENTS_FILE = Path("experiments.toml")
DEVICES = ("cpu", "cuda")
OF_PRESET = ("dataset", "model", "variant", "recipe", "seed", "epochs")  # fields of the configuration that a row names
OVERRIDABLE = {
    f.name: get_type_hints(Config)[f.name] for f in fields(Config) if not f.metadata and f.name not in OF_PRESET
}


@dataclass(frozen=True)
class Row:
    """One run behind a table or figure.

    Attributes:
        name: of the row, its run folder, its result and its weights.
        dataset, model, variant, recipe: the preset.
        epochs: the full budget.
        feeds: tables and figures that need it.
        seed: of the run.
        label: what it is if it is not ESVAE by the paper's recipe.
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
    def recipe_key(self) -> str:
        """The same for rows that differ in name, seed and what they feed alone."""
        recipe = {key: value for key, value in asdict(self).items() if key not in ("name", "seed", "feeds")}
        return json.dumps(recipe, sort_keys=True)

    @property
    def is_comparable(self) -> bool:
        """Whether it learns from the paper's images: a part of them gives numbers that stand for themselves."""
        return "train_images" not in self.overrides

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

    def run_folders(self, row: Row) -> list[Path]:
        """Where the row is trained: the full budget first, then those that `Row.config` names by fewer epochs."""
        return [self.runs / row.name, *sorted(self.runs.glob(f"{row.name}-of-*-epochs"))]

    def result(self, row: Row) -> Path:
        """The row's numbers."""
        return self.results / f"{row.name}.json"

    def weights(self, row: Row) -> Path:
        """The row's released model."""
        return self.pretrained / f"{row.name}.safetensors"


@dataclass(frozen=True)
class Plan:
    """All of experiments.toml: its rows in order, and the speed by device and image size until one is measured."""

    rows: tuple[Row, ...]
    assumed_images_per_second: dict[str, dict[str, float]]

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


def read_plan(path: Path = EXPERIMENTS_FILE) -> Plan:
    """Read the rows and check each against the configuration.

    Raises:
        UserError: no file, no TOML, or a row that makes no configuration.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    runs, speeds = content.get("run", []), content.get("assumed_images_per_second", {})
    if not (isinstance(runs, list) and all(isinstance(values, dict) for values in runs)):
        raise UserError(f"{path}: rows are tables [[run]]")
    if not (isinstance(speeds, dict) and all(isinstance(values, dict) for values in speeds.values())):
        raise UserError(f"{path}: speeds are tables in [assumed_images_per_second] of cpu and cuda, by image size")
    rows = tuple(_row(values, path) for values in runs)
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a row twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    for device in DEVICES:
        if unassumed := {str(DATASETS[row.dataset].image_size) for row in rows} - speeds.get(device, {}).keys():
            sizes = ", ".join(sorted(unassumed))
            raise UserError(f"{path}: [assumed_images_per_second.{device}] has no image size {sizes}")
    return Plan(rows, speeds)


def _row(values: dict[str, Any], path: Path) -> Row:
    unknown = values.keys() - {f.name for f in fields(Row)}
    if unknown:
        raise UserError(f"{path}: row {values.get('name')!r} has unknown fields {', '.join(sorted(unknown))}")
    try:
        row = Row(**values)
        _check_kinds({f.name: getattr(row, f.name) for f in fields(Row)}, get_type_hints(Row))
        if not re.fullmatch(r"\w[\w.-]*", row.name):
            raise TypeError("its name is to be that of files: letters, digits, - and _")
        _check_kinds(row.overrides, OVERRIDABLE)
        of_paper = (row.model, row.variant, row.recipe, row.overrides) == (Row.model, Row.variant, Row.recipe, {})
        if row.label == Row.label and not (of_paper and row.epochs == preset(row.dataset).epochs):
            raise TypeError(f"{row.label!r} is not what it is: give it a label")
        row.config()
    except TypeError as error:
        raise UserError(f"{path}: row {values.get('name')!r} is not a run: {error}") from error
    return row


def _check_kinds(values: dict[str, Any], kinds: dict[str, Any]) -> None:
    """TypeError for a value that is not of its kind, or has none."""
    for name, value in values.items():
        if name not in kinds:
            raise TypeError(f"{name} cannot be overridden; choose from {', '.join(kinds)}")
        if not _is_of_kind(value, kinds[name]):
            raise TypeError(f"{name} is {value!r}")


def _is_of_kind(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind) and get_origin(kind) is not dict:  # a union
        return any(_is_of_kind(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (get_origin(kind) or kind)
