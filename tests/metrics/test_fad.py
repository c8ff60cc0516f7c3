"""FAD against a literal form of the released program's, its protocols, and what it refuses."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metrics.fad
import metrics.reference
from cli import run_program
from data import load_split, to_unit_range
from errors import UnavailableError, UserError
from metrics.fad import (
    PUBLISHED,
    FadMetric,
    fad,
    features,
    load_feature_network,
    measured_reference,
    measured_training_images,
    reference,
    stored_reference,
    training_images,
)
from metrics.frechet import frechet_distance, statistics
from models import ModelConfig, build_model, save_model

REAL = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Digits that are not MNIST's, 300 of 32x32 pixels in [-1, 1]."""
    return to_unit_range(load_split("digits", "train").images[:300])


@pytest.fixture
def save_autoencoder(tmp_path: Path) -> Callable[..., Path]:
    """Save an untrained model that stands for a feature network of the user's."""

    def save(run: dict | None = None, **fields: object) -> Path:
        torch.manual_seed(0)
        config = ModelConfig(**{"model": "autoencoder", "image_channels": 1, "latent_dim": 16} | fields)
        save_model(build_model(config), tmp_path / "autoencoder.safetensors", run)
        return tmp_path / "autoencoder.safetensors"

    return save


def published_autoencoder(channels: int, latent_dim: int) -> dict[str, Tensor]:
    """Tensors in the authors' layout, of their MNIST network enlarged by repetition and zeros."""
    tensors = torch.load(PUBLISHED / "mnist_64.pth", map_location="cpu", weights_only=True)
    for name in ("encoder.0.0.weight", "final_layer.3.weight"):
        tensors[name] = tensors[name].repeat(1, channels, 1, 1)
    tensors["final_layer.3.bias"] = tensors["final_layer.3.bias"].repeat(channels)
    for name in ("latent_layer.weight", "latent_layer.bias"):
        tensors[name] = torch.cat([tensors[name]] * (latent_dim // 64))
    tensors["decoder_input.weight"] = torch.cat([tensors["decoder_input.weight"]] * (latent_dim // 64), dim=1)
    return tensors


def literal_features(images: Tensor, batch: int) -> np.ndarray:
    """The published MNIST encoder, layer by layer from its file, normalised by each batch."""
    weights = torch.load(PUBLISHED / "mnist_64.pth", map_location="cpu", weights_only=True)
    parts = []
    for x in images.split(batch):
        for i in range(4):
            x = nn.functional.conv2d(x, weights[f"encoder.{i}.0.weight"], weights[f"encoder.{i}.0.bias"], 2, 1)
            gain, shift = (weights[f"encoder.{i}.1.{name}"] for name in ("weight", "bias"))
            x = nn.functional.leaky_relu(nn.functional.batch_norm(x, None, None, gain, shift, training=True))
        parts.append(nn.functional.linear(x.flatten(1), weights["latent_layer.weight"], weights["latent_layer.bias"]))
    return torch.cat(parts).numpy()


def test_official_is_what_the_released_program_computes(digits: Tensor) -> None:
    """300 images are two batches of 128 and one of 44; the covariance divides by N - 1."""
    values = literal_features(digits, 128)
    mean, covariance = values.mean(0), np.cov(values, rowvar=False)
    published = np.load(PUBLISHED / "mnist_test_64.npz")
    products = np.linalg.eigvals(covariance @ published["sigma"]).real
    expected = (
        ((mean - published["mu"]) ** 2).sum()
        + np.trace(covariance)
        + np.trace(published["sigma"])
        - 2 * np.sqrt(products.clip(0)).sum()
    )
    network = load_feature_network("mnist")
    ours = fad(digits, network, reference(network, "official"))
    assert ours == pytest.approx(expected, rel=1e-5)
    other_batches = statistics(torch.from_numpy(literal_features(digits, 256)))
    assert abs(frechet_distance(*other_batches, published["mu"], published["sigma"]) / ours - 1) > 5e-4


def test_batches_are_part_of_the_official_features_and_of_no_others(digits: Tensor) -> None:
    network = load_feature_network("mnist").network
    for protocol, alike in (("official", False), ("eval", True)):
        one, other = (features(network, digits.split(batch), protocol) for batch in (128, 100))
        assert one.shape == (300, 64) and one.dtype == torch.float64
        assert torch.allclose(one, other, rtol=1e-9) == alike, protocol
    whole_batches = features(network, digits[:256].split(128), "official")
    assert torch.equal(features(network, digits.split(128), "official")[:256], whole_batches)


def test_measuring_leaves_the_network_as_it_was(digits: Tensor) -> None:
    network = load_feature_network("mnist").network
    before = copy.deepcopy(network.state_dict())
    features(network, digits.split(128), "official")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))
    assert not network.training


def test_eval_features_are_the_networks_own(digits: Tensor) -> None:
    network = load_feature_network("mnist").network
    with torch.no_grad():
        expected = network.encode(digits)
    torch.testing.assert_close(features(network, digits.split(128), "eval").float(), expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_protocol_is_an_error(digits: Tensor) -> None:
    with pytest.raises(ValueError, match="'best'; choose one of official, eval"):
        features(load_feature_network("mnist").network, [digits], "best")


@pytest.mark.parametrize("protocol", ["official", "eval"])
def test_images_further_from_the_data_score_higher(digits: Tensor, protocol: str) -> None:
    """`official` takes noise for nearer than foreign digits: BatchNorm rescales each batch to what it expects."""
    network = load_feature_network("mnist")
    goal = reference(network, protocol)
    noise = torch.rand(digits.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores = [fad(images, network, goal, protocol) for images in (digits, 0.5 * (digits + noise), noise)]
    real = training_images(network, protocol)
    assert real["n_images"] == 5120 and "stored" in real["source"]
    assert 0 < 10 * real["value"] < min(scores)
    if protocol == "eval":
        assert scores[0] < scores[1] < scores[2]


def test_images_of_another_scale_are_refused(digits: Tensor) -> None:
    metric = FadMetric.prepare(load_feature_network("mnist"), "official")
    with pytest.raises(UserError, match="these go from 0 to 255"):
        metric((digits + 1) / 2 * 255)


def test_64_images_are_too_few_for_64_features(digits: Tensor) -> None:
    network = load_feature_network("mnist")
    goal = reference(network, "official")
    with pytest.raises(UserError, match="64 images are too few for the covariance of 64 features: give at least 65"):
        fad(digits[:64], network, goal)
    assert fad(digits[:65], network, goal) > 0


@pytest.mark.parametrize("dataset", REAL)
@pytest.mark.parametrize("protocol", ["official", "eval"])
def test_real_data_meet_the_stored_numbers(real_data: Path, dataset: str, protocol: str) -> None:
    if not (real_data / REAL[dataset]).is_dir():
        pytest.skip(f"{dataset} is not in ESVAE_DATA_DIR")
    network = load_feature_network(dataset)
    goal = reference(network, protocol)
    assert frechet_distance(*measured_reference(network, protocol), *goal) <= 1e-6
    measured, stored = measured_training_images(network, protocol, goal), training_images(network, protocol)
    assert (measured["value"], measured["n_images"]) == (pytest.approx(stored["value"], rel=1e-6), stored["n_images"])


def test_images_stand_beside_as_many_real_ones(digits: Tensor, save_autoencoder: Callable) -> None:
    """The first training images themselves: what they score is no worse than real images."""
    metric = FadMetric.prepare(load_feature_network("digits", save_autoencoder()), "official", n_images=len(digits))
    record = metric(digits)
    assert record["training_images"]["n_images"] == record["n_images"] == 300
    assert record["training_images"]["value"] == pytest.approx(record["value"], rel=1e-9)


def test_a_network_of_the_users_own_is_compared_with_the_test_split(save_autoencoder: Callable) -> None:
    network = load_feature_network("digits", save_autoencoder())
    test = to_unit_range(load_split("digits", "test").images)
    itself = fad(test, network, reference(network, "eval"), "eval")
    real = training_images(network, "eval")
    assert itself < 1e-6 * real["value"] and real["n_images"] == 1500
    assert fad(test, network, reference(network, "official")) > 1e3 * itself  # batches of 128, not of 256
    assert "nothing known of its training" in network.description


def test_the_papers_weights_in_a_file_of_the_users_are_known_by_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "best.pth"
    file.write_bytes((PUBLISHED / "mnist_64.pth").read_bytes())
    network = load_feature_network("mnist", file)
    assert "by Kamata et al. (best.pth, sha256 783abf132646)" in network.description
    assert reference(network, "official")[0].tolist() == np.load(PUBLISHED / "mnist_test_64.npz")["mu"].tolist()


def test_our_own_weights_stand_in_for_the_authors_and_say_so(
    save_autoencoder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor
) -> None:
    """Here for digits, for which the authors have none."""
    save_autoencoder().rename(tmp_path / "fad-digits.safetensors")
    monkeypatch.setattr("metrics.fad.OWN", tmp_path)
    network = load_feature_network("digits")
    assert network.origin == "own" and "compares only with that of the same file" in network.description
    assert FadMetric.prepare(network, "official")(digits[:200])["own_network"]
    assert load_feature_network("mnist").origin == "shipped"
    metric = FadMetric.prepare(load_feature_network("mnist"), "official")
    assert not metric(digits[:200])["own_network"]


@pytest.mark.parametrize(("dataset", "authors"), [("cifar10", True), ("celeba", True), ("digits", False)])
def test_without_weights_one_line_says_what_to_do(
    dataset: str, authors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics.fad.OWN", tmp_path)
    with pytest.raises(UnavailableError, match=f"metrics.train_fad --dataset {dataset}") as caught:
        load_feature_network(dataset)
    assert "\n" not in str(caught.value)
    assert (f"{dataset}_128.pth" in str(caught.value)) == authors


def test_a_file_of_another_model_is_refused(save_autoencoder: Callable) -> None:
    with pytest.raises(UserError, match="holds a ann_vae, not an autoencoder"):
        load_feature_network("digits", save_autoencoder(model="ann_vae"))


def test_a_published_network_of_another_size_has_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.fad._published_weights", lambda _: tmp_path / "absent")  # as of CIFAR-10 and CelebA
    tensors = torch.load(PUBLISHED / "mnist_64.pth", map_location="cpu", weights_only=True)
    for name in ("latent_layer.weight", "latent_layer.bias"):
        tensors[name] = tensors[name][:32]
    tensors["decoder_input.weight"] = tensors["decoder_input.weight"][:, :32]
    torch.save(tensors, tmp_path / "mnist_32.pth")
    with pytest.raises(UserError, match="has 32 features, but the authors' autoencoder for mnist has 64"):
        reference(load_feature_network("mnist", tmp_path / "mnist_32.pth"), "official")


def test_reference_prints_what_it_compared(save_autoencoder: Callable, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--dataset", "digits", "--fad-weights", str(save_autoencoder())]
    assert run_program(metrics.reference.main, arguments) == 0
    out = capsys.readouterr().out
    assert out.count("no stored statistics to compare with") == 2
    assert out.count("1500 training images score") == 2


def test_reference_passes_a_split_through_the_network_once(
    save_autoencoder: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    passed, measure = [], metrics.fad.features
    monkeypatch.setattr(metrics.fad, "features", lambda *args: passed.append(args[2]) or measure(*args))
    file = save_autoencoder()
    network = load_feature_network("digits", file)
    assert run_program(metrics.reference.main, ["--dataset", "digits", "--fad-weights", str(file)]) == 0
    assert passed == ["official", "official", "eval", "eval"]  # test and training split
    out = capsys.readouterr().out
    for protocol in ("official", "eval"):
        real = measured_training_images(network, protocol, reference(network, protocol))
        assert f"1500 training images score {real['value']:.4f}" in out


def test_reference_writes_the_eval_statistics_and_the_scores_and_nothing_of_the_authors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = shutil.copytree(PUBLISHED, tmp_path / "fad_data")
    before = {file.name: file.read_bytes() for file in stored.iterdir()}
    for module in (metrics.fad, metrics.reference):
        monkeypatch.setattr(module, "PUBLISHED", stored)
    measured = {p: (torch.full((64,), i), i * torch.eye(64)) for i, p in ((2.0, "official"), (3.0, "eval"))}
    monkeypatch.setattr(metrics.reference, "measured_reference", lambda _network, protocol, _folder: measured[protocol])
    goals = {}

    def score(_network: Any, protocol: str, goal: Any, _folder: Any) -> dict[str, Any]:
        assert protocol not in goals  # measured once
        goals[protocol] = goal
        return {"value": len(goals), "n_images": 5120, "source": "measured"}

    monkeypatch.setattr(metrics.reference, "measured_training_images", score)
    assert run_program(metrics.reference.main, ["--dataset", "mnist", "--write"]) == 0

    changed = {file.name for file in stored.iterdir() if before.pop(file.name, None) != file.read_bytes()}
    assert changed == {"mnist_test_64_eval.npz", "training_images.json"} and not before
    with np.load(stored / "mnist_test_64_eval.npz") as written:
        assert np.array_equal(written["mu"], measured["eval"][0]) and np.array_equal(
            written["sigma"], measured["eval"][1]
        )
    assert all(torch.equal(ours, goal) for ours, goal in zip(goals["eval"], measured["eval"], strict=True))
    with np.load(stored / "mnist_test_64.npz") as authors:
        assert np.array_equal(goals["official"][0], authors["mu"])
    scores, old = (json.loads((f / "training_images.json").read_text()) for f in (stored, PUBLISHED))
    assert scores["fashion_mnist"] == old["fashion_mnist"]
    for value, protocol in enumerate(("official", "eval"), start=1):
        entry = scores["mnist"][protocol]
        assert (entry["value"], entry["n_images"]) == (value, 5120)
        assert entry["source"].startswith(
            "stored: measured by `python -m metrics.reference --dataset mnist --write` at"
        )


def test_reference_writes_nothing_of_other_weights(save_autoencoder: Callable, capsys: pytest.CaptureFixture) -> None:
    before = {file: file.stat().st_mtime_ns for file in PUBLISHED.iterdir()}
    arguments = ["--dataset", "digits", "--fad-weights", str(save_autoencoder()), "--write"]
    assert run_program(metrics.reference.main, arguments) == 2
    assert "--write stores numbers of the project's own weights only" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in PUBLISHED.iterdir()} == before


def test_reference_meets_the_published_statistics(real_data: Path, capsys: pytest.CaptureFixture) -> None:
    if not (real_data / "MNIST").is_dir():
        pytest.skip("mnist is not in ESVAE_DATA_DIR")
    assert run_program(metrics.reference.main, ["--dataset", "mnist", "--data-dir", str(real_data)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "published statistics" in line]
    assert float(line.rsplit(":", 1)[1]) <= 1e-6


def test_the_card_of_a_committed_autoencoder_is_of_its_file() -> None:
    pretrained = Path(metrics.reference.__file__).parent.parent / "pretrained"
    files = sorted(pretrained.glob("fad-*.safetensors"))
    assert files
    for file in files:
        network = load_feature_network(file.stem.removeprefix("fad-"), file)
        assert network.description in file.with_suffix(".md").read_text(), file.name


def test_the_authors_weights_belong_to_their_data_set() -> None:
    with pytest.raises(UserError, match="is the authors' autoencoder for fashion_mnist, not for mnist"):
        load_feature_network("mnist", PUBLISHED / "fashion_64.pth")
    assert load_feature_network("mnist", PUBLISHED / "mnist_64.pth").origin == "published"


def test_an_own_autoencoder_belongs_to_the_data_set_that_it_was_trained_on(save_autoencoder: Callable) -> None:
    file = save_autoencoder({"epochs": 1, "config": {"dataset": "digits"}})
    assert load_feature_network("digits", file).origin == "own"
    with pytest.raises(UserError, match="is an autoencoder for digits, not for fashion_mnist"):
        load_feature_network("fashion_mnist", file)


def test_other_weights_in_the_authors_layout_are_ones_own(tmp_path: Path) -> None:
    tensors = torch.load(PUBLISHED / "mnist_64.pth", map_location="cpu", weights_only=True)
    tensors["latent_layer.bias"] += 1
    torch.save(tensors, tmp_path / "a.pth")
    for dataset in ("mnist", "digits"):  # of the former the authors' file is known, for the latter they have none
        network = load_feature_network(dataset, tmp_path / "a.pth")
        assert network.origin == "own" and "own, nothing known of its training" in network.description
        assert stored_reference(network, "official") is None


def test_what_may_be_the_authors_weights_is_called_unchecked(tmp_path: Path) -> None:
    """As for CIFAR-10, whose published weights are not here; their statistics are."""
    torch.save(published_autoencoder(3, 128), tmp_path / "any.pth")
    network = load_feature_network("cifar10", tmp_path / "any.pth")
    assert "cifar10, taken for Kamata et al.'s by its format, unchecked (any.pth, sha256" in network.description
    authors = np.load(PUBLISHED / "cifar10_test_128.npz")["mu"]
    assert stored_reference(network, "official")[0].tolist() == authors.tolist()
