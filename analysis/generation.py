"""Score images, a model's samples or a file's, by the metrics that compare them with a data set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from data import read_image_set
from errors import UnavailableError, UserError
from metrics.fad import N_SAMPLES, SAMPLE_BATCH, FadMetric, load_feature_network
from metrics.inception import FidMetric, InceptionScore, looking, paper_score, standard_score
from metrics.inception_network import load_imagenet_inception, load_inception
from provenance import provenance
from training.device import resolve_device

FAD_PROTOCOLS = {"fad": "official", "fad_eval": "eval"}
# Name -> protocol, samples, split (None: the paper's, which is CelebA's validation and else the test split).
FID_PROTOCOLS = {
    "fid": ("paper", 5_000, None),
    "fid_original": ("original", 5_000, None),
    "fid_10k_test": ("standard", 10_000, "test"),
    "fid_50k_test": ("standard", 50_000, "test"),
    "fid_10k_train": ("standard", 10_000, "train"),
    "fid_50k_train": ("standard", 50_000, "train"),
}
SHORT_NAMES = {"is": "inception_score"}
METRICS = ("reconstruction", *FAD_PROTOCOLS, *FID_PROTOCOLS, "inception_score", "inception_score_standard")
# Which of `Files` holds the network that a metric looks at images with.
NETWORK_OF = {
    **dict.fromkeys(FAD_PROTOCOLS, "fad_weights"),
    **dict.fromkeys((*FID_PROTOCOLS, "inception_score_standard"), "inception_weights"),
    "inception_score": "imagenet_inception_weights",
}

Metric = FadMetric | FidMetric | InceptionScore


@dataclass(frozen=True)
class Files:
    """Where the metrics' files are; None for those that come with the project or are downloaded.

    Attributes:
        data_dir: of the data sets.
        fad_weights: FAD's autoencoder.
        inception_weights: the Inception network of 2015.
        imagenet_inception_weights: torchvision's ImageNet network, for the paper's Inception score.
    """

    data_dir: Path | None = None
    fad_weights: Path | None = None
    inception_weights: Path | None = None
    imagenet_inception_weights: Path | None = None


NO_FILES = Files()


def parse_metrics(names: str) -> tuple[str, ...]:
    """Names separated by commas, each once; `is` stands for inception_score.

    Raises:
        UserError: an unknown one, or none.
    """
    given = [name.strip() for name in names.split(",")]
    parsed = tuple(dict.fromkeys(SHORT_NAMES.get(name, name) for name in given))
    unknown = [name for name in parsed if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(map(repr, unknown))}; choose from {','.join(METRICS)}")
    return parsed


def prepare_metrics(
    names: Iterable[str],
    dataset: str,
    files: Files,
    device: str | torch.device = "cpu",
    n_images: int | None = None,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """What scores images [N, C, H, W] in [-1, 1], by name, and why the others among `names` are left out.

    `n_images` will be scored, and as many real ones beside them; None for as many as each protocol takes.

    Raises:
        UserError: a file that cannot be used, or a data set that is needed and cannot be read.
    """
    prepared, left_out, prepare = {}, {}, _preparing(dataset, files, device, n_images)
    for name in names:
        try:
            if name != "reconstruction":
                prepared[name] = prepare(name)
        except UnavailableError as error:
            left_out[name] = str(error)
    return prepared, left_out


def _preparing(dataset: str, files: Files, device: str | torch.device, n_images: int | None) -> Callable[[str], Metric]:
    """Prepares a metric by its name; a network that several use is loaded once, and looks at images once."""
    autoencoder = cache(lambda: load_feature_network(dataset, files.fad_weights, device))
    inception = cache(lambda: load_inception(files.inception_weights, device))
    look = cache(lambda: looking(inception()))

    def prepare(name: str) -> Metric:
        if name in FAD_PROTOCOLS:
            return FadMetric.prepare(autoencoder(), FAD_PROTOCOLS[name], files.data_dir, n_images or N_SAMPLES)
        if name == "inception_score":
            return paper_score(load_imagenet_inception(files.imagenet_inception_weights, device), dataset)
        if name == "inception_score_standard":
            return standard_score(inception())
        protocol, n_wanted, split = FID_PROTOCOLS[name]
        split = split or ("validation" if dataset == "celeba" else "test")
        return FidMetric.prepare(inception(), dataset, protocol, split, n_wanted, files.data_dir, look(), n_images)

    return prepare


@torch.no_grad()
def sample_images(model: nn.Module, n: int, seed: int = 0) -> Tensor:
    """n images [n, C, H, W] in [-1, 1] from a model's prior, drawn in batches of 128."""
    generator = Generator(next(model.parameters()).device).manual_seed(seed)
    return torch.cat([model.sample(len(part), generator) for part in torch.arange(n).split(SAMPLE_BATCH)])


def evaluate_images(
    file: Path,
    dataset: str,
    metrics: tuple[str, ...] = ("fad",),
    files: Files = NO_FILES,
    n_images: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """The record of a file of images: metrics with their protocol, provenance. Arguments as of `read_image_set`.

    Raises:
        UserError: images or files that cannot be used, or a metric that needs a model.
    """
    if "reconstruction" in metrics:
        raise UserError("--metrics reconstruction needs a model: give --checkpoint, or leave it out with --images")
    on = resolve_device(device)
    images = read_image_set(file, dataset, n_images).to(on)
    scorers, left_out = prepare_metrics(metrics, dataset, files, on, len(images))
    if not scorers:
        raise UserError(next(iter(left_out.values())))
    record: dict[str, Any] = {"images": str(file), "dataset": dataset}
    record |= {name: score(images) for name, score in scorers.items()}
    return record | {"left_out": left_out, "baselines": {}, "epochs": None, "config": None} | provenance(on)
