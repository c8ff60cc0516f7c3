"""Wherever and however a run stops, the same command goes on as if it had not."""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data import training_batches
from models import read_metadata
from training import loop
from training.config import Config, preset
from training.evaluation import ReconstructionTest
from training.folder import read_record
from training.log import RunLog
from training.run import NOISE_STATE_BYTES, prepare
from training.stop import Stopped, StopRequest

N_EPOCHS, STEPS_PER_EPOCH = 3, 7


def send(number: int) -> Callable[[], None]:
    return partial(os.kill, os.getpid(), number)


class Killed(Exception):
    """Stands for the end of the process."""


def die(*_arguments: object, **_options: object) -> None:
    raise Killed


@pytest.fixture
def same(results: Callable, uninterrupted: Path, run_dir: Path) -> Callable[[], None]:
    """Check that the run left what the uninterrupted run left."""

    def check() -> None:
        ours, theirs = results(run_dir), results(uninterrupted)
        assert len(theirs["metrics"]) == N_EPOCHS and len(theirs["images"]) == 2 * (N_EPOCHS + 1)
        for name in theirs:
            assert ours[name] == theirs[name], name

    return check


def position(folder: Path) -> tuple[int, int]:
    """Finished epochs, and finished steps of the next."""
    state = torch.load(folder / "last.pt", weights_only=True)
    return state["epoch"], state["step"]


def test_more_epochs_go_on_where_a_finished_run_ended(train: Callable, same: Callable, run_dir: Path) -> None:
    assert train("--epochs", "1") == 0
    assert position(run_dir) == (1, 0)
    assert train("--epochs", "3") == 0
    same()


