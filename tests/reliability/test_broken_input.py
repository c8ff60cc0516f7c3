"""Whatever is wrong with what a program is given: one line, exit code 2, no traceback, nothing changed on disk.

The table is in the files cases_*.py; a new program needs lines there only.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import run_program
from tests.reliability.cases_analysis import ANALYSIS_CASES
from tests.reliability.cases_checkpoint import CHECKPOINT_CASES
from tests.reliability.cases_evaluate import EVALUATE_CASES
from tests.reliability.cases_reproduce import METRICS_CASES, REPRODUCE_CASES
from tests.reliability.cases_train import TRAIN_CASES
from tests.reliability.spoil import ROOT, Case

CASES = [*TRAIN_CASES, *CHECKPOINT_CASES, *EVALUATE_CASES, *REPRODUCE_CASES, *METRICS_CASES, *ANALYSIS_CASES]


def check_refused(
    case: Case, world: Path, snapshot: Callable, refuse: Callable[[str, list[str]], tuple[int, str]]
) -> None:
    if case.prepare:
        case.prepare()
    before = snapshot(world)
    module, *arguments = case.command.split()
    code, error = refuse(module, [*arguments, *case.arguments])
    line, *more = error.splitlines() or [""]
    assert line.startswith("error: ") and case.phrase in line and not more, error
    assert code == 2
    assert snapshot(world) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command.split()[0]}: {case.name}")
def test_broken_input_is_one_line_and_changes_nothing(
    case: Case, world: Path, snapshot: Callable, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    def refuse(module: str, arguments: list[str]) -> tuple[int, str]:
        capsys.readouterr()
        code = run_program(importlib.import_module(module).main, arguments)
        return code, capsys.readouterr().err

    check_refused(case, world, snapshot, refuse)
    assert not recwarn.list


@pytest.mark.parametrize("case", [case for case in CASES if case.as_process], ids=lambda case: case.name)
def test_a_process_refuses_it_too(case: Case, world: Path, snapshot: Callable) -> None:
    def refuse(module: str, arguments: list[str]) -> tuple[int, str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", module, *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        return ended.returncode, ended.stderr

    check_refused(case, world, snapshot, refuse)


def test_the_table_covers_every_program() -> None:
    files = [file for folder in (".", "metrics", "analysis") for file in (ROOT / folder).glob("*.py")]
    programs = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if "__main__" in file.read_text()
    }
    assert {case.command.split()[0] for case in CASES} == programs
    assert len({(case.command.split()[0], case.name) for case in CASES}) == len(CASES)
