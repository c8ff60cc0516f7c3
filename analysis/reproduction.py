"""Work rows of experiments.toml off: train and release."""

import math
import time
from pathlib import Path
from typing import Any

from analysis.release import release
from analysis.row_results import read_done
from analysis.rows import Places, Row
from errors import BusyError, UserError
from files import write_json
from models import read_metadata
from models.checkpoint import MODEL_FILE
from training.loop import fit
from training.stop import Stopped


def reproduce(
    rows: tuple[Row, ...],
    places: Places,
    minutes: float = math.inf,
    epochs: int | None = None,
    device: str = "auto",
    **runtime: Any,
) -> list[str]:
    """Run rows in order until they are done or the time is up.

    Args:
        rows: what to run; a row that has its epochs is skipped.
        places: where to.
        minutes: stop training after so long, with the state saved.
        epochs: a reduced budget for every row, labelled so in its result.
        device: as in training.
        runtime: further fields of a training configuration that may change when a run goes on, as its precision.

    Returns:
        names of the rows that failed; each has a result that says why. One that another process trains is none.

    Raises:
        Stopped: Ctrl-C or SIGTERM.
    """
    deadline = time.monotonic() + 60 * minutes
    failed = []
    for row in rows:
        if (done := _epochs_done(row, places)) >= (epochs or row.epochs):
            print(f"== {row.name}: done, {done} epochs; remove {places.result(row)} to train it again", flush=True)
            continue
        if time.monotonic() > deadline:
            print(f"the time is up before {row.name}", flush=True)
            break
        print(f"== {row.name}", flush=True)
        try:
            run_row(row, places, epochs or row.epochs, device, deadline, **runtime)
        except BusyError as error:
            print(f"passed over: {error}", flush=True)
        except UserError as error:
            print(f"failed: {error}", flush=True)
            _write_failure(row, places, error)
            failed.append(row.name)
        except Stopped as stopped:
            if stopped.exit_code:
                raise
            print(stopped, flush=True)
    return failed


def run_row(
    row: Row,
    places: Places,
    epochs: int,
    device: str,
    deadline: float = math.inf,
    **runtime: Any,
) -> None:
    """Train one row as far as the deadline allows, then release what there is.

    Raises:
        UserError: training or evaluation is not possible.
        Stopped: training was interrupted. Where the deadline did it, finished epochs are released; whoever sends
            a signal wants the program to end now.
    """
    config = row.config(epochs, runs_dir=places.runs, device=device, **runtime)
    try:
        fit(config, deadline=deadline)
    except Stopped as stopped:
        if not stopped.exit_code and _has_news(row, config.run_dir, places):
            release(row, config.run_dir, places, device)
        raise
    release(row, config.run_dir, places, device)


def _has_news(row: Row, folder: Path, places: Places) -> bool:
    """Whether the run folder holds weights of more epochs than the result."""
    return (folder / MODEL_FILE).exists() and read_metadata(folder)["run"]["epochs"] > _epochs_done(row, places)


def _epochs_done(row: Row, places: Places) -> int:
    return (read_done(row, places) or {"epochs": 0})["epochs"]


def _write_failure(row: Row, places: Places, error: UserError) -> None:
    """A failure is a result too, unless there is a better one."""
    if _epochs_done(row, places) == 0:
        record = {"name": row.name, "status": "failed", "epochs": 0, "error": str(error)}
        write_json(places.result(row), record)
