"""Table III: how well the frozen encoder's firing rates tell the classes apart, beside two controls.

    python -m analysis.encoder_classification --checkpoint pretrained/esvae-mnist-fast.safetensors \\
        --checkpoint pretrained/fsvae-mnist-fast.safetensors --out mine
    python -m analysis.encoder_classification --checkpoint runs/cifar10-esvae-paper-seed42 --epochs 20 --rates draw

Trains a classifier 128-512-256-128-10 on the rates of the training split, prints its accuracy on the test split, and
does the same for the rates of an untrained encoder and for as many principal components of the pixels. Writes
results/analysis/encoder_classification-<data set>.json, .csv, .png, .pdf. An epoch on MNIST takes 3.2 s of one core of
an AMD EPYC, hence 200 epochs 11 minutes; each row of the table is `n_classifiers` such trainings. `--n-images` and
`--epochs` shorten it, and the protocol says so. The column of the best epoch is what one gets who picks it by the test
images, as programs do that report their best.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis.classifier import Accuracy, Activation, Labelled, Recipe, train_classifier
from analysis.drawing import (
    GREY,
    KIND_COLORS,
    TICK_INCHES,
    fitted,
    legend_below,
    new_figure,
    set_title,
    styled,
    subject_colors,
)
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import Result, describe
from analysis.features import STATISTICS_BATCHES, PixelPCA, RateKind, encoder_rates, untrained_copy
from analysis.published import published
from analysis.subjects import MODEL_NAMES, Subject
from cli import run_program
from data import Split, load_split
from errors import UserError, check_at_least

TRAINED, UNTRAINED, PIXELS = "trained encoder", "untrained encoder", "PCA of pixels"
Encoder = Callable[[Tensor], Tensor]
CLEAR = 3.0  # standard errors by which a trained encoder must beat the untrained one


class Features(NamedTuple):
    """What a classifier sees."""

    model: str
    """label of the model, or the number of components"""
    kind: str
    """TRAINED, UNTRAINED or PIXELS"""
    of_both: list[Labelled]
    """of the training and of the test split"""


@dataclass(frozen=True, kw_only=True)
class EncoderClassification(Experiment):
    """Classify images by the firing rates of frozen encoders."""

    name = "encoder_classification"

    n_images: int | None = None
    """use the first so many images of both splits only; all if None"""
    rates: RateKind = "encoder"
    """what the classifier sees: rates of the encoder's spikes, or of one z drawn from the posterior for each image"""
    n_classifiers: int = 3
    """classifiers to train on each kind of feature, which differ in first weights and order of the data"""
    epochs: int = 200
    """of a classifier's training; 200 in the paper"""
    lr: float = 0.01
    """of SGD; 0.01 in the paper"""
    momentum: float = 0.9
    """of SGD; not named in the paper"""
    batch_size: int = 128
    """of SGD; not named in the paper"""
    activation: Activation = "relu"
    """of the classifier; not named in the paper"""
    mirrored: bool = False
    """train on each image or its mirror image, by a coin every epoch, as models of CIFAR-10 and CelebA are trained"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, n_classifiers=self.n_classifiers)
        check_at_least(2, n_images=self.n_images)  # one has no principal component
        self.recipe()

    def recipe(self) -> Recipe:
        """The classifier's."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

    def measure(self, subjects: list[Subject]) -> Result:
        """Accuracies of all features.

        Raises:
            UserError: a data set without labels.
        """
        splits = [self._load(subjects[0], split) for split in ("train", "test")]
        rows = self._rows(self._features(subjects, splits))
        table = with_verdict(pd.DataFrame(rows), len(splits[1].labels), self.n_classifiers)
        record = describe(self.protocol(splits), subjects, self.settings(), paper=paper_table3(subjects[0].dataset))
        images = f"{len(splits[0].labels):,} {'mirrored ' if self.mirrored else ''}images"
        size = f"{subjects[0].dataset}: {images}, {self.epochs} epochs for each classifier"
        return Result(record, table, {"": draw(table, subject_colors(subjects), record["paper"], size)})

    def _load(self, subject: Subject, split: str) -> Split:
        """A split with labels, its images and labels on the subject's device; `n_images` limits both splits."""
        loaded = load_split(subject.dataset, split, self.data_dir, limit=self.n_images, device=subject.device)
        if loaded.labels is None:
            raise UserError(f"{subject.dataset} has no classes: choose models of another data set")
        return loaded

    def _features(self, subjects: list[Subject], splits: list[Split]) -> list[Features]:
        """Of both splits, every kind."""
        train = splits[0].images
        found: list[Features] = []
        for subject in subjects:
            models = {TRAINED: subject.model, UNTRAINED: untrained_copy(subject.model, train, self.seed, self.rates)}
            for kind, model in models.items():
                encode = self._encoder(model, f"{subject.label}, {kind}")
                controls = [f for f in found if f.kind == kind == UNTRAINED]
                found.append(Features(subject.label, kind, self._labelled(encode, splits, controls)))
        for size in sorted({s.model.config.latent_dim for s in subjects}):
            pca = PixelPCA(train, size)
            found.append(Features(f"{pca.n_components} components", PIXELS, self._labelled(pca, splits)))
        return found

    def _encoder(self, model: nn.Module, title: str) -> Encoder:
        return lambda images: encoder_rates(model, images, self.seed, self.rates, title)

    def _labelled(self, encode: Encoder, splits: list[Split], known: Sequence[Features] = ()) -> list[Labelled]:
        """Of both splits; what gives all test images the features of one that is known is not asked for the others."""
        train, test = splits
        of_test = encode(test.images)
        for other in known:
            if other.of_both[1].features.equal(of_test):
                return other.of_both
        mirrored = encode(train.images.flip(-1)) if self.mirrored else None
        return [Labelled(encode(train.images), train.labels, mirrored), Labelled(of_test, test.labels)]

    def _rows(self, features: list[Features]) -> Iterator[dict[str, Any]]:
        """The accuracies of each; what models share, as untrained encoders of one structure do, is classified once."""
        done: list[tuple[Features, list[Accuracy]]] = []
        for f in features:
            found = next((accuracies for other, accuracies in done if f.of_both is other.of_both), None)
            if found is None:
                seeds = range(self.seed, self.seed + self.n_classifiers)
                title = f"{f.model}, {f.kind}: classifier"
                found = [train_classifier(*f.of_both, self.recipe(), seed, title) for seed in seeds]
                done.append((f, found))
            yield {"model": f.model, "features": f.kind} | summary(found)

    def protocol(self, splits: list[Split]) -> str:
        """In words."""
        n_train, n_test = (len(split.labels) for split in splits)
        seen = "firing rates of the frozen encoder" if self.rates == "encoder" else "rates of one posterior draw"
        mirrored = ", each mirrored by a coin every epoch" if self.mirrored else ""
        return (
            f"{seen} in evaluation mode, computed once; D-512-256-128-classes, {self.activation}, SGD lr {self.lr:g}, "
            f"momentum {self.momentum:g}, batch {self.batch_size}, {self.epochs} epochs (paper: 200), last epoch (best "
            f"epoch: chosen by the test images); trained on {n_train} training images{mirrored}, accuracy in % on "
            f"{n_test} test images, mean and deviation over {self.n_classifiers} classifiers of one encoder; the "
            f"untrained encoder saw {STATISTICS_BATCHES} batches that set its tdBN statistics; `clear`: more than "
            f"{CLEAR:g} standard errors, by the size of the test split and the spread over classifiers"
        )


