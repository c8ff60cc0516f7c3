"""Measure tdBN and LIF of every layer of a network, forward and backward, on each backend.

    python -m benchmarks.lif_kernels --json lif_kernels.json
    python -m benchmarks.lif_kernels --dtype bfloat16 --backends triton compiled
    python -m benchmarks.lif_kernels --device cpu --batch-size 4 --backends native scan

Prints one line per layer and backend: milliseconds, and gigabytes a second. The bytes are those that a kernel has to
move which does tdBN and LIF together (see `bytes_moved`), so a backend that moves more of them comes out slower; they
stand beside the bandwidth of a plain copy, measured in the same run. On a GPU a pass is recorded as a CUDA graph, as in
training, or Python's starting of kernels would be measured; `cupy` cannot be. `compiled` is PyTorch's batch norm and
the plain loop over time through torch.compile: what there is to beat. A backend that refuses is listed with what it
says.
Needs no data set. Most of the time is torch.compile's. Run it on a machine that does nothing else.
"""

import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Generator, Tensor
from torch.nn import functional as F

from benchmarks.throughput import calibrate, cpu_idle_fraction, time_steps, warn_if_busy
from cli import parse_arguments, run_program
from errors import UserError, check_at_least
from files import write_json
from models import build_model
from models.backbone import make_lif
from models.config import ModelConfig
from neurons import BACKENDS, LIF, ThresholdDependentBatchNorm, reset_state
from neurons.scan import LIFConstants
from provenance import provenance
from training.config import Dataset, Variant, preset
from training.device import resolve_device
from training.graph import WARM_UP_STEPS, capture, on_side_stream, resolve_graph

SEED = 0

Run = Callable[[Tensor], Tensor]
Pass = Callable[[], object]


@dataclass(frozen=True)
class Benchmark:
    """What to time, and for how long."""

    dataset: Dataset = "cifar10"
    """its network's layers are timed"""
    variant: Variant = "paper"
    """which LIF: as the paper says, or as the authors' program does"""
    batch_size: int = 256
    """images per step"""
    n_steps: int = 16
    """time steps T"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """type of the activations; norms stay in float32"""
    backends: tuple[Literal["native", "triton", "scan", "torch", "cupy", "compiled"], ...] = (*BACKENDS, "compiled")
    """what to compare"""
    repeats: int = 5
    """measurements; the median counts"""
    seconds: float = 0.2
    """seconds that a repeat lasts, about; at least one pass"""

    def __post_init__(self) -> None:
        check_at_least(1, batch_size=self.batch_size, n_steps=self.n_steps, repeats=self.repeats)
        if not self.backends:
            raise UserError("--backends takes at least one name")
        if not 0 < self.seconds < math.inf:
            raise UserError(f"--seconds must be positive and finite, got {self.seconds}")

    def model_config(self) -> ModelConfig:
        """The ESVAE whose layers are timed."""
        return replace(preset(self.dataset, "esvae", self.variant), n_steps=self.n_steps).model_config()


@dataclass(frozen=True)
class Layer:
    """One call of a LIF: its input current is [T, N, C, ...], or [1, N, C, ...] for n_repeats steps alike.

    With `coefficients` it gives the sum over t of coefficients[t] * spikes[t] instead of the spikes.
    """

    name: str
    shape: tuple[int, ...]
    n_repeats: int
    coefficients: tuple[float, ...] | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        n_steps, *step = self.shape
        return tuple(step) if self.coefficients else (n_steps * self.n_repeats, *step)

    def bytes_moved(self, itemsize: int) -> int:
        """What passes through memory if tdBN and LIF are one: 9 activations per neuron and step, or 7 and a sum.

        The statistics read x, forward reads x and writes spikes; backward reads x and the spikes' gradients and writes
        the current's gradient, which tdBN's own gradient reads with x and writes again.
        """
        return itemsize * (7 * math.prod(self.shape) + 2 * math.prod(self.output_shape))


def layers_of(config: ModelConfig, batch_size: int) -> list[Layer]:
    """Every LIF layer of the model, in the order in which they run."""
    model = build_model(config).eval()
    found = []

    def record(name: str) -> Callable[..., None]:
        def hook(_: LIF, arguments: tuple[Any, ...]) -> None:
            x, _norm, _bias, *n_repeats = arguments
            found.append(Layer(name, (len(x), batch_size, *x.shape[2:]), *(n_repeats or [1])))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, LIF):
            module.register_forward_pre_hook(record(name.removesuffix(".lif")))
    with torch.no_grad():
        model(torch.zeros(1, config.image_channels, config.image_size, config.image_size))
    found[-1] = replace(found[-1], coefficients=tuple(model.decoder.readout.coefficients.tolist()))
    return found


def plain_layer(norm: ThresholdDependentBatchNorm, constants: LIFConstants, layer: Layer) -> Run:
    """Batch norm and Eq. 1 to 3 as PyTorch operations; the surrogate's box is the slope of a ramp that adds nothing."""

    def run(x: Tensor) -> Tensor:
        y = F.batch_norm(x.flatten(0, 1), None, None, norm.gain, norm.bias, training=True, eps=norm.eps)
        y = y.unflatten(0, x.shape[:2]).expand(len(x) * layer.n_repeats, *x.shape[1:])
        v, spikes = torch.zeros_like(y[0], dtype=torch.float32), []
        for current in y:
            m = constants.decay * v + current
            fires = (m > constants.v_threshold if constants.strict else m >= constants.v_threshold).to(m)
            ramp = ((m - constants.lower) * constants.height).clamp(0, 1)
            spike = fires + (ramp - ramp.detach())
            v = m * (1 - spike)
            spikes.append(spike.to(y))
        if layer.coefficients:
            return sum(weight * spike for weight, spike in zip(layer.coefficients, spikes, strict=True))
        return torch.stack(spikes)

    return run


