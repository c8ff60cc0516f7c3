"""A process of train.py that gets SIGTERM is timed, and what it said is told."""

import pytest

from benchmarks import termination
from benchmarks.termination import Ending
from cli import run_program

FLAGS = ("--dataset", "digits", "--model", "ann_vae", "--train-images", "50", "--latent-dim", "8", "--device", "cpu")


def test_processes_of_a_run_are_stopped_and_timed(capsys: pytest.CaptureFixture) -> None:
    """Of a model without neurons, whose run says least."""
    assert run_program(termination.main, ["--after", "0.5", "0", "--", *FLAGS, "--epochs", "100000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("exit code 143 after ") and "s of processor time: stopped at " in line
        assert line.endswith("; the same command goes on from there")  # within an epoch or at the end of one


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (Ending(143, "", 9.9, 9.9), ""),
        (Ending(143, "", 11.0, 1.0), ""),  # others had the processor
        (Ending(143, "", 1.0, 11.0), ""),  # several threads had it
        (Ending(143, "", 11.0, 11.0), "error: a process took more than 10 s to end\n"),
        (Ending(130, "", 1.0, 1.0), "error: a process that was asked to stop did not end with 143\n"),
        (Ending(0, "", 1.0, 1.0), "error: a process that was asked to stop did not end with 143\n"),
    ],
)
def test_one_bad_ending_is_a_failure(
    ending: Ending, error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    endings = iter([Ending(143, "", 1.0, 1.0), ending, Ending(143, "", 1.0, 1.0)])
    monkeypatch.setattr(termination, "terminate", lambda *_: next(endings))
    assert run_program(termination.main, ["--after", "1", "2", "3"]) == (2 if error else 0)
    assert capsys.readouterr().err == error


def test_training_that_does_not_start_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert run_program(termination.main, ["--", "--dataset", "digits", "--n-steps", "0"]) == 2
    assert "training did not start: error: --n-steps must be at least 1" in capsys.readouterr().err
