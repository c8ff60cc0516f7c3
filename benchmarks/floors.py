"""Count what a training step and sampling must do at least, layer by layer, and how fast a machine could do that.

    python -m benchmarks.floors --dataset cifar10 --batch-size 64
    python -m benchmarks.floors --dataset celeba --bytes-per-value 2 --json floors.json
    python -m benchmarks.floors --gmacs-per-second 100 --gb-per-second 20    # of another machine

Prints two Markdown tables of operations and bytes per image (what counts how: docs/performance.md), then how many
images a second that allows on this machine, whose rates it measures unless they are given, and on an H200. No
program with these passes is faster; `benchmarks.throughput` measures how near ours comes. Takes some seconds.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from analysis.formats import markdown_table
from benchmarks.costs import Cost, LayerCost, Mode, layer_costs, total
from benchmarks.throughput import calibrate, cpu_idle_fraction, time_steps, warn_if_busy
from cli import parse_arguments, run_program
from errors import UserError, flag_of
from files import write_json
from models import ModelConfig
from provenance import provenance
from training.config import Dataset, Variant, preset
from training.device import resolve_device

SECONDS, REPEATS = 0.3, 5  # of a measurement of a rate
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}  # several times what a cache holds
DTYPES = {2: torch.bfloat16, 4: torch.float32}


@dataclass(frozen=True)
class Machine:
    """Rates that a machine reaches in its best case."""

    name: str
    macs_per_second: float
    bytes_per_second: float
    """read plus written"""


# Measured through PyTorch on one: bf16 products of 8192x8192 at 790 TFLOP/s, a copy inside its memory at 4.3 TB/s.
H200 = Machine("H200, bf16 multiplies", 395e12, 4.3e12)


@dataclass(frozen=True)
class Floor:
    """Shortest times per image, in seconds."""

    multiplying: float
    moving: float

    @property
    def images_per_second(self) -> float:
        """The most that is possible, where the quicker of the two hides behind the other."""
        return 1 / max(self.multiplying, self.moving)


def floor(cost: Cost, machine: Machine, bytes_per_value: int) -> Floor:
    """Time that a cost per image takes at a machine's rates."""
    return Floor(cost.macs / machine.macs_per_second, cost.values * bytes_per_value / machine.bytes_per_second)


@dataclass(frozen=True)
class Arguments:
    """Count what a training step and sampling must do at least, and how fast a machine could do that."""

    dataset: Dataset = "cifar10"
    """shape of the images"""
    model: Literal["esvae", "fsvae", "taid"] = "esvae"
    """spiking model to count"""
    variant: Variant = "paper"
    """where paper and released code differ: as the paper says, or as the authors' program does"""
    n_steps: int = 16
    """time steps T"""
    batch_size: int = 64
    """images that share one pass over the weights"""
    bytes_per_value: Literal[2, 4] = 4
    """size of activations, weights and gradients: 4 for float32, 2 for bfloat16"""
    gmacs_per_second: float | None = None
    """10^9 multiply-accumulates a second; measured if None"""
    gb_per_second: float | None = None
    """10^9 bytes read or written a second; measured if None"""
    device: str = "auto"
    """where rates are measured; auto takes CUDA if there is one"""
    json: Path | None = None
    """file for the numbers"""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "gmacs_per_second", "gb_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{flag_of(name)} must be positive and finite, got {value}")

    def model_config(self) -> ModelConfig:
        """Of the preset, with this number of time steps."""
        return replace(preset(self.dataset, self.model, self.variant), n_steps=self.n_steps).model_config()


