"""What all experiments share: subjects, settings, result files, figures."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.drawing import KIND_COLORS, image_rows, save_figure, subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe, read_experiment, stored_pictures, write_result
from analysis.subjects import Subject, load_subjects, part_of_test_split, trained_label
from cli import run_program
from errors import UserError
from models import ModelConfig, build_model, save_model
from neurons import BACKENDS
from training.config import preset

SMALL = {"image_channels": 1, "widths": (8, 8, 8, 8), "n_steps": 2, "latent_dim": 8}


def test_one_checkpoint_is_no_tuple_of_them() -> None:
    for one in ("a.safetensors", Path("a.safetensors")):
        with pytest.raises(UserError, match=r"one for each model: \(Path\('a.safetensors'\),\)"):
            Experiment(checkpoint=one)


def saved(folder: Path, name: str, model: str = "esvae", **run) -> Path:
    path = folder / f"{name}.safetensors"
    run = {"epochs": 3, "config": {"dataset": "digits", "train_images": None} | run}
    save_model(build_model(ModelConfig(model=model, **SMALL)), path, run)
    return path


@dataclass(frozen=True, kw_only=True)
class CountSpikes(Experiment):
    """Mean number of spikes, with a factor that changes nothing else."""

    name = "count_spikes"

    factor: float = 1.0

    def measure(self, subjects: list[Subject]) -> Result:
        images = self.load_images(subjects)
        spikes = [s.model.sample_latent(4, s.generator(self.seed)).sum().item() for s in subjects]
        table = pd.DataFrame({"model": [s.label for s in subjects], "spikes": spikes})
        record = describe("spikes of 4 draws", subjects, self.settings())
        return Result(record, table, {"images": image_rows({"black": torch.full((len(images), 1, 32, 32), -1.0)})})


def run(*argv: str | Path) -> int:
    return run_program(experiment_main(CountSpikes, "Count spikes."), [str(word) for word in argv])


def test_a_label_tells_the_training_budget(tmp_path: Path) -> None:
    whole, part = saved(tmp_path, "a"), saved(tmp_path, "b", "fsvae", train_images=32_000)
    labels = [s.label for s in load_subjects([whole, part], device="cpu")]
    assert labels == ["ESVAE, 3 epochs", "FSVAE, 3 epochs of 32,000 images"]


def test_a_label_tells_the_recipe_and_a_schedule_that_was_not_run_to_its_end() -> None:
    assert trained_label({"recipe": "fast", "epochs": 2, "schedule": "cosine"}, 2) == "2 epochs, fast recipe"
    assert trained_label({"model": "fsvae", "epochs": 150}, 1) == "1 of 150 epochs"
    assert trained_label({"model": "esvae", "epochs": 300}, 1) == "1 epoch"  # its rate is constant


def test_a_label_tells_the_settings_that_are_not_the_presets() -> None:
    own = preset("digits", recipe="fast").to_dict() | {"lr": 0.004, "n_steps": 8, "seed": 7, "device": "cpu"}
    assert trained_label(own, 9) == "9 epochs, fast recipe, lr 0.004, n_steps 8"
    assert trained_label(own | {"model": "autoencoder"}, 9) == "9 epochs, fast recipe"  # without a preset
    assert trained_label(preset("mnist", variant="code").to_dict(), 300) == "300 epochs"


def test_a_label_tells_that_a_model_was_trained_on_other_images(tmp_path: Path) -> None:
    file = saved(tmp_path, "a")
    (own,), (other,) = (load_subjects([file], dataset, device="cpu") for dataset in (None, "mnist"))
    assert (own.label, other.label) == ("ESVAE, 3 epochs", "ESVAE of digits, 3 epochs")


def test_a_model_of_unknown_training_says_so(tmp_path: Path) -> None:
    save_model(build_model(ModelConfig(**SMALL)), tmp_path / "m.safetensors")
    (subject,) = load_subjects([tmp_path / "m.safetensors"], dataset="digits", device="cpu")
    assert subject.label == "ESVAE, training unknown"


def test_models_with_the_same_budget_are_told_apart_by_name_and_colour(tmp_path: Path) -> None:
    subjects = load_subjects([saved(tmp_path, "a"), saved(tmp_path, "b"), saved(tmp_path, "c", "taid")], device="cpu")
    colors = subject_colors(subjects)
    assert list(colors) == ["ESVAE, 3 epochs (a)", "ESVAE, 3 epochs (b)", "TAID, 3 epochs"]
    assert len(set(colors.values())) == 3


def test_no_two_kinds_of_model_share_a_colour() -> None:
    assert len(set(KIND_COLORS.values())) == len(KIND_COLORS)


def test_a_model_without_a_spiking_latent_is_refused_unless_it_may_come(tmp_path: Path) -> None:
    path = saved(tmp_path, "ann", "ann_vae")
    with pytest.raises(UserError, match=r"ann.safetensors has no spiking latent"):
        load_subjects([path], device="cpu")
    assert load_subjects([path], device="cpu", spiking=False)[0].label == "ANN VAE, 3 epochs"


def test_models_of_different_data_sets_are_refused(tmp_path: Path) -> None:
    paths = [saved(tmp_path, "a"), saved(tmp_path, "b", dataset="mnist")]
    with pytest.raises(UserError, match=r"share a data set .* a on digits, b on mnist"):
        load_subjects(paths, device="cpu")
    assert {s.dataset for s in load_subjects(paths, dataset="digits", device="cpu")} == {"digits"}


def test_a_model_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two models are called a"):
        load_subjects([saved(tmp_path, "a")] * 2, device="cpu")


def test_test_images_are_the_first_ones(tmp_path: Path) -> None:
    subjects = load_subjects([saved(tmp_path, "a")], device="cpu")
    first, whole = (Experiment(n_images=n).load_images(subjects) for n in (5, None))
    assert first.equal(whole[:5])
    assert part_of_test_split("digits", 5) == "first 5 images of the test split at hand (official: 297)"
    assert part_of_test_split("digits", len(whole)) == "whole test split"


def test_a_command_takes_many_checkpoints_and_writes_all_files(tmp_path: Path) -> None:
    a, b = saved(tmp_path, "a"), saved(tmp_path, "b", "fsvae")
    out = tmp_path / "out"
    assert run("--checkpoint", a, "--checkpoint", b, "--n-images", "3", "--factor", "2", "--out", out) == 0
    assert {f.name for f in out.iterdir()} == {
        "count_spikes-digits.json",
        "count_spikes-digits.csv",
        "count_spikes-digits-images.png",
        "count_spikes-digits-images.pdf",
    }
    record, table = read_experiment(out, "count_spikes-digits")
    assert record["settings"] == {"seed": 0, "factor": 2.0}
    assert [s["label"] for s in record["subjects"]] == list(table["model"]) == ["ESVAE, 3 epochs", "FSVAE, 3 epochs"]
    assert record["subjects"][0]["config"]["dataset"] == "digits"
    assert {"commit", "versions", "hardware", "date", "protocol", "dataset"} <= record.keys()
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize(
    ("model", "flags", "differs"),
    [
        ("b", ("--n-images", "3"), "models"),
        ("a", ("--n-images", "3", "--factor", "2"), "factor"),
        ("a", ("--n-images", "2"), "number of images"),
    ],
)
def test_a_result_of_another_measurement_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture, model: str, flags: tuple[str, ...], differs: str
) -> None:
    out = tmp_path / "out"
    assert run("--checkpoint", saved(tmp_path, "a"), "--n-images", "3", "--out", out) == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    assert run("--checkpoint", saved(tmp_path, model), "--out", out, *flags) == 2
    file = out / "count_spikes-digits.json"
    expected = f"error: {file} is a result with other {differs}: give --out FOLDER, or remove it\n"
    assert capsys.readouterr().err == expected
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_the_same_measurement_or_one_on_more_images_replaces_a_result(tmp_path: Path) -> None:
    out, model = tmp_path / "out", saved(tmp_path, "a")
    for flags, n_images in ((("--n-images", "3"), 3), (("--n-images", "3"), 3), ((), None), ((), None)):
        assert run("--checkpoint", model, "--out", out, *flags) == 0
        record, _ = read_experiment(out, "count_spikes-digits")
        assert record["n_images"] == n_images
    assert record["subjects"][0]["lif_backend"] in BACKENDS


def test_figures_that_only_the_result_before_had_go(tmp_path: Path) -> None:
    record, table, figure = {"subjects": []}, pd.DataFrame({"a": [1]}), image_rows({"black": torch.zeros(1, 1, 8, 8)})
    other = tmp_path / "count-digits_and_more.png"
    other.write_bytes(b"of another result")
    write_result(tmp_path, "count-digits", Result(record, table, {"": figure, "epochs": figure}))
    assert len(stored_pictures(tmp_path, "count-digits")) == 2
    write_result(tmp_path, "count-digits", Result(record, table, {"": figure}))
    assert len(stored_pictures(tmp_path, "count-digits")) == 1
    assert not list(tmp_path.glob("*epochs*")) and other.exists()


def test_a_runs_own_model_file_is_called_as_the_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        saved(tmp_path / name, "model")
    subjects = load_subjects([tmp_path / name / "model.safetensors" for name in ("a", "b")], device="cpu")
    assert [s.name for s in subjects] == ["a", "b"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seed", "1"), "results/analysis is for results by the default settings: give --out FOLDER beside --seed"),
        (("--seed", "1", "--out", "x"), "give at least one model: --checkpoint"),
    ],
)
def test_a_command_refuses_in_one_line(
    flags: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_missing_or_damaged_result_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no result x in"):
        read_experiment(tmp_path, "x")
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match="damaged"):
        read_experiment(tmp_path, "x")


def test_a_figure_drawn_twice_is_the_same_file(tmp_path: Path) -> None:
    rows = {"ramp": torch.linspace(-1, 1, 2 * 32 * 32).view(2, 1, 32, 32)}
    first, second = (save_figure(image_rows(rows), tmp_path / name) for name in "ab")
    assert [p.suffix for p in first] == [".png", ".pdf"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_grid_shows_every_image_of_every_row(tmp_path: Path) -> None:
    shades = {"dark": torch.full((3, 1, 32, 32), -1.0), "grey": torch.zeros(3, 1, 32, 32)}
    png, _ = save_figure(image_rows(shades), tmp_path / "grid")
    pixels = np.asarray(Image.open(png).convert("L"))
    n_dark, n_grey = (pixels == 0).sum(), (abs(pixels.astype(int) - 127) <= 1).sum()
    assert n_grey > 5_000
    assert n_dark == pytest.approx(n_grey, rel=0.1)
