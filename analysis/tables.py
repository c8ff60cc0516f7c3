"""Turn results/ into the paper's tables and lists of what was found, and put them into README.md and docs/.

    python -m analysis.tables

Writes results/tables/<table>.csv (all digits), .md and .tex, and renews what stands between the markers
`<!-- begin NAME -->` and `<!-- end NAME -->` of README.md and of pages in docs/; the words around them are written by
hand. It measures nothing: `reproduce.py` and the experiments make the results. Takes seconds.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.experiment_tables import TABLE2, TABLE3, experiment_table
from analysis.formats import as_latex
from analysis.full_budget import Table, full_budget_table
from analysis.rate_convergence import convergence_table
from analysis.rows import Places, read_plan
from analysis.run_list import run_list
from analysis.summaries import SUMMARIES, summaries
from analysis.table1 import HEADINGS, table1
from analysis.table_layout import latex_layout, markdown_layout
from analysis.trial_tables import precision_table, recipe_table, switch_table
from cli import parse_arguments, run_program
from errors import UserError
from files import write_atomically

RESULTS, TABLES_PAGE = Path("results"), Path("docs/tables.md")
TRIALS = ("recipe_search", "variant_switches", "precisions")
PAGES = {
    Path("README.md"): ("full_budget",),
    Path("docs/results.md"): ("full_budget",),
    TABLES_PAGE: ("table1", "table2", "table3", "runs"),
    Path("docs/trials.md"): TRIALS,
    Path("docs/experiments.md"): (*SUMMARIES, "rate_convergence"),
}
"""Which sections stand in which page."""


@dataclass(frozen=True)
class Arguments:
    """Turn results into tables."""

    results: Path = RESULTS
    """folder of the results, the experiments' in its folder `analysis`; tables go to its folder `tables`"""
    document: Path | None = None
    """page with the marks of docs/tables.md; if None the project's pages are renewed, and none for other --results"""


def main(argv: list[str]) -> None:
    """Read, write, and print what was written."""
    a = parse_arguments(Arguments, argv, __doc__)
    if a.results != RESULTS and not a.results.is_dir():
        raise UserError(f"no folder {a.results}: give one with results of reproduce.py")
    files = make(a.results)
    written = {a.results / "tables" / name: content for name, content in files.items()}
    for document, names in pages(a, sections(files)).items():
        written[document] = renewed(_read(document), names, document)
    for path, content in written.items():
        write_atomically(path, content.encode())
        print(path)


def pages(a: Arguments, content: Mapping[str, str]) -> dict[Path, dict[str, str]]:
    """Which of the sections are renewed in which page."""
    ours = PAGES if a.results == RESULTS else {}
    asked = {a.document: PAGES[TABLES_PAGE]} if a.document else ours
    return {page: {name: content[name] for name in names} for page, names in asked.items()}


def make(results: Path) -> dict[str, str]:
    """Every table in every format, by file name.

    Raises:
        UserError: results that are damaged or do not fit each other.
    """
    plan, places = read_plan(), Places(results=results)
    tables = {
        "table1": Table("Table I", table1(plan, places), HEADINGS),
        TABLE2.name: Table("Table II", experiment_table(TABLE2, plan, places), TABLE2.headings),
        TABLE3.name: Table("Table III", experiment_table(TABLE3, plan, places), TABLE3.headings),
    }
    files = {}
    for name, table in tables.items():
        files |= in_every_format(name, table.lines, table.headings)
    files |= {f"{name}.md": text for name, text in summaries(results).items()}
    return files | {
        "full_budget.md": full_budget_table(tables.values(), plan),
        "rate_convergence.md": convergence_table(plan, places),
        "runs.md": run_list(plan, places),
        "recipe_search.md": recipe_table(results / "recipe_search.csv"),
        "variant_switches.md": switch_table(results / "variant_switches.csv"),
        "precisions.md": precision_table(results / "precisions.csv"),
    }


def in_every_format(name: str, table: pd.DataFrame, headings: Mapping[str, str]) -> dict[str, str]:
    """<name>.csv with all digits, .md and .tex as a reader sees it."""
    return {
        f"{name}.csv": table.to_csv(index=False, float_format="%.6g"),
        f"{name}.md": markdown_layout(table, headings),
        f"{name}.tex": as_latex(latex_layout(table, headings), left=3),
    }


def sections(files: Mapping[str, str]) -> dict[str, str]:
    """What stands between the page's markers, by their name: the Markdown files, their links from docs/."""
    tables = {Path(name).stem: content for name, content in files.items() if name.endswith(".md")}
    # One folder less to go up; the spaces keep the columns of the table as wide.
    return {name: re.sub(r"\]\(\.\./(\.\./\S+\))", r"](\1   ", content) for name, content in tables.items()}


def renewed(page: str, sections: Mapping[str, str], name: Path) -> str:
    """The page with what stands between the markers of each section replaced.

    Raises:
        UserError: a section that the page has not got exactly once.
    """
    for section, content in sections.items():
        begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
        pattern = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", flags=re.DOTALL)
        page, count = pattern.subn(lambda _, content=content: f"\n{content}\n", page)
        if count != 1:
            raise UserError(f"{name} must have a line {begin} with a line {end} below it once, not {count} times")
    return page


def _read(document: Path) -> str:
    try:
        return document.read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"cannot read {document}: {reason}; --document names the page") from error


if __name__ == "__main__":
    sys.exit(run_program(main))