def make_layer(
    backend: str,
    layer: Layer,
    norm: ThresholdDependentBatchNorm,
    config: ModelConfig,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """The layer as a function of its input current.

    Raises:
        UserError: the backend cannot run here, or another one would compute in its place.
    """
    if backend == "native" and dtype != torch.float32:
        raise UserError(f"backend 'native' runs {dtype} as 'scan' does; use --dtype float32")
    lif = make_lif(config)
    if backend == "compiled":
        torch.compiler.reset()  # or after eight layers it stops compiling
        return torch.compile(plain_layer(norm, lif.constants(), layer), fullgraph=True, dynamic=False)
    lif.backend = backend
    coefficients = layer.coefficients and torch.tensor(layer.coefficients, device=norm.weight.device)

    def run(x: Tensor) -> Tensor:
        reset_state(lif)
        return lif(x, norm, None, layer.n_repeats) if coefficients is None else lif.summed(x, coefficients, norm)

    return run


def make_pass(run: Run, layer: Layer, norm: ThresholdDependentBatchNorm, dtype: torch.dtype) -> Pass:
    """Forward and backward of a layer on random input; nothing is drawn while it is timed."""
    noise = Generator(norm.weight.device).manual_seed(SEED)
    x = _random(layer.shape, 2, noise, dtype).requires_grad_()
    grad = _random(layer.output_shape, 1 if layer.coefficients else 2, noise, dtype)
    return lambda: torch.autograd.grad(run(x), (x, norm.weight, norm.bias), grad)


def recorded(run: Pass, backend: str, device: torch.device) -> Pass:
    """The pass as a CUDA graph, where there can be one."""
    if not resolve_graph("auto", backend, device):
        return run
    for _ in range(WARM_UP_STEPS):
        on_side_stream(run, device)
    replay, _ = capture(run, Generator(device))
    return replay


def _random(shape: tuple[int, ...], channels: int, noise: Generator, dtype: torch.dtype) -> Tensor:
    """Normal noise, in memory with its axis `channels` last, as the network's convolutions leave it."""
    in_memory = (*shape[:channels], *shape[channels + 1 :], shape[channels])
    return torch.randn(in_memory, generator=noise, device=noise.device, dtype=dtype).movedim(-1, channels)


def measure(benchmark: Benchmark) -> dict[str, Any]:
    """Time every layer on every backend; prints as it goes. JSON-serialisable."""
    device, dtype, config = resolve_device(benchmark.device), getattr(torch, benchmark.dtype), benchmark.model_config()
    layers = layers_of(config, benchmark.batch_size)
    largest = max(math.prod(layer.shape) for layer in layers)
    copy = copy_bandwidth(largest, dtype, benchmark, device)
    print(f"copy: {copy / 1e9:.1f} GB/s")
    records = []
    for layer in layers:
        n_bytes = layer.bytes_moved(dtype.itemsize)
        found = {name: _measure_layer(name, layer, config, benchmark, device) for name in benchmark.backends}
        for name, record in found.items():
            if "milliseconds" in record:
                record["bytes_per_second"] = n_bytes / record["milliseconds"] * 1e3
                record["of_copy"] = record["bytes_per_second"] / copy
            print(
                f"{layer.name:20} {list(layer.shape)!s:24} x{layer.n_repeats:<3} {name:9} {_describe(record)}",
                flush=True,
            )
        records.append(asdict(layer) | {"bytes_moved": n_bytes, "backends": found})
    return {"copy_bytes_per_second": copy, "layers": records}


def copy_bandwidth(n_values: int, dtype: torch.dtype, benchmark: Benchmark, device: torch.device) -> float:
    """Bytes read and written a second by a copy of so many values."""
    source = torch.zeros(n_values, dtype=dtype, device=device)
    target = torch.empty_like(source)
    times = time_pass(lambda: target.copy_(source), benchmark, device)
    return 2 * source.nbytes / statistics.median(times)


def _measure_layer(
    backend: str, layer: Layer, config: ModelConfig, benchmark: Benchmark, device: torch.device
) -> dict[str, Any]:
    """Milliseconds of a pass, or why the backend cannot do it."""
    norm = ThresholdDependentBatchNorm(layer.shape[2], config.v_threshold).to(device)
    dtype = getattr(torch, benchmark.dtype)
    try:
        run = make_layer(backend, layer, norm, config, dtype)
        forward_and_backward = make_pass(run, layer, norm, dtype)
        times = time_pass(recorded(forward_and_backward, backend, device), benchmark, device)
    except UserError as error:
        return {"refused": str(error)}
    except torch.OutOfMemoryError:
        return {"refused": f"batches of {benchmark.batch_size} do not fit into memory"}
    return {"milliseconds": statistics.median(times) * 1e3, "milliseconds_each": [t * 1e3 for t in times]}


def time_pass(run: Pass, benchmark: Benchmark, device: torch.device) -> list[float]:
    """Seconds of one pass, measured `repeats` times, after it has been compiled and warmed up."""
    time_steps(run, 2, device)
    n = calibrate(run, benchmark.seconds, device)
    return [time_steps(run, n, device) / n for _ in range(benchmark.repeats)]


def _describe(record: dict[str, Any]) -> str:
    if "refused" in record:
        return f"refused: {record['refused']}"
    milliseconds, rate, of_copy = (record[name] for name in ("milliseconds", "bytes_per_second", "of_copy"))
    return f"{milliseconds:9.3f} ms {rate / 1e9:8.1f} GB/s, {of_copy:.0%} of a copy"


@dataclass(frozen=True)
class Arguments:
    """Measure tdBN and LIF of every layer of a network, forward and backward, on each backend."""

    benchmark: Annotated[Benchmark, tyro.conf.arg(name="")]
    json: Path | None = None
    """file for the numbers"""


def main(argv: list[str]) -> None:
    """Parse, measure, print and write."""
    a = parse_arguments(Arguments, argv, __doc__, default=Arguments(Benchmark()))
    device = resolve_device(a.benchmark.device)
    source, idle = provenance(device), cpu_idle_fraction()
    print(f"{a.benchmark.dtype}, batches of {a.benchmark.batch_size}, T = {a.benchmark.n_steps}, {source['hardware']}")
    warn_if_busy(idle)
    record = measure(a.benchmark) | {"cpu_idle_fraction_before": idle, "provenance": source}
    if a.json is not None:
        write_json(a.json, asdict(a.benchmark) | {"device": str(device)} | record)
        print(a.json)


if __name__ == "__main__":
    sys.exit(run_program(main))
