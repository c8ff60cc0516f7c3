"""Numbers of runs with their full budget beside the published ones: what is reproduced, and what is not."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from analysis.formats import markdown_table, with_deviation
from analysis.published import DATASET_NAMES
from analysis.rows import Plan
from analysis.table_lines import Line

HEADINGS = ("data set", "model", "number", "published", "ours", "relative difference", "seeds", "epochs")
NOT_RUN = "No run has had its full budget yet.\n"


class Table(NamedTuple):
    """One of the paper's tables: its title, its lines as `analysis.table_lines.frame` makes them, its headings."""

    title: str
    lines: pd.DataFrame
    headings: Mapping[str, str]


def full_budget_table(tables: Iterable[Table], plan: Plan) -> str:
    """A line for each number that is published too, of runs that trained all epochs by a recipe that is not our own."""
    published_recipes = {row.name for row in plan.rows if row.recipe == "paper"}
    rows = []
    for table in tables:
        for line in table.lines.query("status == 'done' and epochs == full_epochs").to_dict("records"):
            if published_recipes.issuperset(line["runs"].split(", ")):
                rows += _rows(table, line)
    return markdown_table(HEADINGS, rows, left=3) + "\n" if rows else NOT_RUN


def _rows(table: Table, line: Line) -> Iterator[tuple[str, ...]]:
    """The numbers of a line that have a published one."""
    for column, heading in table.headings.items():
        difference = line.get(f"{column}_difference")
        if pd.notna(difference):
            ours = line[column]
            published = ours - difference
            yield (
                *(DATASET_NAMES[line["dataset"]], line["model"], f"{table.title}: {heading}"),
                *(f"{published:.4g}", with_deviation(ours, line[f"{column}_std"])),
                *(f"{difference / published:+.1%}", f"{line[f'{column}_n']:.0f}", f"{line['epochs']:.0f}"),
            )
