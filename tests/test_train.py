"""train.py as its users meet it: what it prints, its exit codes, and how it is stopped."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from cli import run_program
from errors import UserError
from training.stop import Stopped

ROOT = Path(train.__file__).parent
SIZE = ("--train-images", "50", "--batch-size", "25", "--n-steps", "2", "--latent-dim", "8")
FLAGS = ("--dataset", "digits", *SIZE, "--device", "cpu")


def test_part_of_a_data_set_is_trained_on_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "celeba").mkdir()
    for number in (1, 2, 182_638):  # two training images and a test image
        Image.new("L", (89, 109), number % 200).save(tmp_path / "celeba" / f"{number:06d}.jpg")
    size = ("--batch-size", "2", "--n-steps", "1", "--latent-dim", "4", "--epochs", "1", "--device", "cpu")
    folders = ("--data-dir", str(tmp_path), "--runs-dir", str(tmp_path / "runs"))
    arguments = ["--dataset", "celeba", *size, *folders]
    assert run_program(train.main, arguments) == 2
    expected = (
        "celeba has 2 of 162,770 training images here: give --train-images 2 to train on these (rows of "
        "experiments.toml want all)"
    )
    assert capsys.readouterr().err.splitlines() == [f"error: {expected}"]
    assert not (tmp_path / "runs").exists()
    assert run_program(train.main, [*arguments, "--train-images", "2"]) == 0


def test_a_gpu_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert run_program(train.main, [*FLAGS, "--device", "cuda", "--runs-dir", str(tmp_path), "--dry-run"]) == 2
    expected = "error: device 'cuda' was asked for, but PyTorch finds 0 CUDA devices; use --device cpu\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("first\nsecond"), 2, "error: first second\n"),
        (Stopped("stopped at epoch 1", signal.SIGTERM), 143, "stopped at epoch 1\n"),
        (Stopped("time is up", 0), 0, "time is up\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture) -> None:
    def program(_arguments: list[str]) -> None:
        raise error

    assert run_program(program, []) == code
    assert capsys.readouterr().err == text


def test_a_defect_keeps_its_traceback() -> None:
    def program(_arguments: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_program(program, [])


def test_dry_run_prints_the_configuration_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.load_split", None)  # reads no data either
    arguments = ["--dataset", "mnist", "--variant", "code", "--runs-dir", str(tmp_path), "--dry-run"]
    assert run_program(train.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    config = train.parse(arguments).config
    assert lines == [f"would train in {config.run_dir}:"] + [f"  {k} = {v}" for k, v in config.to_dict().items()]
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_where_it_is_and_how_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_program(train.main, [*FLAGS, "--runs-dir", str(tmp_path), "--epochs", "1"]) == 0
    first, *_, epoch, last = capsys.readouterr().out.splitlines()
    folder = tmp_path / "digits-esvae-paper-seed42"
    assert first == f"esvae (paper) on digits: {folder}" and last == f"done: {folder}"
    assert epoch.split()[:2] == ["epoch", "1"] and all(word in epoch for word in ("train", "test", "mmd", "img/s"))


def test_tensorboard_leaves_the_metrics_as_events(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments = [*FLAGS, "--runs-dir", str(tmp_path), "--name", "run", "--epochs", "1", "--tensorboard"]
    assert run_program(train.main, arguments) == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert set(events.Tags()["scalars"]) == row.keys() - {"epoch", "step"}
    logged = events.Scalars("test_reconstruction")[0]
    assert logged.step == 1 and logged.value == pytest.approx(float(row["test_reconstruction"]))


def process(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Callable[[int], Path]:
    def run(epochs: int) -> Path:
        arguments = ["--runs-dir", str(tmp_path), "--name", "uninterrupted", "--epochs", str(epochs)]
        assert run_program(train.main, [*FLAGS, *arguments]) == 0
        return tmp_path / "uninterrupted"

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_asked_to_stop_can_be_continued(
    number: int, tmp_path: Path, uninterrupted: Callable[[int], Path], capsys: pytest.CaptureFixture
) -> None:
    where = ["--runs-dir", str(tmp_path), "--name", "run"]
    running = process(*FLAGS, *where, "--epochs", "1000")
    try:
        while not (line := running.stdout.readline()).startswith("epoch"):
            assert line, running.stderr.read()
        assert run_program(train.main, [*FLAGS, *where, "--epochs", "1000"]) == 2
        assert "another process is training in" in capsys.readouterr().err
        running.send_signal(number)
        _, error = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 128 + number
    assert error.startswith("stopped at ") and error.endswith("; the same command goes on from there\n")
    assert len(error.splitlines()) == 1
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    epochs = state["epoch"] + 1
    assert run_program(train.main, [*FLAGS, *where, "--epochs", str(epochs)]) == 0
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "run", uninterrupted(epochs)))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
