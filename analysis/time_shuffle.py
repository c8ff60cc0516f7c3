"""Table II and Fig. 1: how much of an image is in the order of its latent's spikes.

    python -m analysis.time_shuffle --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors

z is shuffled along time and along length (the latent units), and decoded again. Losses are against the original image
and against the vanilla reconstruction, which decodes the same z unshuffled. `redrawn`, which the paper lacks, is
another draw of z from the same posterior. Writes time_shuffle-<data set>.json, .csv, .png, .pdf and -images.png, .pdf.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from analysis.drawing import image_panels, legend_below, new_figure, set_suptitle, styled, subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.perturbation import LOSSES, altered_images, altered_losses, shuffle_length, shuffle_time
from analysis.published import published
from analysis.subjects import Subject, part_of_test_split
from cli import run_program
from errors import UserError

N_SHOWN = 8
SHUFFLES = {"time-shuffled": shuffle_time, "length-shuffled": shuffle_length}


@dataclass(frozen=True, kw_only=True)
class TimeShuffle(Experiment):
    """Table II and Fig. 1."""

    name = "time_shuffle"

    n_shuffles: int = 5
    """shuffles of each kind, over which mean and deviation are taken"""
    shared: bool = False
    """one permutation of the steps for all units of an image, and one of the units for all its steps"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_shuffles < 2:
            raise UserError(f"--n-shuffles must be at least 2 to have a deviation, got {self.n_shuffles}")

    def measure(self, subjects: list[Subject]) -> Result:
        """Losses of vanilla, shuffled and redrawn latents of every subject, and the pictures."""
        images = self.load_images(subjects)
        table = pd.concat([self._losses(subject, images) for subject in subjects], ignore_index=True)
        shown = {s.label: altered_images(s, images[:N_SHOWN], self._once, self.seed) for s in subjects}
        part = part_of_test_split(subjects[0].dataset, len(images))
        figures = {"": draw_losses(table, subjects, part), "images": image_panels(shown)}
        record = describe(self._protocol(part), subjects, self.settings())
        return Result(record, pd.concat([table, paper_rows(subjects[0].dataset)], ignore_index=True), figures)

    def _protocol(self, part: str) -> str:
        time, length = ("all units of an image alike", "at all steps of an image alike")
        if not self.shared:
            time, length = ("each unit on its own", "at each step anew")
        return (
            f"mean squared error per value on [-1, 1], posterior sampled, {part}; "
            f"mean and standard deviation over {self.n_shuffles} shuffles of the same z; along time: the steps of "
            f"{time}; along length: the units {length}; redrawn: another z of the same posterior"
        )

    def _losses(self, subject: Subject, images: Tensor) -> pd.DataFrame:
        single = altered_losses(subject, images, self._shuffled, self.seed)
        single["latent"] = single["latent"].str.split(" ").str[0]
        groups = single.groupby("latent", sort=False)[list(LOSSES)]
        table = groups.mean().join(groups.std().add_suffix("_std"))
        table.insert(0, "n", groups.size())
        table.insert(0, "model", subject.label)
        return table.reset_index().assign(source="measured")

    def _shuffled(self, model: nn.Module, x: Tensor, z: Tensor, noise: Generator) -> Iterator[tuple[str, Tensor]]:
        for name, shuffle in SHUFFLES.items():
            for k in range(self.n_shuffles):
                yield f"{name} {k}", model.decode(shuffle(z, noise, self.shared))
        yield "redrawn", model(x, generator=noise).reconstruction

    def _once(self, model: nn.Module, x: Tensor, z: Tensor, noise: Generator) -> Iterator[tuple[str, Tensor]]:
        for name, shuffle in SHUFFLES.items():
            yield name, model.decode(shuffle(z, noise, self.shared))


def paper_rows(dataset: str) -> pd.DataFrame:
    """Table II's rows on a data set (none for `digits`), with the columns of ours."""
    table = published("table2").query("dataset == @dataset").drop(columns="dataset")
    table = table.rename(columns={"loss_vs_vanilla_reconstruction": "loss_vs_vanilla"})
    return table.assign(latent="time-shuffled")


@styled
def draw_losses(table: pd.DataFrame, subjects: list[Subject], part: str) -> Figure:
    """Bars by latent, one colour per model: loss against the original, and against the vanilla reconstruction.

    Args:
        table: one row per model and latent, as `TimeShuffle.measure` makes them.
        subjects: its models.
        part: of the test split that it was measured on.
    """
    colors, latents = subject_colors(subjects), list(table["latent"].unique())
    figure, axes = new_figure(8, 3.2, 1, 2)
    width = 0.8 / len(subjects)
    for axis, loss, target in zip(axes[0], LOSSES, ("original image", "vanilla reconstruction"), strict=True):
        for k, (label, color) in enumerate(colors.items()):
            rows = table[table["model"] == label]
            places = [place + (k - (len(subjects) - 1) / 2) * width for place in range(len(latents))]
            axis.bar(places, rows[loss], width, yerr=rows[f"{loss}_std"], color=color, label=label)
        axis.set_xticks(range(len(latents)), [latent.replace("-", "-\n") for latent in latents])
        axis.set_ylabel("mean squared error per value")
        axis.set_title(f"against the {target}")
    legend_below(figure, axes[0, 0])
    set_suptitle(figure, f"shuffled latents, {subjects[0].dataset}, {part}")
    return figure


main = experiment_main(TimeShuffle, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
