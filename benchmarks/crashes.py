"""Kill training with SIGKILL at random moments, resume it each time, and compare with a run that nothing disturbed.

    python -m benchmarks.crashes --kills 25

Every second kill waits until a checkpoint is being written. Prints one line a kill, then how many recovered, what was
lost and whether the finished runs are the same, bit for bit. Takes a minute. The folder decides which disk is tried.

By the clock of these runs every step takes the same time: checkpoints come after the same number of steps on every
machine, and what is lost can be counted.
"""

import csv
import itertools
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import load_file
from tqdm import tqdm

import train
import training.step
from cli import parse_arguments, run_program
from errors import UserError
from files import temporary_prefix
from models.checkpoint import MODEL_FILE
from training import loop
from training.config import Config
from training.evaluation import ReconstructionTest
from training.log import IMAGES_FOLDER, METRICS_FILE, RATES_FILE
from training.run import Run
from training.state import STATE_FILE, load_state

STEPS_PER_EPOCH = 31
# Thirty batches of 5 and one of 3, mirrored at random: every kind of randomness and of batch is in them.
SIZE = ("--train-images", "153", "--batch-size", "5", "--no-drop-last", "--n-steps", "2", "--latent-dim", "16")
RUN = ("--dataset", "digits", *SIZE, "--horizontal-flip", "--mmd-weight", "0.5", "--device", "cpu")
N_TESTED = 40  # so that most of an epoch is training
TIMES = ("images_per_second", "seconds", "peak_memory_bytes")
STEP_SECONDS = 0.01  # by the clock of the runs
MOST_STEPS, MOST_SECONDS = 20, 0.1  # a process lives for a random number of steps, and random seconds more
PATIENCE_STEPS = 40  # in which it must be killed; checkpoints are written among them
SPARE_EPOCHS = 4  # beside one for each kill, in which a process never gets as far


@dataclass(frozen=True)
class Kill:
    """One kill: what was going on, and what was lost.

    Attributes:
        while_writing: it left a half-written checkpoint behind.
        trained: steps that the process had finished.
        lost: of these, the steps that are to be repeated.
    """

    while_writing: bool
    trained: int
    lost: int


@dataclass(frozen=True)
class Report:
    """The kills, and the names of what differs between the killed run and the undisturbed one."""

    kills: tuple[Kill, ...]
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Arguments:
    """Kill and resume."""

    kills: int = 25
    """how often"""
    every: int = 8
    """steps between checkpoints"""
    folder: Path | None = None
    """where the runs go, for another disk than that of temporary files; deleted at the end"""
    seed: int = 0
    """of the moments"""


def what_lasts(folder: Path) -> dict[str, Any]:
    """What a run leaves and interruptions must not change: weights, logs without times, pictures."""
    weights = {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / MODEL_FILE).items()}
    with (folder / METRICS_FILE).open(newline="") as file:
        metrics = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    images = {file.name: file.read_bytes() for file in sorted((folder / IMAGES_FOLDER).iterdir())}
    rates = folder / RATES_FILE  # an ANN has none
    text = rates.read_text() if rates.exists() else ""
    return {"weights": weights, "metrics": metrics, "images": images, "rates": text}


class Trainer:
    """Processes that train one run, each with a trace of its steps."""

    def __init__(self, folder: Path, flags: tuple[str, ...]) -> None:
        self.folder, self.flags = folder, (*RUN, *flags, "--runs-dir", str(folder.parent), "--name", folder.name)
        self.trace = folder.with_suffix(".trace")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["train"])  # PyTorch is imported once

    def start(self, pause_after: int | None = None) -> BaseProcess:
        """A process that is about to take its first step, and waits to be killed after `pause_after` of them.

        Raises:
            UserError: it ended before.
        """
        self.trace.write_text("")
        # A daemon ends with this process, however that ends.
        process = self.context.Process(target=_train, args=(self.flags, self.trace, pause_after), daemon=True)
        process.start()
        while True:
            code = process.exitcode  # asked before: a process that has ended may have started in between
            if self.trace.read_text():
                return process
            if code is not None:
                raise UserError(f"training in {self.folder} did not start: exit code {code}")
            time.sleep(0.01)

    def steps(self) -> int:
        """Steps that the last process has finished."""
        return len(self.trace.read_text().splitlines()) - 1

    def position(self) -> int:
        """Steps that are saved, all in all.

        Raises:
            UserError: a damaged checkpoint.
        """
        file = self.folder / STATE_FILE
        if not file.exists():
            return 0
        state = load_state(file)
        return state.epoch * STEPS_PER_EPOCH + state.step

    def is_saving(self) -> bool:
        return any(self.folder.glob(temporary_prefix(STATE_FILE) + "*"))

    def finish(self) -> None:
        """Train to the end.

        Raises:
            UserError: another exit code than 0.
        """
        process = self.start()
        process.join()
        if process.exitcode:
            raise UserError(f"training in {self.folder} ended with exit code {process.exitcode}")


