"""Learning rates over a run."""

import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import training.step
from training.config import preset
from training.schedule import learning_rate_factor, learning_rates_as_tensors, set_learning_rates


def test_a_constant_rate_without_warm_up_is_the_rate() -> None:
    assert all(learning_rate_factor(progress, "constant", 0.0) == 1 for progress in (0.0, 0.5, 1.0))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_warm_up_rises_in_proportion_and_ends_at_the_rate(schedule: str) -> None:
    factors = [learning_rate_factor(progress, schedule, 0.4) for progress in (0.0, 0.1, 0.2, 0.4)]
    assert factors == pytest.approx([0.0, 0.25, 0.5, 1.0])


def test_a_cosine_falls_to_zero_half_way_at_the_middle_and_never_rises() -> None:
    factors = [learning_rate_factor(0.2 + 0.8 * k / 100, "cosine", 0.2) for k in range(101)]
    assert factors[0] == 1 and factors[50] == pytest.approx(0.5) and factors[100] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)


def test_each_group_gets_its_rate_and_a_tensor_keeps_its_place() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": weight} for weight in weights], fused=True)
    set_learning_rates(optimizer, (0.1, 0.2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    learning_rates_as_tensors(optimizer, torch.device("cpu"))
    kept = [group["lr"] for group in optimizer.param_groups]
    set_learning_rates(optimizer, (0.3, 0.4))
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, kept, strict=True))
    assert [tensor.item() for tensor in kept] == pytest.approx([0.3, 0.4])


def test_the_fast_recipe_changes_how_a_model_is_trained_and_not_what_it_is() -> None:
    for model in ("esvae", "fsvae", "taid", "ann_vae"):
        paper, fast = (preset("mnist", model, recipe=recipe) for recipe in ("paper", "fast"))
        assert paper.model_config() == fast.model_config() and paper.run_dir != fast.run_dir
        assert fast.schedule_needs_epochs


def test_a_run_with_a_schedule_stopped_in_an_epoch_ends_as_if_it_had_not_been(
    train: Callable, after_step: Callable, results: Callable, run_dir: Path
) -> None:
    flags = ("--epochs", "2", "--schedule", "cosine", "--warmup", "0.3")
    assert train(*flags, "--name", "whole") == 0
    after_step(3, partial(os.kill, os.getpid(), signal.SIGTERM))
    assert train(*flags) == 143
    assert train(*flags) == 0
    assert results(run_dir) == results(run_dir.parent / "whole")


def test_every_step_is_taken_at_its_own_rates(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, original = [], training.step.training_step

    def training_step(model: object, optimizer: torch.optim.Optimizer, *others: object) -> object:
        taken.append([group["lr"] for group in optimizer.param_groups])
        return original(model, optimizer, *others)

    monkeypatch.setattr("training.step.training_step", training_step)
    assert train("--epochs", "2", "--schedule", "cosine", "--lr", "0.002") == 0
    n = len(taken)
    assert n == 14
    for step, (rate, bottleneck) in enumerate(taken):
        assert rate == pytest.approx(0.001 * (1 + math.cos(math.pi * (step + 0.5) / n)))
        assert bottleneck == pytest.approx(10 * rate)
