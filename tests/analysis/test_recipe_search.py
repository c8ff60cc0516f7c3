"""The search for a recipe scores held-out training images, and does no trial twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import recipe_search, trials
from cli import run_program
from errors import DivergedError, UserError

FLAGS = ("--dataset", "digits", "--train-images", "32")


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """Run the search with two trials per stage; gives its table."""
    monkeypatch.setattr(recipe_search, "RATES", ((16, 1e-3), (8, 2e-3)))
    monkeypatch.setattr(recipe_search, "SHAPES", ({"warmup": 0.0}, {"schedule": "constant"}))
    monkeypatch.setattr(recipe_search, "N_HELD_OUT", 20)

    def run(*flags: str) -> pd.DataFrame:
        file = tmp_path / "trials.csv"
        assert run_program(recipe_search.main, [*FLAGS, "--out", str(file), *flags]) == 0
        return pd.read_csv(file)

    return run


def test_a_stage_leaves_a_line_per_trial_and_goes_on_where_it_stopped(
    search: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search()
    assert list(zip(first["batch_size"], first["lr"], strict=True)) == [(16, 1e-3), (8, 2e-3)]
    assert (first["loss"] > 0).all() and first["loss"].nunique() == 2
    monkeypatch.setattr(trials, "prepare", None)  # nothing is left to run
    assert search().equals(first)


def test_shapes_keep_the_given_rate_and_change_one_thing(search: Callable) -> None:
    table = search("--stage", "shape", "--batch-size", "16", "--lr", "1e-3")
    assert (table["batch_size"] == 16).all() and (table["lr"] == 1e-3).all()
    assert list(table["warmup"]) == [0.0, 0.1] and list(table["schedule"]) == ["cosine", "constant"]


def test_the_images_that_are_scored_were_not_trained_on(search: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    prepare, evaluate = trials.prepare, recipe_search.evaluate_reconstruction
    monkeypatch.setattr(trials, "prepare", lambda config: seen.setdefault("run", prepare(config)))
    monkeypatch.setattr(
        recipe_search, "evaluate_reconstruction", lambda m, x: seen.setdefault("x", x) is None or evaluate(m, x)
    )
    search()
    trained = {image.numpy().tobytes() for image in seen["run"].train_images}
    scored = [image.numpy().tobytes() for image in seen["x"]]
    assert len(trained) == 32 and len(scored) == 20 and not trained & set(scored)


def test_a_trial_that_diverges_is_kept_without_a_loss(search: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_arguments: object) -> None:
        raise DivergedError("the loss became nan")

    monkeypatch.setattr(trials, "train_epoch", diverge)
    assert search()["loss"].isna().all()


def test_a_trial_that_fails_for_another_reason_is_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(trials, "train_epoch", fail)
    file = tmp_path / "trials.csv"
    assert run_program(recipe_search.main, ["--dataset", "digits", "--train-images", "256", "--out", str(file)]) == 2
    assert not file.exists()


@pytest.mark.parametrize("flag", ["--lr 0.1", "--batch-size 8"])
def test_what_a_stage_varies_cannot_be_kept(flag: str, capsys: pytest.CaptureFixture) -> None:
    assert run_program(recipe_search.main, [*FLAGS, *flag.split()]) == 2
    assert "--stage shape" in capsys.readouterr().err


def test_too_few_images_to_hold_out_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--dataset", "digits", "--train-images", "1400", "--out", str(tmp_path / "x.csv")]
    assert run_program(recipe_search.main, arguments) == 2
    assert "leaves fewer than" in capsys.readouterr().err


def test_a_trial_that_another_process_has_run_meanwhile_is_not_added_again(
    search: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, once = tmp_path / "trials.csv", search()
    file.unlink()
    monkeypatch.setattr(trials, "_result", lambda *_: once.to_csv(file, index=False) or 0.5)  # the other ends first
    assert search().equals(once)
