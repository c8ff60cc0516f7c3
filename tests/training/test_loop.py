"""A step, the optimizer, what an epoch logs, and runs that diverge."""

import csv
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from analysis.subjects import name_of
from errors import UserError
from models import FSVAE, load_model, read_metadata
from training import loop
from training.config import Config, preset
from training.evaluation import ReconstructionTest
from training.loop import fit
from training.run import prepare
from training.step import make_optimizer, training_step

COLUMNS = [
    *("epoch", "step", "train_loss", "train_reconstruction", "train_mmd", "test_reconstruction"),
    *("posterior_rate_mean", "prior_rate_mean", "images_per_second", "seconds", "peak_memory_bytes"),
]


def small(tmp_path: Path, **changes: Any) -> Config:
    defaults = {"batch_size": 10, "train_images": 20, "n_steps": 2, "latent_dim": 4, "epochs": 1}
    where = {"runs_dir": tmp_path, "name": "run", "device": "cpu"}
    return Config(**{"dataset": "digits", "horizontal_flip": False} | defaults | where | changes)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_bottleneck_learns_ten_times_faster() -> None:
    run = prepare(preset("digits"))
    groups = make_optimizer(run.model, preset("digits", variant="code")).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([8e-3, 8e-2])
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in run.model.bottleneck.parameters()}
    for group in groups:
        assert group["betas"] == (0.9, 0.999) and group["weight_decay"] == 0.001
        assert not group["amsgrad"] and not group["maximize"]
    together = [id(p) for group in groups for p in group["params"]]
    assert sorted(together) == sorted(id(p) for p in run.model.parameters())


def test_adamw_moves_each_group_by_its_rate(tmp_path: Path) -> None:
    # AdamW's first step is lr * sign(gradient), besides the decay lr * weight_decay * weight.
    config = small(tmp_path, lr=1e-4, weight_decay=0.0)
    run = prepare(config)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    training_step(run.model.train(), run.optimizer, torch.rand(10, 1, 32, 32) * 2 - 1, run.noise)
    moved = {name: (p - before[name]).abs().max().item() for name, p in run.model.named_parameters()}
    assert moved["bottleneck.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["encoder.blocks.0.synapse.weight"] == pytest.approx(1e-4, rel=0.01)


def test_the_fused_optimizer_takes_the_same_steps(tmp_path: Path) -> None:
    config = small(tmp_path, lr=1e-3, weight_decay=0.1)
    ours, plain = prepare(config), prepare(config)
    plain.optimizer = torch.optim.AdamW(plain_groups(plain.optimizer), betas=(0.9, 0.999), fused=False)
    assert all(group["fused"] for group in ours.optimizer.param_groups)
    for seed in range(3):
        x = torch.rand((10, 1, 32, 32), generator=torch.Generator().manual_seed(seed)) * 2 - 1
        training_step(ours.model.train(), ours.optimizer, x, ours.noise)
        for p, other in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
            other.grad = p.grad.clone()
        plain.optimizer.step()
    for p, other in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-5, atol=1e-7)


