"""Fig. 4: the latent as a raster of spikes, in training and in generation.

    python -m analysis.latent_raster --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors

Draws z of the first test image from the posterior (the paper's training stage) and one z from the prior (generation).
Over all test images, and as many draws from the prior, it counts latent units that fire at every step or at none.
Writes latent_raster-<data set>.json, .csv, .png, .pdf.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from analysis.drawing import new_figure, set_title, styled, subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.latents import STAGES, latents
from analysis.subjects import Subject, part_of_test_split
from cli import run_program


@dataclass(frozen=True, kw_only=True)
class LatentRaster(Experiment):
    """Fig. 4."""

    name = "latent_raster"

    def measure(self, subjects: list[Subject]) -> Result:
        """Shares of every subject at both stages, and the rasters."""
        images = self.load_images(subjects)
        rows, rasters = [], {}
        for subject in subjects:
            for stage in STAGES:
                shares = extremes(latents(subject, images, stage, self.seed))
                rows.append({"model": subject.label, "stage": stage} | shares)
                rasters[subject.label, stage] = next(latents(subject, images[:1], stage, self.seed))[:, 0]
        record = describe(self._protocol(subjects[0].dataset, len(images)), subjects, self.settings())
        return Result(record, pd.DataFrame(rows), {"": draw_rasters(rasters, subjects)})

    def _protocol(self, dataset: str, n_images: int) -> str:
        return (
            f"training: z from the posterior, {part_of_test_split(dataset, n_images)}; generation: {n_images} draws "
            "from the prior. never, always, sometimes: share of pairs of image and latent unit with spikes at no step, "
            "at all T, at some; units_never, units_always: share of latent units that do so for all images"
        )


def extremes(z_batches: Iterable[Tensor]) -> dict[str, float]:
    """How extreme units fire, over batches z [T, N, D]: shares, and the mean firing rate."""
    sums, n_images, silent, saturated = 0, 0, True, True
    for z in z_batches:
        counts = z.sum(0)
        never, always = counts == 0, counts == len(z)
        sums += torch.stack([never.double().mean(), always.double().mean(), z.double().mean()]).cpu() * z.shape[1]
        silent, saturated = silent & never.all(0), saturated & always.all(0)
        n_images += z.shape[1]
    never, always, rate = (sums / n_images).tolist()
    return {
        "never": never,
        "always": always,
        "sometimes": 1 - never - always,
        "units_never": silent.double().mean().item(),
        "units_always": saturated.double().mean().item(),
        "firing_rate": rate,
    }


@styled
def draw_rasters(rasters: Mapping[tuple[str, str], Tensor], subjects: list[Subject]) -> Figure:
    """One z [T, D] per subject (row) and stage (column): latent units across, time down, a spike in its colour."""
    alike = len({z.shape for z in rasters.values()}) == 1  # else what one model has not would look silent
    size = 9, 0.5 + 1.2 * len(subjects), len(subjects), len(STAGES)
    figure, axes = new_figure(*size, sharex=alike, sharey=alike)
    for row, (label, color) in zip(axes, subject_colors(subjects).items(), strict=True):
        for axis, stage in zip(row, STAGES, strict=True):
            z = rasters[label, stage].cpu().numpy()
            axis.imshow(
                z, cmap=ListedColormap(["white", color]), vmin=0, vmax=1, aspect="auto", interpolation="nearest"
            )
            set_title(axis, f"{label}: {stage}")
            axis.grid(False)
    for axis in axes[-1]:
        axis.set_xlabel("latent unit")
    figure.supylabel("time step", size="medium")
    return figure


main = experiment_main(LatentRaster, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
