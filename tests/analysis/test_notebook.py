"""What a notebook shows: the longest trained checkpoints, and results on file where they are of these weights."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import notebook
from analysis.experiment_result import write_result
from analysis.latent_raster import LatentRaster
from analysis.notebook import best_checkpoints, show, show_evaluation
from models import load_model, save_model


def test_of_each_kind_the_model_that_saw_most_images_is_taken(
    small_models: dict[str, Path], tmp_path: Path, capsys
) -> None:
    model = load_model(small_models["esvae"])
    for name, epochs, train_images in (("short", 3, None), ("few", 20, 100), ("long", 4, None)):
        config = {"dataset": "digits", "model": "esvae", "train_images": train_images}
        save_model(model, tmp_path / f"{name}.safetensors", {"epochs": epochs, "config": config})
    save_model(model, tmp_path / "unknown.safetensors")
    assert best_checkpoints("digits", "esvae", "fsvae", folder=tmp_path) == [tmp_path / "long.safetensors"]
    assert "has no fsvae trained on digits" in capsys.readouterr().out
    assert best_checkpoints("mnist", "esvae", folder=tmp_path) == []


def test_the_released_codes_variant_stands_for_a_model_only_where_there_is_no_other(
    small_models: dict[str, Path], tmp_path: Path
) -> None:
    model = load_model(small_models["esvae"])
    for name, epochs, variant in (("code", 9, "code"), ("paper", 2, "paper")):
        config = {"dataset": "digits", "model": "esvae", "variant": variant}
        save_model(model, tmp_path / f"{name}.safetensors", {"epochs": epochs, "config": config})
    assert best_checkpoints("digits", "esvae", folder=tmp_path) == [tmp_path / "paper.safetensors"]
    (tmp_path / "paper.safetensors").unlink()
    assert best_checkpoints("digits", "esvae", folder=tmp_path) == [tmp_path / "code.safetensors"]


@pytest.fixture
def stored(small_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LatentRaster:
    """An experiment whose result, with a number that no measurement gives, is on file."""
    monkeypatch.setattr(notebook, "ANALYSIS_RESULTS", tmp_path)
    experiment = LatentRaster(checkpoint=(small_models["esvae"],), n_images=5, device="cpu")
    subjects = experiment.load_subjects()
    result = experiment.measure(subjects)
    result.table["firing_rate"] = 123.5
    write_result(tmp_path, experiment.file_name(subjects), result)
    return experiment


def test_a_result_on_file_is_shown(stored: LatentRaster, capsys) -> None:
    show(stored, rerun=False)
    shown = capsys.readouterr().out
    assert "123.5" in shown and "first 5 images of the test split" in shown and "Image" in shown
    assert "measuring now" not in shown


def test_a_rerun_measures_and_leaves_the_file(stored: LatentRaster, tmp_path: Path, capsys) -> None:
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    show(stored, rerun=True)
    assert "123.5" not in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_result_of_more_models_than_asked_for_is_shown(
    small_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(notebook, "ANALYSIS_RESULTS", tmp_path)
    both = LatentRaster(checkpoint=(small_models["esvae"], small_models["fsvae"]), n_images=5, device="cpu")
    subjects = both.load_subjects()
    write_result(tmp_path, both.file_name(subjects), both.measure(subjects))
    show(replace(both, checkpoint=both.checkpoint[:1]), rerun=False)
    shown = capsys.readouterr().out
    assert "measuring now" not in shown and "FSVAE" in shown


def test_a_result_of_other_weights_is_not_shown(stored: LatentRaster, small_models: dict[str, Path], capsys) -> None:
    show(LatentRaster(checkpoint=(small_models["fsvae"],), n_images=5, device="cpu"), rerun=False)
    shown = capsys.readouterr().out
    assert "is of other weights" in shown and "FSVAE" in shown and "123.5" not in shown


def test_a_setting_that_is_asked_for_is_measured(stored: LatentRaster, capsys) -> None:
    show(replace(stored, seed=7), rerun=False)
    shown = capsys.readouterr().out
    assert "has another seed" in shown and "123.5" not in shown


def test_numbers_on_file_are_the_released_models_alone(
    small_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    number = {"value": 123.5, "protocol": "on file", "n_images": 5, "split": "test", "feature_network": None}
    stored = {"reconstruction_loss": number, "budget": "released", "dataset": "digits", "baselines": {}, "epochs": 3}
    stored |= {"config": {"variant": "paper"}, "model": {"model": "esvae"}}
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "esvae.safetensors").write_bytes(b"weights")
    stored["checkpoint_sha256"] = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "results" / "esvae.json").write_text(json.dumps(stored))
    measured = stored | {"reconstruction_loss": number | {"value": 0.25}}
    monkeypatch.setattr(notebook, "evaluate", lambda _: ({k: v for k, v in measured.items() if k != "budget"}, {}))
    for checkpoint, rerun, loss in (
        ("pretrained/esvae.safetensors", False, "released\nreconstruction_loss 123.5"),
        ("pretrained/esvae.safetensors", True, "measured now\nreconstruction_loss 0.25"),
        ("runs/esvae", False, "measured now\nreconstruction_loss 0.25"),
    ):
        show_evaluation(checkpoint, rerun)
        assert f"esvae: {loss}" in capsys.readouterr().out
    (tmp_path / "pretrained" / "esvae.safetensors").write_bytes(b"other weights")
    show_evaluation("pretrained/esvae.safetensors", rerun=False)
    assert "esvae: measured now" in capsys.readouterr().out
