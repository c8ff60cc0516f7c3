"""A table as text for a terminal, as Markdown and as LaTeX."""

from collections.abc import Iterable, Sequence

import pandas as pd

LATEX_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"±": "$\\pm$", "`": ""},
}


def as_text(table: pd.DataFrame) -> str:
    """Fixed-width text for a terminal, empty cells as '-'."""
    return table.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}")


def with_deviation(mean: float, deviation: float) -> str:
    """Mean ± standard deviation; the mean alone where that is NaN."""
    return f"{mean:.4g}" + ("" if pd.isna(deviation) else f" ± {deviation:.2g}")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Markdown that reads well unrendered; the first `left` columns on the left, the others on the right."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [_padded(line, widths, left) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def _padded(line: list[str], widths: list[int], left: int) -> list[str]:
    cells = enumerate(zip(line, widths, strict=True))
    return [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in cells]


def as_latex(table: pd.DataFrame, left: int = 1) -> str:
    """A tabular in the style of booktabs: the first `left` columns on the left, the others on the right."""
    columns = "l" * left + "r" * (len(table.columns) - left)
    lines = [_latex_line(table.columns), "\\midrule", *(_latex_line(row) for row in table.itertuples(index=False))]
    body = "\n".join(["\\toprule", *lines, "\\bottomrule"])
    return f"% \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def _latex_line(cells: object) -> str:
    escaped = ("".join(LATEX_SPECIAL.get(character, character) for character in str(cell)) for cell in cells)
    return " & ".join(escaped) + " \\\\"
