"""Training FAD's autoencoder: the released recipe, and what is said of less."""

from pathlib import Path

import pandas as pd
import pytest

from cli import run_program
from data import Split, sources
from metrics import train_fad
from metrics.fad import load_feature_network, training_images


def train(folder: Path, *flags: str) -> int:
    return run_program(train_fad.main, ["--dataset", "digits", "--runs-dir", str(folder), "--device", "cpu", *flags])


@pytest.mark.parametrize(
    ("dataset", "n_features", "flips"),
    [("mnist", 64, False), ("fashion_mnist", 64, False), ("cifar10", 128, False), ("celeba", 128, True)],
)
def test_the_recipe_is_the_released_one(dataset: str, n_features: int, flips: bool) -> None:
    config = train_fad.recipe(dataset)
    assert (config.latent_dim, config.horizontal_flip, config.drop_last) == (n_features, flips, False)
    assert (config.lr, config.weight_decay, config.batch_size, config.epochs) == (1e-3, 0.01, 250, 150)


def test_a_run_learns_goes_on_and_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert train(tmp_path, "--epochs", "2") == 0
    assert "trained 2 of 150 epochs, REDUCED" in capsys.readouterr().out
    assert train(tmp_path, "--epochs", "4") == 0
    log = pd.read_csv(tmp_path / "fad-digits" / "metrics.csv")
    assert log["epoch"].tolist() == [1, 2, 3, 4]
    assert log["train_reconstruction"].is_monotonic_decreasing
    out = capsys.readouterr().out
    assert f"--fad-weights {tmp_path / 'fad-digits'}" in out
    description = load_feature_network("digits", tmp_path / "fad-digits").description
    assert "own, trained 4 of 150 epochs, REDUCED" in description and "only with that of the same file" in description
    assert description in out


def test_a_released_network_is_used_by_default_and_keeps_its_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("metrics.fad", "metrics.train_fad"):
        monkeypatch.setattr(f"{module}.OWN", tmp_path / "pretrained")
    assert train(tmp_path, "--epochs", "2", "--release") == 0
    network, exact = load_feature_network("digits"), load_feature_network("digits", tmp_path / "fad-digits")
    assert network.file == tmp_path / "pretrained" / "fad-digits.safetensors"
    half, full = (training_images(n, "official")["value"] for n in (network, exact))
    assert half == pytest.approx(full, rel=0.01)
    text = (tmp_path / "pretrained" / "fad-digits.md").read_text()
    for part in (network.description, "compares with nothing else", f"`official` | FAD {half:.3f} (n = 1500)"):
        assert part in text


def test_fewer_images_are_a_reduced_budget_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.fad.FULL_EPOCHS", 1)
    assert train(tmp_path, "--epochs", "1", "--train-images", "250") == 0
    description = load_feature_network("digits", tmp_path / "fad-digits").description
    assert "trained 1 of 1 epochs of 250 images, REDUCED" in description


def test_fewer_images_than_the_recipes_batch_are_one_batch(tmp_path: Path) -> None:
    assert train(tmp_path, "--epochs", "1", "--train-images", "100") == 0
    assert pd.read_csv(tmp_path / "fad-digits" / "metrics.csv")["step"].tolist() == [1]


def test_part_of_a_data_set_is_trained_on_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = sources.digits("train")
    monkeypatch.setattr(sources, "digits", lambda _: Split(whole.images[:100], whole.labels[:100]))
    assert train(tmp_path, "--epochs", "1") == 2
    assert "digits has 100 of 1,500 training images here: give --train-images 100" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert train(tmp_path, "--epochs", "1", "--train-images", "100") == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [((), ""), (("--train-images", "100"), " --train-images 100"), (("--seed", "7"), " --seed 7")],
)
def test_the_command_of_a_card_trains_the_same_network(
    flags: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("metrics.fad", "metrics.train_fad"):
        monkeypatch.setattr(f"{module}.OWN", tmp_path / "pretrained")
    monkeypatch.setattr(train_fad, "_real_images", lambda *_: "not measured here")
    assert train(tmp_path, "--epochs", "1", *flags, "--release") == 0
    command = f"`python -m metrics.train_fad --dataset digits --epochs 1{told} --release`"
    assert f"| command | {command} |" in (tmp_path / "pretrained" / "fad-digits.md").read_text()
