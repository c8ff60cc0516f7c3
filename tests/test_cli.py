"""Errors of the command line, in one line."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import parse_arguments, run_program
from errors import UserError


@dataclass(frozen=True)
class Arguments:
    """What to do."""

    size: int = 1
    """how large"""


def test_arguments_become_a_dataclass() -> None:
    assert parse_arguments(Arguments, ["--size", "3"], None) == Arguments(3)


@pytest.mark.parametrize("columns", ["20", "80", "400"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_error_is_one_line_in_every_terminal(columns: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    with pytest.raises(UserError) as caught:
        parse_arguments(Arguments, ["--size", "many"], None)
    text = str(caught.value)
    assert text.startswith("Error parsing --size: invalid literal") and text.endswith("; --help shows every flag")
    assert "how large" not in text and "│" not in text


def test_help_is_printed_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(Arguments, ["--help"], "Does something.")
    text = capsys.readouterr().out
    assert not end.value.code and "how large" in text and "Does something." in text


def test_debug_lets_the_traceback_through() -> None:
    def main(arguments: list[str]) -> None:
        assert arguments == ["--size"]
        raise UserError("no")

    assert run_program(main, ["--size"]) == 2
    with pytest.raises(UserError):
        run_program(main, ["--size", "--debug"])


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    program = [sys.executable, str(Path(__file__).parents[1] / "reproduce.py"), "--list"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE
