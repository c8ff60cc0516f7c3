"""Measure how many images a second a model trains on or generates.

    python -m benchmarks.throughput --dataset cifar10 --model esvae --batch-size 64 --mode train
    python -m benchmarks.throughput --dataset cifar10 --mode sample --backend scan --json result.json
    python -m benchmarks.throughput --device cuda --precision bf16 --cuda-graph off
    python -m benchmarks.throughput --compare    # every backend that runs here
    python -m benchmarks.throughput --sweep      # how time and memory grow with batch, T, width and image size

Prints backend, device, threads and versions, then the median, lowest and highest images/s of several repeats
and the peak memory. Needs no data set: the images are random, and loading them is not timed. Takes about half
a minute; more where a single step takes longer than --seconds. --compare and --sweep measure several such points,
each in a fresh process, in a few minutes. Run it on a machine that does nothing else.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Generator, nn

from benchmarks import sweeps
from cli import parse_arguments, run_program
from errors import UserError, check_at_least, flag_of
from files import write_json
from models import ModelConfig, build_model
from provenance import provenance
from training.config import Backend, Config, CudaGraph, Dataset, Model, Precision, Variant, preset
from training.device import peak_memory_bytes, resolve_backend, resolve_device
from training.graph import WARM_UP_STEPS, resolve_graph
from training.step import Runtime, make_optimizer, make_training_step, set_runtime

SEED = 0
QUIET_IDLE_FRACTION = 0.9  # below it, other programs slow the benchmark down
PROC_STAT = Path("/proc/stat")

Step = Callable[[], object]


@dataclass(frozen=True)
class Benchmark:
    """What to time, and for how long."""

    dataset: Dataset = "cifar10"
    """shape of the images"""
    model: Model = "esvae"
    """model to time"""
    variant: Variant = "paper"
    """where paper and released code differ: as the paper says, or as the authors' program does"""
    mode: Literal["train", "sample"] = "train"
    """whole training steps (forward, loss, backward, AdamW), or generation without gradients"""
    batch_size: int = 64
    """images per step"""
    n_steps: int = 16
    """time steps T"""
    width_factor: float = 1.0
    """the preset's channels times this"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    backend: Backend = "auto"
    """what runs the LIF neurons; auto takes native on a CPU and triton on a GPU if they can run there, else scan"""
    precision: Precision = "fp32"
    """bf16, on a GPU only: synapses multiply in bfloat16, and with backend triton spikes are stored in it"""
    cuda_graph: CudaGraph = "auto"
    """record the training step as a CUDA graph and replay it; auto does on a GPU, unless the backend is cupy"""
    repeats: int = 5
    """measurements; the median counts"""
    warmup: int = 3
    """steps before anything is timed"""
    seconds: float = 2.5
    """seconds that a repeat lasts, about; at least one step"""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", self.smallest_batch), ("n_steps", 1), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                got = f"in mode {self.mode}, got {getattr(self, name)}"
                raise UserError(f"{flag_of(name)} must be at least {least} {got}")
        if self.mode == "sample" and (self.cuda_graph == "on" or self.precision != "fp32"):
            raise UserError("--cuda-graph on and --precision are of training; use --mode train, or leave them out")
        for name in ("seconds", "width_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{flag_of(name)} must be positive and finite, got {getattr(self, name)}")

    @property
    def smallest_batch(self) -> int:
        """Batch statistics and the MMD need a batch."""
        return 2 if self.mode == "train" else 1

    def records(self, device: torch.device) -> bool:
        """Whether steps on `device` are replays of a CUDA graph."""
        backend = resolve_backend(self.backend, device)
        return self.mode == "train" and resolve_graph(self.cuda_graph, backend, device)

    def untimed_steps(self, device: torch.device) -> int:
        """Steps before anything is timed: recording a graph is none of what a run of hours does."""
        return self.warmup + (WARM_UP_STEPS + 1 if self.records(device) else 0)

    def config(self) -> Config:
        """The run whose steps are timed: the preset, with this number of time steps, run in this way."""
        names = ("n_steps", "device", "backend", "precision", "cuda_graph")
        return replace(preset(self.dataset, self.model, self.variant), **{name: getattr(self, name) for name in names})

    def model_config(self) -> ModelConfig:
        """The model that is timed: the run's, with its widths scaled."""
        config = self.config().model_config()
        return replace(config, widths=tuple(round(width * self.width_factor) for width in config.widths))