def measured_machine(a: Arguments) -> Machine:
    """This machine; rates that the arguments give are taken from them."""
    device, dtype = resolve_device(a.device), DTYPES[a.bytes_per_value]
    macs = 1e9 * a.gmacs_per_second if a.gmacs_per_second else matrix_rate(device, dtype)
    moved = 1e9 * a.gb_per_second if a.gb_per_second else copy_rate(device)
    return Machine("as given" if a.gmacs_per_second and a.gb_per_second else "this machine", macs, moved)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-accumulates a second of a product of two random square matrices, the best of the repeats."""
    n = MATRIX_SIZE[device.type]
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.empty_like(a)
    return n**3 * _best_rate(lambda: torch.mm(a, b, out=out), device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second of a copy within memory, read plus written, the best of the repeats."""
    source = torch.ones(COPIED_BYTES[device.type] // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes * _best_rate(lambda: target.copy_(source), device)


def _best_rate(step: Callable[[], object], device: torch.device) -> float:
    n = calibrate(step, SECONDS, device)
    return n / min(time_steps(step, n, device) for _ in range(REPEATS))


HEADER = ("layer", "runs", "input", "output", "M MAC forward", "M MAC to input", "M MAC to weight")
HEADER += ("MB forward", "MB backward", "MB kept")


def layer_table(layers: list[LayerCost], bytes_per_value: int) -> str:
    """Per image, 10^6 multiply-accumulates and 10^6 bytes; columns without any are left out."""
    everything = LayerCost("sum", 0, (), (), total(layers))
    columns = zip(HEADER, *(_cells(layer, bytes_per_value) for layer in [*layers, everything]), strict=True)
    header, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return markdown_table(header, rows)


def _cells(layer: LayerCost, bytes_per_value: int) -> list[str]:
    c = layer.cost
    macs = c.forward_macs, c.backward_input_macs, c.backward_weight_macs
    moved = [values * bytes_per_value for values in (c.forward_values, c.backward_values, c.kept_values)]
    shapes = ["x".join(map(str, shape)) for shape in (layer.input, layer.output)]
    numbers = [f"{value / 1e6:.3f}" if value else "" for value in (*macs, *moved)]
    return [layer.name, str(layer.runs or ""), *shapes, *numbers]


FLOOR_HEADER = ("", "machine", "G MAC/s", "GB/s", "images/s, multiplying", "images/s, moving", "images/s at most")


def floor_table(floors: dict[tuple[Mode, Machine], Floor]) -> str:
    """Images/s: if multiplying were all, if moving were all, and the lower of the two."""
    rows = []
    for (mode, machine), f in floors.items():
        rates = machine.macs_per_second / 1e9, machine.bytes_per_second / 1e9
        images = 1 / f.multiplying, 1 / f.moving, f.images_per_second
        rows.append((mode, machine.name, *(_three_digits(value) for value in (*rates, *images))))
    return markdown_table(FLOOR_HEADER, rows)


def _three_digits(value: float) -> str:
    """At least three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def to_record(a: Arguments, layers: dict[Mode, list[LayerCost]], floors: dict[tuple[Mode, Machine], Floor]) -> dict:
    """Everything that is printed, JSON-serialisable."""
    settings = {name: value for name, value in asdict(a).items() if name != "json"}
    counts = {mode: {"layers": [asdict(x) for x in xs], "total": asdict(total(xs))} for mode, xs in layers.items()}
    return settings | {
        "per_image": counts,
        "floors": [
            {"mode": mode, "images_per_second": f.images_per_second} | asdict(f) | {"machine": asdict(machine)}
            for (mode, machine), f in floors.items()
        ],
        "model_config": a.model_config().to_dict(),
        "provenance": provenance(resolve_device(a.device)),
    }


def main(argv: list[str]) -> None:
    """Count, measure, print and write."""
    a = parse_arguments(Arguments, argv, __doc__)
    layers: dict[Mode, list[Any]] = {m: layer_costs(a.model_config(), m, a.batch_size) for m in get_args(Mode)}
    for mode, rows in layers.items():
        print(f"{mode}: {a.model} on {a.dataset} shapes, T = {a.n_steps}, per image of a batch of {a.batch_size}\n")
        print(layer_table(rows, a.bytes_per_value), end="\n\n", flush=True)
    if not (a.gmacs_per_second and a.gb_per_second):
        warn_if_busy(cpu_idle_fraction())
    machines = (measured_machine(a), H200)
    floors = {(m, x): floor(total(rows), x, a.bytes_per_value) for m, rows in layers.items() for x in machines}
    print(floor_table(floors))
    if a.json is not None:
        write_json(a.json, to_record(a, layers, floors))
        print(a.json)


if __name__ == "__main__":
    sys.exit(run_program(main))
