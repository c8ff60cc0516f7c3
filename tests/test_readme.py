"""What the pages tell a reader to type is what the programs take, and what they link to exists."""

import importlib
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parent.parent
PAGES = [page for place in (".", "docs", "pretrained", "results/tables") for page in (ROOT / place).glob("*.md")]
ANY = {"--dataset": "mnist", "--model": "esvae"}  # where a page has a name in capitals, for the reader to choose


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(beginning: str) -> list[str]:
    """Those that a page has as a line of a bash block or between single backquotes."""
    found = set()
    for text in map(Path.read_text, PAGES):
        lines = [line.split("#")[0] for block in blocks("bash", text) for line in block.splitlines()]
        quoted = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        found |= {" ".join(command.split()) for command in (*lines, *quoted)}
    return sorted(command for command in found if re.match(beginning, command))


@pytest.fixture
def understands(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[str]], bool]:
    """(program, arguments) -> True once the program has parsed them; it goes no further."""

    class Parsed(Exception):
        pass

    parse = tyro.cli

    def stop(*arguments: object, **options: object) -> None:
        parse(*arguments, **options)
        raise Parsed

    def run(program: str, arguments: list[str]) -> bool:
        with pytest.raises((Parsed, SystemExit)):  # --help exits; arguments that are refused are a UserError
            importlib.import_module(program).main(arguments)
        return True

    monkeypatch.setattr(tyro, "cli", stop)
    return run


@pytest.mark.parametrize("command", commands(r"(?:[A-Z_]+=\S+ )*(?:python |\w+\.py --)"))
def test_a_program_takes_the_arguments_that_a_page_gives_it(command: str, understands: Callable) -> None:
    words = re.sub(r"^(?:[A-Z_]+=\S+ )*(?:python )?(?:-m )?", "", command).split()
    chosen = [ANY.get(flag, word) if word.isupper() else word for flag, word in pairwise(words)]
    own, _, of_training = (part.split() for part in " ".join(chosen).partition("-- "))
    assert understands(words[0].removesuffix(".py"), own)
    assert not of_training or understands("train", ["--dataset", "digits", *of_training])


@pytest.mark.parametrize("command", commands(r"make \w"))
def test_a_make_target_on_a_page_exists(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = blocks("python", (ROOT / "README.md").read_text())
    names: dict = {}
    exec(example, names)
    assert names["images"].shape == (16, 1, 32, 32)
    assert names["spikes"].mean(0).equal(names["rates"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
