"""Training runs of a second: 33 digits in 7 steps, tested on 40, in the test's own folder."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import train as program
from benchmarks.crashes import what_lasts
from cli import run_program
from training import log, run, step

# Six batches of 5 and one of 3, mirrored at random: every kind of randomness and of batch is in them.
SIZE = ("--train-images", "33", "--batch-size", "5", "--no-drop-last", "--latent-dim", "16")
SPIKING = ("--n-steps", "2", "--mmd-weight", "0.5")
FLAGS = ("--dataset", "digits", *SIZE, "--horizontal-flip", "--device", "cpu", "--name", "run")
N_TESTED = 40


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test, draw and count on 40 test images; what else the programs do stays as it is."""
    whole = run.load_split

    def load_split(dataset: str, split: str, *arguments: object, **options: Any) -> object:
        limit = N_TESTED if split == "test" else options.pop("limit", None)
        return whole(dataset, split, *arguments, **options | {"limit": limit})

    monkeypatch.setattr(run, "load_split", load_split)
    monkeypatch.setattr(log.RunLog, "N_HISTOGRAM", N_TESTED)


def run_in(runs_dir: Path, *flags: str) -> int:
    """The exit code of train.py."""
    spiking = () if "ann_vae" in flags else SPIKING
    return run_program(program.main, [*FLAGS, *spiking, "--runs-dir", str(runs_dir), *flags])


@pytest.fixture(autouse=True)
def small_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., int]:
    """Run train.py with more flags; gives its exit code."""
    return lambda *flags: run_in(tmp_path, *flags)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs that nothing disturbed. To be read only."""
    runs_dir = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        assert run_in(runs_dir, "--epochs", "3") == 0
    return runs_dir / "run"


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Call something right after the n-th training step from here on."""
    original = step.training_step

    def install(n: int, action: Callable[[], object]) -> None:
        steps = itertools.count(1)

        def training_step(*arguments: Any) -> Any:
            result = original(*arguments)
            if next(steps) == n:
                action()
            return result

        monkeypatch.setattr(step, "training_step", training_step)

    yield install


@pytest.fixture
def results() -> Callable[[Path], dict[str, Any]]:
    """What a run leaves and must not depend on interruptions."""
    return what_lasts


@pytest.fixture
def contents() -> Callable[[Path], dict[str, tuple[int, bytes]]]:
    """Every file below a folder: when it was written, and its bytes."""

    def read(folder: Path) -> dict[str, tuple[int, bytes]]:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    return read
