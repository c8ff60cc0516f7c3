"""Notebooks are committed without outputs and run from start to end, on any machine and without a network."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from analysis.report import execute, main
from cli import run_program

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DIGITS = {"CHECKPOINTS": {"digits": ["pretrained/esvae-digits.safetensors"]}, "RERUN": False, "N_IMAGES": 16}
TIMEOUT = 600  # seconds per cell: far above the 10 that it takes, for machines that are busy


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_committed_without_outputs(file: Path) -> None:
    cells = code_cells(nbformat.read(file, as_version=4))
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert all(name in cells[0].source for name in ("CHECKPOINTS", "RERUN = False"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_on_the_digits_model(file: Path) -> None:
    done = execute(file, DIGITS, timeout=TIMEOUT)
    kinds = {kind for cell in code_cells(done) for output in cell.outputs for kind in output.get("data", {})}
    assert kinds & {"text/html", "image/png", "text/markdown"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two notebooks, of which the first works."""
    for name, source in (("a", "CHECKPOINTS = 1\nprint(6 * 7)"), ("b", "raise ValueError('no luck')")):
        cells = [nbformat.v4.new_markdown_cell(f"# Number {name} & more"), nbformat.v4.new_code_cell(source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    return tmp_path


def test_parameters_come_behind_the_first_code_cell(folder: Path) -> None:
    cells = code_cells(execute(folder / "a.ipynb", {"CHECKPOINTS": ["x"]}))
    assert [cell.source for cell in cells] == ["CHECKPOINTS = 1\nprint(6 * 7)", "CHECKPOINTS = ['x']"]


def test_a_report_has_a_page_for_each_notebook_and_names_the_one_that_failed(folder: Path, capsys) -> None:
    out = folder / "out"
    assert run_program(main, ["--out", str(out), "--notebooks", str(folder)]) == 2
    assert "b.ipynb failed: ValueError: no luck" in capsys.readouterr().err
    assert {file.name for file in out.iterdir()} == {"a.html", "index.html"}
    assert "42" in (out / "a.html").read_text()
    links = (out / "index.html").read_text()
    assert '<a href="a.html">Number a &amp; more</a>' in links
    assert "no luck" in links and 'href="b.html"' not in links


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


INTERRUPTED = """
import os, pathlib, signal, time
pathlib.Path("kernel").write_text(str(os.getpid()))
{interrupt}
time.sleep(600)
"""


@pytest.mark.parametrize(
    "interrupt",
    ["os.kill(os.getppid(), signal.SIGTERM)", "os.kill(os.getppid(), signal.SIGINT)", "raise KeyboardInterrupt"],
)
def test_a_report_that_is_interrupted_ends_with_its_kernel_and_goes_to_no_other_notebook(
    interrupt: str, folder: Path
) -> None:
    cells = [nbformat.v4.new_code_cell(INTERRUPTED.format(interrupt=interrupt))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "a.ipynb")
    command = [sys.executable, "-m", "analysis.report", "--out", str(folder / "out"), "--notebooks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (130, "")
    assert "analysis/report.py" not in done.stderr
    assert not is_running(int((folder / "kernel").read_text())) and not (folder / "out").exists()
