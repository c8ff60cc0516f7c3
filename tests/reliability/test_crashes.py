"""Training that is killed with SIGKILL, again and again, ends as if it had not been."""

from pathlib import Path

import pytest

from benchmarks import crashes
from cli import run_program

INTERVAL, PREEMPTED = 0.1, 0.25  # seconds between checkpoints; by which a busy machine may delay a look at the clock


def check(report: crashes.Report, kills: int) -> None:
    assert len(report.kills) == kills and report.differences == ()
    assert all(kill.unsaved_seconds <= INTERVAL + PREEMPTED for kill in report.kills)
    assert all(0 <= kill.lost <= kill.trained for kill in report.kills)


def test_three_kills(tmp_path: Path) -> None:
    check(crashes.crash(tmp_path, 3, INTERVAL), 3)


@pytest.mark.slow
def test_twenty_five_kills(tmp_path: Path) -> None:
    report = crashes.crash(tmp_path, 25, INTERVAL, seed=1)
    check(report, 25)
    assert sum(kill.while_writing for kill in report.kills) >= 5
    assert any(kill.lost for kill in report.kills)  # or nothing was tried


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        ("--kills 0", "--kills must be at least 1"),
        ("--interval nan", "--interval not negative"),
        ("--folder absent", "no folder absent"),
    ],
)
def test_bad_arguments(flags: str, phrase: str, capsys: pytest.CaptureFixture) -> None:
    assert run_program(crashes.main, flags.split()) == 2
    assert phrase in capsys.readouterr().err
