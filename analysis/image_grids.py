"""Fig. 3 and 8 to 11: originals, reconstructions and generated images of several models side by side.

    python -m analysis.image_grids --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors --out mine

The first test images are reconstructed, and as many images are generated; nothing is selected. Writes
image_grids-<data set>.json, .csv, -reconstruction-images.png, .pdf and -sample-images.png, .pdf.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from analysis.drawing import image_rows
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.subjects import Subject
from cli import run_program
from data import to_unit_range
from errors import UserError
from losses import reconstruction_loss


@dataclass(frozen=True, kw_only=True)
class ImageGrids(Experiment):
    """Fig. 3 and 8 to 11."""

    name = "image_grids"
    spiking: ClassVar[bool] = False

    n_columns: int = 12
    """images in a row"""
    n_rows: int = 2
    """rows of originals, of each model's reconstructions and of its generated images"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_columns < 1 or self.n_rows < 1:
            raise UserError(f"--n-columns and --n-rows must be at least 1, got {self.n_columns} and {self.n_rows}")

    @torch.no_grad()
    def measure(self, subjects: list[Subject]) -> Result:
        """Both grids, and the loss of the reconstructions that are shown."""
        x = to_unit_range(self.load_images(subjects)[: self.n_columns * self.n_rows])
        reconstructions = {s.label: s.model(x, generator=s.generator(self.seed)).reconstruction for s in subjects}
        samples = {s.label: s.model.sample(len(x), s.generator(self.seed)) for s in subjects}
        losses = [reconstruction_loss(shown, x).item() for shown in reconstructions.values()]
        table = pd.DataFrame({"model": list(reconstructions), "n_images": len(x), "loss_of_shown": losses})
        protocol = f"mean squared error per value on [-1, 1] of the {len(x)} images that are shown, posterior sampled"
        figures = {
            "reconstruction-images": image_rows({"original": x} | reconstructions, self.n_columns),
            "sample-images": image_rows(samples, self.n_columns),
        }
        return Result(describe(protocol, subjects, self.settings()), table, figures)


main = experiment_main(ImageGrids, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
