"""Comparing training losses of backends with those of neighbours by one bit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.divergence import (
    Arguments,
    distance,
    losses,
    main,
    measure,
    move_all_weights,
    move_first_weight,
    move_nothing,
    verdict,
)
from cli import run_program
from data import load_split
from models import build_model

TINY = Arguments(steps=3, neighbours=1, train_images=50, n_steps=3, device="cpu")


def test_weights_move_to_their_neighbours() -> None:
    torch.manual_seed(0)
    model = build_model(TINY.config().model_config())
    before = [weight.detach().clone() for weight in model.parameters()]

    def moved() -> list[torch.Tensor]:
        return [weight != old for weight, old in zip(model.parameters(), before, strict=True)]

    move_first_weight(model)
    assert sum(changed.sum() for changed in moved()) == 1 and moved()[0].flatten()[0]
    move_all_weights(model, seed=1)
    for weight, old in zip(model.parameters(), before, strict=True):
        assert torch.allclose(weight, old, rtol=3e-7, atol=1e-44)
    assert sum(changed.sum() for changed in moved()) >= sum(old.numel() for old in before) - 1


def test_distance_is_relative_and_symmetric() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])
    assert distance(a, b) == distance(b, a) == 0.25 and distance(a, a) == 0


def test_a_run_depends_on_backend_and_bit_alone() -> None:
    images = load_split("digits", "train", limit=50).images
    config = TINY.config()
    first, again = (losses(config, images, "scan", 3, move_nothing) for _ in range(2))
    assert first.equal(again) and len(first) == 3
    more = losses(replace(config, lr=1e-3), images, "scan", 3, move_nothing)
    assert more[0] == first[0] and more[2] != first[2]


@pytest.mark.parametrize(("backend", "words"), [(0.02, "no further than"), (0.03, "further than")])
def test_the_furthest_of_each_kind_are_compared(backend: float, words: str) -> None:
    record = {
        "distances": {"scan": backend, "torch": 0.001, "native, first weight one bit away": 0.02, "x one bit": 0.01}
    }
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


def test_a_model_without_neurons_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, ["--model", "ann_vae"]) == 2
    assert capsys.readouterr().err.startswith("error: the ANN VAE has no LIF neurons")


def test_no_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, ["--steps", "0"]) == 2
    assert capsys.readouterr().err == "error: --steps must be at least 1, got 0\n"
