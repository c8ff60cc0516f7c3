"""Train for minutes at fixed size and watch what the process holds: resident memory and open files must not grow.

    OMP_NUM_THREADS=1 python -m benchmarks.soak           # ten minutes on digits
    python -m benchmarks.soak -- --n-steps 4              # flags of train.py, on a machine that is busy with others

The whole of training takes part: steps, tests, pictures, logs, checkpoints every second. Compares the last half minute
with the half minute after two minutes, by which everything has been allocated; fails where memory has grown by more
than 2 % or more files are open. The run goes into a temporary folder.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import train
from cli import parse_arguments, run_program, split_flags
from errors import UserError
from files import write_json
from provenance import provenance
from training.config import Config
from training.device import resolve_device
from training.loop import fit
from training.stop import Stopped

ALLOWED_GROWTH = 0.02
SETTLED, WINDOW = 120.0, 30.0  # seconds until everything is allocated; over which samples are taken together
FOREVER = 10**6  # epochs
DIGITS = ("--dataset", "digits", "--train-images", "200")


@dataclass(frozen=True)
class Arguments:
    """Train for minutes and watch memory and open files. Flags of train.py after `--`."""

    minutes: float = 10.0
    """how long"""
    json: Path | None = None
    """file for all samples"""


@dataclass(frozen=True)
class Sample:
    """seconds since the start; resident bytes; open file descriptors."""

    seconds: float
    memory: int
    files: int


@dataclass(frozen=True)
class Growth:
    """Medians of resident bytes and of open files, settled and at the end."""

    memory: tuple[float, float]
    files: tuple[float, float]

    @property
    def of_memory(self) -> float:
        """Relative growth."""
        return self.memory[1] / self.memory[0] - 1


def sample(started: float) -> Sample:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    return Sample(time.monotonic() - started, memory, len(os.listdir("/proc/self/fd")))


def growth(samples: list[Sample], settled: float = SETTLED, window: float = WINDOW) -> Growth:
    """Compare the samples of a window after `settled` seconds with those of a window at the end.

    Raises:
        UserError: the samples end before both.
    """
    end = samples[-1].seconds
    if end < settled + 2 * window:
        raise UserError(f"{end:.0f} s are too few to compare: take at least {(settled + 2 * window) / 60:.2g} minutes")
    first = [s for s in samples if settled <= s.seconds < settled + window]
    last = [s for s in samples if s.seconds >= end - window]
    memory, files = (
        tuple(statistics.median(getattr(s, name) for s in part) for part in (first, last))
        for name in ("memory", "files")
    )
    return Growth(memory, files)


def soak(config: Config, minutes: float, every: float = 1.0) -> list[Sample]:
    """Train for so many minutes and take a sample every second.

    Raises:
        UserError: as training, or a system without /proc.
    """
    if not Path("/proc/self/statm").exists():
        raise UserError("the resident memory is read from /proc, which this system has not got")
    started, samples, done = time.monotonic(), [], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            samples.append(sample(started))

    watcher = threading.Thread(target=watch, name="soak")
    watcher.start()
    try:
        fit(config, deadline=started + 60 * minutes)
    except Stopped as stopped:
        if stopped.exit_code:
            raise
    finally:
        done.set()
        watcher.join()
    return samples


def main(argv: list[str]) -> None:
    """Parse, train, compare and print."""
    own, of_training = split_flags(argv)
    a, what = parse_arguments(Arguments, own, __doc__), train.parse([*DIGITS, *of_training]).config
    if not a.minutes * 60 >= SETTLED + 2 * WINDOW:
        raise UserError(f"--minutes must be at least {(SETTLED + 2 * WINDOW) / 60:g}, got {a.minutes}")
    with tempfile.TemporaryDirectory() as folder:
        config = replace(what, runs_dir=Path(folder), epochs=FOREVER, checkpoint_every=1 / 60)
        samples = soak(config, a.minutes)
    found = growth(samples)
    if a.json:
        rows = [(round(s.seconds, 1), s.memory, s.files) for s in samples]
        write_json(a.json, {"samples": rows} | provenance(resolve_device(what.device)))
    print(f"resident memory: {_megabytes(found.memory[0])} after {SETTLED / 60:g} minutes, ", end="")
    print(f"{_megabytes(found.memory[1])} after {samples[-1].seconds / 60:.1f} ({found.of_memory:+.2%})")
    print(f"open files: {found.files[0]:g}, then {found.files[1]:g}")
    if found.of_memory > ALLOWED_GROWTH or found.files[1] > found.files[0]:
        raise UserError(f"memory grew by more than {ALLOWED_GROWTH:.0%}, or more files are open")


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(run_program(main))
