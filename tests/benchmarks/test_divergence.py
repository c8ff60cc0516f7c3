"""Comparing training losses of backends with those of neighbours by one bit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.divergence import Arguments, distance, losses, main, measure, move_one_bit, verdict
from cli import run_program
from data import load_split

TINY = Arguments(steps=3, neighbours=1, train_images=50, n_steps=3, device="cpu")


def test_the_values_of_a_channel_move_to_their_neighbours() -> None:
    weight = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).weight
    before = weight.detach().clone()
    move_one_bit(weight, 2)
    assert weight[[0, 1, 3]].equal(before[[0, 1, 3]])
    assert weight[2].equal(torch.nextafter(before[2], torch.tensor(float("inf")))) and not weight[2].equal(before[2])


def test_distance_is_relative_and_symmetric() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])
    assert distance(a, b) == distance(b, a) == 0.25 and distance(a, a) == 0


def test_a_run_depends_on_backend_and_bit_alone() -> None:
    images = load_split("digits", "train", limit=50).images
    config = TINY.config()
    first, again = (losses(config, images, "scan", 3) for _ in range(2))
    assert first.equal(again) and len(first) == 3
    more = losses(replace(config, lr=1e-3), images, "scan", 3)
    assert more[0] == first[0] and more[2] != first[2]


@pytest.mark.parametrize(("backend", "words"), [(0.02, "no further than"), (0.03, "further than")])
def test_the_furthest_of_each_kind_are_compared(backend: float, words: str) -> None:
    record = {"distances": {"scan": backend, "torch": 0.001, "native, channel 0 one bit away": 0.02, "x one bit": 0.01}}
    assert verdict(record).startswith(f"scan is {words} rounding takes a run")


def test_all_runs_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "divergence.json"
    flags = "--steps 3 --neighbours 1 --train-images 50 --n-steps 3 --device cpu --json"
    assert run_program(main, [*flags.split(), str(file)]) == 0
    record = json.loads(file.read_text())
    assert {"scan", "torch"} <= {*record["distances"], record["reference"]}
    assert all(len(run) == 3 for run in record["losses"].values())
    assert measure(TINY)["distances"] == record["distances"]
    assert "rounding takes a run" in capsys.readouterr().out


def test_no_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, ["--steps", "0"]) == 2
    assert capsys.readouterr().err == "error: --steps must be at least 1, got 0\n"
