"""Frechet autoencoder distance (FAD): how far images lie from a test split in the features of a plain autoencoder.

Two protocols:
    official: what the released programs compute. Their autoencoder stays in training mode, so BatchNorm normalises
        by the batch at hand: how images are cut into batches is part of the number. The published reference comes
        from batches of 256 of the test split in order, ESVAE's samples from 40 batches of 128. A last batch that is
        not full is kept. (FSVAE's own program samples 20 batches of 256.)
    eval: the same network in evaluation mode, where a batch has no influence.

References:
    Kamata, Mukuta, Harada, "Fully spiking variational autoencoder", AAAI 2022: definition, weights, statistics.
    github.com/QgZhan/ESVAE, metrics/autoencoder_fid.py (2023-11): batches of samples.
"""

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import DATASETS, batches, check_range, is_at_hand, load_split
from errors import UnavailableError, UserError
from files import sha256_of
from metrics.frechet import Statistics, frechet_distance, score_of_training_images, statistics
from models import Autoencoder, load_model
from models.authors import SUFFIXES
from models.checkpoint import find_model_file

PROTOCOLS = {
    "official": "batch statistics (training mode), images in batches of 128, test split in batches of 256",
    "eval": "running statistics (evaluation mode)",
}
N_SAMPLES = 5120
FULL_EPOCHS = 150  # of the autoencoder's training
SAMPLE_BATCH, REFERENCE_BATCH = 128, 256

PUBLISHED = Path(__file__).parent / "fad_data"
OWN = Path(__file__).parent.parent / "pretrained"  # fad-<dataset>.safetensors, where the authors' file is not at hand
PUBLISHED_NAMES = {
    "mnist": ("mnist", 64),
    "fashion_mnist": ("fashion", 64),
    "cifar10": ("cifar10", 128),
    "celeba": ("celeba", 128),
}
TRAINING_IMAGES = "training_images.json"


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """The autoencoder whose features FAD compares.

    Attributes:
        network: on the CPU or a GPU, where images must be too.
        dataset: that it belongs to.
        file: of its weights.
        origin: `shipped` with the project, `published` by the authors in a file of the user's, `unchecked` where such a
            file can only be told by its format, or `own`.
    """

    network: Autoencoder
    dataset: str
    file: Path
    origin: str

    @property
    def description(self) -> str:
        """What a reader must know to compare numbers."""
        digest = sha256_of(self.file)[:12]
        by_format = "taken for Kamata et al.'s by its format, unchecked"
        kind = {"own": f"own, {_budget(self.network.run)}", "unchecked": by_format}.get(self.origin, "by Kamata et al.")
        note = ", FAD compares only with that of the same file" if self.origin == "own" else ""
        return f"autoencoder for {self.dataset}, {kind} ({self.file.name}, sha256 {digest}{note})"


def _budget(run: dict[str, Any]) -> str:
    """How much an own network was trained: less than the released recipe is labelled so."""
    epochs, config = run.get("epochs"), run.get("config") or {}
    if epochs is None:
        return "nothing known of its training"
    images = f" of {config['train_images']:,} images" if config.get("train_images") else ""
    reduced = ", REDUCED" if epochs < FULL_EPOCHS or images else ""
    return f"trained {epochs} of {FULL_EPOCHS} epochs{images}{reduced}"


def load_feature_network(
    dataset: str, weights: Path | None = None, device: str | torch.device = "cpu"
) -> FeatureNetwork:
    """The autoencoder of a data set: from `weights`, a file or run folder, or the one that comes with the project.

    Raises:
        UnavailableError: none comes with the project.
        UserError: a damaged file, another kind of model, or one for other images.
    """
    file = find_model_file(weights) if weights else _shipped_weights(dataset)
    network = load_model(file, device)
    if type(network) is not Autoencoder:  # the ANN VAE is one too
        raise UserError(f"{file} holds a {network.config.model}, not an autoencoder: give FAD's with --fad-weights")
    DATASETS[dataset].check_images_of(file, network.config.image_channels, network.config.image_size)
    trained_on = (network.run.get("config") or {}).get("dataset", dataset)
    if trained_on != dataset:
        raise UserError(f"{file} is an autoencoder for {trained_on}, not for {dataset}")
    return FeatureNetwork(network, dataset, file, _origin(file, dataset, is_given=bool(weights)))


