"""A process of train.py that gets SIGTERM is timed, and what it said is told."""

import pytest

from benchmarks import termination
from cli import run_program

FLAGS = ("--dataset", "digits", "--train-images", "50", "--n-steps", "2", "--latent-dim", "8", "--device", "cpu")


def test_a_process_is_stopped_and_timed(capsys: pytest.CaptureFixture) -> None:
    assert run_program(termination.main, ["--after", "0.5", "--", *FLAGS, "--epochs", "100000"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("exit code 143 after ") and "s of processor time: stopped at " in line
    assert line.endswith("; the same command goes on from there")  # within an epoch or at the end of one


def test_training_that_does_not_start_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert run_program(termination.main, ["--", "--dataset", "digits", "--n-steps", "0"]) == 2
    assert "training did not start: error: --n-steps must be at least 1" in capsys.readouterr().err
