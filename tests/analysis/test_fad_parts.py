"""FAD of real, reconstructed and generated images: beside the metric's own, and of a model that loses nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from analysis.evaluation import Evaluation, evaluate
from analysis.experiment_result import read_experiment
from analysis.fad_parts import PARTS, FadParts, main
from analysis.generation import Files
from analysis.subjects import Subject, load_subjects
from cli import run_program
from data import load_split, to_unit_range
from metrics.fad import load_feature_network, training_images
from models import ModelConfig, build_model, save_model

N = 80


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained feature network for digits."""
    file = tmp_path_factory.mktemp("fad") / "autoencoder.safetensors"
    save_model(build_model(ModelConfig("autoencoder", image_channels=1, latent_dim=16), seed=0), file)
    return file


@pytest.fixture
def experiment(autoencoder: Path) -> FadParts:
    return FadParts(n_images=N, fad_weights=autoencoder, seed=3)


class Perfect(nn.Module):
    """Reconstructs every image exactly, and generates those that it was given."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images, requires_grad=False)
        self.config = ModelConfig("esvae", image_channels=1)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> SimpleNamespace:
        return SimpleNamespace(reconstruction=x)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.images[:n]


def test_generated_images_score_as_evaluate_scores_them(experiment: FadParts, small_models: dict[str, Path]) -> None:
    for kind in ("esvae", "ann_vae"):
        table = experiment.measure(load_subjects([small_models[kind]], spiking=False)).table
        asked = Evaluation(small_models[kind], metrics=("fad",), files=Files(fad_weights=experiment.fad_weights))
        record, _ = evaluate(replace(asked, n_samples=N, seed=experiment.seed))
        assert table["generated"].tolist() == pytest.approx([record["fad"]["value"]], rel=1e-6)


def test_real_images_score_as_the_metric_says_of_them(experiment: FadParts, small_models: dict[str, Path]) -> None:
    network = load_feature_network("digits", experiment.fad_weights)
    real = training_images(network, "official", n_images=N)
    table = experiment.measure(load_subjects([small_models["esvae"], small_models["fsvae"]])).table
    assert table["real"].tolist() == pytest.approx([real["value"]] * 2, rel=1e-6)


def test_what_loses_nothing_scores_as_real_images(experiment: FadParts) -> None:
    real = to_unit_range(load_split("digits", "train", limit=128).images)
    subject = Subject("perfect", Path(), Perfect(real), "digits", "Perfect", {}, "")
    (row,) = experiment.measure([subject]).table.to_dict("records")
    assert row["reconstructed"] == row["generated"] == row["real"] > 0


def test_the_seed_fixes_the_noise_of_reconstructions(experiment: FadParts, small_models: dict[str, Path]) -> None:
    subjects = load_subjects([small_models["esvae"]])
    tables = []
    for state in (1, 2):
        torch.manual_seed(state)
        tables.append(experiment.measure(subjects).table)
    other = replace(experiment, seed=4).measure(subjects).table
    assert tables[0].equals(tables[1])
    assert (other["reconstructed"] != tables[0]["reconstructed"]).all() and other["real"].equals(tables[0]["real"])


def test_by_default_it_takes_all_images_of_a_small_data_set_and_says_which_autoencoder(
    autoencoder: Path, small_models: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["--checkpoint", str(small_models["esvae"]), "--fad-weights", str(autoencoder)]
    assert run_program(main, [*arguments, "--out", str(tmp_path)]) == 0
    record, table = read_experiment(tmp_path, "fad_parts-digits")
    assert table["n_images"].tolist() == [1500]
    assert record["settings"]["fad_weights"] == autoencoder.name and autoencoder.name in record["protocol"]


def test_the_figure_shows_the_numbers_of_the_table(experiment: FadParts, small_models: dict[str, Path]) -> None:
    result = experiment.measure(load_subjects([small_models["esvae"], small_models["fsvae"]]))
    (axis,) = result.figures[""].axes
    lines = [line for line in axis.lines if len(line.get_xdata()) == len(PARTS)]
    assert [list(line.get_xdata()) for line in lines] == result.table[list(PARTS)].to_numpy().tolist()
    labels = [tick.get_text().replace("\n", " ") for tick in axis.get_yticklabels()]
    assert labels == result.table["model"].tolist() and axis.yaxis_inverted()
