"""Fig. 6 and 7: firing rates of the latent units in training and in generation, and over epochs.

    python -m analysis.firing_rates --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors

`training` is the rate of z drawn from the posterior of test images, `generation` that of as many z drawn from the
prior. Prints how far their histograms agree and how widely each posterior samples; writes
results/analysis/firing_rates-<data set>.json (with the histograms), .csv, .png, .pdf (Fig. 6) and, where training
recorded firing_rates.csv, firing_rates-<data set>-epochs.png, .pdf (Fig. 7).
"""

import sys
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from analysis.drawing import new_figure, set_suptitle, set_title, styled
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.latents import STAGES, latents
from analysis.rate_histograms import SamplingRange, StageRates, intersection, mean_range, stage_rates, wasserstein
from analysis.rate_log import draw_epochs, read_rate_log
from analysis.subjects import Subject, part_of_test_split
from cli import run_program
from data import batches
from errors import UserError

COLORS = {"training": "#0072B2", "generation": "#E69F00"}
PANELS = {
    "pooled": "rates of all images and units",
    "unit_means": "mean rate of each unit over images",
    "single": "rates of a single image",
}


Rates = dict[str, StageRates]  # by stage


@dataclass(frozen=True, kw_only=True)
class FiringRates(Experiment):
    """Compare the latent firing rates of training and generation."""

    name = "firing_rates"

    n_draws: int = 1000
    """times that z is drawn for the same image, to measure how widely a posterior samples"""
    n_range_images: int = 8
    """test images for which it is"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_draws < 2 or self.n_range_images < 1:
            raise UserError("--n-draws must be at least 2 and --n-range-images at least 1")

    def measure(self, subjects: list[Subject]) -> Result:
        """Histograms, their agreement, sampling range, and what training recorded."""
        images = self.load_images(subjects)
        rates = {s.label: measure_rates(s, images, self.seed) for s in subjects}
        ranges = {s.label: sampling_range(s, images[: self.n_range_images], self.n_draws, self.seed) for s in subjects}
        epochs = {s.label: log for s in subjects if (log := read_rate_log(s)) is not None}
        columns = {label: pd.Series(numbers(rates[label], ranges[label])) for label in rates}
        table = pd.DataFrame(columns).rename_axis("measure").reset_index()
        part = part_of_test_split(subjects[0].dataset, len(images))
        record = describe(
            self.protocol(subjects[0].dataset, part, len(images)),
            subjects,
            self.settings(),
            histograms={label: histograms(stages) for label, stages in rates.items()},
            without_record_of_epochs=[label for label in rates if label not in epochs],
        )
        figures = {"": draw(rates, f"{subjects[0].dataset}, {part}")} | (
            {"epochs": draw_epochs(epochs)} if epochs else {}
        )
        return Result(record, table, figures)

    def protocol(self, dataset: str, part: str, n_images: int) -> str:
        """In words."""
        n_range = min(self.n_range_images, n_images)
        return (
            f"firing rate = mean over T of z; training: drawn from the posterior in evaluation mode, "
            f"{part} of {dataset}; generation: {n_images} z drawn from the prior; "
            "histograms with T + 1 bins around k / T; intersection: mass they share, Wasserstein: in units of the "
            "rate; pooled: all images and units, unit_means: each unit's mean over images, single: the first image; "
            "single to ...: Wasserstein distance of a single image's histogram, mean over images; last four: "
            f"{self.n_draws} draws for each of the first {n_range} images"
        )


def measure_rates(subject: Subject, images: Tensor, seed: int) -> Rates:
    """A model's rates over images uint8 [N, C, H, W], and over as many draws from its prior."""
    return {stage: stage_rates(latents(subject, images, stage, seed)) for stage in STAGES}


@torch.no_grad()
def sampling_range(subject: Subject, images: Tensor, n_draws: int, seed: int) -> SamplingRange:
    """How z varies over `n_draws` draws for each of a few images, uint8 [N, C, H, W]."""
    model, generator = subject.model, subject.generator(seed)
    parts = tqdm(batches(images, 1), f"{subject.label}, sampling range", len(images), leave=False, disable=None)
    encoded = (model.encode(x).expand(-1, n_draws, -1) for x in parts)
    return mean_range(model.sample_posterior(same, generator) for same in encoded)


def numbers(rates: Rates, sampled: SamplingRange) -> dict[str, float]:
    """A model's column of the table."""
    training, generation = (rates[stage] for stage in STAGES)
    found = {}
    for kind in PANELS:
        pair = getattr(training, kind), getattr(generation, kind)
        found |= {f"{kind}, intersection": intersection(*pair), f"{kind}, Wasserstein": wasserstein(*pair)}
    for stage, of_stage in rates.items():
        found[f"single to pooled, {stage}"] = of_stage.single_to_pooled
        found[f"single to unit means, {stage}"] = of_stage.single_to_unit_means
    return found | {name.replace("_", " "): value for name, value in asdict(sampled).items()}


def histograms(rates: Rates) -> dict[str, dict[str, list[float]]]:
    """JSON-serialisable: kind -> stage -> shares of the rates 0/T .. T/T."""
    return {kind: {stage: getattr(r, kind).tolist() for stage, r in rates.items()} for kind in PANELS}


@styled
def draw(rates: dict[str, Rates], images: str) -> Figure:
    """Fig. 6: a column per model, rows as in `PANELS`; generation in front of training.

    Args:
        rates: by label of the model.
        images: that they were measured on, in words.
    """
    figure, axes = new_figure(3.2 * len(rates) + 0.4, 6.5, len(PANELS), len(rates), sharex=True, sharey="row")
    for column, (label, model_rates) in enumerate(rates.items()):
        for row, (kind, title) in enumerate(PANELS.items()):
            axis = axes[row, column]
            for stage, found in model_rates.items():
                shares = getattr(found, kind)
                places = np.linspace(0, 1, len(shares))
                axis.bar(places, shares, 0.9 / len(shares), alpha=0.55, color=COLORS[stage], label=stage)
            set_title(axis, f"{label}\n{title}" if row == 0 else title)
        axes[-1, column].set_xlabel("firing rate [spikes per step]")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of units")
    axes[0, 0].legend()
    set_suptitle(figure, images)
    return figure


main = experiment_main(FiringRates, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
