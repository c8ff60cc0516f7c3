"""The throughput benchmark runs, tells the truth about what ran, and refuses nonsense in one line."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import throughput
from benchmarks.sweeps import Point
from benchmarks.throughput import (
    Benchmark,
    Throughput,
    calibrate,
    cpu_idle_fraction,
    main,
    make_step,
    measure,
    warn_if_busy,
)
from cli import run_program
from errors import UserError
from neurons import LIF
from neurons.library import native_obstacle
from training.graph import WARM_UP_STEPS

TINY_BENCHMARK = Benchmark("digits", batch_size=4, n_steps=2, repeats=2, warmup=1, seconds=0.02, device="cpu")
TINY = Point("", TINY_BENCHMARK).flags()
CPU = torch.device("cpu")
AUTO = "scan" if native_obstacle() else "native"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that the benchmark builds from here on."""
    models = []
    build = throughput.build_model
    monkeypatch.setattr(throughput, "build_model", lambda *asked: models.append(build(*asked)) or models[-1])
    return models


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_json_and_printed_lines(mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "result.json"
    assert run_program(main, [*TINY, "--mode", mode, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    low, high = record["images_per_second_min"], record["images_per_second_max"]
    assert 0 < low <= record["images_per_second"] <= high
    assert len(record["images_per_second_each"]) == record["repeats"] == 2
    assert record["peak_memory_bytes"] > 0 and record["steps_per_repeat"] >= 1
    ran = {"mode": mode, "dataset": "digits", "model": "esvae", "variant": "paper", "batch_size": 4, "n_steps": 2}
    ran |= {"backend": AUTO, "device": "cpu", "threads": torch.get_num_threads()}
    assert ran.items() <= record.items()
    assert set(record["provenance"]) == {"commit", "versions", "hardware", "date"}
    out = capsys.readouterr().out
    assert all(text in out for text in ("images/s", "peak memory", f"backend {AUTO}", "device cpu", "torch "))


@pytest.mark.parametrize(
    "arguments",
    [
        "--batch-size 0",
        "--batch-size 1",
        "--mode sample --batch-size 0",
        "--n-steps 0",
        "--repeats 0",
        "--warmup -1",
        "--seconds 0",
        "--seconds nan",
        "--width-factor 0",
        "--width-factor 0.001",
        "--compare --sweep",
        "--compare --backend scan",
        "--threads 0",
        "--device nonsense",
        "--device cpu --backend cupy",
        "--no-such-flag",
        "--dataset imagenet",
        "--mode both",
        "--backend fast",
        "--device cpu --cuda-graph on",
        "--device cpu --precision bf16",
        "--mode sample --precision bf16",
        "--mode sample --cuda-graph on",
    ],
)
def test_nonsense_is_one_line_and_exit_code_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, [*TINY, *arguments.split()]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: ")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set_and_recorded(threads: int, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        run_program(main, [*TINY, "--threads", str(threads), "--json", str(tmp_path / "result.json")])
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "result.json").read_text())["threads"] == threads


@pytest.mark.parametrize(("backend", "runs"), [("auto", AUTO), ("scan", "scan"), ("torch", "torch")])
def test_every_neuron_runs_on_the_backend_asked_for(backend: str, runs: str, built: list[nn.Module]) -> None:
    make_step(replace(TINY_BENCHMARK, backend=backend), CPU)
    assert {module.backend for module in built[0].modules() if isinstance(module, LIF)} == {runs}


def test_the_width_factor_scales_the_channels_and_not_the_image(built: list[nn.Module]) -> None:
    make_step(replace(TINY_BENCHMARK, width_factor=0.5), CPU)
    assert built[0].config.widths == (16, 32, 64, 128) and built[0].config.image_size == 32


def test_measuring_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    measure(TINY_BENCHMARK)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("mode", "trains"), [("train", True), ("sample", False)])
def test_training_steps_train_and_sampling_steps_do_not(mode: str, trains: bool, built: list[nn.Module]) -> None:
    step = make_step(replace(TINY_BENCHMARK, mode=mode), CPU)
    before = {name: value.clone() for name, value in built[0].state_dict().items()}
    result = step()
    changed = [name for name, value in built[0].state_dict().items() if not torch.equal(value, before[name])]
    assert built[0].training == trains and bool(changed) == trains
    if mode == "sample":
        assert result.shape == (4, 1, 32, 32) and not result.requires_grad


def test_running_out_of_memory_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(throughput, "make_step", no_memory)
    with pytest.raises(UserError, match="batches of 4 do not fit into cpu"):
        measure(TINY_BENCHMARK)


FAULTS = """
import os, resource, torch
from training.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(os.environ["THP_MEM_ALLOC_ENABLE"], *(faults() for _ in range(12)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library than glibc keeps memory as it likes")
def test_memory_that_a_step_frees_is_there_for_the_next_one() -> None:
    """In a process of its own: programs that ran in this one have told its allocator already."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command, root = [sys.executable, "-c", FAULTS], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    huge_pages, first, *later = map(int, done.stdout.split())
    # Where memory is not kept each faults as the first did; where it is, a busy machine may take some steps to it.
    assert huge_pages == 1 and sum(later[len(later) // 2 :]) < first


def test_recording_a_graph_is_not_timed() -> None:
    on_a_gpu = replace(TINY_BENCHMARK, backend="scan")
    assert on_a_gpu.untimed_steps(CPU) == on_a_gpu.warmup == 1
    assert on_a_gpu.untimed_steps(torch.device("cuda")) == 1 + WARM_UP_STEPS + 1
    assert replace(on_a_gpu, mode="sample").untimed_steps(torch.device("cuda")) == 1


@pytest.mark.parametrize(("per_step", "expected"), [(0.01, 250), (0.5, 5), (1.0, 2), (10.0, 1)])
def test_calibration_fills_the_seconds(per_step: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "time_steps", lambda step, n, device: n * per_step)
    assert calibrate(lambda: None, 2.5, CPU) == expected


def test_median_and_spread() -> None:
    record = Throughput((3.0, 1.0, 8.0), 2, 1024).to_dict()
    keys = ("images_per_second", "images_per_second_min", "images_per_second_max", "repeats")
    assert [record[key] for key in keys] == [3.0, 1.0, 8.0, 3]


def test_idle_fraction_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(throughput, "PROC_STAT", stat)
    assert cpu_idle_fraction(0) is None
    stat.write_text("cpu 10 0 10 100 0 0 0 0 0 0\ncpu0 ...\n")
    # 30 busy, 60 idle and 10 waiting ticks pass while it sleeps.
    monkeypatch.setattr(throughput.time, "sleep", lambda _: stat.write_text("cpu 30 0 20 160 10 0 0 0 20 0\n"))
    assert cpu_idle_fraction() == pytest.approx(0.7)


@pytest.mark.parametrize(("idle", "warns"), [(0.5, True), (0.99, False), (None, False)])
def test_a_busy_machine_is_told_on_standard_error(
    idle: float | None, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_busy(idle)
    assert ("warning: 50% of the processor is busy" in capsys.readouterr().err) == warns
