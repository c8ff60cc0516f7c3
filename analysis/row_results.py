"""The results of rows: results/<row>.json, read and checked."""

import json
import math
from pathlib import Path
from typing import Any

from analysis.comparison import EVERY_METRIC
from analysis.rows import Places, Row
from errors import UserError
from files import sha256_of
from metrics import MEAN_IMAGE


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
        _check(record, "epochs", int)
        _check(record, "status", str)
        if record["status"] == "done":
            _check_done(record)
    except (OSError, ValueError, RecursionError, TypeError, LookupError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file} is damaged ({reason}); remove it to run the row again") from error
    return record


def read_done(row: Row, places: Places) -> dict[str, Any] | None:
    """The row's result if it has numbers, at whatever budget; errors as `read_result`."""
    record = read_result(row, places)
    return record if record and record["status"] == "done" else None


def is_of(record: dict[str, Any], weights: Path) -> bool:
    """Whether a result's numbers are those of a file of weights; not where either is missing."""
    return weights.is_file() and record.get("checkpoint_sha256") == sha256_of(weights)


def _check_done(record: dict[str, Any]) -> None:
    """ValueError, TypeError or LookupError where it lacks what tables and cards are made of."""
    for name in ("name", "budget"):
        _check(record, name, str)
    for name in ("training_seconds", "images_per_second"):
        _check(record, name, float, least=math.ulp(0.0))
    _check(record["config"], "seed", int)
    _check(record["baselines"], MEAN_IMAGE, float, least=0.0)
    _check(record, "reconstruction_loss", dict)
    for name in EVERY_METRIC:
        if name in record:
            _check_metric(record[name])
    _check(record, "fingerprint", dict)
    for source in (record, record["trained"]):
        for name in ("hardware", "date"):
            _check(source, name, str)
        _check(source, "versions", dict)


def _check_metric(measured: dict[str, Any]) -> None:
    for name, kind in (("value", float), ("n_images", int), ("protocol", str)):
        _check(measured, name, kind)
    for name in ("split", "feature_network"):
        _check(measured, name, str | None)
    if (real := measured.get("training_images")) is not None:
        _check(real, "value", float)


def _check(record: dict[str, Any], name: str, kind: Any, least: float = -math.inf) -> None:
    """ValueError where an entry is not of its kind, or a number not finite or too small; an int is a float too."""
    value = record[name]
    is_number = kind is float and type(value) in (int, float) and math.isfinite(value) and value >= least
    if not (is_number or (kind is not float and isinstance(value, kind) and not isinstance(value, bool))):
        raise ValueError(f"{name} is {value!r}")
