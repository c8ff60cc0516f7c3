"""What reconstruction and generation cost in operations of synapses, layer by layer, and an estimate of the energy.

    python -m analysis.spike_operations --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors --out mine

Prints per image and layer firing rates, accumulates (synaptic operations) and multiply-accumulates, then sums,
parameters and energy; what counts how is said in analysis/operations.py. Writes results/analysis/spike_operations-
<data set>.json, .csv, .png, .pdf. Takes some seconds a model.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from analysis.drawing import TICK_INCHES, fitted, legend_below, new_figure, set_title, styled, subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.operations import PICOJOULE_PER_AC, PICOJOULE_PER_MAC, Operations, count_operations, energy
from analysis.subjects import Subject, part_of_test_split
from cli import run_program
from data import batches
from neurons import backend_of, set_backend

BATCH = 32
STAGES = ("reconstruction", "generation")
SUM = "sum"

Counts = dict[tuple[str, str], Operations]  # by label of the model and stage


@dataclass(frozen=True, kw_only=True)
class SpikeOperations(Experiment):
    """Count the operations of synapses in reconstruction and generation."""

    name = "spike_operations"
    spiking = False

    n_images: int | None = 256
    """reconstruct the first so many test images, and generate as many"""

    def measure(self, subjects: list[Subject]) -> Result:
        """Operations of every model in both stages."""
        images = self.load_images(subjects)
        counts = {(s.label, stage): count(s, stage, images, self.seed) for s in subjects for stage in STAGES}
        constants = {"picojoule_per_mac": PICOJOULE_PER_MAC, "picojoule_per_ac": PICOJOULE_PER_AC}
        part = part_of_test_split(subjects[0].dataset, len(images))
        record = describe(
            protocol(subjects[0].dataset, part),
            subjects,
            self.settings(),
            energy_constants=constants,
            parameters_of_both_stages={s.label: parameters_of(counts, s.label) for s in subjects},
        )
        table = to_table(counts)
        return Result(record, table, {"": draw(table, subject_colors(subjects), f"{subjects[0].dataset}, {part}")})


def protocol(dataset: str, part: str) -> str:
    """In words."""
    return (
        f"per image, mean over test images of {dataset}, {part} (reconstruction: encode, draw z, decode) "
        f"or over as many samples (generation); accumulates: synaptic operations, one per spike and output that it "
        "reaches; macs: the same of real-valued inputs; dense_operations: if no input were silent, padding left out; "
        f"energy: {PICOJOULE_PER_MAC} pJ per multiply-accumulate and {PICOJOULE_PER_AC} pJ per accumulate (45 nm, "
        "32-bit floats, Horowitz 2014), synapses only: no memory, no membranes, no random numbers; the image's "
        "convolution counts once, its current is the same at every step; parameters: those that the stage uses"
    )


def count(subject: Subject, stage: str, images: Tensor, seed: int) -> Operations:
    """Operations of one model, images uint8 [N, C, H, W]; its backend is left as it was."""
    model, generator = subject.model, subject.generator(seed)
    steps: dict[str, Callable[[Tensor], Any]] = {
        "reconstruction": lambda x: reconstruct(model, x, generator),
        "generation": lambda x: model.sample(len(x), generator),
    }

    def compute() -> None:
        parts = batches(images, BATCH)
        for x in tqdm(parts, f"{subject.label}, {stage}", -(-len(images) // BATCH), leave=False, disable=None):
            steps[stage](x)

    backend = backend_of(model) or "scan"
    set_backend(model, "scan")
    try:
        return count_operations(model, compute, len(images))
    finally:
        set_backend(model, backend)


def reconstruct(model: nn.Module, x: Tensor, generator: Any) -> Tensor:
    """Images -> reconstructions, and nothing that only the loss needs."""
    if hasattr(model, "sample_posterior"):
        return model.decode(model.sample_posterior(model.encode(x), generator))
    return model(x, generator=generator).reconstruction


def parameters_of(counts: Counts, label: str) -> int:
    """Parameters that a model uses in one stage or the other: without networks that nothing uses."""
    used = [operations.parameters for (of, _), operations in counts.items() if of == label]
    return sum({name: n for parameters in used for name, n in parameters.items()}.values())


def to_table(counts: Counts) -> pd.DataFrame:
    """A row per model, stage and layer, and one for the sum, which has the parameters and the energy too."""
    parts = []
    for (label, stage), operations in counts.items():
        layers = operations.layers.assign(
            energy_microjoule=energy(operations.layers["macs"], operations.layers["accumulates"])
        )
        sums = {
            name: layers[name].sum() for name in layers.columns if name not in ("layer", "input_rate", "firing_rate")
        }
        total = pd.DataFrame([{"layer": SUM} | sums | {"parameters": operations.n_parameters}])
        parts.append(pd.concat([layers, total], ignore_index=True).assign(model=label, stage=stage))
    table = pd.concat(parts, ignore_index=True)
    return table[["model", "stage", *(name for name in table.columns if name not in ("model", "stage"))]]


@styled
def draw(table: pd.DataFrame, colors: dict[str, tuple[float, float, float]], images: str) -> Figure:
    """Left the energy of each model and stage, multiply-accumulates hatched; right the firing rates by layer.

    Args:
        table: of `to_table`.
        colors: by label of the model.
        images: that it was measured on, in words.
    """
    sums, layers = table[table["layer"] == SUM], table[table["layer"] != SUM]
    height = 0.22 * max(2 * len(sums), layers["layer"].nunique()) + 1.6
    figure, ((bars, rates),) = new_figure(10, height, 1, 2)
    for place, row in enumerate(sums.itertuples()):
        of_macs, color = energy(row.macs, 0), colors[row.model]
        bars.barh(place, of_macs, color=color, hatch="///", edgecolor="white")
        bars.barh(place, row.energy_microjoule - of_macs, left=of_macs, color=color)
        bars.text(row.energy_microjoule, place, f" {row.energy_microjoule:.1f}", va="center")
    bars.set_yticks(range(len(sums)), [f"{fitted(row.model, TICK_INCHES)}\n{row.stage}" for row in sums.itertuples()])
    bars.invert_yaxis()
    bars.set_xlim(0, 1.15 * sums["energy_microjoule"].max())
    bars.set_xlabel("energy of synapses [µJ per image]")
    set_title(bars, f"{images}; hatched: multiply-accumulates")
    _draw_rates(rates, layers[layers["stage"] == STAGES[0]].dropna(subset="firing_rate"), colors)
    return figure


def _draw_rates(axis: Axes, layers: pd.DataFrame, colors: dict[str, tuple[float, float, float]]) -> None:
    """Firing rate of each layer of neurons."""
    names = list(dict.fromkeys(layers["layer"]))
    for label, of_model in layers.groupby("model", sort=False):
        places = [names.index(name) for name in of_model["layer"]]
        axis.plot(of_model["firing_rate"], places, "o", color=colors[label], label=label)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0)
    axis.set_xlabel("firing rate in reconstruction [spikes per step]")
    if names:
        legend_below(axis.figure, axis)


main = experiment_main(SpikeOperations, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
