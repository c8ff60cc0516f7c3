"""Execute the notebooks and bind them into a folder of HTML pages.

    python -m analysis.report            # writes report/index.html

They read results/analysis and measure what is missing there, on the checkpoints that pretrained/ has.
"""

import html
import sys
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from tqdm import tqdm
from traitlets.config import Config

from cli import parse_arguments, run_program
from errors import UserError
from files import write_atomically

NOTEBOOKS = Path("notebooks")
STARTUP_SECONDS = 300  # until a kernel answers; a busy machine takes its time


@dataclass(frozen=True)
class Arguments:
    """Execute the notebooks and bind them into a folder of HTML pages."""

    out: Path = Path("report")
    """folder for the pages"""
    notebooks: Path = NOTEBOOKS
    """folder of the notebooks"""


def main(argv: list[str]) -> None:
    """Execute all notebooks, write a page each and an index.

    Raises:
        UserError: a notebook that fails; the others have their pages, and the index says which.
    """
    arguments = parse_arguments(Arguments, argv, __doc__)
    files = sorted(arguments.notebooks.glob("*.ipynb"))
    if not files:
        raise UserError(f"no notebooks in {arguments.notebooks}")
    for file in files:
        read(file)  # before anything is written
    failures = {}
    for file in tqdm(files, "notebooks", disable=None, leave=False):
        try:
            write_atomically(arguments.out / f"{file.stem}.html", page(execute(file)).encode())
        except UserError as error:
            failures[file.stem] = str(error)
    write_atomically(arguments.out / "index.html", index(files, failures).encode())
    print(arguments.out / "index.html")
    if failures:
        raise UserError("; ".join(failures.values()))


def read(file: Path) -> NotebookNode:
    """A notebook; UserError where it is none."""
    try:
        return nbformat.read(file, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        raise UserError(f"{file} is damaged or no notebook ({type(error).__name__}); restore it") from error


def execute(file: Path, parameters: Mapping[str, Any] | None = None, timeout: int | None = None) -> NotebookNode:
    """A notebook with the outputs of its cells; the file stays as it is.

    Args:
        file: the notebook.
        parameters: names to set anew behind the first code cell, to values that `repr` can write.
        timeout: seconds that a cell may take, and the kernel to start.

    Raises:
        UserError: a cell that fails, or the kernel, in one line.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the kernel has ended.
    """
    notebook = read(file)
    if parameters:
        first = next(k for k, cell in enumerate(notebook.cells) if cell.cell_type == "code")
        source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(source))
    place = {"metadata": {"path": str(file.parent)}}
    with TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}  # else a kernel listens on TCP ports
        options = {"timeout": timeout, "startup_timeout": timeout or STARTUP_SECONDS, "resources": place}
        client = NotebookClient(notebook, config=Config({"KernelManager": sockets}), **options)
        try:
            return client.execute()
        except CellExecutionError as error:
            if error.ename == "KeyboardInterrupt":
                raise KeyboardInterrupt from error
            raise UserError(f"{file} failed: {error.ename}: {error.evalue}") from error
        except (RuntimeError, TimeoutError) as error:  # of the kernel: it did not start, took too long, or was killed
            raise UserError(f"{file} failed: {type(error).__name__}: {error}") from error
        except (AssertionError, CancelledError) as error:
            if client.km:
                raise
            # nbclient takes Ctrl-C and SIGTERM itself: it ends the kernel, and then misses it.
            raise KeyboardInterrupt from error


def page(notebook: NotebookNode) -> str:
    """An executed notebook as HTML."""
    return HTMLExporter().from_notebook_node(notebook)[0]


def index(files: Sequence[Path], failures: Mapping[str, str]) -> str:
    """A page of links to the others, under the notebooks' own headings; failures are said instead."""
    items = []
    for file in files:
        link = f'<a href="{file.stem}.html">{html.escape(title(file))}</a>'
        failed = f"{html.escape(title(file))}: {html.escape(failures.get(file.stem, ''))}"
        items.append(f"<li>{failed if file.stem in failures else link}</li>")
    head = '<!doctype html><meta charset="utf-8"><title>The paper\'s experiments</title>'
    return f"{head}\n<h1>The paper's experiments</h1>\n<ul>\n" + "\n".join(items) + "\n</ul>\n"


def title(file: Path) -> str:
    """A notebook's first heading."""
    lines = (line for cell in read(file).cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), file.stem)


if __name__ == "__main__":
    sys.exit(run_program(main))
