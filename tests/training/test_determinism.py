"""--seed fixes everything on a CPU; --deterministic takes only kernels that give the same bits, and leaves no trace."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.backends import cudnn

import training.step
from training.device import reproducible_kernels

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def switches() -> tuple[bool, bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """cuBLAS's variable unset, and as it was after the test."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    return monkeypatch


def test_switches_are_on_inside_and_as_before_outside(variable: pytest.MonkeyPatch) -> None:
    variable.setattr(cudnn, "benchmark", True)
    before = switches()
    with pytest.raises(KeyError), reproducible_kernels(True):
        assert switches() == (True, True, False) and os.environ[VARIABLE] == ":4096:8"
        raise KeyError
    assert switches() == before


def test_nothing_is_switched_where_it_is_not_asked_for(variable: pytest.MonkeyPatch) -> None:
    before = switches()
    with reproducible_kernels(False):
        assert switches() == before and VARIABLE not in os.environ


@pytest.mark.parametrize("enabled", [True, False])
def test_a_callers_warnings_stay_warnings(enabled: bool, variable: pytest.MonkeyPatch) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with reproducible_kernels(enabled):
            assert torch.is_deterministic_algorithms_warn_only_enabled() != enabled
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_users_workspace_is_kept(variable: pytest.MonkeyPatch) -> None:
    variable.setenv(VARIABLE, ":16:8")
    with reproducible_kernels(True):
        assert os.environ[VARIABLE] == ":16:8"


def test_an_operation_without_such_a_kernel_fails() -> None:
    place, value = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
    torch.zeros(3).put_(place, value)
    with reproducible_kernels(True), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(place, value)


@pytest.mark.parametrize("model", ["esvae", "fsvae", "taid", "ann_vae"])
def test_every_model_trains_so_and_to_the_same_bits(
    model: str, train: Callable, results: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch also fills fresh memory with NaN then: that nothing changes shows that none is used unwritten."""
    seen: list[bool] = []
    step = training.step.training_step

    def watched(*arguments: Any) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return step(*arguments)

    monkeypatch.setattr("training.step.training_step", watched)
    small = ("--model", model, "--latent-dim", "4", "--train-images", "13", "--epochs", "1")
    for name, flags in (("plain", ()), ("deterministic", ("--deterministic",))):
        assert train(*small, "--name", name, *flags) == 0
    assert seen == [False] * 3 + [True] * 3
    assert results(tmp_path / "plain") == results(tmp_path / "deterministic")


def test_another_seed_is_another_run(train: Callable, results: Callable, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        assert train("--train-images", "13", "--epochs", "1", "--seed", seed, "--name", seed) == 0
    ours, theirs = (results(tmp_path / seed) for seed in ("1", "2"))
    assert all(ours[name] != theirs[name] for name in ours)