def _origin(file: Path, dataset: str, is_given: bool) -> str:
    """Whose weights a file has, which a user may have given: the stored statistics are those of the authors'.

    Raises:
        UserError: the authors' for another data set.
    """
    if file.suffix not in SUFFIXES:
        return "own"
    if not is_given:
        return "shipped"
    at_hand = {name: path for name in PUBLISHED_NAMES if (path := _published_weights(name)).is_file()}
    same = [name for name, path in at_hand.items() if path.read_bytes() == file.read_bytes()]
    if same and dataset not in same:
        raise UserError(f"{file} is the authors' autoencoder for {same[0]}, not for {dataset}")
    if same:
        return "published"
    return "unchecked" if dataset in PUBLISHED_NAMES.keys() - at_hand.keys() else "own"


def _published_weights(dataset: str) -> Path:
    """Where the authors' weights are, if they come with the project."""
    name, size = PUBLISHED_NAMES.get(dataset, (dataset, 0))
    return PUBLISHED / f"{name}_{size}.pth"


def _shipped_weights(dataset: str) -> Path:
    """The authors' weights, else our own.

    Raises:
        UnavailableError: neither comes with the project.
    """
    file, own = _published_weights(dataset), OWN / f"fad-{dataset}.safetensors"
    if file.is_file() or own.is_file():
        return file if file.is_file() else own
    authors = f"give the authors' {file.name} with --fad-weights, or " if dataset in PUBLISHED_NAMES else ""
    raise UnavailableError(
        f"no autoencoder for {dataset} comes with the project: {authors}train one with "
        f"`python -m metrics.train_fad --dataset {dataset}` and give it with --fad-weights"
    )


@torch.no_grad()
def features(network: Autoencoder, images: Iterable[Tensor], protocol: str) -> Tensor:
    """Batches of images [n, C, H, W] in [-1, 1] -> features [N, D] in float64.

    In float32, PyTorch's BatchNorm over the batch is off by 1e-4 for channels_last images on a CPU. The network given
    is left as it is: training mode would move its running statistics.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    network = copy.deepcopy(network).double().train(protocol == "official")
    return torch.cat([network.encode(x.double()) for x in images])


@dataclass(frozen=True, eq=False)
class FadMetric:
    """FAD by one protocol, ready to score images: a file that is missing is found out before any are drawn.

    Attributes:
        network, protocol, reference: as for `fad`.
        training_images: what real training images score, None if that is not known.
        n_wanted: images that the protocol takes.
    """

    network: FeatureNetwork
    protocol: str
    reference: Statistics
    training_images: dict[str, Any] | None
    n_wanted: int = N_SAMPLES

    @classmethod
    def prepare(
        cls, network: FeatureNetwork, protocol: str, data_dir: Path | str | None = None, n_images: int = N_SAMPLES
    ) -> "FadMetric":
        """Ready to score `n_images`, beside as many real ones; errors as `reference`."""
        goal = reference(network, protocol, data_dir)
        return cls(network, protocol, goal, training_images(network, protocol, data_dir, goal, n_images))

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """Images [N, C, H, W] in [-1, 1] -> the number, with what it needs to be compared with another.

        Raises:
            UserError: no floats, or values outside [-1, 1].
        """
        check_range(images)
        count = "" if len(images) == N_SAMPLES else f", {len(images):,} images where the released program takes 5,120"
        return {
            "value": fad(images, self.network, self.reference, self.protocol),
            "protocol": f"{self.protocol}: {PROTOCOLS[self.protocol]}{count}",
            "n_images": len(images),
            "split": "test",
            "feature_network": self.network.description,
            "own_network": self.network.origin == "own",
            "training_images": self.training_images,
        }


def fad(images: Tensor, network: FeatureNetwork, reference: Statistics, protocol: str = "official") -> float:
    """FAD of images [N, C, H, W] in [-1, 1] in the order given.

    Raises:
        UserError: fewer images than features + 1.
    """
    return frechet_distance(*statistics(features(network.network, images.split(SAMPLE_BATCH), protocol)), *reference)


def reference(network: FeatureNetwork, protocol: str, data_dir: Path | str | None = None) -> Statistics:
    """Mean and covariance that FAD compares with: stored with the project, else those of the test split.

    Raises:
        UserError: not stored, and the data set cannot be read; or as `stored_reference`.
    """
    return stored_reference(network, protocol) or measured_reference(network, protocol, data_dir)


def stored_reference(network: FeatureNetwork, protocol: str) -> Statistics | None:
    """What the project keeps of the published network; None for an own one, or where nothing is kept.

    Raises:
        UserError: the network has another number of features.
    """
    file = stored_file(network, protocol)
    if not file.is_file() or network.origin == "own":
        return None
    with np.load(file, allow_pickle=False) as stored:
        mean, covariance = torch.from_numpy(stored["mu"]), torch.from_numpy(stored["sigma"])
    if len(mean) != network.network.config.latent_dim:
        raise UserError(
            f"{network.file} has {network.network.config.latent_dim} features, but the authors' autoencoder for "
            f"{network.dataset} has {len(mean)}: give theirs with --fad-weights"
        )
    return mean, covariance


def stored_file(network: FeatureNetwork, protocol: str) -> Path:
    """Where the project keeps the statistics of the published network: `official` is the authors' file."""
    name, size = PUBLISHED_NAMES.get(network.dataset, (network.dataset, 0))
    return PUBLISHED / f"{name}_test_{size}{'' if protocol == 'official' else '_eval'}.npz"