def test_the_model_of_a_finished_run_is_written_again_where_it_is_gone(
    train: Callable, run_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("--epochs", "2") == 0
    model = run_dir / "model.safetensors"
    metadata, tensors = read_metadata(model), load_file(model)
    model.unlink()
    assert train("--epochs", "1") == 0 and not model.exists()  # what it says of itself would not be true
    assert train("--epochs", "2") == 0
    assert read_metadata(model) == metadata
    torch.testing.assert_close(load_file(model), tensors, rtol=0, atol=0)
    assert "model.safetensors was gone: it is written again, from last.pt" in capsys.readouterr().out


def test_a_signal_in_the_middle_of_the_test(
    train: Callable, same: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ReconstructionTest.__call__

    def disturbed(test: ReconstructionTest, before_batch: Callable[[], None]) -> float:
        batches, test.batch_size = itertools.count(), 10

        def send_in_the_third() -> None:
            if next(batches) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            before_batch()

        return whole(test, before_batch=send_in_the_third)

    with monkeypatch.context() as patch:
        patch.setattr(ReconstructionTest, "__call__", disturbed)
        assert train("--epochs", "3") == 143
    assert position(run_dir) == (0, STEPS_PER_EPOCH)
    assert train("--epochs", "3") == 0
    same()


@pytest.mark.parametrize(("method", "stands"), [("pictures", (0, STEPS_PER_EPOCH)), ("epoch", (1, 0))])
def test_a_signal_while_an_epoch_is_drawn_or_logged(
    train: Callable,
    same: Callable,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    stands: tuple[int, int],
) -> None:
    original = getattr(RunLog, method)
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, method, lambda *arguments: (send(signal.SIGTERM)(), original(*arguments)))
        assert train("--epochs", "3") == 143
    assert position(run_dir) == stands
    assert train("--epochs", "3") == 0
    same()


def test_ctrl_c_says_where_the_run_stopped(
    train: Callable, same: Callable, after_step: Callable, capsys: pytest.CaptureFixture
) -> None:
    after_step(STEPS_PER_EPOCH + 4, send(signal.SIGINT))
    assert train("--epochs", "3") == 130
    assert capsys.readouterr().err == "stopped at epoch 2, step 4; the same command goes on from there\n"
    assert train("--epochs", "3") == 0
    same()


def test_a_run_stopped_after_every_single_step(
    train: Callable, same: Callable, after_step: Callable, run_dir: Path
) -> None:
    stops = []
    after_step(1, send(signal.SIGTERM))
    while (code := train("--epochs", "3")) == 143:
        stops.append(position(run_dir))
        after_step(1, send(signal.SIGTERM))
    # The last step of an epoch does not wait for the test.
    assert stops == [(epoch, step + 1) for epoch in range(N_EPOCHS) for step in range(STEPS_PER_EPOCH)]
    assert code == 0
    same()


def test_what_another_process_saved_until_it_let_go_of_the_folder_is_gone_on_from(
    train: Callable, same: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = loop.run_lock

    @contextmanager
    def lock_that_was_waited_for(folder: Path) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "run_lock", lock)
            assert train("--epochs", "2") == 0  # the other process
        with lock(folder):
            yield

    assert train("--epochs", "1") == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_lock", lock_that_was_waited_for)
        assert train("--epochs", "3") == 0
    assert [start["epoch"] for start in read_record(run_dir)["starts"]] == [0, 1, 2]
    same()


def test_a_process_killed_between_a_model_and_its_state_can_be_continued(
    train: Callable, same: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = loop.save_model

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise Killed

    for epoch in range(N_EPOCHS):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop, "save_model", save_and_die)
            train("--epochs", "3")
        assert position(run_dir) == ((0, STEPS_PER_EPOCH) if epoch == 0 else (epoch, 0))
        assert train("--epochs", str(epoch + 1)) == 0
    same()


def test_what_a_killed_process_had_half_written_is_removed(train: Callable, same: Callable, run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / ".config.json-1234").write_text('{"conf')
    assert train("--epochs", "1") == 0
    (run_dir / ".last.pt-abcd").write_bytes(b"PK")
    (run_dir / ".mine").write_text("foreign")
    assert train("--epochs", "3") == 0
    assert {file.name for file in run_dir.iterdir() if file.name.startswith(".")} == {".lock", ".mine"}
    same()


@pytest.mark.parametrize("place", ["epoch", "save_model", "save"])
def test_killed_between_logging_an_epoch_and_saving_it(
    train: Callable, same: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    assert train("--epochs", "1") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunLog if place == "epoch" else loop, place, die)
        train("--epochs", "3")
    n_rows = {"epoch": 1}.get(place, 2)  # after the header; the second is too early
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 1 + n_rows
    assert len((run_dir / "firing_rates.csv").read_text().splitlines()) == 1 + 2 * 2  # the same of each stage
    assert position(run_dir) == (1, 0)
    assert train("--epochs", "3") == 0
    same()


def test_killed_in_the_first_epoch_before_anything_was_saved(
    train: Callable, same: Callable, after_step: Callable, run_dir: Path
) -> None:
    after_step(3, die)
    with pytest.raises(Killed):
        train("--epochs", "3")
    assert not (run_dir / "last.pt").exists()
    assert train("--epochs", "3") == 0
    same()


def test_saving_after_every_step_changes_nothing(train: Callable, same: Callable) -> None:
    assert train("--epochs", "3", "--checkpoint-every", "0") == 0
    same()


@pytest.mark.parametrize("steps", [2, 14], ids=["in an epoch", "before the end of an epoch"])
def test_killed_hard_with_a_checkpoint_inside_the_epoch(
    train: Callable, same: Callable, after_step: Callable, run_dir: Path, steps: int
) -> None:
    after_step(steps, die)  # before this step is counted and saved
    with pytest.raises(Killed):
        train("--epochs", "3", "--checkpoint-every", "0")
    assert position(run_dir) == divmod(steps - 1, STEPS_PER_EPOCH)
    assert train("--epochs", "3") == 0
    same()


def test_killed_between_the_last_step_of_an_epoch_and_its_end(
    train: Callable, same: Callable, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "finish_epoch", die)
        train("--epochs", "3", "--checkpoint-every", "0")
    assert position(run_dir) == (0, STEPS_PER_EPOCH)
    assert train("--epochs", "3") == 0
    same()


def test_how_often_losses_are_fetched_changes_nothing(
    train: Callable, same: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FETCH_EVERY", 3)
    assert train("--epochs", "3") == 0
    same()


def test_the_global_random_state_neither_matters_nor_moves(train: Callable, same: Callable) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert train("--epochs", "3") == 0
    assert torch.equal(torch.get_rng_state(), before)
    same()


def test_a_deadline_stops_the_run_and_it_goes_on(train: Callable, same: Callable, tmp_path: Path) -> None:
    assert train("--epochs", "1") == 0
    config = Config(**read_record(tmp_path / "run")["config"])
    with pytest.raises(Stopped) as stopped:
        loop.fit(replace(config, epochs=3, runs_dir=tmp_path), deadline=time.monotonic())
    assert stopped.value.exit_code == 0
    assert position(tmp_path / "run") == (1, 1)
    assert train("--epochs", "3") == 0
    same()


@pytest.mark.parametrize("model", ["fsvae", "taid", "ann_vae"])
def test_the_other_models_go_on_exactly_too(
    train: Callable, after_step: Callable, results: Callable, tmp_path: Path, model: str
) -> None:
    # FSVAE and TAID feed z back, update their statistics many times a step, and flip coins that depend on the epoch.
    small = ("--model", model, "--latent-dim", "4", "--train-images", "13", "--epochs", "2")
    small += () if model == "ann_vae" else ("--n-steps", "7")
    assert train(*small, "--name", "undisturbed") == 0
    after_step(4, send(signal.SIGTERM))
    assert train(*small) == 143
    assert position(tmp_path / "run") == (1, 1)
    assert train(*small) == 0
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")


@pytest.mark.parametrize(("model", "code"), [("fsvae", 2), ("ann_vae", 0)])
def test_the_number_of_epochs_is_fixed_where_the_schedule_depends_on_it(
    train: Callable, capsys: pytest.CaptureFixture, model: str, code: int
) -> None:
    small = ("--model", model, "--latent-dim", "2", "--train-images", "5")
    assert train(*small, "--epochs", "1") == 0
    assert train(*small, "--epochs", "2") == code
    assert ("epochs 1 -> 2" in capsys.readouterr().err) == bool(code)


class LateRequest(StopRequest):
    """Says no so many times and then yes: a signal that comes between two looks."""

    def __init__(self, n_refusals: int) -> None:
        super().__init__(signal_number=signal.SIGINT)
        self.n_refusals = n_refusals

    def __bool__(self) -> bool:
        self.n_refusals -= 1
        return self.n_refusals < 0


@pytest.mark.parametrize("n_refusals", range(4))
def test_a_stop_saves_the_sums_of_exactly_its_steps(tmp_path: Path, n_refusals: int) -> None:
    small = {"n_steps": 1, "latent_dim": 4, "train_images": 20, "batch_size": 4, "device": "cpu"}
    run = prepare(replace(preset("digits"), **small, runs_dir=tmp_path, name="run"))
    with pytest.raises(Stopped):
        loop.train_epoch(run, LateRequest(n_refusals))
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert 1 <= state["step"] <= 4
    assert state["sums"]["images"] == 4 * state["step"]


def test_a_state_of_the_unfused_optimizer_goes_on(train: Callable, run_dir: Path, uninterrupted: Path) -> None:
    """Older versions saved such; its first two epochs are those of the fused one here."""
    assert train("--epochs", "2") == 0
    state = torch.load(run_dir / "last.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group |= {"fused": None, "foreach": None}
    torch.save(state, run_dir / "last.pt")
    assert train("--epochs", "3") == 0
    last, expected = (torch.load(folder / "last.pt", weights_only=True) for folder in (run_dir, uninterrupted))
    assert all(group["fused"] for group in last["optimizer"]["param_groups"])
    assert {moments["step"].item() for moments in last["optimizer"]["state"].values()} == {N_EPOCHS * STEPS_PER_EPOCH}
    assert all(value.equal(expected["model"][name]) for name, value in last["model"].items())


def test_runtime_fields_may_change_and_are_noted(train: Callable, after_step: Callable, run_dir: Path) -> None:
    after_step(2, send(signal.SIGINT))
    assert train("--epochs", "1", "--backend", "scan") == 130
    assert train("--epochs", "2", "--backend", "torch", "--checkpoint-every", "5") == 0
    record = json.loads((run_dir / "config.json").read_text())
    first, second = record["starts"]
    assert (first["epoch"], first["runtime"]["backend"], first["runtime"]["checkpoint_every"]) == (0, "scan", 10)
    assert (second["epoch"], second["runtime"]["backend"], second["runtime"]["checkpoint_every"]) == (0, "torch", 5)
    for start in record["starts"]:
        assert {
            "commit",
            "versions",
            "hardware",
            "date",
            "runtime",
            "lif_backend",
            "precision",
            "epoch",
        } == start.keys()
    assert record["config"]["epochs"] == 2 and record["config"]["backend"] == "torch"


def test_an_epoch_sees_each_image_once_and_never_in_the_same_order(
    train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        for x in training_batches(*arguments, **options):
            seen.append(x)
            yield x

    monkeypatch.setattr(loop, "training_batches", recorded)
    assert train("--epochs", "2", "--no-horizontal-flip") == 0
    assert [len(x) for x in seen] == [5, 5, 5, 5, 5, 5, 3] * 2
    epochs = [torch.cat(seen[:7]).flatten(1), torch.cat(seen[7:]).flatten(1)]
    assert not torch.equal(*epochs)
    sorted_rows = [sorted(map(tuple, images.tolist())) for images in epochs]
    assert sorted_rows[0] == sorted_rows[1] and len(set(sorted_rows[0])) == 33


def test_a_run_goes_on_where_it_was_moved_from_a_gpu(train: Callable, run_dir: Path, capsys) -> None:
    """Generators of a GPU are another kind: the noise has a stream of its own from there on, the same every time."""
    assert torch.Generator().get_state().numel() == NOISE_STATE_BYTES["cpu"]
    assert train("--epochs", "1") == 0
    state = torch.load(run_dir / "last.pt", weights_only=True)
    moved = state | {"noise": torch.zeros(NOISE_STATE_BYTES["cuda"], dtype=torch.uint8)}
    ends = []
    for start in (state, moved, moved):
        torch.save(start, run_dir / "last.pt")
        assert train("--epochs", "2") == 0
        ends.append(torch.load(run_dir / "last.pt", weights_only=True))
    stayed, first, second = ends
    assert (
        capsys.readouterr().out.count("noise and orders go on with other streams") == 2
    )  # once for each that was moved
    assert all(first["model"][name].equal(second["model"][name]) for name in first["model"])
    assert first["noise"].equal(second["noise"]) and not first["noise"].equal(stayed["noise"])
