"""Where a model's FAD comes from: what reconstruction loses, or a prior that draws other latents than images have.

    python -m analysis.fad_parts --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors --out mine

FAD (protocol `official`) of as many real training images, of the same images as the model reconstructs them, and of
images that it generates, as `evaluate.py --metrics fad` draws them. Real ones do not score 0: they are a sample, of
another split than the one compared with. From there to the reconstructions is what encoder and decoder lose, from there
to the generated images what the prior loses. Not in the paper. Writes fad_parts-<data set>.json, .csv, .png, .pdf.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from analysis.drawing import GREY, TICK_INCHES, fitted, legend_below, new_figure, set_title, styled, subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.generation import sample_images
from analysis.subjects import Subject
from cli import run_program
from data import batches, load_split, to_unit_range
from metrics.fad import N_SAMPLES, PROTOCOLS, fad, load_feature_network, reference
from training.evaluation import evaluation_batch

PROTOCOL = "official"
PARTS = {"real": "o", "reconstructed": "D", "generated": "X"}  # with the mark of each in the figure


@dataclass(frozen=True, kw_only=True)
class FadParts(Experiment):
    """FAD of real, reconstructed and generated images."""

    name = "fad_parts"
    spiking: ClassVar[bool] = False

    n_images: int | None = None
    """training images to use, and images to generate; 5,120, as the protocol takes, or all there are, if None"""
    fad_weights: Path | None = None
    """FAD's autoencoder; needed for CelebA and digits, and for CIFAR-10 to compare with the paper: ours is used else"""

    def settings(self) -> dict[str, Any]:
        """As of every experiment; of the file its name alone, the protocol has its checksum."""
        return super().settings() | {"fad_weights": self.fad_weights and self.fad_weights.name}

    def measure(self, subjects: list[Subject]) -> Result:
        """A line of three scores for every model.

        Raises:
            AbsentError: a model that generates nothing.
            UserError: no autoencoder for the data set, one that cannot be used, or fewer images than it has features.
        """
        first = subjects[0]
        for subject in subjects:
            _ = subject.model.sample  # one that has none says so before anything is computed
        train = load_split(first.dataset, "train", self.data_dir, limit=self.n_images, device=first.device).images
        train = train if self.n_images else train[:N_SAMPLES]
        network = load_feature_network(first.dataset, self.fad_weights, first.device)
        goal = reference(network, PROTOCOL, self.data_dir)
        real = fad(to_unit_range(train), network, goal, PROTOCOL)
        rows = []
        for subject in subjects:
            shown = {
                "reconstructed": reconstructed(subject, train, self.seed),
                "generated": sample_images(subject.model, len(train), self.seed),
            }
            scores = {name: fad(images, network, goal, PROTOCOL) for name, images in shown.items()}
            rows.append({"model": subject.label, "n_images": len(train), "real": real} | scores)
        table, images = pd.DataFrame(rows), f"{len(train):,} images each"
        protocol = (
            f"FAD of training images, of their reconstructions, posterior sampled, and of generated images, {images}; "
            f"{PROTOCOL}: {PROTOCOLS[PROTOCOL]}; {network.description}"
        )
        figure = draw(table, subjects, f"{first.dataset}, {images}")
        return Result(describe(protocol, subjects, self.settings()), table, {"": figure})


@torch.no_grad()
def reconstructed(subject: Subject, images: Tensor, seed: int) -> Tensor:
    """uint8 images [N, C, H, W] -> what the model makes of them, in [-1, 1]; `seed` is of the posterior's noise."""
    noise, parts = subject.generator(seed), batches(images, evaluation_batch(images))
    return torch.cat([subject.model(x, generator=noise).reconstruction for x in parts])


@styled
def draw(table: pd.DataFrame, subjects: list[Subject], title: str) -> Figure:
    """A line per model from real over reconstructed to generated images; the longer a stretch, the more it loses."""
    figure, axes = new_figure(6.5, 1.3 + 0.45 * len(table))
    axis = axes[0, 0]
    colors = subject_colors(subjects)
    for height, (_, row) in enumerate(table.iterrows()):
        color = colors[row["model"]]
        axis.plot(row[list(PARTS)], [height] * len(PARTS), color=color, lw=2, zorder=2)
        for part, mark in PARTS.items():
            axis.plot(row[part], height, mark, color=GREY if part == "real" else color, zorder=3)
    for part, mark in PARTS.items():
        axis.plot([], [], mark, color=GREY, label=f"{part} images")
    axis.set_yticks(range(len(table)), [fitted(label, TICK_INCHES) for label in table["model"]])
    axis.set_ylim(len(table) - 0.5, -0.5)  # the first model on top
    axis.set_xlim(left=0)
    axis.set_xlabel(f"FAD, {PROTOCOL}")
    set_title(axis, title)
    legend_below(figure, axis)
    return figure


main = experiment_main(FadParts, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
