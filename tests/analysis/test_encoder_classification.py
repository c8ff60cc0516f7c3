"""The classifier learns what there is to learn, and its controls are what they are called."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from sklearn.decomposition import PCA
from torch import Tensor, nn

from analysis.classifier import Accuracy, Labelled, Recipe, build_classifier, train_classifier
from analysis.encoder_classification import (
    PIXELS,
    TRAINED,
    UNTRAINED,
    EncoderClassification,
    draw,
    paper_table3,
    summary,
    with_verdict,
)
from analysis.experiment import experiment_main
from analysis.experiment_result import read_experiment
from analysis.features import STATISTICS_BATCHES, PixelPCA, encoder_rates, untrained_copy
from analysis.subjects import load_subjects
from cli import run_program
from data import load_split, to_unit_range
from errors import UserError
from models import ModelConfig, build_model, save_model
from neurons import ThresholdDependentBatchNorm

PRETRAINED = Path(__file__).parents[2] / "pretrained"
DIGITS = PRETRAINED / "esvae-digits.safetensors"
SMALL = {"image_channels": 1, "widths": (8, 8, 8, 8), "n_steps": 4, "latent_dim": 8, "n_candidates": 3}


@pytest.fixture(scope="module")
def digits() -> tuple:
    return tuple(load_split("digits", split) for split in ("train", "test"))


def run(*argv: str | Path) -> int:
    return run_program(experiment_main(EncoderClassification, None), [str(word) for word in argv])


def test_the_rates_of_the_digits_model_are_classified(digits: tuple) -> None:
    (subject,) = load_subjects([DIGITS], device="cpu")
    rates = [Labelled(encoder_rates(subject.model, split.images), split.labels) for split in digits]
    assert train_classifier(*rates, Recipe(epochs=15, batch_size=32)).test > 0.9


def test_the_classifier_has_the_papers_layers() -> None:
    sizes = [tuple(p.shape) for p in build_classifier(128, 10).parameters() if p.dim() == 2]
    assert sizes == [(512, 128), (256, 512), (128, 256), (10, 128)]


def test_a_seed_fixes_a_classifier_and_leaves_the_global_noise_alone(rng: torch.Generator) -> None:
    data = Labelled(torch.rand(60, 8, generator=rng), torch.arange(60) % 3)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (train_classifier(data, data, Recipe(epochs=5, batch_size=7), seed) for seed in (0, 0, 1))
    assert torch.rand(1).equal(expected)
    assert first == again != other


def test_shuffled_labels_are_not_learned(rng: torch.Generator) -> None:
    features, labels = torch.rand(400, 8, generator=rng), torch.randint(10, (400,), generator=rng)
    halves = [Labelled(features[half], labels[half]) for half in (slice(200), slice(200, 400))]
    assert train_classifier(*halves, Recipe(epochs=30)).test < 0.2


def test_the_best_epoch_is_the_one_that_tests_best(rng: torch.Generator) -> None:
    features, labels = torch.rand(60, 8, generator=rng), torch.arange(60) % 3
    halves = [Labelled(features[half], labels[half]) for half in (slice(30), slice(30, 60))]
    each = [train_classifier(*halves, Recipe(epochs=n, batch_size=7)).test for n in range(1, 7)]
    whole = train_classifier(*halves, Recipe(epochs=6, batch_size=7))
    assert len(set(each)) > 1 and whole.test == each[-1]
    assert (whole.best, whole.best_epoch) == (max(each), each.index(max(each)) + 1)


def test_mirrored_images_are_learned_too(rng: torch.Generator) -> None:
    labels = torch.arange(90) % 3
    features = torch.eye(6)[labels] + 0.1 * torch.rand(90, 6, generator=rng)
    mirrored = features.flip(1)  # other units fire
    test, recipe = Labelled(mirrored, labels), Recipe(epochs=60, batch_size=9)
    assert train_classifier(Labelled(features, labels), test, recipe).test < 0.9
    both = train_classifier(Labelled(features, labels, mirrored), test, recipe)
    assert (both.train, both.test) == (1.0, 1.0)


def test_a_classifier_that_diverges_is_told(rng: torch.Generator) -> None:
    data = Labelled(1e6 * torch.rand(50, 8, generator=rng), torch.arange(50) % 10)
    with pytest.raises(UserError, match="diverged at --lr 1000"):
        train_classifier(data, data, Recipe(epochs=5, lr=1000.0, batch_size=5))


@pytest.mark.parametrize("name", ["esvae", "fsvae", "taid"])
def test_rates_are_the_encoders_or_those_of_a_draw(name: str, digits: tuple) -> None:
    torch.manual_seed(0)
    images = digits[1].images[:20]
    model = untrained_copy(build_model(ModelConfig(model=name, **SMALL)), digits[0].images[:50], kind="draw")
    of_encoder = encoder_rates(model, images)
    assert of_encoder.equal(model.firing_rate(to_unit_range(images)))
    assert of_encoder.equal(encoder_rates(model, images, seed=1))
    drawn = [encoder_rates(model, images, seed, "draw") for seed in (0, 0, 1)]
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
    assert all(((4 * rates) % 1 == 0).all() for rates in (of_encoder, *drawn))  # spikes of 4 steps


def test_the_control_has_the_statistics_of_the_images_and_no_training(digits: tuple) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**SMALL)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    control, again = (untrained_copy(model, digits[0].images, seed=3) for _ in range(2))
    assert not control.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    for name, value in control.named_parameters():
        assert value.equal(again.get_parameter(name))
    torch.manual_seed(3)
    fresh = dict(build_model(model.config).named_parameters())
    assert all(value.equal(fresh[name]) for name, value in control.named_parameters())
    norm = control.encoder.blocks[0].norm
    current = control.encoder.blocks[0]._current(to_unit_range(digits[0].images))
    mean = current.mean((0, 2, 3)) + control.encoder.blocks[0].synapse.bias
    assert norm.running_mean == pytest.approx(mean.detach(), abs=0.05)
    assert norm.running_var == pytest.approx(current.var((0, 2, 3)).detach(), rel=0.1)
    assert {m.momentum for m in control.modules() if isinstance(m, ThresholdDependentBatchNorm)} == {0.1}


def test_the_controls_statistics_are_the_mean_of_all_that_a_batch_brings(digits: tuple) -> None:
    """FSVAE's posterior network normalises every step by itself: T updates in a batch, all of the same weight."""
    moved = []
    move = ThresholdDependentBatchNorm.update_running

    def watch(norm: ThresholdDependentBatchNorm, mean: Tensor, inverse_std: Tensor, n: int) -> None:
        moved.append((norm, mean.clone()))
        move(norm, mean, inverse_std, n)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThresholdDependentBatchNorm, "update_running", watch)
        control = untrained_copy(build_model(ModelConfig(model="fsvae", **SMALL)), digits[0].images, kind="draw")
    for norm in (control.encoder.blocks[0].norm, *control.posterior_network.modules()):
        if isinstance(norm, ThresholdDependentBatchNorm):
            means = torch.stack([mean for of, mean in moved if of is norm])
            assert norm.running_mean == pytest.approx(means.mean(0), abs=1e-5)
    assert len(means) > STATISTICS_BATCHES


