"""What a training step or sampling must multiply and move at least, layer by layer, read off the running model.

The model runs once on two images; every synapse, LIF and sum over time that it calls is counted with the shapes
it gets, so a layer that runs once per image, at every step or more often counts just so often.

Multiplies: of dense convolutions and products, padding included; the spikes' zeros are not skipped.

Values moved to and from memory, for a synapse x -> y and its LIF y -> s. Each line is one pass that reads what it
needs once and writes what it makes once, tdBN fused into its neighbours as in `neurons.fused`:

    forward, synapse            reads x, writes y
    forward, statistics         reads y                                    (training only)
    forward, tdBN and LIF       reads y, writes s
    backward, LIF and sums      reads y and grad s, writes grad tdBN
    backward, tdBN              reads grad tdBN and y, writes grad y
    backward of the input       reads grad y, writes grad x                (unless x needs no gradient)
    backward of the weight      reads grad y and x

and x and y are kept from the forward to the backward pass. Where a readout wants the spikes' sum over time, the pass of
the LIF makes that in place of s. Left out as small: the sampler, the loss, biases, TAID's attention.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models import ModelConfig, build_model
from models.backbone import MembraneReadout
from models.tracing import SynapseCall, SynapseTrace
from neurons import LIF

Mode = Literal["train", "sample"]

COUNTED_IMAGES = 2  # batch statistics need more than one
ADAMW_PASSES = 7  # reads weight, gradient and two moments, writes weight and moments


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates (MACs), and values that are read or written, by pass."""

    forward_macs: float = 0.0
    backward_input_macs: float = 0.0
    backward_weight_macs: float = 0.0
    forward_values: float = 0.0
    backward_values: float = 0.0
    kept_values: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def per(self, n: int) -> "Cost":
        """An n-th of it."""
        return Cost(*(value / n for value in astuple(self)))

    @property
    def macs(self) -> float:
        return self.forward_macs + self.backward_input_macs + self.backward_weight_macs

    @property
    def values(self) -> float:
        return self.forward_values + self.backward_values


@dataclass(frozen=True)
class LayerCost:
    """A layer's cost per image: how often it runs, and the shapes of its input and output each time, without N."""

    name: str
    runs: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    cost: Cost


def layer_costs(config: ModelConfig, mode: Mode, batch_size: int) -> list[LayerCost]:
    """Layers in the order in which they first run, then the weights, which a step shares between its images."""
    recorder = _Recorder(_model(config, mode))
    recorder.run(mode)
    names = dict.fromkeys(record.name for record in recorder.records)
    layers = [_merge([record for record in recorder.records if record.name == name]) for name in names]
    weights = sum(weight.numel() for weight in recorder.weights.values())
    cost = Cost(forward_values=weights, backward_values=(2 + ADAMW_PASSES) * weights if mode == "train" else 0.0)
    return [*layers, LayerCost("weights, AdamW" if mode == "train" else "weights", 0, (), (), cost.per(batch_size))]


def total(layers: list[LayerCost]) -> Cost:
    """All layers together, per image."""
    return sum((layer.cost for layer in layers), Cost())


def _model(config: ModelConfig, mode: Mode) -> nn.Module:
    return build_model(config, seed=0).train(mode == "train")


def _merge(records: list[LayerCost]) -> LayerCost:
    """One layer's records of COUNTED_IMAGES images -> its cost per image; the first record is the synapse's."""
    cost = sum((record.cost for record in records), Cost()).per(COUNTED_IMAGES)
    runs = sum(record.runs for record in records) // COUNTED_IMAGES
    return LayerCost(records[0].name, runs, records[0].input, records[0].output, cost)


class _Recorder:
    """Collects a record per call of a synapse, a LIF or a sum over time."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.records: list[LayerCost] = []
        self.last_lif: tuple[Tensor, Tensor, bool]
        self.weights: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, LIF):
                module.register_forward_hook(self._lif_hook(name))
            if isinstance(module, MembraneReadout):
                module.register_forward_pre_hook(self._sum_hook(name))

    def run(self, mode: Mode) -> None:
        """One forward pass of the model, or one sampling."""
        size, noise = self.model.config.image_size, Generator().manual_seed(0)
        images = torch.zeros(COUNTED_IMAGES, self.model.config.image_channels, size, size)
        with SynapseTrace(self.model, self._synapse), torch.set_grad_enabled(mode == "train"):
            self.model(images, generator=noise) if mode == "train" else self.model.sample(COUNTED_IMAGES, noise)

    def _synapse(self, call: SynapseCall) -> None:
        x, weight, y = call.input, call.weight, call.output
        self.weights[call.name] = weight
        outer = x if call.function is F.conv_transpose2d else y  # weight[0] meets each of its values once
        cost = _synapse_cost(x, weight, y, outer.numel() * weight[0].numel())
        self.records.append(LayerCost(call.name, len(x), tuple(x.shape[1:]), tuple(y.shape[1:]), cost))

    def _lif_hook(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, spikes: Tensor) -> None:
            self.last_lif = args[0], spikes, module.training
            self.records.append(LayerCost(name.removesuffix(".lif"), 0, (), (), _lif_cost(*self.last_lif)))

        return hook

    def _sum_hook(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            (summed,), (y, spikes, training) = args, self.last_lif
            self.records[-1] = replace(self.records[-1], cost=_lif_cost(y, summed, training))
            (n_steps, n, *step), macs = spikes.shape, spikes.numel()
            cost = Cost(macs, macs * spikes.requires_grad)
            self.records.append(LayerCost(f"{name}, sum over time", n, (n_steps, *step), tuple(step), cost))

        return hook


def _synapse_cost(x: Tensor, weight: Tensor, y: Tensor, macs: int) -> Cost:
    on_input = y.requires_grad and x.requires_grad
    on_weight = y.requires_grad and weight.requires_grad
    values = x.numel() + y.numel()
    return Cost(
        forward_macs=macs,
        backward_input_macs=macs * on_input,
        backward_weight_macs=macs * on_weight,
        forward_values=values,
        backward_values=values * (on_input + on_weight),
        kept_values=x.numel() * on_weight,
    )


def _lif_cost(y: Tensor, spikes: Tensor, statistics: bool) -> Cost:
    """Of a current y and what the LIF makes of it: spikes, or their sum."""
    n, n_spikes = y.numel(), spikes.numel()
    forward = n * (1 + statistics) + n_spikes
    if not spikes.requires_grad:
        return Cost(forward_values=forward)
    return Cost(forward_values=forward, backward_values=5 * n + n_spikes, kept_values=n)
