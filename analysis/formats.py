"""A table of cells as text for a terminal and as LaTeX; as Markdown it is `analysis.markdown`'s."""

import pandas as pd

LATEX_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"±": "$\\pm$", "`": ""},
}


def as_text(table: pd.DataFrame) -> str:
    """Fixed-width text, empty cells as '-'."""
    return table.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.4g}")


def as_latex(table: pd.DataFrame, left: int = 1) -> str:
    """A tabular in the style of booktabs: the first `left` columns on the left, the others on the right."""
    columns = "l" * left + "r" * (len(table.columns) - left)
    lines = [_latex_line(table.columns), "\\midrule", *(_latex_line(row) for row in table.itertuples(index=False))]
    body = "\n".join(["\\toprule", *lines, "\\bottomrule"])
    return f"% \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def _latex_line(cells: object) -> str:
    escaped = ("".join(LATEX_SPECIAL.get(character, character) for character in str(cell)) for cell in cells)
    return " & ".join(escaped) + " \\\\"
