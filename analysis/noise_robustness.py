"""Fig. 5, 12 and 13: reconstructions from latents with noise.

    python -m analysis.noise_robustness --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors

Each entry of z is hit with probability a: N(0, 1) is added to it, and what is above 0.5 becomes 1, the rest 0. So a hit
entry changes with probability 0.309. With --flips it always does. Losses are against the original image (solid) and
against the vanilla reconstruction from the same z without noise (dashed). Writes noise_robustness-<data set>.json,
.csv, .png, .pdf and -images.png, .pdf.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from analysis.drawing import GREY, image_panels, legend_below, new_figure, set_title, styled, subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.perturbation import LOSSES, add_noise, altered_images, altered_losses, flip, shuffle_time
from analysis.subjects import Subject, part_of_test_split
from cli import run_program
from errors import UserError

N_SHOWN = 4
UP_TO_HALF = tuple(k / 20 for k in range(11))


@dataclass(frozen=True, kw_only=True)
class NoiseRobustness(Experiment):
    """Fig. 5, 12 and 13."""

    name = "noise_robustness"

    probabilities: tuple[float, ...] = UP_TO_HALF
    """a, the probability that an entry of z is hit"""
    flips: bool = False
    """a hit entry is inverted, instead of getting Gaussian noise and becoming 0 or 1 again"""

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct = {float(f"{a:g}") for a in self.probabilities}  # as they are named
        if not distinct or len(distinct) < len(self.probabilities) or not all(0 <= a <= 1 for a in distinct):
            raise UserError(f"--probabilities must be different numbers from 0 to 1, got {self.probabilities}")

    def measure(self, subjects: list[Subject]) -> Result:
        """Losses at every probability for every subject, and the pictures."""
        images = self.load_images(subjects)
        table = pd.concat([self._losses(subject, images) for subject in subjects], ignore_index=True)
        shown = {s.label: altered_images(s, images[:N_SHOWN], self._shown, self.seed) for s in subjects}
        part = part_of_test_split(subjects[0].dataset, len(images))
        record = describe(self._protocol(part), subjects, self.settings())
        return Result(record, table, {"": draw_curves(table, subjects, part), "images": image_panels(shown)})

    def _protocol(self, part: str) -> str:
        hit = "is inverted" if self.flips else "gets N(0, 1) added and becomes 1 above 0.5, else 0"
        return (
            f"mean squared error per value on [-1, 1], posterior sampled, {part}; "
            f"each entry of z is hit with probability a and {hit}; one draw of the noise per image and a"
        )

    def _losses(self, subject: Subject, images: Tensor) -> pd.DataFrame:
        losses = altered_losses(subject, images, self._noised, self.seed).query("latent != 'vanilla'")
        table = losses.assign(model=subject.label, a=self.probabilities)
        return table[["model", "a", *LOSSES]]

    def _noised(self, model: nn.Module, x: Tensor, z: Tensor, noise: Generator) -> Iterator[tuple[str, Tensor]]:
        alter = flip if self.flips else add_noise
        for a in self.probabilities:
            yield f"a = {a:g}", model.decode(alter(z, a, noise))

    def _shown(self, model: nn.Module, x: Tensor, z: Tensor, noise: Generator) -> Iterator[tuple[str, Tensor]]:
        yield "time-shuffled", model.decode(shuffle_time(z, noise))
        yield from self._noised(model, x, z, noise)


@styled
def draw_curves(table: pd.DataFrame, subjects: list[Subject], part: str) -> Figure:
    """Loss over a, one colour per model: solid against the original, dashed against the vanilla reconstruction.

    Args:
        table: of `NoiseRobustness.measure`.
        subjects: its models.
        part: of the test split that it was measured on.
    """
    figure, axes = new_figure(6, 4.2)
    axis = axes[0, 0]
    for label, color in subject_colors(subjects).items():
        rows = table[table["model"] == label]
        axis.plot(rows["a"], rows["loss_vs_original"], "-", color=color, marker="o", ms=3, label=label)
        axis.plot(rows["a"], rows["loss_vs_vanilla"], "--", color=color, marker="o", ms=3)
    for dashes, target in (("-", "original image"), ("--", "vanilla reconstruction")):
        axis.plot([], [], dashes, color=GREY, label=f"against the {target}")
    axis.set_xlabel("probability a that an entry of z is hit")
    axis.set_ylabel("mean squared error per value on [-1, 1]")
    set_title(axis, f"noised latents, {subjects[0].dataset},\n{part}")
    axis.set_ylim(bottom=0)
    legend_below(figure, axis)
    return figure


main = experiment_main(NoiseRobustness, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
