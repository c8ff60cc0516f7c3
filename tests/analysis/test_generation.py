"""Which network, protocol, split and number of samples stands behind the name of a metric."""

from typing import Any

import pytest
from torch import nn

from analysis import generation
from analysis.generation import FID_PROTOCOLS, NO_FILES, prepare_metrics
from metrics.inception import FidMetric


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What is loaded and measured, in place of doing so."""
    asked: dict[str, list[Any]] = {"networks": [], "autoencoders": [], "splits": [], "real": []}

    def load(weights: Any, device: Any) -> nn.Module:
        asked["networks"].append(weights)
        return nn.Identity()

    def load_autoencoder(dataset: str, weights: Any, device: Any) -> nn.Module:
        asked["autoencoders"].append(dataset)
        return nn.Identity()

    def prepare(network: Any, dataset: str, protocol: str, split: str, n_wanted: int, *rest: Any) -> FidMetric:
        asked["splits"].append((dataset, protocol, split))
        asked["real"].append(rest[-1])
        return FidMetric(network, protocol, (None, None), split, n_wanted)

    def prepare_fad(network: Any, protocol: str, _: Any, n_images: int) -> tuple[Any, str]:
        asked["real"].append(n_images)
        return network, protocol

    monkeypatch.setattr(generation, "load_inception", load)
    monkeypatch.setattr(generation, "load_feature_network", load_autoencoder)
    monkeypatch.setattr(generation.FidMetric, "prepare", prepare)
    monkeypatch.setattr(generation.FadMetric, "prepare", prepare_fad)
    return asked


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fid", ("paper", "test", 5_000)),
        ("fid_original", ("original", "test", 5_000)),
        ("fid_10k_test", ("standard", "test", 10_000)),
        ("fid_50k_test", ("standard", "test", 50_000)),
        ("fid_10k_train", ("standard", "train", 10_000)),
        ("fid_50k_train", ("standard", "train", 50_000)),
    ],
)
def test_a_fid_is_of_its_protocol_split_and_number(name: str, expected: tuple, asked: dict[str, list[Any]]) -> None:
    prepared, left_out = prepare_metrics([name], "cifar10", NO_FILES)
    metric = prepared[name]
    assert (metric.protocol, metric.split, metric.n_wanted) == expected and not left_out
    assert asked["splits"] == [("cifar10", *expected[:2])]


def test_the_papers_fid_of_celeba_is_against_the_validation_split(asked: dict[str, list[Any]]) -> None:
    prepared, _ = prepare_metrics(["fid", "fid_10k_test"], "celeba", NO_FILES)
    assert (prepared["fid"].split, prepared["fid_10k_test"].split) == ("validation", "test")


def test_metrics_share_their_network(asked: dict[str, list[Any]]) -> None:
    prepared, _ = prepare_metrics([*FID_PROTOCOLS, "fad", "fad_eval"], "mnist", NO_FILES)
    assert (len(asked["networks"]), asked["autoencoders"]) == (1, ["mnist"])
    assert (prepared["fad"][1], prepared["fad_eval"][1]) == ("official", "eval")


def test_images_are_put_beside_as_many_real_ones(asked: dict[str, list[Any]]) -> None:
    prepare_metrics(["fad", "fid"], "mnist", NO_FILES, n_images=3_000)
    prepare_metrics(["fad", "fid"], "mnist", NO_FILES)
    assert asked["real"] == [3_000, 3_000, 5_120, None]  # None: as many as the protocol takes