def summary(found: list[Accuracy]) -> dict[str, float]:
    """Mean and deviation of the test accuracy, means of the training accuracy and of the best epoch's; in percent."""
    test = [100 * a.test for a in found]
    deviation = float(np.std(test, ddof=1)) if len(test) > 1 else float("nan")
    means = {name: float(np.mean([getattr(a, name) for a in found])) for name in ("train", "best", "best_epoch")}
    return {
        "test_accuracy": float(np.mean(test)),
        "deviation": deviation,
        "train_accuracy": 100 * means["train"],
        "best_epoch_accuracy": 100 * means["best"],
        "best_epoch": means["best_epoch"],
    }


def with_verdict(table: pd.DataFrame, n_test: int, n_classifiers: int) -> pd.DataFrame:
    """The table with what each row has gained over the untrained encoder of its model, and whether that is clear.

    The standard error of a difference takes the two accuracies as those of independent test splits, though they are of
    the same images, and adds the spread over classifiers where there are several. How much another draw of the
    untrained encoder would change is not in it.
    """
    control = table[table["features"] == UNTRAINED].set_index("model")
    base = table["model"].map(control["test_accuracy"])
    variance = sum(
        accuracy / 100 * (1 - accuracy / 100) / n_test + (deviation.fillna(0) / 100) ** 2 / n_classifiers
        for accuracy, deviation in (
            (table["test_accuracy"], table["deviation"]),
            (base, table["model"].map(control["deviation"])),
        )
    )
    error = 100 * np.sqrt(variance)
    is_trained = table["features"] == TRAINED
    gain = (table["test_accuracy"] - base).where(is_trained)
    verdict = np.where(gain > CLEAR * error, "clear", np.where(gain < -CLEAR * error, "worse", "not clear"))
    return table.assign(
        gain_over_untrained=gain, standard_error=error.where(is_trained), verdict=np.where(is_trained, verdict, "")
    )


def paper_table3(dataset: str) -> dict[str, float]:
    """The paper's accuracies in percent on a data set, by model."""
    table = published("table3")
    return dict(table[table["dataset"] == dataset][["model", "accuracy_percent"]].itertuples(index=False))


@styled
def draw(
    table: pd.DataFrame, colors: dict[str, tuple[float, float, float]], paper: dict[str, float], size: str
) -> Figure:
    """A bar per row with its deviation, the untrained control pale; the paper's accuracies as dashed lines.

    Args:
        table: of `EncoderClassification.measure`.
        colors: by label of the model.
        paper: accuracy in percent by model.
        size: data set and training of the classifiers, in words.
    """
    figure, ((axis,),) = new_figure(6.5, 0.45 * len(table) + 1.6)
    for place, row in enumerate(table.itertuples()):
        alpha = 0.4 if row.features == UNTRAINED else 1.0
        error = None if np.isnan(row.deviation) else row.deviation
        axis.barh(place, row.test_accuracy, xerr=error, color=colors.get(row.model, GREY), alpha=alpha)
        label = axis.text(row.test_accuracy + 1.5, place, f"{row.test_accuracy:.2f}", va="center")
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # the paper's lines pass behind
    axis.set_yticks(range(len(table)), [_tick(row.model, row.features) for row in table.itertuples()])
    axis.set_xlim(0, 110)
    axis.invert_yaxis()
    kinds = {name: kind for kind, name in MODEL_NAMES.items()}
    for model, accuracy in paper.items():
        axis.axvline(
            accuracy, color=KIND_COLORS[kinds[model]], ls="--", lw=1, label=f"{model} in the paper, fully trained"
        )
    axis.set_xlabel("test accuracy [%]")
    set_title(axis, size)
    if paper:
        legend_below(figure, axis)
    return figure


def _tick(model: str, features: str) -> str:
    return "the same model, untrained" if features == UNTRAINED else f"{fitted(model, TICK_INCHES)}\n{features}"


main = experiment_main(EncoderClassification, __doc__)

if __name__ == "__main__":
    sys.exit(run_program(main))
