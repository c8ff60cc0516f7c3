"""A disk that is full or read-only: one clear error, and the previous checkpoint stays valid."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import evaluate
import train
from benchmarks.crashes import what_lasts
from cli import run_program
from training import loop, run
from training.state import load_state

SIZE = ("--train-images", "20", "--batch-size", "5", "--n-steps", "1", "--latent-dim", "4")
FLAGS = ("--dataset", "digits", *SIZE, "--device", "cpu", "--name", "run")
ROOT = Path(__file__).parents[2]
MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 32 MB; skipped where one may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path, but: int) -> None:
    """Write until so many bytes are free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(free - but))


def one_line(capsys: pytest.CaptureFixture) -> str:
    line, *more = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and not more
    return line


# Bytes left free: room for nothing, for logs but no pictures, for pictures but no model, for a model but no state.
@pytest.mark.parametrize("free", [0, 8 << 10, 256 << 10, 3 * MEGABYTE])
def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    free: int, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def start(runs_dir: Path, *flags: str) -> int:
        return run_program(train.main, [*FLAGS, "--runs-dir", str(runs_dir), *flags])

    assert start(tmp_path, "--epochs", "3") == 0
    assert start(small_disk, "--epochs", "1") == 0
    state = (small_disk / "run/last.pt").read_bytes()
    start_run = loop.start_run

    def start_and_fill(*arguments: object) -> Path:
        folder = start_run(*arguments)
        fill(small_disk, but=free)
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(loop, "start_run", start_and_fill)
        capsys.readouterr()
        assert start(small_disk, "--epochs", "3") == 2
    assert f"cannot write {small_disk / 'run'}" in (line := one_line(capsys)) and "No space left" in line
    assert load_state(small_disk / "run/last.pt").epoch == 1 and (small_disk / "run/last.pt").read_bytes() == state
    (small_disk / "ballast").unlink()
    assert start(small_disk, "--epochs", "3") == 0
    assert what_lasts(small_disk / "run") == what_lasts(tmp_path / "run")


def test_a_disk_that_fills_between_two_checkpoints_of_an_epoch_keeps_the_first(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save = run.save_state

    def save_and_fill(*arguments: object) -> None:
        save(*arguments)
        fill(small_disk, but=MEGABYTE)

    monkeypatch.setattr(run, "save_state", save_and_fill)
    arguments = [*FLAGS, "--runs-dir", str(small_disk), "--epochs", "1", "--checkpoint-every", "0"]
    assert run_program(train.main, arguments) == 2
    assert f"cannot write {small_disk / 'run/last.pt'}: No space left" in one_line(capsys)
    assert load_state(small_disk / "run/last.pt").step == 1
    assert not list((small_disk / "run").glob(".last.pt-*"))


def test_output_on_a_full_disk_is_one_error(small_disk: Path) -> None:
    fill(small_disk, but=0)
    with (small_disk / "log").open("w") as log:
        command, environment = [sys.executable, "reproduce.py", "--list"], os.environ | {"PYTHONUNBUFFERED": ""}
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: No space left on device (output); make room and give the same command again\n"


def test_a_read_only_disk_is_one_error(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, snapshot: Callable
) -> None:
    runs = ["--runs-dir", str(small_disk)]
    assert run_program(train.main, [*FLAGS, *runs, "--epochs", "1"]) == 0
    before = snapshot(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.chdir(small_disk)
    refused = {
        (train.main, (*FLAGS, *runs, "--epochs", "2")): "Read-only file system",
        (train.main, (*FLAGS, *runs, "--epochs", "1", "--name", "new")): "Read-only file system",
        (evaluate.main, ("--checkpoint", str(small_disk / "run"), "--n-images", "2")): "Read-only file system",
    }
    for (program, arguments), phrase in refused.items():
        capsys.readouterr()
        assert run_program(program, arguments) == 2
        assert phrase in one_line(capsys)
    assert snapshot(small_disk) == before