def measured_reference(network: FeatureNetwork, protocol: str, data_dir: Path | str | None = None) -> Statistics:
    """Mean and covariance of the test split's features; errors as `load_split` and `statistics`."""
    test = load_split(network.dataset, "test", data_dir, device=_device(network)).images
    return statistics(features(network.network, batches(test, REFERENCE_BATCH), protocol))


def training_images(
    network: FeatureNetwork,
    protocol: str,
    data_dir: Path | str | None = None,
    goal: Statistics | None = None,
    n_images: int = N_SAMPLES,
) -> dict[str, Any] | None:
    """What as many real training images score: the scale on which a FAD has a meaning. Of fewer it is larger.

    Args:
        network, protocol, data_dir: as for `reference`.
        goal: what that returned, if it was asked for: measuring it takes as long again.
        n_images: that the model is asked for.

    Returns:
        value, n_images and source; stored with the project for the weights that come with it and 5,120 images, else
        measured; None where the data set is not at hand.
    """
    stored = PUBLISHED / TRAINING_IMAGES
    scores = json.loads(stored.read_text()) if network.origin == "shipped" and stored.is_file() else {}
    if network.dataset in scores and n_images == N_SAMPLES:
        return scores[network.dataset][protocol]
    if not is_at_hand(network.dataset, "train", data_dir):
        return None
    goal = goal or reference(network, protocol, data_dir)
    return measured_training_images(network, protocol, goal, data_dir, n_images)


def measured_training_images(
    network: FeatureNetwork,
    protocol: str,
    reference: Statistics,
    data_dir: Path | str | None = None,
    n_images: int = N_SAMPLES,
) -> dict[str, Any]:
    """FAD of the first images of the training split, at most `n_images`; errors as `load_split` and `statistics`."""
    train = load_split(network.dataset, "train", data_dir, device=_device(network)).images[:n_images]
    real = statistics(features(network.network, batches(train, SAMPLE_BATCH), protocol))
    return score_of_training_images(real, reference, len(train))


def _device(network: FeatureNetwork) -> torch.device:
    return network.network.to_latent.weight.device
