"""Comparisons and sweeps vary one thing at a time, survive failing points and fit the memory's slope."""

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tyro

from benchmarks import sweeps
from benchmarks.sweeps import Measured, Point, backends, measure_each, memory_per_image, sizes, to_record, to_text
from benchmarks.throughput import Arguments, Benchmark, main
from cli import run_program
from errors import UserError
from neurons import BACKENDS

BASE = Benchmark("digits", batch_size=8, n_steps=4, repeats=2, warmup=0, seconds=0.01, device="cpu")


def fake(point: Point, threads: int | None = None) -> Measured:
    """A step takes a second; memory is 1000 bytes and 7 per image; batches above 10 do not fit."""
    batch_size = point.benchmark.batch_size
    if batch_size > 10:
        return Measured(point, failure="too large")
    rates = {"images_per_second": batch_size, "images_per_second_min": 0.5, "images_per_second_max": 99.0}
    return Measured(point, rates | {"peak_memory_bytes": 1000 + 7 * batch_size})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The points that would have got a process of their own."""
    points: list[Point] = []
    monkeypatch.setattr(sweeps, "_measure_alone", lambda point, threads: points.append(point) or fake(point))
    return points


def differences(point: Point) -> set[str]:
    base, here = asdict(BASE), asdict(point.benchmark)
    return {name for name in base if base[name] != here[name]}


def test_a_comparison_runs_every_backend_and_changes_nothing_else() -> None:
    points = backends(BASE)
    assert [point.value for point in points] == list(BACKENDS)
    assert all(differences(point) == {"backend"} for point in points)


def test_a_sweep_varies_one_thing_at_a_time() -> None:
    values: dict[str, list] = {}
    for point in sizes(BASE):
        assert differences(point) <= {point.varied}
        values.setdefault(point.varied, []).append(point.value)
    assert values == {
        "batch_size": [2, 4, 8, 16],
        "n_steps": [1, 2, 4, 8],
        "width_factor": [0.5, 1.0, 2.0],
        "dataset": ["digits", "celeba"],
    }


@pytest.mark.parametrize(("mode", "smallest"), [("train", [2, 4]), ("sample", [1, 2, 4])])
def test_a_sweep_stays_within_what_can_run(mode: str, smallest: list[int]) -> None:
    points = sizes(replace(BASE, batch_size=2, n_steps=1, mode=mode))
    assert [p.value for p in points if p.varied == "batch_size"] == smallest
    assert [p.value for p in points if p.varied == "n_steps"] == [1, 2]


def test_the_common_point_is_measured_once(measured: list[Point]) -> None:
    points = sizes(BASE)
    assert len(measure_each(points, None)) == len(points) == 13
    assert len(measured) == len({point.benchmark for point in measured}) == 10


def test_a_failing_point_is_reported_and_the_others_stay(measured: list[Point]) -> None:
    results = measure_each(sizes(BASE), None)
    text = to_text(results).splitlines()
    assert text[-1] == "not measured: batch_size 16: too large"
    assert sum(line.startswith("| batch_size") for line in text) == 3
    failed = [point for point in to_record(results)["points"] if point["failure"]]
    assert failed == [{"varied": "batch_size", "value": 16, "failure": "too large"}]


def test_nothing_measured_is_a_user_error(measured: list[Point]) -> None:
    with pytest.raises(UserError, match="nothing could be measured: too large"):
        measure_each(backends(replace(BASE, batch_size=11)), None)


def test_memory_per_image_is_the_slope_over_the_batch_size(measured: list[Point]) -> None:
    results = measure_each(sizes(BASE), None)
    assert memory_per_image(results) == pytest.approx(7)
    assert memory_per_image(results[:1]) is None


def test_time_per_image_is_one_over_the_rate() -> None:
    row = to_text([fake(backends(BASE)[0])]).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "backend",
        "scan",
        "8.0",
        "0.5",
        "99.0",
        "125.00",
        "0",
    ]


def test_the_command_line_of_a_point_means_the_same_benchmark() -> None:
    for point in sizes(replace(BASE, variant="code", backend="scan", precision="bf16", cuda_graph="off")):
        assert tyro.cli(Arguments, args=point.flags(), default=Arguments(Benchmark())).benchmark == point.benchmark


@pytest.mark.parametrize(
    ("code", "stderr", "reason"),
    [
        (2, "warning: busy\nerror: no such thing\n", "no such thing"),
        (1, "Traceback\n  ...\nRuntimeError: can't allocate memory\n", "RuntimeError: can't allocate memory"),
        (-9, "", "ended by signal 9; the system does so when memory runs out"),
        (3, "", "exit code 3"),
    ],
)
def test_why_a_process_failed(code: int, stderr: str, reason: str) -> None:
    assert sweeps._reason(subprocess.CompletedProcess([], code, "", stderr)) == reason


def test_processes_measure_and_fail_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "BACKENDS", ("scan", "cupy"))
    file = tmp_path / "result.json"
    assert run_program(main, [*Point("", BASE).flags(), "--compare", "--json", str(file)]) == 0
    scan, cupy = json.loads(file.read_text())["points"]
    assert scan["backend"] == "scan" and scan["images_per_second"] > 0 and scan["failure"] is None
    assert "cupy" in cupy["failure"] and "images_per_second" not in cupy
