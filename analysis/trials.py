"""Many short runs as lines of one CSV file: a trial that stands there is not run again."""

import fcntl
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from errors import DivergedError, UserError
from files import write_atomically
from provenance import git_commit
from training.config import Config
from training.loop import train_epoch
from training.run import Run, prepare
from training.stop import StopRequest

# Of trials that stand in one table whatever machine they ran on.
SAME_ARITHMETIC: Mapping[str, Any] = MappingProxyType({"device": "cpu", "precision": "fp32"})
IDENTITY = ("dataset", "model", "train_images", "epochs", "seed")

Score = Callable[[Run], float]


def run_trials(configs: Iterable[Config], settings: tuple[str, ...], score: Score, file: Path) -> pd.DataFrame:
    """Run the trials that `file` does not hold, adding a line after each.

    Args:
        configs: one per trial.
        settings: the fields of a configuration in which trials differ, beside data set, model, budget and seed.
        score: of a run that has been trained; stands in column `loss`, which is empty where training diverged.
        file: CSV, made if need be.

    Returns:
        all of the file.

    Raises:
        UserError: the file holds something else, or a trial cannot be started.
    """
    configs = list(configs)
    if not configs:
        raise UserError("there is no trial to run: give --seeds some numbers")
    _make_folder(file)
    for config in configs:
        key = {name: getattr(config, name) for name in (*IDENTITY, *settings)}
        if not (file.exists() and _holds(read_trials(file, settings), key)):
            row = key | {"commit": git_commit(), "loss": _result(config, score)}
            _add(row, key, settings, file)
            print("  ".join(f"{name} {value}" for name, value in row.items() if name != "commit"), flush=True)
    return read_trials(file, settings)


def read_trials(file: Path, settings: tuple[str, ...]) -> pd.DataFrame:
    """The lines of a file that `run_trials` wrote.

    Raises:
        UserError: it is damaged, or holds something else.
    """
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no table of trials ({type(error).__name__}); move it away") from error
    if not {*IDENTITY, *settings, "loss", "commit"} <= set(table.columns):
        raise UserError(f"{file} is no table of such trials; give another --out")
    return table


def _make_folder(file: Path) -> None:
    """That of the file: before a trial that could not be kept."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def _add(row: dict[str, Any], key: dict[str, Any], settings: tuple[str, ...], file: Path) -> None:
    """One at a time: two searches may share a file, and have run the same trial."""
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        old = read_trials(file, settings) if file.exists() else pd.DataFrame()
        if old.empty or not _holds(old, key):
            write_atomically(file, pd.concat([old, pd.DataFrame([row])]).to_csv(index=False).encode())
    finally:
        os.close(folder)


def _holds(table: pd.DataFrame, key: dict[str, Any]) -> bool:
    wanted = pd.Series(key)
    same = (table[list(key)] == wanted) | (table[list(key)].isna() & wanted.isna())
    return bool(same.all(axis=1).any())


def _result(config: Config, score: Score) -> float | None:
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(replace(config, runs_dir=Path(folder), name="trial", checkpoint_every=math.inf))
        try:
            while run.epoch < config.epochs:
                train_epoch(run, StopRequest())
                run.epoch, run.step, run.sums = run.epoch + 1, 0, {}
        except DivergedError:
            return None
    run.model.eval()
    return score(run)
