"""Imports point one way: no module knows anything of what is built on it."""

import ast
import re
from pathlib import Path

import pytest

import analysis

ROOT = Path(__file__).parent.parent
# From the ground up; what shares a line may import each other.
LAYERS = (
    ("errors", "files", "provenance"),
    ("neurons",),
    ("losses",),
    ("models",),
    ("data",),
    ("training",),
    ("cli",),
    ("metrics",),
    ("analysis",),
    ("train", "evaluate", "reproduce"),
    ("benchmarks",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
MODULES = sorted(
    file for name in HEIGHT for file in (ROOT / f"{name}.py", *(ROOT / name).rglob("*.py")) if file.exists()
)
PROGRAMS = [file for file in MODULES if "__main__" in file.read_text()]


def imported(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_nothing_from_above_it(file: Path) -> None:
    own = HEIGHT[file.relative_to(ROOT).parts[0].removesuffix(".py")]
    assert {name for name in imported(file) if HEIGHT.get(name, -1) > own} == set()


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_program_says_its_errors_in_one_line_and_ends_with_its_exit_code(file: Path) -> None:
    *_, last = ast.parse(file.read_text()).body
    assert ast.unparse(last) == "if __name__ == '__main__':\n    sys.exit(run_program(main))"


def test_every_module_of_the_project_has_its_layer() -> None:
    at_the_top = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert at_the_top | folders == set(HEIGHT)


def test_every_module_of_analysis_is_in_its_map() -> None:
    names = {path.stem for path in (ROOT / "analysis").glob("[a-z]*.py")}
    assert set(re.findall(r"`(\w+)`", analysis.__doc__)) == names
