"""Training that is killed with SIGKILL, again and again, ends as if it had not been."""

from pathlib import Path

import pytest

from benchmarks import crashes
from cli import run_program

EVERY = 8  # steps between checkpoints


def check(report: crashes.Report, kills: int) -> None:
    assert len(report.kills) == kills and report.differences == ()
    assert all(0 <= kill.lost <= min(kill.trained, EVERY) for kill in report.kills)


def test_three_kills(tmp_path: Path) -> None:
    check(crashes.crash(tmp_path, 3, EVERY), 3)


@pytest.mark.slow
def test_twenty_five_kills(tmp_path: Path) -> None:
    report = crashes.crash(tmp_path, 25, EVERY, seed=1)
    check(report, 25)
    assert sum(kill.while_writing for kill in report.kills) >= 5
    assert any(kill.lost for kill in report.kills)  # or nothing was tried


@pytest.mark.parametrize(
    ("flags", "phrase"),
    [
        ("--kills 0", "--kills and --every must be at least 1"),
        ("--every 0", "--kills and --every must be at least 1"),
        ("--folder absent", "no folder absent"),
    ],
)
def test_bad_arguments(flags: str, phrase: str, capsys: pytest.CaptureFixture) -> None:
    assert run_program(crashes.main, flags.split()) == 2
    assert phrase in capsys.readouterr().err
