"""bfloat16 against float32, run by run."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis import precisions, trials
from analysis.precisions import Arguments, effects
from cli import run_program
from training.config import preset

DIGITS = ["--dataset", "digits", "--train-images", "100", "--epochs", "1", "--seeds", "1", "2"]


def test_runs_differ_in_precision_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "resolve_device", lambda _: torch.device("cuda"))
    configs = Arguments(recipe="fast", epochs=3, train_images=640).configs()
    assert [(c.seed, c.precision) for c in configs] == [(s, p) for s in (42, 43, 44) for p in ("fp32", "bf16")]
    fast = preset("cifar10", recipe="fast").identity() | {"epochs": 3, "train_images": 640}
    assert all(config.identity() == fast | {"seed": config.seed} for config in configs)


def test_the_command_runs_what_is_missing_and_prints_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config = replace(preset("digits"), train_images=100, epochs=1, device="cpu", precision="fp32")
    monkeypatch.setattr(Arguments, "configs", lambda _: [replace(config, seed=seed) for seed in (1, 2)])
    arguments = ["--out", str(tmp_path / "runs.csv")]
    assert run_program(precisions.main, arguments) == 0
    table = pd.read_csv(tmp_path / "runs.csv")
    assert table["seed"].tolist() == [1, 2] and table["loss"].nunique() == 2
    monkeypatch.setattr(trials, "prepare", None)  # nothing is left to run
    assert run_program(precisions.main, arguments) == 0
    assert f"{table['loss'].mean():.4g}" in capsys.readouterr().out


@pytest.mark.gpu
def test_the_command_runs_each_once_and_in_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = [*DIGITS, "--out", str(tmp_path / "runs.csv")]
    assert run_program(precisions.main, arguments) == 0
    table = pd.read_csv(tmp_path / "runs.csv")
    assert len(table) == 4 and table["loss"].nunique() == 4 and set(table["device"]) == {"cuda"}
    monkeypatch.setattr(trials, "prepare", None)  # nothing is left to run
    assert run_program(precisions.main, arguments) == 0
    assert "bf16" in capsys.readouterr().out


def test_effects_are_means_over_seeds_within_a_budget() -> None:
    line = {"dataset": "cifar10", "model": "esvae", "recipe": "paper", "train_images": None, "epochs": 10}
    losses = {("cuda", "fp32"): (1.0, 2.0, 3.0), ("cuda", "bf16"): (2.0, 3.0, None), ("cpu", "bf16"): (9.0,)}
    runs = [
        line | {"device": device, "precision": precision, "seed": seed, "loss": loss}
        for (device, precision), values in losses.items()
        for seed, loss in enumerate(values)
    ]
    found = effects(pd.DataFrame(runs)).set_index(["device", "precision"])
    assert found["mean"].tolist() == [2.0, 2.5, 9.0] and found.loc[("cuda", "fp32"), "deviation"] == 1.0
    assert found["n"].tolist() == [3, 2, 1] and found["runs"].tolist() == [3, 3, 1]
