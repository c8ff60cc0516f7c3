"""evaluate.py: its numbers, what describes them, its pictures, and which of them it replaces."""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

import evaluate
import train
from analysis.comparison import comparison
from analysis.formats import as_text
from analysis.generation import parse_metrics
from analysis.published import PAPER, paper_table1
from cli import run_program
from data import load_split, to_unit_range
from errors import UnavailableError
from metrics.fad import fad, load_feature_network, reference
from models import ModelConfig, build_model, load_model, save_model
from neurons import set_backend

# Forty steps: after fewer the running statistics are far from the data, and the network may be silent.
SIZE = ("--train-images", "160", "--batch-size", "4", "--n-steps", "2", "--latent-dim", "8", "--epochs", "1")
TRAIN = ("--dataset", "digits", *SIZE, "--device", "cpu")


def run(checkpoint: Path, *flags: str) -> int:
    return run_program(evaluate.main, ["--checkpoint", str(checkpoint), "--device", "cpu", *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that was trained and not evaluated. To be left as it is."""
    folder = tmp_path_factory.mktemp("trained")
    assert run_program(train.main, [*TRAIN, "--runs-dir", str(folder), "--name", "run"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run folder after one evaluation of the whole test split, and the record of it."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, folder)
    assert run(folder) == 0
    return folder, json.loads((folder / "evaluation.json").read_text())


@pytest.fixture
def score(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The record of evaluating the model file; nothing is written beside it."""

    def measure(*flags: str) -> dict[str, Any]:
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "result.json"
        assert run(trained / "model.safetensors", "--json", str(file), *flags) == 0
        return json.loads(file.read_text())

    return measure


def test_the_number_is_the_one_that_training_logged(evaluated: tuple[Path, dict[str, Any]]) -> None:
    folder, record = evaluated
    with (folder / "metrics.csv").open(newline="") as file:
        logged = float(list(csv.DictReader(file))[-1]["test_reconstruction"])
    assert record["reconstruction_loss"]["value"] == pytest.approx(logged, abs=1e-6)


def test_the_number_comes_with_its_protocol(evaluated: tuple[Path, dict[str, Any]]) -> None:
    loss = evaluated[1]["reconstruction_loss"]
    assert loss.keys() == {"value", "protocol", "n_images", "split", "feature_network"}
    assert (loss["n_images"], loss["split"], loss["feature_network"]) == (297, "test", None)
    for part in ("mean squared error", "[-1, 1]", "posterior sampled", "whole test split"):
        assert part in loss["protocol"]


def test_the_record_says_what_was_measured_where_and_when(
    evaluated: tuple[Path, dict[str, Any]], trained: Path
) -> None:
    folder, record = evaluated
    assert record["checkpoint"] == str(folder)
    assert (record["dataset"], record["seed"], record["epochs"]) == ("digits", 0, 1)
    assert record["epoch_rule"] == "last epoch"
    assert record["config"] == json.loads((trained / "config.json").read_text())["config"]
    assert record["model"]["latent_dim"] == 8
    assert {"python", "torch", "torchvision", "spikingjelly", "numpy"} <= record["versions"].keys()
    assert record["versions"]["torch"] == metadata.version("torch")
    assert record["hardware"] and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["date"])
    try:
        command = ["git", "rev-parse", "HEAD"]
        head = subprocess.run(command, cwd=Path(evaluate.__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        assert record["commit"] is None
    else:
        assert record["commit"].removesuffix("-dirty") == head.stdout.strip()


def test_baselines_of_digits(evaluated: tuple[Path, dict[str, Any]]) -> None:
    baselines = evaluated[1]["baselines"]
    assert baselines["mean training image"] == pytest.approx(0.187, abs=0.002)
    assert 0 <= baselines["8-bit copy"] < 1e-12


@pytest.mark.parametrize("name", ["reconstructions", "samples"])
def test_pictures_are_written_and_not_blank(evaluated: tuple[Path, dict[str, Any]], name: str) -> None:
    pixels = np.asarray(Image.open(evaluated[0] / f"evaluation-{name}.png").convert("L"), dtype=float)
    inside = pixels[2:34, 2:34]  # the first image, without the frame
    assert pixels.shape == (8 * 34 + 2, 8 * 34 + 2)  # 64 images
    assert pixels.std() > 10 and inside.std() > 5


def test_originals_are_above_their_reconstructions(evaluated: tuple[Path, dict[str, Any]]) -> None:
    pixels = np.asarray(Image.open(evaluated[0] / "evaluation-reconstructions.png").convert("L"), dtype=int)
    second = load_split("digits", "test").images[1, 0].numpy().astype(int)
    assert abs(pixels[2:34, 36:68] - second).max() <= 1
    assert abs(pixels[36:68, 36:68] - second).max() > 20


def test_what_is_printed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(trained / "model.safetensors", "--n-images", "5") == 0
    out = capsys.readouterr().out
    record = json.loads(Path("runs/evaluation-run/evaluation.json").read_text())
    for part in ("this run", "mean training image", "8-bit copy", "ESVAE, 1 epoch", "last epoch"):
        assert part in out
    loss = record["reconstruction_loss"]
    assert f"reconstruction_loss {loss['value']:.6f}: {loss['protocol']}" in out
    paths = [Path(line) for line in out.splitlines()[-3:]]
    assert all(path.parent == Path("runs/evaluation-run") and path.is_file() for path in paths)


def test_the_same_seed_gives_the_same_number(score: Callable, evaluated: tuple[Path, dict[str, Any]]) -> None:
    first, again, other = (score("--n-images", "20", "--seed", seed) for seed in ("3", "3", "4"))
    assert first["reconstruction_loss"] == again["reconstruction_loss"]
    assert first["reconstruction_loss"]["value"] != other["reconstruction_loss"]["value"]
    assert (first["seed"], other["seed"]) == (3, 4)


def test_a_part_of_the_split_is_labelled_as_one(score: Callable) -> None:
    loss = score("--n-images", "20")["reconstruction_loss"]
    assert loss["n_images"] == 20
    assert "first 20 images of the test split" in loss["protocol"] and "whole" not in loss["protocol"]


def test_the_backends_agree(score: Callable) -> None:
    scan, looped = (score("--n-images", "20", "--backend", backend) for backend in ("scan", "torch"))
    assert scan["reconstruction_loss"]["value"] == pytest.approx(looped["reconstruction_loss"]["value"], rel=0.01)


def test_a_model_without_a_run_needs_a_dataset(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(load_model(trained), tmp_path / "bare.safetensors")
    assert run(tmp_path / "bare.safetensors") == 2
    assert "does not say what it was trained on; give --dataset" in capsys.readouterr().err
    assert run(tmp_path / "bare.safetensors", "--dataset", "digits", "--n-images", "4") == 0
    record = json.loads(Path("runs/evaluation-bare/evaluation.json").read_text())
    assert (record["config"], record["epochs"], record["dataset"]) == (None, None, "digits")
    assert record["epoch_rule"] == "not known"


def test_an_evaluation_is_replaced_by_one_that_says_as_much(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    assert run(Path("run"), "--n-images", "3") == 0
    assert run(Path("run"), "--n-images", "3") == 0
    assert run(Path("run"), "--n-images", "3", "--dataset", "digits") == 0  # what it was trained on
    assert run(Path("run"), "--n-images", "3") == 0
    before = Path("run/evaluation.json").read_bytes()
    for flags, differs in (
        ("--n-images 2", "n_images"),
        ("--seed 1", "seed"),
        ("--n-images 3 --dataset mnist", "dataset"),
    ):
        capsys.readouterr()
        assert run(Path("run"), *flags.split()) == 2
        said = f"run/evaluation.json is an evaluation with other {differs}: give --json FILE, or remove it"
        assert said in capsys.readouterr().err and Path("run/evaluation.json").read_bytes() == before
    pictures = {file: file.read_bytes() for file in Path("run").glob("evaluation-*.png")}
    assert run(Path("run"), "--n-images", "2", "--json", "mine.json") == 0 and Path("mine.json").exists()
    assert pictures == {file: file.read_bytes() for file in Path("run").glob("evaluation-*.png")} != {}
    assert run(Path("run")) == 0


def test_models_of_one_name_do_not_replace_each_others_evaluation(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        shutil.copy(trained / "model.safetensors", f"{name}/m.safetensors")
    assert run(Path("a/m.safetensors"), "--n-images", "3") == 0
    assert run(Path("b/m.safetensors"), "--n-images", "3") == 2
    assert "evaluation with other checkpoint" in capsys.readouterr().err


def record_of(dataset: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "config": {"variant": "code"},
        "model": {"model": "esvae"},
        "epochs": 7,
        "reconstruction_loss": {"value": 0.02},
        "baselines": {"mean training image": 0.2},
    } | changes


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_the_table_has_the_papers_rows(dataset: str) -> None:
    with (PAPER / "table1.csv").open(newline="") as file:
        paper = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    table = comparison(record_of(dataset))
    assert table["model"].tolist()[:2] == ["ESVAE (variant code), 7 epochs", "mean training image"]
    assert len(paper) >= 5 and table["model"].tolist()[2:] == [row["model"] for row in paper]
    for metric in ("reconstruction_loss", "inception_score", "fid", "fad"):
        wanted = [float(row[metric] or "nan") for row in paper]
        assert np.array_equal(table[metric].astype(float)[2:], wanted, equal_nan=True), metric
    assert table["source"].tolist()[2:] == [row["source"] for row in paper]
    assert table["source"].tolist()[:2] == ["this run", "baseline, measured"]


def test_the_papers_esvae_on_mnist() -> None:
    row = paper_table1("mnist").set_index("model").loc["ESVAE"]
    assert [row[name] for name in ("reconstruction_loss", "inception_score", "fid", "fad")] == [
        *[0.013, 5.612, 117.8, 10.99]
    ]


def test_the_table_measures_only_what_the_record_has() -> None:
    table = comparison(record_of("digits", fid={"value": 12.5}, config=None))
    assert table.loc[0, "model"] == "ESVAE, 7 epochs"
    assert (table.loc[0, "reconstruction_loss"], table.loc[0, "fid"]) == (0.02, 12.5)
    assert pd.isna(table.loc[0, "fad"]) and len(table) == 2


def test_empty_cells_are_dashes() -> None:
    lines = as_text(comparison(record_of("mnist"))).splitlines()
    assert lines[0].split()[:2] == ["model", "reconstruction_loss"]
    assert re.search(r"0\.02 +- +- +- +this run", lines[1])
    assert "nan" not in "".join(lines).lower()


def save_images(path: Path, n: int = 300) -> Tensor:
    """Digits of scikit-learn's as an archive of uint8 [N, H, W]; returns them as the metrics see them."""
    images = load_split("digits", "train").images[:n]
    np.savez(path, anything=images[:, 0].numpy())
    return to_unit_range(images)


def run_images(path: Path, *flags: str) -> int:
    return run_program(evaluate.main, ["--images", str(path), "--device", "cpu", *flags])


def test_any_images_are_scored_without_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESVAE_DATA_DIR", raising=False)
    images = save_images(tmp_path / "set.npz")
    assert run_images(tmp_path / "set.npz", "--dataset", "mnist", "--metrics", "fad,fad_eval") == 0
    record = json.loads(Path("runs/evaluation-set/evaluation.json").read_text())
    network = load_feature_network("mnist")
    for name, protocol in (("fad", "official"), ("fad_eval", "eval")):
        measured = record[name]
        assert measured.keys() >= {"value", "protocol", "n_images", "split", "feature_network"}
        assert measured["value"] == fad(images, network, reference(network, protocol), protocol)
        assert measured["protocol"].startswith(protocol) and "300 images where" in measured["protocol"]
        assert (measured["n_images"], measured["split"]) == (300, "test")
        assert "mnist_64.pth" in measured["feature_network"]
        assert measured["training_images"] is None  # those stored are of 5,120 images
    assert "reconstruction_loss" not in record and record["images"].endswith("set.npz")
    out = capsys.readouterr().out
    unknown = "real training images: not known, the data set is not at hand"
    for part in ("set.npz", unknown, "FSVAE", f"fad {record['fad']['value']:.6f}: official"):
        assert part in out
    assert not (tmp_path / "datasets").exists()


def test_the_first_images_of_a_file_alone(tmp_path: Path) -> None:
    images, file = save_images(tmp_path / "set.npz"), tmp_path / "result.json"
    flags = ("--dataset", "mnist", "--n-images", "200", "--json", str(file))
    assert run_images(tmp_path / "set.npz", *flags) == 0
    measured, network = json.loads(file.read_text())["fad"], load_feature_network("mnist")
    assert measured["value"] == fad(images[:200], network, reference(network, "official"))
    assert measured["n_images"] == 200


def test_a_model_that_does_not_spike_has_no_backend(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--dataset", "digits", "--model", "ann_vae", "--epochs", "1", "--train-images", "25", "--name", "run")
    assert run_program(train.main, flags) == 0
    assert run(Path("runs/run"), "--n-images", "2") == 0
    (start,) = json.loads(Path("runs/run/config.json").read_text())["starts"]
    assert start["lif_backend"] is json.loads(Path("runs/run/evaluation.json").read_text())["lif_backend"] is None
    said = capsys.readouterr().out
    assert "LIF backend" not in said and "last epoch" in said


def test_a_models_fad_is_that_of_its_samples(trained: Path, score: Callable, tmp_path: Path) -> None:
    """The digits model makes images of MNIST's size, so it may be compared with MNIST; no data set is needed."""
    flags = ("--dataset", "mnist", "--metrics", "fad", "--n-samples", "150", "--seed", "3")
    record = score(*flags, "--data-dir", str(tmp_path / "absent"))
    model, rng = load_model(trained), torch.Generator().manual_seed(3)
    set_backend(model, record["lif_backend"])
    with torch.no_grad():
        samples = torch.cat([model.sample(128, rng), model.sample(22, rng)])
    network = load_feature_network("mnist")
    assert record["fad"]["value"] == pytest.approx(fad(samples, network, reference(network, "official")), rel=1e-9)
    assert record["fad"]["n_images"] == 150 and "reconstruction_loss" not in record
    assert (tmp_path / "runs/evaluation-run/evaluation-samples.png").is_file()


def test_a_metric_without_its_weights_is_left_out_with_a_word(score: Callable, capsys: pytest.CaptureFixture) -> None:
    record = score("--n-images", "20", "--metrics", "reconstruction,fad")
    assert "fad" not in record and record["reconstruction_loss"]["value"] > 0
    reason = record["left_out"]["fad"]
    assert "no autoencoder for digits comes with the project" in reason and "--fad-weights" in reason
    assert f"fad left out: {reason}" in capsys.readouterr().out.splitlines()


def test_inception_metrics_are_left_out_one_by_one(
    score: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise UnavailableError("no weights: give --inception-weights")

    monkeypatch.setattr("analysis.generation.load_inception", refuse)
    record = score("--n-images", "4", "--metrics", "reconstruction,fid,inception_score")
    assert record["left_out"]["fid"] == "no weights: give --inception-weights"
    assert "give it with --imagenet-inception-weights" in record["left_out"]["inception_score"]
    out = capsys.readouterr().out.splitlines()
    assert {f"{name} left out: {reason}" for name, reason in record["left_out"].items()} <= set(out)


def test_is_is_the_inception_score() -> None:
    assert parse_metrics("reconstruction,fad,fid,is") == ("reconstruction", "fad", "fid", "inception_score")
    assert parse_metrics("is, inception_score") == ("inception_score",)


def test_each_metric_gets_as_many_samples_as_its_protocol_takes(score: Callable, monkeypatch: Any) -> None:
    class Count:
        def __init__(self, n_wanted: int) -> None:
            self.n_wanted = n_wanted

        def __call__(self, images: Tensor) -> dict[str, Any]:
            described = {"protocol": "count", "n_images": len(images), "split": None, "feature_network": "none"}
            return described | {"value": float(len(images))}

    scorers = {"fad": Count(150), "fid": Count(130)}
    monkeypatch.setattr("analysis.evaluation.prepare_metrics", lambda *_: (scorers, {}))
    record = score("--metrics", "fad,fid")
    assert (record["fad"]["value"], record["fid"]["value"]) == (150, 130)
    record = score("--metrics", "fad,fid", "--n-samples", "7")
    assert (record["fad"]["value"], record["fid"]["value"]) == (7, 7)


def test_an_autoencoder_reconstructs_and_has_no_samples_to_score(tmp_path: Path, monkeypatch, capsys) -> None:
    own = tmp_path / "own.safetensors"
    save_model(build_model(ModelConfig(model="autoencoder", image_channels=1, latent_dim=16)), own)
    flags = ("--dataset", "digits", "--json", str(tmp_path / "own.json"))
    monkeypatch.chdir(tmp_path)
    assert run(own, *flags, "--n-images", "40") == 0
    record = json.loads((tmp_path / "own.json").read_text())["reconstruction_loss"]
    assert record["value"] > 0
    assert "nothing sampled" in record["protocol"]
    assert [p.name for p in tmp_path.rglob("*.png")] == ["evaluation-reconstructions.png"]
    monkeypatch.setattr("analysis.evaluation.evaluate_reconstruction", lambda *_, **__: pytest.fail("computed"))
    assert run(own, *flags, "--metrics", "reconstruction,fad", "--fad-weights", str(own)) == 2
    assert "autoencoder has no sample" in capsys.readouterr().err


def test_an_autoencoder_of_the_users_own_is_taken(score: Callable, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    save_model(build_model(ModelConfig(model="autoencoder", image_channels=1, latent_dim=16)), own)
    record = score("--metrics", "fad", "--n-samples", "64", "--fad-weights", str(own))
    assert record["fad"]["value"] > 0
    assert "nothing known of its training" in record["fad"]["feature_network"]
    assert record["fad"]["training_images"]["n_images"] == 64