def test_principal_components_are_scikit_learns(digits: tuple) -> None:
    train, test = (split.images[..., ::4, ::4] for split in digits)  # 8x8, as they once were
    ours, theirs = PixelPCA(train, 12), PCA(12, svd_solver="full")
    expected = theirs.fit(to_unit_range(train).flatten(1)).transform(to_unit_range(test).flatten(1))
    found = ours(test).numpy()
    scale = np.sqrt((theirs.explained_variance_ * (len(train) - 1) / len(train)).mean())
    np.testing.assert_allclose(abs(found), abs(expected) / scale, atol=1e-3)
    assert ours(train).square().mean().item() == pytest.approx(1, rel=1e-3)


def test_more_components_than_images_are_as_many_as_there_are(digits: tuple) -> None:
    assert PixelPCA(digits[0].images[:10, :, ::4, ::4], 64).n_components == 9


def verdicts(trained: float, untrained: float, n_test: int, deviation: float = float("nan")) -> list[str]:
    rows = [("a", TRAINED, trained), ("a", UNTRAINED, untrained), ("128 components", PIXELS, 99.0)]
    table = pd.DataFrame(rows, columns=["model", "features", "test_accuracy"]).assign(deviation=deviation)
    return with_verdict(table, n_test, n_classifiers=2)["verdict"].tolist()


def test_the_verdict_needs_more_than_chance() -> None:
    assert verdicts(95, 90, 10_000) == ["clear", "", ""]  # standard error 0.37
    assert verdicts(95, 90, 100) == ["not clear", "", ""]  # 3.7
    assert verdicts(90, 95, 10_000) == ["worse", "", ""]
    assert verdicts(95, 90, 10_000, deviation=2.0) == ["not clear", "", ""]  # 0.37 and twice 2 / sqrt(2): 2.03
    assert verdicts(95, 90, 10_000, deviation=1.0) == ["clear", "", ""]


