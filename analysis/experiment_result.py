"""Results of experiments as files: <name>.json says what was done with what, <name>.csv holds the numbers."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing import save_figure
from analysis.subjects import Subject
from errors import UserError
from files import write_atomically, write_json
from provenance import provenance

ANALYSIS_RESULTS = Path("results/analysis")
RECORD_FIELDS = {"dataset", "protocol", "settings", "subjects", "hardware", "table_sha256"}
SUBJECT_FIELDS = {"label", "name", "sha256", "dataset", "epochs", "config", "model"}


@dataclass(frozen=True)
class Result:
    """What an experiment leaves behind.

    Attributes:
        record: JSON-serialisable, made by `describe`.
        table: the numbers, one row a measurement.
        figures: by what distinguishes their files, "" for the main one; one that shows images is named `images`.
    """

    record: dict[str, Any]
    table: pd.DataFrame
    figures: Mapping[str, Figure]


def describe(
    protocol: str, subjects: Iterable[Subject], settings: Mapping[str, Any], **measured: Any
) -> dict[str, Any]:
    """The record of an experiment.

    Args:
        protocol: in words, what every number of the table is and on which images it was measured.
        subjects: the models, whose labels the table uses.
        settings: whatever else decides the numbers (seed, number of images, choice of reading).
        **measured: numbers that have no place in the table.
    """
    subjects = list(subjects)
    known = {"dataset": subjects[0].dataset, "protocol": protocol, "settings": dict(settings)}
    return known | {"subjects": [s.describe() for s in subjects]} | measured | provenance(subjects[0].device)


def write_experiment(folder: Path, name: str, record: dict[str, Any], table: pd.DataFrame) -> list[Path]:
    """Write <name>.json and <name>.csv, each atomically, and return their paths.

    The record names the table by its checksum, so that a record and a table of two measurements are not taken for one.

    Raises:
        UserError: the folder cannot be written to.
    """
    paths = [folder / f"{name}.json", folder / f"{name}.csv"]
    content = table.to_csv(index=False, float_format="%.6g").encode()
    write_atomically(paths[1], content)
    write_json(paths[0], record | {"table_sha256": sha256(content).hexdigest()})
    return paths


def read_experiment(folder: Path, name: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record and the table that `write_experiment` wrote.

    Raises:
        UserError: there are none, they are damaged, or they do not belong together.
    """
    json_file, csv_file = folder / f"{name}.json", folder / f"{name}.csv"
    try:
        record, content = json.loads(json_file.read_text()), csv_file.read_bytes()
        _check_record(record)
        if record["table_sha256"] != sha256(content).hexdigest():
            raise ValueError("the table is not the record's")
        return record, pd.read_csv(io.BytesIO(content))
    except OSError as error:
        raise UserError(f"no result {name} in {folder}: cannot read {error.filename}") from error
    except (ValueError, RecursionError) as error:  # of JSON and of CSV alike
        raise UserError(f"{json_file} or {csv_file} is damaged ({error}); make them again") from error


def _check_record(record: Any) -> None:
    """ValueError where it lacks what `describe` puts into it."""
    if not isinstance(record, dict) or not record.keys() >= RECORD_FIELDS:
        raise ValueError("it is no record of an experiment")
    subjects = record["subjects"]
    if not isinstance(record["settings"], dict) or not isinstance(subjects, list):
        raise ValueError("settings or models of another kind")
    if not all(isinstance(subject, dict) and subject.keys() >= SUBJECT_FIELDS for subject in subjects):
        raise ValueError("it does not say of which models it is")


def other_settings(record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Those of the settings for which the record of a result on file has another value."""
    as_stored = json.loads(json.dumps(settings))
    return [name for name, value in as_stored.items() if record["settings"].get(name) != value]


def check_replaceable(
    folder: Path, name: str, subjects: Iterable[Subject], settings: Mapping[str, Any], n_images: int | None
) -> None:
    """Nothing, where a result of that name may be written.

    Args:
        folder, name: as for `write_result`.
        subjects, settings: of the measurement to come.
        n_images: of its test images; None for all, which may replace fewer.

    Raises:
        UserError: there is one of other models, settings or images, which must not be lost.
    """
    try:
        old, _ = read_experiment(folder, name)
    except UserError:  # none, or one that says nothing
        return
    differs = other_settings(old, settings)
    if sorted(s["name"] for s in old["subjects"]) != sorted(s.name for s in subjects):
        differs.insert(0, "models")
    if n_images is not None and old.get("n_images", "not known") != n_images:
        differs.append("number of images")
    if differs:
        file = folder / f"{name}.json"
        raise UserError(f"{file} is a result with other {', '.join(differs)}: give --out FOLDER, or remove it")


def write_result(folder: Path, name: str, result: Result) -> list[Path]:
    """Write record, table and every figure: <name>.json, .csv, .png, .pdf, and <name>-<figure>.png, .pdf.

    The record comes last: what it stands for is there. Figures that only the result before had go.
    """
    figures: list[Path] = []
    for figure, drawn in result.figures.items():
        figures += save_figure(drawn, folder / (f"{name}-{figure}" if figure else name))
    for file in {*folder.glob(f"{name}-*.png"), *folder.glob(f"{name}-*.pdf")} - set(figures):
        file.unlink(missing_ok=True)
    return write_experiment(folder, name, result.record, result.table) + figures


def stored_pictures(folder: Path, name: str) -> list[bytes]:
    """The PNG files that `write_result` wrote."""
    files = [folder / f"{name}.png", *sorted(folder.glob(f"{name}-*.png"))]
    return [file.read_bytes() for file in files if file.exists()]
