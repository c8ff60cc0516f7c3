"""One look for all figures: palette, style, grids of images, and files that are the same whenever they are drawn."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from analysis.subjects import Subject
from files import write_atomically

# Okabe and Ito's palette, which colour-blind readers can tell apart; red and blue as in the paper's Fig. 5.
KIND_COLORS = {"esvae": "#D55E00", "fsvae": "#0072B2", "taid": "#009E73", "ann_vae": "#CC79A7"}
GREY, OTHER_COLORS = "#666666", ("#E69F00", "#56B4E9", "#F0E442", "#000000")
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "image.cmap": "gray",
    "pdf.fonttype": 42,  # text stays text
}
DPI = 150
UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
CELL_INCHES, PADDING_PIXELS = 0.48, 2

Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def styled(draw: Drawing) -> Drawing:
    """Decorator: a function that draws does so in the project's style, whatever the settings outside."""
    return matplotlib.rc_context(STYLE)(draw)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> tuple[Figure, Any]:
    """A figure of that many inches and its Axes, [rows, columns], outside pyplot's global list."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def subject_colors(subjects: Iterable[Subject]) -> dict[str, tuple[float, float, float]]:
    """Label -> colour: one per kind of model everywhere; further models of a kind take ever paler shades of it."""
    seen: Counter[str] = Counter()
    colors = {}
    for subject in subjects:
        paleness = 1 - 0.6 ** seen[subject.kind]
        base = np.array(to_rgb(KIND_COLORS.get(subject.kind, GREY)))
        colors[subject.label] = tuple(base + (1 - base) * paleness)
        seen[subject.kind] += 1
    return colors


@styled
def image_panels(panels: Mapping[str, Mapping[str, Tensor]], title: str = "") -> Figure:
    """Panels side by side, each a title and rows of images with a label each.

    Args:
        panels: title -> row label -> images [N, C, H, W] in [-1, 1]; every row of a panel of the same N.
        title: above all of them.
    """
    shapes = [(len(rows), len(next(iter(rows.values())))) for rows in panels.values()]
    n_rows, widths = max(n for n, _ in shapes), [n for _, n in shapes]
    labels_width = 0.075 * max(len(label) for rows in panels.values() for label in rows)
    width = CELL_INCHES * sum(widths) + labels_width * len(panels) + 0.2
    figure, axes = new_figure(width, CELL_INCHES * n_rows + 0.5, 1, len(panels), width_ratios=widths)
    for axis, (panel, rows) in zip(axes[0], panels.items(), strict=True):
        _draw_rows(axis, rows)
        axis.set_title(panel)
    if title:
        figure.suptitle(title)
    return figure


def image_rows(rows: Mapping[str, Tensor], title: str = "") -> Figure:
    """One panel of rows of images, as in `image_panels`."""
    return image_panels({title: rows})


def _draw_rows(axis: Axes, rows: Mapping[str, Tensor]) -> None:
    first = next(iter(rows.values()))
    stacked = [image for images in rows.values() for image in images.cpu().float()]
    grid = make_grid(stacked, len(first), PADDING_PIXELS, normalize=True, value_range=(-1, 1), pad_value=1.0)
    axis.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    step = first.shape[-2] + PADDING_PIXELS
    axis.set_yticks([PADDING_PIXELS + step * row + first.shape[-2] / 2 for row in range(len(rows))], list(rows))
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


@styled
def rendered(figure: Figure, kind: str) -> bytes:
    """The content of a `png` or `pdf` file."""
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=DPI, metadata=UNDATED[kind])
    return content.getvalue()


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write <path>.png and <path>.pdf, atomically and without a date in them, and return their paths.

    Raises:
        UserError: the folder cannot be written to.
    """
    paths = [path.with_name(f"{path.name}.{kind}") for kind in UNDATED]
    for file, kind in zip(paths, UNDATED, strict=True):
        write_atomically(file, rendered(figure, kind))
    return paths
