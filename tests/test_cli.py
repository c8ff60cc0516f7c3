"""Errors of the command line, in one line."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

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
    for flags in (["--size", "--debug"], ["--debug", "--size"]):
        with pytest.raises(UserError):
            run_program(main, flags)


def test_sigterm_unwinds_a_program_and_leaves_the_signal_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before, ended = signal.getsignal(signal.SIGTERM), []
    assert before == signal.SIG_DFL

    def main(_arguments: list[str]) -> None:
        with TemporaryDirectory() as folder:
            ended.append(Path(folder))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    assert run_program(main, []) == 143
    assert not ended[0].exists() and capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGTERM) == before


def test_whoever_takes_sigterm_keeps_it() -> None:
    taken = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: taken.append(number))
    try:
        assert run_program(lambda _arguments: os.kill(os.getpid(), signal.SIGTERM), []) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == [signal.SIGTERM]


@pytest.mark.parametrize("flag", ["--list", "--help"])
def test_a_reader_who_has_seen_enough_is_no_error(flag: str) -> None:
    program = [sys.executable, str(Path(__file__).parents[1] / "reproduce.py"), flag]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, **streams, env=os.environ | {"PYTHONUNBUFFERED": ""}) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("error", "phrase"),
    [
        (OSError(28, "No space left on device", "runs/x"), "No space left on device (runs/x); make room"),
        (PermissionError(errno.EACCES, "Permission denied", "data/x"), "error: Permission denied: data/x"),
        (PermissionError(errno.EPERM, "Operation not permitted", "x"), "error: Operation not permitted: x"),
        (MemoryError(), "out of memory; smaller batches"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory; smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
    ],
)
def test_a_shortage_is_one_line(error: Exception, phrase: str, capsys: pytest.CaptureFixture) -> None:
    def main(_: list[str]) -> None:
        raise error

    assert run_program(main, []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and phrase in line
    with pytest.raises(type(error)):
        run_program(main, ["--debug"])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"),
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of no file: not the user's to mend
    ],
)
def test_other_errors_of_these_kinds_are_defects_and_keep_their_traceback(error: Exception) -> None:
    def main(_: list[str]) -> None:
        raise error

    with pytest.raises(type(error)):
        run_program(main, [])


def test_a_path_that_the_terminal_cannot_show_is_printed_all_the_same(tmp_path: Path) -> None:
    code = (
        "import os, sys; from cli import run_program; run_program(lambda a: print(a[0]), [os.fsdecode(b'l\\xe4ufe')])"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "l\\udce4ufe\n", "")