@dataclass(frozen=True)
class Throughput:
    """What was measured.

    Attributes:
        images_per_second: one value per repeat.
        steps_per_repeat: steps timed together in a repeat.
        peak_memory_bytes: of PyTorch's allocator during the measurement on a GPU, of the whole process so far on a CPU.
    """

    images_per_second: tuple[float, ...]
    steps_per_repeat: int
    peak_memory_bytes: int

    @property
    def median(self) -> float:
        """Median over the repeats, images/s."""
        return statistics.median(self.images_per_second)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "images_per_second": self.median,
            "images_per_second_min": min(self.images_per_second),
            "images_per_second_max": max(self.images_per_second),
            "images_per_second_each": list(self.images_per_second),
            "repeats": len(self.images_per_second),
            "steps_per_repeat": self.steps_per_repeat,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def __str__(self) -> str:
        low, high = min(self.images_per_second), max(self.images_per_second)
        return (
            f"{self.median:.1f} images/s (median of {len(self.images_per_second)}, {low:.1f} .. {high:.1f}), "
            f"peak memory {self.peak_memory_bytes / 2**20:.0f} MiB"
        )


def measure(benchmark: Benchmark) -> Throughput:
    """Make the step, warm up, find out how many of them fill a repeat, then time the repeats.

    Raises:
        UserError: device or backend cannot run here, or the batch does not fit into memory.
    """
    device = resolve_device(benchmark.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = make_step(benchmark, device)
        time_steps(step, benchmark.untimed_steps(device), device)
        n_steps = calibrate(step, benchmark.seconds, device)
        times = [time_steps(step, n_steps, device) for _ in range(benchmark.repeats)]
    except torch.OutOfMemoryError as error:
        raise UserError(f"batches of {benchmark.batch_size} do not fit into {device}; lower --batch-size") from error
    n_images = n_steps * benchmark.batch_size
    return Throughput(tuple(n_images / t for t in times), n_steps, peak_memory_bytes(device))


def make_step(benchmark: Benchmark, device: torch.device) -> Step:
    """A function that trains on one batch, or generates one."""
    model = build_model(benchmark.model_config(), SEED).to(device)
    runtime = set_runtime(model, benchmark.config(), device)
    noise = Generator(device).manual_seed(SEED)
    if benchmark.mode == "sample":
        return _sampling_step(model, benchmark.batch_size, noise)
    config = replace(benchmark.config(), batch_size=benchmark.batch_size)
    return _training_step(model, config, noise, runtime)


def _training_step(model: nn.Module, config: Config, noise: Generator, runtime: Runtime) -> Step:
    model.train()
    shape = (config.batch_size, model.config.image_channels, model.config.image_size, model.config.image_size)
    x = torch.rand(shape, generator=noise, device=noise.device) * 2 - 1
    step = make_training_step(model, make_optimizer(model, config), noise, config.batch_size, runtime)
    return lambda: step(x)


def _sampling_step(model: nn.Module, batch_size: int, noise: Generator) -> Step:
    model.eval()
    return torch.no_grad()(lambda: model.sample(batch_size, noise))


def time_steps(step: Step, n: int, device: torch.device) -> float:
    """Seconds that n steps take, until the device has finished them."""
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(n):
        step()
    _synchronise(device)
    return time.perf_counter() - start


def calibrate(step: Step, seconds: float, device: torch.device) -> int:
    """How many steps take about so many seconds, at least one; takes up to half as long, or one step, itself."""
    n = 1
    while (elapsed := time_steps(step, n, device)) < seconds / 4:
        n *= 2
    return max(1, round(n * seconds / elapsed))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cpu_idle_fraction(seconds: float = 0.5) -> float | None:
    """Fraction of all cores' time that was idle over the next so many seconds; None where /proc/stat is absent."""
    try:
        idle_before, total_before = _cpu_ticks()
        time.sleep(seconds)
        idle, total = _cpu_ticks()
    except (OSError, ValueError):
        return None
    return (idle - idle_before) / (total - total_before) if total > total_before else None


def _cpu_ticks() -> tuple[int, int]:
    """Clock ticks since boot, all cores together: idle ones and all."""
    name, *fields = PROC_STAT.read_text().splitlines()[0].split()
    if name != "cpu" or len(fields) < 8:
        raise ValueError(f"{PROC_STAT} does not start with the times of all cores")
    ticks = [int(field) for field in fields[:8]]  # user nice system idle iowait irq softirq steal
    return ticks[3] + ticks[4], sum(ticks)


def warn_if_busy(idle_fraction: float | None) -> None:
    """Say on standard error that other programs are running."""
    if idle_fraction is not None and idle_fraction < QUIET_IDLE_FRACTION:
        busy = f"{1 - idle_fraction:.0%} of the processor is busy"
        print(f"warning: {busy} with other programs; what is measured will be too slow", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Arguments:
    """Measure how many images a second a model trains on or generates."""

    benchmark: Annotated[Benchmark, tyro.conf.arg(name="")]
    threads: int | None = None
    """CPU threads; as many as PyTorch likes if None"""
    json: Path | None = None
    """file for the numbers"""
    compare: bool = False
    """measure every backend that runs here"""
    sweep: bool = False
    """measure at several batch sizes, time steps, widths and image sizes, each varied alone"""

    def __post_init__(self) -> None:
        check_at_least(1, threads=self.threads)
        if self.compare and (self.sweep or self.benchmark.backend != "auto"):
            raise UserError("--compare measures every backend at one size; leave out --sweep and --backend")


def facts(benchmark: Benchmark) -> dict[str, Any]:
    """The benchmark with everything that was left to `auto` filled in, and what it runs on; JSON-serialisable."""
    device = resolve_device(benchmark.device)
    backend = resolve_backend(benchmark.backend, device)
    ran = {"device": str(device), "backend": backend, "cuda_graph": benchmark.records(device)}
    ran |= {"threads": torch.get_num_threads()}
    config = benchmark.model_config().to_dict()
    return asdict(benchmark) | ran | {"model_config": config, "provenance": provenance(device)}


def describe(record: dict[str, Any]) -> str:
    """Three lines: what is timed, what runs it, on which versions."""
    source = record["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    graph = {False: "", True: ", CUDA graph"}.get(record["cuda_graph"], f", CUDA graph {record['cuda_graph']}")
    return (
        f"{record['mode']}: {record['model']} ({record['variant']}) on {record['dataset']} shapes, "
        f"batches of {record['batch_size']}, T = {record['n_steps']}\n"
        f"backend {record['backend']}, {record['precision']}{graph}, "
        f"device {record['device']} ({source['hardware']}), {record['threads']} CPU threads\n"
        f"{versions}"
    )


def run(a: Arguments) -> tuple[str, dict[str, Any]]:
    """Measure one point in this process, or several in processes of their own: text and JSON-serialisable numbers."""
    if not (a.compare or a.sweep):
        throughput = measure(a.benchmark)
        return str(throughput), throughput.to_dict()
    points = sweeps.backends(a.benchmark) if a.compare else sweeps.sizes(a.benchmark)
    results = sweeps.measure_each(points, a.threads)
    return sweeps.to_text(results), sweeps.to_record(results)


def main(argv: list[str]) -> None:
    """Parse, measure, print and write."""
    a = parse_arguments(Arguments, argv, __doc__, default=Arguments(Benchmark()))
    conditions = prepare(a)
    text, numbers = run(a)
    print(text)
    if a.json is not None:
        write_json(a.json, numbers | conditions)
        print(a.json)


def prepare(a: Arguments) -> dict[str, Any]:
    """Set the threads, print what will be timed and how busy the machine is; that, JSON-serialisable."""
    if a.threads is not None:
        torch.set_num_threads(a.threads)
    of_all = {"backend": "each in turn", "cuda_graph": a.benchmark.cuda_graph} if a.compare else {}
    record = facts(a.benchmark) | of_all
    print(describe(record), flush=True)
    idle = cpu_idle_fraction()
    warn_if_busy(idle)
    return {"cpu_idle_fraction_before": idle} | record


if __name__ == "__main__":
    sys.exit(run_program(main))
