"""One look for all figures: palette, style, grids of images, and files that are the same whenever they are drawn."""

import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from analysis.subjects import Subject
from files import write_atomically

# Okabe and Ito's palette, which colour-blind readers can tell apart; red and blue as in the paper's Fig. 5.
KIND_COLORS = {"esvae": "#D55E00", "fsvae": "#0072B2", "taid": "#009E73", "ann_vae": "#CC79A7"}
GREY = "#666666"
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
LETTER_INCHES = 0.07  # of a letter of the style's size, about
MARGIN_INCHES = 0.5  # of an axis, for what stands beside it
TICK_INCHES = 2.6  # for names of models beside an axis
IMAGE_DOTS, PADDING_PIXELS, LETTER_DOTS, LINE_DOTS, PADDING_DOTS = 64, 2, 11, 20, 14  # of image grids, at DPI

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


def fitted(text: str, inches: float) -> str:
    """The text in lines that so many inches hold, in the style's size: names of runs are longer than a panel."""
    letters = max(int(inches / LETTER_INCHES), 10)
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def set_title(axis: Axes, title: str) -> None:
    """A title no wider than the axis' share of the figure."""
    share = axis.figure.get_figwidth() / axis.get_gridspec().ncols
    axis.set_title(fitted(title, share - MARGIN_INCHES))


def set_suptitle(figure: Figure, title: str) -> None:
    """A title of the whole figure, no wider than it."""
    letter = figure.suptitle(title).get_fontsize() / STYLE["font.size"]  # a suptitle's are larger than the style's
    figure.suptitle(fitted(title, (figure.get_figwidth() - MARGIN_INCHES) / letter))


def legend_below(figure: Figure, axis: Axes) -> None:
    """One legend for the whole figure, of what `axis` shows, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    half = figure.get_figwidth() / 2 - MARGIN_INCHES
    ncols = 2 if all(fitted(label, half) == label for label in labels) else 1
    fitting = [fitted(label, figure.get_figwidth() / ncols - MARGIN_INCHES) for label in labels]
    figure.legend(handles, fitting, loc="outside lower center", ncols=ncols)


@styled
def image_panels(panels: Mapping[str, Mapping[str, Tensor]], columns: int | None = None) -> Figure:
    """Panels side by side, each a title and images in labelled rows.

    Pixels of an image become whole dots of the figure's PNG, which are sharp and take little space.

    Args:
        panels: title -> label -> images [N, C, H, W] in [-1, 1]; the same labels and N in every panel.
        columns: images in a row; a label with more has several rows. N if None.
    """
    grids = {title: _grid(rows, columns or len(next(iter(rows.values())))) for title, rows in panels.items()}
    height, width = next(iter(grids.values())).shape[:2]
    labels = [line for rows in panels.values() for label in rows for line in _wrapped(label).split("\n")]
    left = LETTER_DOTS * (max(map(len, labels)) + 1)
    titles = [fitted(_wrapped(title), width / DPI) for title in grids]
    top = LINE_DOTS * (max(title.count("\n") for title in titles) + 1) + PADDING_DOTS if any(panels) else 0
    figure = Figure(((left + width) * len(panels) / DPI, (height + top) / DPI))
    for k, (panel, grid) in enumerate(grids.items()):
        place = ((k * (left + width) + left) / (left + width) / len(panels), 0)
        size = (width / (left + width) / len(panels), height / (height + top))
        axis = figure.add_axes((*place, *size))
        axis.imshow(grid, interpolation="nearest")
        axis.set_title(titles[k])
        _label_rows(axis, panels[panel], height)
    return figure


def image_rows(rows: Mapping[str, Tensor], columns: int | None = None) -> Figure:
    """One panel of `image_panels`."""
    return image_panels({"": rows}, columns)


def _grid(rows: Mapping[str, Tensor], columns: int) -> np.ndarray:
    """One picture [height, width, 3] of all images, in dots."""
    cells = []
    for images in rows.values():
        cells += [*images.cpu().float(), *[torch.ones_like(images[0].cpu())] * (-len(images) % columns)]
    grid = make_grid(cells, columns, PADDING_PIXELS, normalize=True, value_range=(-1, 1), pad_value=1.0)
    scale = max(IMAGE_DOTS // cells[0].shape[-1], 1)
    return grid.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)


def _label_rows(axis: Axes, rows: Mapping[str, Tensor], height: int) -> None:
    axis.set_yticks([height * (k + 0.5) / len(rows) for k in range(len(rows))], [_wrapped(label) for label in rows])
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _wrapped(label: str) -> str:
    """The training budget on a line of its own."""
    return label.replace(", ", ",\n")


@styled
def rendered(figure: Figure, kind: str) -> bytes:
    """The content of a `png` or `pdf` file."""
    content = io.BytesIO()
    options = {"pil_kwargs": {"optimize": True}} if kind == "png" else {}
    figure.savefig(content, format=kind, dpi=DPI, metadata=UNDATED[kind], **options)
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
