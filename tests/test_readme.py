"""What the README tells a reader to type must exist, and what any page links to."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(prefix: str) -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith(prefix)})


@cache
def help_of(program: tuple[str, ...]) -> str:
    command = [sys.executable, *program, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", [c for c in commands("python ") if " -m " not in c])
def test_a_program_in_the_readme_knows_its_flags(command: str) -> None:
    program, *arguments = command.split()[1:]
    text = help_of((program,))
    for flag in (a for a in arguments if a.startswith("--")):
        assert re.search(rf"{flag}\b", text), f"{program} has no {flag}"


@pytest.mark.parametrize("command", commands("python -m"))
def test_a_module_in_the_readme_knows_its_flags(command: str) -> None:
    _, _, module, *arguments = command.split()
    text = help_of(("-m", module))
    for flag in (a for a in arguments if a.startswith("--")):
        assert re.search(rf"{flag}\b", text), f"{module} has no {flag}"


@pytest.mark.parametrize("target", [c.split()[1] for c in commands("make ")])
def test_a_make_target_in_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = blocks("python")
    names: dict = {}
    exec(example, names)
    assert names["images"].shape == (16, 1, 32, 32)
    assert names["spikes"].mean(0).equal(names["rates"])


PAGES = [page for place in (".", "docs", "pretrained", "results/tables") for page in (ROOT / place).glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
