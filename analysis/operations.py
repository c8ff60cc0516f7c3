"""What a network's synapses do per image: accumulates where a spike arrives, multiply-accumulates elsewhere.

A spike reaches as many outputs as its synapse connects it with, fewer at the border of a convolution, and adds one
weight to each: one synaptic operation, an accumulate. A real-valued input (the image; all of the ANN VAE) costs a
multiply-accumulate for each. tdBN in evaluation mode is a factor and an offset per channel that the weights can take
in, so it costs nothing; membranes, the sampler's comparisons and random numbers are left out, as is usual; so
is TAID's attention, T x T products per image channel.

MembraneReadout convolves once, the weighted sum of the spikes. By linearity that is a convolution of the spikes at
every step, and is counted so: as hardware does it that has nothing but spikes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from models.backbone import MembraneReadout, SpikingBlock
from models.tracing import SynapseCall, SynapseTrace

PICOJOULE_PER_MAC, PICOJOULE_PER_AC = 4.6, 0.9  # 32-bit floats at 45 nm, Horowitz, ISSCC 2014
PER_IMAGE = ("accumulates", "macs", "dense_operations")
COUNTS = (*PER_IMAGE, "spikes", "spike_places", "output_spikes", "neuron_steps")


@dataclass(frozen=True)
class Operations:
    """Per image.

    Attributes:
        layers: a row per layer in the order in which they first run: `layer`; `input_rate` and `firing_rate`, of its
            input and its neurons, spikes per value and step, NaN where there are none; `accumulates` and `macs`;
            `dense_operations`, those if no input value could be skipped.
        parameters: number of values of each parameter that the computation uses, by name.
    """

    layers: pd.DataFrame
    parameters: dict[str, int]

    @property
    def n_parameters(self) -> int:
        """Parameters in use."""
        return sum(self.parameters.values())

    def total(self, column: str) -> float:
        """Sum over layers."""
        return float(self.layers[column].sum())


def energy(macs: float, accumulates: float) -> float:
    """Microjoule for so many multiply-accumulates and accumulates."""
    return 1e-6 * (PICOJOULE_PER_MAC * macs + PICOJOULE_PER_AC * accumulates)


@torch.no_grad()
def count_operations(model: nn.Module, compute: Callable[[], Any], n_images: int) -> Operations:
    """Count what `compute` makes the model's synapses do.

    Args:
        model: in evaluation mode, its neurons on backend `scan`, whose synapses PyTorch runs.
        compute: calls methods of the model, for `n_images` images in all.
        n_images: to divide by.
    """
    counter = _Counter(model)
    with counter.watching() as trace:
        compute()
    sums = pd.DataFrame(counter.rows, columns=["layer", *COUNTS]).groupby("layer", sort=False).sum()
    rates = {"input_rate": ("spikes", "spike_places"), "firing_rate": ("output_spikes", "neuron_steps")}
    columns = {name: sums[spikes] / sums[n].where(sums[n] > 0) for name, (spikes, n) in rates.items()}
    columns |= {name: sums[name] / n_images for name in PER_IMAGE}
    parameters = {name: parameter.numel() for name, parameter in trace.used.items()}
    return Operations(pd.DataFrame(columns).reset_index(), parameters)


class _Counter:
    """Collects a row of `COUNTS` per call of a synapse or of a block's neurons."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.rows: list[dict[str, Any]] = []
        self.spikes = torch.empty(0)  # that neurons sent last, [T, N, ...]
        self.readouts = {name for name, module in model.named_modules() if isinstance(module, MembraneReadout)}

    @contextmanager
    def watching(self) -> Iterator[SynapseTrace]:
        """Count what the model does inside."""
        with SynapseTrace(self.model, self._synapse) as trace, ExitStack() as hooks:
            for name, module in self.model.named_modules():
                if isinstance(module, SpikingBlock):
                    hooks.callback(module.lif.register_forward_hook(self._lif_hook(name)).remove)
            yield trace

    def _synapse(self, call: SynapseCall) -> None:
        x = self.spikes.flatten(0, 1) if call.name in self.readouts else call.input
        reached = call.fan_out().double()
        row = {"layer": call.name, "dense_operations": len(x) * reached.sum().item()}
        if ((x == 0) | (x == 1)).all():
            accumulates = (x.sum(0, dtype=torch.float64) * reached).sum().item()
            row |= {"spike_places": x.numel(), "spikes": x.sum(dtype=torch.float64).item(), "accumulates": accumulates}
        else:
            row |= {"macs": row["dense_operations"]}
        self.rows.append(row)

    def _lif_hook(self, layer: str) -> Callable:
        def hook(module: nn.Module, args: tuple, spikes: Tensor) -> None:
            n_spikes = spikes.sum(dtype=torch.float64).item()
            self.rows.append({"layer": layer, "neuron_steps": spikes.numel(), "output_spikes": n_spikes})
            self.spikes = spikes

        return hook
