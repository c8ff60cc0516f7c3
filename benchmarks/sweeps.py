"""Several benchmarks of `benchmarks.throughput`, for its --compare and --sweep: one table, one record.

Each point runs in a process of its own, one after another, because the peak memory of a process never falls. A
point that fails (no memory, a backend that cannot run here) is reported with its reason; the others go on.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.formats import markdown_table
from errors import UserError
from neurons import BACKENDS

if TYPE_CHECKING:  # throughput imports this module
    from benchmarks.throughput import Benchmark

ROOT = Path(__file__).parent.parent
FACTORS = (0.25, 0.5, 1, 2)  # of batch size and time steps
WIDTH_FACTORS = (0.5, 1, 2)
IMAGES = {32: "cifar10", 64: "celeba"}  # a data set for each size


@dataclass(frozen=True)
class Point:
    """One benchmark, and the field of it that it stands for."""

    varied: str
    benchmark: "Benchmark"

    @property
    def value(self) -> Any:
        """What the varied field is here."""
        return getattr(self.benchmark, self.varied)

    def flags(self) -> list[str]:
        """The command line that measures it."""
        return [part for name, value in asdict(self.benchmark).items() for part in _flag(name, value)]


def _flag(name: str, value: object) -> tuple[str, ...]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return (f"--{name}" if value else f"--no-{name}",)
    return f"--{name}", str(value)


@dataclass(frozen=True)
class Measured:
    """A point with its record, or with the reason why there is none."""

    point: Point
    record: dict[str, Any] | None = None
    failure: str | None = None


def backends(benchmark: "Benchmark") -> list[Point]:
    """Every backend; those that cannot run here will fail with the reason."""
    return [Point("backend", replace(benchmark, backend=name)) for name in BACKENDS]


def sizes(benchmark: "Benchmark") -> list[Point]:
    """Batch size, time steps, width and image size, each varied alone."""
    least = benchmark.smallest_batch
    batches = [max(least, round(benchmark.batch_size * factor)) for factor in FACTORS]
    steps = [max(1, round(benchmark.n_steps * factor)) for factor in FACTORS]
    widths = [benchmark.width_factor * factor for factor in WIDTH_FACTORS]
    image_size = benchmark.model_config().image_size
    images = (IMAGES | {image_size: benchmark.dataset}).values()
    axes = {"batch_size": batches, "n_steps": steps, "width_factor": widths, "dataset": images}
    varied = [(name, value) for name, values in axes.items() for value in dict.fromkeys(values)]
    return [Point(name, replace(benchmark, **{name: value})) for name, value in varied]


def measure_each(points: list[Point], threads: int | None) -> list[Measured]:
    """Measure every benchmark once, in the order of the points; says on standard error how far it is.

    Raises:
        UserError: not one could be measured.
    """
    done: dict[Any, Measured] = {}
    for index, point in enumerate(points):
        print(f"{index + 1}/{len(points)}: {point.varied} {point.value}", file=sys.stderr, flush=True)
        if point.benchmark not in done:
            done[point.benchmark] = _measure_alone(point, threads)
    if all(measured.record is None for measured in done.values()):
        raise UserError(f"nothing could be measured: {next(iter(done.values())).failure}")
    return [replace(done[point.benchmark], point=point) for point in points]


def _measure_alone(point: Point, threads: int | None) -> Measured:
    """Measure in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        command = [sys.executable, "-m", "benchmarks.throughput", *point.flags(), "--json", str(file)]
        command += [] if threads is None else ["--threads", str(threads)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return Measured(point, failure=_reason(done))
        return Measured(point, json.loads(file.read_text()))


def _reason(done: subprocess.CompletedProcess) -> str:
    """Why a process failed, in one line."""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}; the system does so when memory runs out"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1].removeprefix("error: ")


def memory_per_image(results: list[Measured]) -> float | None:
    """Slope of the peak memory over the batch size, in bytes; None if fewer than two batch sizes were measured."""
    of_batches = [m for m in results if m.point.varied == "batch_size" and m.record]
    if len(of_batches) < 2:
        return None
    batch_sizes = [m.point.value for m in of_batches]
    return statistics.linear_regression(batch_sizes, [m.record["peak_memory_bytes"] for m in of_batches]).slope


HEADER = ("", "value", "images/s", "min", "max", "ms per image", "peak MiB")


def to_text(results: list[Measured]) -> str:
    """The table, the memory per image and what failed."""
    lines = [markdown_table(HEADER, (_row(m) for m in results if m.record))]
    if (slope := memory_per_image(results)) is not None:
        lines.append(f"each image of a batch adds {slope / 2**20:.2f} MiB")
    failed = [f"not measured: {m.point.varied} {m.point.value}: {m.failure}" for m in results if m.failure]
    return "\n".join([*lines, *failed])


def _row(m: Measured) -> list[object]:
    median, low, high = (m.record["images_per_second" + which] for which in ("", "_min", "_max"))
    peak = m.record["peak_memory_bytes"] / 2**20
    numbers = f"{median:.1f}", f"{low:.1f}", f"{high:.1f}", f"{1e3 / median:.2f}", f"{peak:.0f}"
    return [m.point.varied, m.point.value, *numbers]


def to_record(results: list[Measured]) -> dict[str, Any]:
    """JSON-serialisable: every point's own record, or why it has none."""
    points = [
        {"varied": m.point.varied, "value": m.point.value, "failure": m.failure} | (m.record or {}) for m in results
    ]
    return {"points": points, "memory_per_image_bytes": memory_per_image(results)}