def test_a_single_classifier_has_no_deviation() -> None:
    assert summary([Accuracy(1.0, 0.5, 0.6, 3), Accuracy(1.0, 0.7, 0.8, 5)])["deviation"] == pytest.approx(20 / 2**0.5)
    assert np.isnan(summary([Accuracy(1.0, 0.5, 0.5, 1)])["deviation"])


def test_the_papers_accuracies_lie_beside(digits: tuple) -> None:
    assert paper_table3("cifar10") == {"FSVAE": 46.65, "ESVAE": 53.59}
    assert paper_table3("digits") == {}


def test_the_figure_has_a_bar_per_row_and_the_papers_accuracies() -> None:
    rows = [("ours", TRAINED, 48.8, 0.2), ("ours", UNTRAINED, 40.1, 0.3), ("", PIXELS, 51.5, np.nan)]
    table = pd.DataFrame(rows, columns=["model", "features", "test_accuracy", "deviation"])
    (axis,) = draw(table, {"ours": (0, 0, 1)}, {"ESVAE": 53.59}, "three classifiers").axes
    bars = axis.patches
    assert [bar.get_width() for bar in bars] == [48.8, 40.1, 51.5]
    assert [to_rgb(bar.get_facecolor()) for bar in bars][:2] == [(0, 0, 1)] * 2
    assert bars[1].get_alpha() < bars[0].get_alpha() == bars[2].get_alpha() == 1
    spans = [collection.get_segments()[0][:, 0] for collection in axis.collections]
    np.testing.assert_allclose(spans, [[48.6, 49.0], [39.8, 40.4]])  # none for a single classifier
    paper = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in paper] == [53.59]
    assert "untrained" in axis.get_yticklabels()[1].get_text()


def saved(folder: Path, model: str, dataset: str = "digits", **fields: object) -> Path:
    path = folder / f"{model}.safetensors"
    network = build_model(ModelConfig(model=model, **{**SMALL, **fields}))
    save_model(network, path, {"epochs": 1, "config": {"dataset": dataset}})
    return path


def test_the_command_compares_models_and_controls(tmp_path: Path) -> None:
    paths = [saved(tmp_path, "esvae"), saved(tmp_path, "taid")]
    flags = ("--n-images", "50", "--epochs", "2", "--n-classifiers", "2", "--out", tmp_path / "out")
    assert run("--checkpoint", paths[0], "--checkpoint", paths[1], *flags) == 0
    record, table = read_experiment(tmp_path / "out", "encoder_classification-digits")
    assert table["features"].tolist() == [TRAINED, UNTRAINED] * 2 + [PIXELS]
    assert table["test_accuracy"].between(0, 100).all()
    assert "2 epochs (paper: 200)" in record["protocol"] and "50 training images" in record["protocol"]
    assert (tmp_path / "out" / "encoder_classification-digits.png").stat().st_size > 0


def test_a_control_that_models_share_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, encoded = [], []

    def encode(model: nn.Module, images: Tensor, *rest: object) -> Tensor:
        encoded.append(images)
        return encoder_rates(model, images, *rest)

    def count(train: Labelled, *rest: object) -> Accuracy:
        seen.append(train.features)
        return Accuracy(1.0, float(train.features.mean()), 1.0, 1)

    monkeypatch.setattr("analysis.encoder_classification.train_classifier", count)
    monkeypatch.setattr("analysis.encoder_classification.encoder_rates", encode)
    paths = [saved(tmp_path, "esvae"), saved(tmp_path, "fsvae")]
    flags = ("--n-images", "50", "--n-classifiers", "2", "--out", tmp_path / "out")
    assert run("--checkpoint", paths[0], "--checkpoint", paths[1], *flags) == 0
    _, table = read_experiment(tmp_path / "out", "encoder_classification-digits")
    of_control = table[table["features"] == UNTRAINED]["test_accuracy"]
    assert len(table) == 5 and len(of_control) == 2 and of_control.nunique() == 1
    assert len(seen) == 2 * (len(table) - 1)  # two classifiers each
    assert len(encoded) == 2 * 4 - 1  # the training images not again by the second model's control


def test_images_without_classes_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "esvae", "celeba", image_channels=3, widths=(4, 4, 4, 4, 4))
    split = load_split("digits", "test", limit=2)
    unlabelled = type(split)(split.images, None)
    monkeypatch.setattr("analysis.encoder_classification.load_split", lambda *args, **kwargs: unlabelled)
    assert run("--checkpoint", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: celeba has no classes: choose models of another data set"