def _train(flags: tuple[str, ...], trace: Path, pause_after: int | None) -> None:
    """train.py in a process of its own: a line in `trace` when it starts and after every step."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which would outlive the process
    file = os.open(trace, os.O_WRONLY | os.O_APPEND)
    prepare, start_run, step = loop.prepare, loop.start_run, training.step.training_step

    def prepare_with_few_test_images(config: Config) -> Run:
        run = prepare(config)
        run.test = ReconstructionTest(run.model, run.test.images[:N_TESTED])
        return run

    def traced_start(*arguments: Any) -> Path:
        os.write(file, b"start\n")
        return start_run(*arguments)

    steps = itertools.count(1)
    clock = SimpleNamespace(now=0.0)

    def traced_step(*arguments: Any) -> Any:
        result = step(*arguments)
        os.write(file, b"step\n")
        clock.now = STEP_SECONDS * (taken := next(steps))
        if taken == pause_after:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    loop.time = SimpleNamespace(monotonic=lambda: clock.now)

    loop.prepare, loop.start_run, training.step.training_step = prepare_with_few_test_images, traced_start, traced_step
    sys.exit(run_program(train.main, flags))


def kill_once(trainer: Trainer, steps: int, seconds: float, while_writing: bool) -> Kill | None:
    """Start, wait for steps and seconds more, kill; None where the run finished before."""
    before, last = trainer.position(), steps + PATIENCE_STEPS
    process = trainer.start(pause_after=last)  # whoever kills it may be held up: it must not finish meanwhile
    while process.exitcode is None and trainer.steps() < steps:
        time.sleep(0.001)
    time.sleep(seconds)
    while while_writing and process.exitcode is None and not trainer.is_saving() and trainer.steps() < last:
        pass
    process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    if process.exitcode != -signal.SIGKILL:
        raise UserError(f"training in {trainer.folder} ended with exit code {process.exitcode}")
    trained = trainer.steps()
    return Kill(trainer.is_saving(), trained, trained - (trainer.position() - before))


def crash(
    folder: Path, kills: int, every: int = 8, seed: int = 0, tell: Callable[[int, Kill], None] | None = None
) -> Report:
    """Train twice below `folder`, once undisturbed and once killed `kills` times; fewer where the run ends before.

    Args:
        folder: where the runs go.
        kills: how many.
        every: steps between checkpoints; at most so many are lost.
        seed: of the moments.
        tell: called with the number of a kill and the kill.

    Raises:
        UserError: a run that did not recover.
    """
    moments = random.Random(seed)
    minutes = (every - 0.5) * STEP_SECONDS / 60
    flags = ("--epochs", str(kills + SPARE_EPOCHS), "--checkpoint-every", str(minutes))
    undisturbed, killed = Trainer(folder / "undisturbed", flags), Trainer(folder / "killed", flags)
    undisturbed.finish()
    done: list[Kill] = []
    for number in range(kills):
        steps, seconds = moments.randint(0, MOST_STEPS), moments.uniform(0, MOST_SECONDS)
        kill = kill_once(killed, steps, seconds, while_writing=number % 2 == 1)
        if kill is None:
            break
        done.append(kill)
        if tell:
            tell(number, kill)
    killed.finish()
    ours, theirs = what_lasts(killed.folder), what_lasts(undisturbed.folder)
    return Report(tuple(done), tuple(name for name in theirs if ours[name] != theirs[name]))


def main(argv: list[str]) -> None:
    """Parse, kill, compare and print."""
    a = parse_arguments(Arguments, argv, __doc__)
    if a.kills < 1 or a.every < 1:
        raise UserError("--kills and --every must be at least 1")
    if a.folder and not a.folder.is_dir():
        raise UserError(f"no folder {a.folder}: give one on the disk that is to be tried")
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        try:
            report = crash(Path(folder), a.kills, a.every, a.seed, _tell)
        finally:
            for child in multiprocessing.active_children():  # of an interrupted benchmark: before its folder goes
                child.kill()
                child.join()
    kills = report.kills
    print(f"{len(kills)} kills, all recovered; {sum(kill.while_writing for kill in kills)} while writing a checkpoint")
    print(f"lost: at most {max((kill.lost for kill in kills), default=0)} steps, with a checkpoint every {a.every}")
    print(f"finished run: {'differs in ' + ', '.join(report.differences) if report.differences else 'bit-identical'}")
    if report.differences or len(kills) < a.kills or any(kill.lost > a.every for kill in kills):
        raise UserError("the killed run differs, lost more than an interval, or ended before it was killed so often")


def _tell(number: int, kill: Kill) -> None:
    writing = ", while a checkpoint was written" if kill.while_writing else ""
    print(f"kill {number + 1}: after {kill.trained} steps, {kill.lost} lost{writing}", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
