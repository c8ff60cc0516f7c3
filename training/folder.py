"""The run folder: what is in it, and whether a run may go on in it."""

import fcntl
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from errors import BusyError, UserError
from files import temporary_prefix, write_json
from models.checkpoint import MODEL_FILE
from training.config import Config
from training.log import IMAGES_FOLDER, METRICS_FILE, RATES_FILE
from training.state import STATE_FILE

CONFIG_FILE, EVALUATION_FILE, LOCK_FILE = "config.json", "evaluation.json", ".lock"
LOCK_SECONDS = 1.0  # for which a start waits: whoever asks `is_running` holds the lock for a moment
# What --fresh deletes, the state first: whatever ends the program in between, no run goes on without its log.
OWN_FILES = (STATE_FILE, METRICS_FILE, RATES_FILE, MODEL_FILE, EVALUATION_FILE)
EPOCHS_FOLDER = "epochs"
EPOCH_MODELS = f"{EPOCHS_FOLDER}/epoch-[0-9]*.safetensors"  # weights that --keep-every keeps
PICTURES = tuple(f"{IMAGES_FOLDER}/{name}*.png" for name in ("reconstructions", "samples"))
EVALUATION_PICTURES = "evaluation-*.png"
OWN_PATTERNS = (*PICTURES, EPOCH_MODELS, EVALUATION_PICTURES, "events.out.tfevents.*")
# Those that are written atomically, hence under another name first.
HALF_WRITTEN = tuple(
    f"{temporary_prefix(Path(name).name)}*"
    for name in (*OWN_FILES, CONFIG_FILE, *PICTURES, EPOCH_MODELS, EVALUATION_PICTURES)
)


def previous_starts(config: Config, fresh: bool) -> list[dict[str, Any]]:
    """Check that a run may start or go on in its folder; changes nothing.

    Returns:
        one entry per earlier start of this run, [] for a new one.

    Raises:
        UserError: another run lives there (the differences are listed), the folder is not a run's, or a trained
            run has lost its state.
    """
    folder = config.run_dir
    try:
        names = {file.name for file in folder.iterdir() if not _is_half_written(file)}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{folder} cannot be a run folder ({error.strerror}); choose another --name or --runs-dir"
        ) from error
    if names <= {LOCK_FILE}:
        return []
    if fresh and (folder / CONFIG_FILE).is_file():
        return []
    record = read_record(folder)
    # A field that an older version did not have stood for what is its default now.
    old, new = Config().to_dict() | record["config"], config.to_dict()
    changed = [f"{key} {old[key]!r} -> {new[key]!r}" for key in config.identity() if old[key] != new[key]]
    if changed:
        raise UserError(f"{folder} holds another run ({'; '.join(changed)}); give a --name, or --fresh to replace it")
    # Asked for by its name: a listing can miss a file that another process replaces meanwhile.
    if MODEL_FILE in names and not (folder / STATE_FILE).exists():
        raise UserError(f"{folder} has a trained model but no {STATE_FILE} to go on from; --fresh trains it again")
    return record["starts"]


def start_run(config: Config, starts: list[dict[str, Any]], fresh: bool) -> Path:
    """Create the run folder, or empty it if `fresh`, and write config.json: the configuration and all starts.

    What a run that was killed had half written goes; the folder must be locked.

    Raises:
        UserError: a file cannot be removed or written; without its state no run goes on in the folder then.
    """
    folder = config.run_dir
    places = (folder, folder / IMAGES_FOLDER, folder / EPOCHS_FOLDER)
    _remove([file for place in places for file in place.glob(".*") if _is_half_written(file)])
    if fresh:
        _remove((*(folder / name for name in OWN_FILES), *(f for p in OWN_PATTERNS for f in folder.glob(p))))
    write_json(folder / CONFIG_FILE, {"config": config.to_dict(), "starts": starts})
    return folder


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {file}: {error.strerror}") from error


def _is_half_written(file: Path) -> bool:
    """Whether a process that was killed left this of a file of ours."""
    return any(fnmatchcase(file.name, pattern) for pattern in HALF_WRITTEN)


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where --keep-every keeps the weights that the run in `folder` had after `epoch` epochs."""
    return folder / EPOCHS_FOLDER / f"epoch-{epoch:04}.safetensors"


def read_record(folder: Path) -> dict[str, Any]:
    """What config.json holds: `config` and `starts`.

    Raises:
        UserError: not a run folder, a damaged one, or one that cannot be read.
    """
    file = folder / CONFIG_FILE
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a run folder: it has no {CONFIG_FILE}; choose another --name") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); --fresh starts the run over") from error
    kinds = {"config": dict, "starts": list}
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{file} is not a run's configuration; choose another --name, or --fresh to replace it")
    return record


def starts_of(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The starts before the end of a run's first epochs, so many; whether each saved its part of one is not recorded.

    Raises:
        UserError: as `read_record`.
    """
    return [start for start in read_record(folder)["starts"] if start["epoch"] < epochs]


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder, which is created if need be, for this process; the kernel lets go when it ends.

    Raises:
        BusyError: another process holds it.
        UserError: the folder cannot be written to, or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    with lock:
        try:
            _wait_for(lock)
        except BlockingIOError as error:
            raise BusyError(f"another process is training in {folder}; wait for it, or give a --name") from error
        except OSError as error:
            raise UserError(f"cannot lock {folder / LOCK_FILE}: {error.strerror}") from error
        yield


def _wait_for(lock: IO) -> None:
    """Lock an open file for this process alone; BlockingIOError where another holds it for longer than a look."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_SECONDS / 20)


def is_running(folder: Path) -> bool:
    """Whether a process is training in the run folder; False where that cannot be found out."""
    try:
        lock = (folder / LOCK_FILE).open("rb")  # not to be written: one may look at the runs of others
    except OSError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False