def plain_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Its parameters with what the paper says of their updates, and nothing of how these are computed."""
    return [{name: group[name] for name in ("params", "lr", "weight_decay")} for group in optimizer.param_groups]


def test_a_step_returns_detached_scalars_that_add_up(tmp_path: Path) -> None:
    run = prepare(small(tmp_path, mmd_weight=0.5))
    metrics = training_step(run.model.train(), run.optimizer, torch.rand(10, 1, 32, 32) * 2 - 1, run.noise)
    assert set(metrics) == {"loss", "reconstruction", "mmd", "posterior_rate_mean", "prior_rate_mean"}
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    assert metrics["loss"].item() == pytest.approx((metrics["reconstruction"] + 0.5 * metrics["mmd"]).item())
    assert 0 <= metrics["posterior_rate_mean"] <= 1 and 0.2 < metrics["prior_rate_mean"] < 0.8


def test_the_seed_decides_the_weights_and_nothing_else_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = prepare(small(tmp_path)).model.state_dict()
    torch.manual_seed(2)
    second = prepare(small(tmp_path)).model.state_dict()
    other = prepare(small(tmp_path, seed=43)).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["bottleneck.weight"], other["bottleneck.weight"])


def test_noise_does_not_repeat_the_numbers_that_made_the_weights(tmp_path: Path) -> None:
    run = prepare(small(tmp_path))
    weights = torch.cat([p.detach().flatten() for p in run.model.parameters() if p.dim() > 1])
    uniform = torch.rand(len(weights), generator=run.noise)
    assert len(weights) > 100_000
    for start in range(0, 100_000, 1_000):  # any thousand of them against the first thousand of the noise
        pair = torch.stack([weights[start : start + 1_000], uniform[:1_000]])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.2


def test_metrics_have_their_documented_columns(uninterrupted: Path) -> None:
    rows = rows_of(uninterrupted / "metrics.csv")
    assert list(rows[0]) == COLUMNS
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "7"), ("2", "14"), ("3", "21")]
    for row in ({name: float(value) for name, value in row.items()} for row in rows):
        assert row["train_loss"] == pytest.approx(row["train_reconstruction"] + 0.5 * row["train_mmd"], rel=1e-6)
        assert 0 < row["posterior_rate_mean"] < 1 and 0 < row["prior_rate_mean"] < 1
        assert row["images_per_second"] == pytest.approx(33 / row["seconds"])
        assert row["peak_memory_bytes"] > 1e7


def test_logged_means_weigh_each_image_equally(train: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 20.0])  # for six batches of 5 and one of 3

    def step(*_arguments: object) -> dict[str, torch.Tensor]:
        names = ("loss", "reconstruction", "mmd", "posterior_rate_mean", "prior_rate_mean")
        return dict.fromkeys(names, torch.tensor(next(numbers)))

    monkeypatch.setattr("training.step.training_step", step)
    assert train("--epochs", "1") == 0
    row = rows_of(run_dir / "metrics.csv")[0]
    assert (
        float(row["train_loss"])
        == float(row["train_mmd"])
        == pytest.approx((5 * (1 + 2 + 3 + 4 + 5 + 6) + 3 * 20) / 33)
    )


def test_seconds_are_those_of_each_epoch_without_the_pause_of_a_stop(
    train: Callable, after_step: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    after_step(10, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train("--epochs", "3") == 143
    for _ in range(1000):
        next(clock)
    assert train("--epochs", "3") == 0
    undisturbed, stopped, again = (float(row["seconds"]) for row in rows_of(run_dir / "metrics.csv"))
    assert undisturbed == again > 7
    assert stopped == pytest.approx(again, abs=2)


def test_rate_histograms_count_every_latent_unit(uninterrupted: Path) -> None:
    rows = rows_of(uninterrupted / "firing_rates.csv")
    assert [(row["epoch"], row["stage"]) for row in rows] == [(e, s) for e in "123" for s in ("posterior", "prior")]
    for row in rows:
        assert list(row)[2:] == ["fired_0", "fired_1", "fired_2"]  # T = 2
        assert sum(int(row[name]) for name in list(row)[2:]) == 40 * 16  # N * D


def test_a_model_is_told_where_training_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(FSVAE, "start_epoch", lambda _, *where: told.append(where))
    fit(small(tmp_path, model="fsvae", epochs=2))
    assert told == [(0, 2, 2), (1, 2, 2)]  # epoch, of how many, with how many steps each


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    fit(small(tmp_path, epochs=6, train_images=50, lr=8e-3))
    rows = rows_of(tmp_path / "run" / "metrics.csv")
    assert float(rows[-1]["train_reconstruction"]) < 0.8 * float(rows[0]["train_reconstruction"])


def test_weights_of_epochs_between_are_kept_where_asked(train: Callable, run_dir: Path, uninterrupted: Path) -> None:
    assert train("--epochs", "2") == 0
    after_two = load_model(run_dir).state_dict()
    assert not (run_dir / "epochs").exists()
    assert train("--epochs", "3", "--keep-every", "2", "--fresh") == 0
    (kept,) = (run_dir / "epochs").iterdir()
    assert (name_of(kept), read_metadata(kept)["run"]["epochs"]) == (f"{run_dir.name}-epoch-0002", 2)
    for file, expected in ((kept, after_two), (run_dir, load_model(uninterrupted).state_dict())):
        assert all(torch.equal(value, expected[name]) for name, value in load_model(file).state_dict().items())
    assert train("--epochs", "4") == 0
    assert [*(run_dir / "epochs").iterdir()] == [kept]  # asked no more


def test_files_of_a_run_are_called_as_the_run_from_wherever_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "scratch"
    (elsewhere / "weights").mkdir(parents=True)
    run.mkdir()
    (run / "config.json").touch()
    (run / "epochs").symlink_to(elsewhere / "weights")
    (run / "model.safetensors").symlink_to(elsewhere / "weights" / "model.safetensors")
    (elsewhere / "link").symlink_to(run)
    assert name_of(run / "model.safetensors") == name_of(elsewhere / "link") == "run"
    for folder, file in ((tmp_path, "run/epochs"), (run, "epochs"), (elsewhere, "link/epochs")):
        monkeypatch.chdir(folder)
        assert name_of(Path(file) / "epoch-0003.safetensors") == "run-epoch-0003"
    assert name_of(elsewhere / "weights" / "epoch-0003.safetensors") == "epoch-0003"


def test_the_saved_model_is_the_trained_one(uninterrupted: Path) -> None:
    model = load_model(uninterrupted)
    state = torch.load(uninterrupted / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (model.config.latent_dim, model.config.n_steps, model.config.mmd_weight) == (16, 2, 0.5)


@pytest.fixture
def saved(train: Callable, run_dir: Path, contents: Callable) -> dict[str, Any]:
    """A run of one epoch: its files, without what only describes the start."""
    assert train("--epochs", "1") == 0
    return contents(run_dir)


@pytest.fixture
def check_kept(run_dir: Path, contents: Callable, saved: dict) -> Callable[[], None]:
    def check() -> None:
        now = contents(run_dir)
        changed = {name for name in now.keys() | saved.keys() if now.get(name) != saved.get(name)}
        assert changed <= {"config.json", ".lock"}  # the start is noted

    return check


def spoil(monkeypatch: pytest.MonkeyPatch, n: int, change: Callable[..., None]) -> None:
    """Call change(metrics, model) after the n-th training step."""
    steps, original = itertools.count(1), training_step

    def step(model: torch.nn.Module, *arguments: Any) -> dict[str, torch.Tensor]:
        metrics = original(model, *arguments)
        if next(steps) == n:
            change(metrics, model)
        return metrics

    monkeypatch.setattr("training.step.training_step", step)


def nan_loss(metrics: dict[str, torch.Tensor], _model: object) -> None:
    metrics["loss"] = torch.tensor(float("nan"))


def infinite_weight(_metrics: object, model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.bottleneck.weight[0, 0] = float("inf")


@pytest.mark.parametrize("flags", [(), ("--checkpoint-every", "0")], ids=["fetched late", "fetched at once"])
def test_a_loss_that_is_not_a_number_ends_the_run(
    train: Callable,
    check_kept: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    run_dir: Path,
    flags: tuple[str, ...],
) -> None:
    spoil(monkeypatch, 1 if flags else 2, nan_loss)
    assert train("--epochs", "3", *flags) == 2
    step = 1 if flags else 2
    assert capsys.readouterr().err == (
        f"error: the loss became nan in step {step} of epoch 2; try a lower --lr. "
        f"{run_dir} keeps the last good checkpoint\n"
    )
    check_kept()


def test_weights_that_burst_in_the_last_step_are_not_saved(
    train: Callable, check_kept: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    spoil(monkeypatch, 7, infinite_weight)
    assert train("--epochs", "3") == 2
    assert "the weights became infinite in step 7 of epoch 2" in capsys.readouterr().err
    check_kept()


def test_a_stop_does_not_save_a_diverged_run(
    train: Callable, check_kept: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def nan_and_stop(metrics: dict[str, torch.Tensor], model: object) -> None:
        nan_loss(metrics, model)
        os.kill(os.getpid(), signal.SIGINT)

    spoil(monkeypatch, 2, nan_and_stop)
    assert train("--epochs", "3") == 2
    assert "the loss became nan in step 2 of epoch 2" in capsys.readouterr().err
    check_kept()


def test_a_test_loss_that_is_not_a_number_is_not_logged(
    train: Callable, check_kept: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(ReconstructionTest, "__call__", lambda *_, **__: float("nan"))
    assert train("--epochs", "3") == 2
    assert "the test loss became nan in step 7 of epoch 2" in capsys.readouterr().err
    check_kept()


def test_a_first_epoch_whose_test_loss_is_not_a_number_leaves_no_checkpoint(
    train: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(ReconstructionTest, "__call__", lambda *_, **__: float("nan"))
    assert train("--epochs", "3") == 2
    assert "the test loss became nan in step 7 of epoch 1; try a lower --lr. no checkpoint" in capsys.readouterr().err
    assert not (run_dir / "last.pt").exists() and not (run_dir / "model.safetensors").exists()


def test_an_absurd_learning_rate_ends_the_run_without_a_checkpoint(
    train: Callable, capsys: pytest.CaptureFixture, run_dir: Path
) -> None:
    assert train("--epochs", "3", "--lr", "1e6") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and " of epoch 1; try a lower --lr. no checkpoint was written yet" in error
    assert not (run_dir / "last.pt").exists() and not (run_dir / "model.safetensors").exists()


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for drop_last in (True, False):
        config = small(tmp_path, batch_size=1501, train_images=None, drop_last=drop_last)
        with pytest.raises(UserError, match="--batch-size 1501 is more than the 1500 training images"):
            fit(config)
    assert list(tmp_path.iterdir()) == []
