"""Frechet Inception distance (FID) and Inception score (IS), each by the paper's protocol and by the standard one.

FID compares the 2,048 pooled features of the Inception network of 2015 (`metrics.inception_network`):
    paper: clean-fid as the released program calls it. Images stay floats in 0..255, bicubic to 299x299, clipped.
    original: generated images alike; those of the split as its files have them, MNIST's 28x28, and not clipped, as
        clean-fid did before March 2022. Of grey images the published numbers are explained by it (docs/results.md).
    standard: images rounded to uint8, bilinear to 299x299 as TensorFlow 1 does it.
IS is exp of the mean KL divergence of an image's classes from those of its split, mean over splits:
    paper: torchvision's ImageNet network without input scaling, fed 0..255 where it expects about -1..1 (a quirk of
        the released program); 10 splits of 256 images in order (CelebA: 128). Compares with nothing else.
    standard: the network of 2015, 10 splits of shuffled images.

References:
    Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017.
    Parmar, Zhang, Zhu, "On aliased resizing and surprising subtleties in GAN evaluation", CVPR 2022 (clean-fid).
    Salimans et al., "Improved techniques for training GANs", 2016 (IS).
    github.com/QgZhan/ESVAE, metrics/clean_fid.py and metrics/inception_score.py (2023-11).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import batches, check_range, data_folder, is_at_hand, kept, load_original_images, load_split, to_uint8
from errors import UnavailableError, UserError
from metrics.frechet import Statistics, frechet_distance, score_of_training_images, statistics
from metrics.inception_network import N_FEATURES, pooled_features, weights_digest

SIZE = 299
BATCH = 32
# Raise this whenever the same weights and images would give other statistics: a resize or the features have changed.
STATISTICS_VERSION = 1
IS_SPLITS = 10
Look = Callable[[Tensor, str], Statistics]
LEAST_LOG_PROBABILITY = -700  # exp(-700) is 1e-304, near the least of float64


def resize_paper(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> floats [N, 3, 299, 299] in 0..255, by PIL's bicubic filter, clipped.

    torch's bicubic with antialias is PIL's (a = -0.5); without it is another (a = -0.75).
    """
    return resize_unclipped(images).clamp(0, 255)


def resize_unclipped(images: Tensor) -> Tensor:
    """As `resize_paper`, but with the values beyond 0..255 that the filter makes beside edges."""
    x = _coloured((images + 1) / 2 * 255)
    return F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)


def resize_standard(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1], rounded to uint8 -> floats [N, 3, 299, 299] in 0..255, as TensorFlow 1 does."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as bilinear

    return bilinear(_coloured(to_uint8(images).float()), size=(SIZE, SIZE), align_corners=False)


def resize_imagenet(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> floats [N, 3, 299, 299] in 0..255, bilinear: input of the paper's IS."""
    x = _coloured((images + 1) / 2 * 255)
    return F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False)


def _coloured(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


RESIZE = {"paper": resize_paper, "unclipped": resize_unclipped, "standard": resize_standard}


@dataclass(frozen=True)
class FidProtocol:
    """How images come to the network.

    Attributes:
        words: what to say of it.
        resize: of the images to score, a key of RESIZE.
        resize_split: of those that they are compared with.
        original: compared with images as their files have them, not in the models' size.
    """

    words: str
    resize: str
    resize_split: str
    original: bool = False


PROTOCOLS = {
    "paper": FidProtocol("floats, bicubic, clipped", "paper", "paper"),
    "original": FidProtocol(
        "floats, bicubic, clipped, against images in their files' size, not clipped", "paper", "unclipped", True
    ),
    "standard": FidProtocol("uint8, TensorFlow-1 bilinear", "standard", "standard"),
}


@torch.no_grad()
def features(network: nn.Module, images: Iterable[Tensor], resize: str) -> Tensor:
    """Batches [n, C, H, W] in [-1, 1] -> features [N, 2048]; `resize` is a key of RESIZE."""
    return torch.cat([pooled_features(network, RESIZE[resize](x)).cpu() for x in images])


def looking(network: nn.Module) -> Look:
    """Images [N, C, H, W] in [-1, 1] and a key of RESIZE -> mean and covariance of their features.

    What was looked at last is kept: metrics that resize the same tensor alike look at it once.
    """

    @lru_cache(maxsize=1)
    def look(images: Tensor, resize: str) -> Statistics:
        return statistics(features(network, images.split(BATCH), resize))

    return look


def kept_statistics(
    network: nn.Module, images: Tensor, resize: str, name: str, data_dir: Path | None = None
) -> Statistics:
    """Mean and covariance of the features of uint8 images [N, C, H, W], the first of the split `name`; kept beside it.

    Raises:
        UserError: fewer images than features, or features that are not finite.
    """

    def measure() -> dict[str, Tensor]:
        mean, covariance = statistics(features(network, batches(images, BATCH), resize))
        return {"mean": mean, "covariance": covariance}

    stem, key = f"{name}-{len(images)}-fid-{resize}-", _statistics_key(network, images)
    found = kept(data_folder(data_dir), stem, key, measure, _check_statistics)
    return found["mean"], found["covariance"]


def _images_of_split(dataset: str, split: str, how: FidProtocol, data_dir: Path | None, device: torch.device) -> Tensor:
    if how.original:
        return load_original_images(dataset, split, data_dir, device)
    return load_split(dataset, split, data_dir, device=device).images


def _statistics_key(network: nn.Module, images: Tensor) -> str:
    """Sixteen hex digits that change with the code, weights and images, and with what computes: a GPU rounds more."""
    digest = hashlib.sha256(f"{STATISTICS_VERSION} {images.device.type} {weights_digest(network)}".encode())
    digest.update(images.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_statistics(tensors: dict[str, Tensor]) -> None:
    """KeyError or ValueError unless the tensors are a mean and a covariance that belong together."""
    mean, covariance = tensors["mean"], tensors["covariance"]
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError("mean or covariance are not finite")
    if mean.dim() != 1 or covariance.shape != 2 * mean.shape or {mean.dtype, covariance.dtype} != {torch.float64}:
        raise ValueError(f"mean and covariance are {mean.dtype} {list(mean.shape)}, {list(covariance.shape)}")


@dataclass(frozen=True, eq=False)
class FidMetric:
    """FID by one protocol, ready to score images.

    Attributes:
        network: as `load_inception` gives it.
        protocol: a key of PROTOCOLS.
        reference: mean and covariance of a split's features.
        split: its name.
        n_wanted: images that the protocol takes.
        training_images: what as many real ones score; None where images are compared with them, or not at hand.
        look: of `looking`, where metrics share it.
    """

    network: nn.Module
    protocol: str
    reference: Statistics
    split: str
    n_wanted: int
    training_images: dict[str, Any] | None = None
    look: Look | None = None

    @classmethod
    def prepare(
        cls,
        network: nn.Module,
        dataset: str,
        protocol: str,
        split: str,
        n_wanted: int,
        data_dir: Path | None = None,
        look: Look | None = None,
        n_images: int | None = None,
    ) -> "FidMetric":
        """Look at the split, and at `n_images` training images (None: `n_wanted`), or read what was measured before.

        Raises:
            UnavailableError: the split cannot be read, or has fewer images than features.
            UserError: weights by which features are not finite.
        """
        how, device = PROTOCOLS[protocol], next(network.parameters()).device
        try:
            images = _images_of_split(dataset, split, how, data_dir, device)
        except UserError as error:
            raise UnavailableError(f"not available, FID needs the {split} split of {dataset}: {error}") from error
        if len(images) <= N_FEATURES:
            raise UnavailableError(
                f"not available, FID needs more than {N_FEATURES:,} images, the {split} split of {dataset} has "
                f"{len(images)}"
            )
        name = f"{dataset}-{split}{'-original' if how.original else ''}"
        reference, real = kept_statistics(network, images, how.resize_split, name, data_dir), None
        if split != "train" and is_at_hand(dataset, "train", data_dir):
            train = load_split(dataset, "train", data_dir, device=device).images[: n_images or n_wanted]
            measured = kept_statistics(network, train, how.resize, f"{dataset}-train", data_dir)
            real = score_of_training_images(measured, reference, len(train))
        return cls(network, protocol, reference, split, n_wanted, real, look)

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """Images [N, C, H, W] in [-1, 1] -> the number, with what it needs to be compared with another."""
        check_range(images)
        how = PROTOCOLS[self.protocol]
        measured = (self.look or looking(self.network))(images, how.resize)
        record = {
            "value": frechet_distance(*measured, *self.reference),
            "protocol": f"{self.protocol}: {how.words}, 299x299{_count(images, self.n_wanted)}",
            "n_images": len(images),
            "split": self.split,
            "feature_network": f"Inception of 2015, 2,048 pooled features (weights {weights_digest(self.network)})",
        }
        return record if self.split == "train" else record | {"training_images": self.training_images}


@dataclass(frozen=True, eq=False)
class InceptionScore:
    """IS by one protocol.

    Attributes:
        logits: resized images -> logits [N, classes].
        resize: images [N, C, H, W] in [-1, 1] -> what `logits` takes.
        protocol, feature_network: what to say of it.
        n_wanted: images that the protocol takes.
        shuffle: before splitting.
    """

    logits: Callable[[Tensor], Tensor]
    resize: Callable[[Tensor], Tensor]
    protocol: str
    feature_network: str
    n_wanted: int
    shuffle: bool

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Any]:
        """Images [N, C, H, W] in [-1, 1] -> mean over splits, with their standard deviation and the protocol."""
        check_range(images)
        logits = torch.cat([self.logits(self.resize(x)).cpu() for x in images.split(BATCH)])
        mean, deviation = inception_score(logits, IS_SPLITS, self.shuffle)
        return {
            "value": mean,
            "standard_deviation": deviation,
            "protocol": f"{self.protocol}{_count(images, self.n_wanted)}",
            "n_images": len(images),
            "split": None,
            "feature_network": self.feature_network,
        }


def inception_score(logits: Tensor, splits: int = IS_SPLITS, shuffle: bool = False) -> tuple[float, float]:
    """exp(mean KL(p(y|x) || p(y))) of logits [N, classes]: mean and standard deviation over splits, in order.

    Raises:
        UserError: fewer images than splits.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if len(logits) < splits:
        raise UserError(f"{len(logits)} images are too few for {splits} splits of the Inception score")
    # Of a class whose probability underflows in a whole split, the library would add 0 * inf.
    log_probabilities = logits.double().log_softmax(1).clamp(min=LEAST_LOG_PROBABILITY)
    score = isc_features_to_metric(log_probabilities, splits, shuffle)
    return score[KEY_METRIC_ISC_MEAN], score[KEY_METRIC_ISC_STD]


def standard_score(network: nn.Module) -> InceptionScore:
    """IS of the network of 2015, 50,000 images; its logits have no bias, as torch-fidelity's.

    Raises:
        UnavailableError: the network has no classes.
    """
    if network.fc is None:
        raise UnavailableError(
            "the standard Inception score needs the classes of the Inception network, which this file of weights has "
            "not: give torch-fidelity's with --inception-weights"
        )
    return InceptionScore(
        lambda x: pooled_features(network, x) @ network.fc.weight.T,
        resize_standard,
        "standard: uint8, TensorFlow-1 bilinear, 299x299, 10 splits of shuffled images",
        f"Inception of 2015, logits without bias (weights {weights_digest(network)})",
        50_000,
        True,
    )


def paper_score(network: nn.Module, dataset: str) -> InceptionScore:
    """IS as the released program computes it in its last epoch."""
    batch = 128 if dataset == "celeba" else 256
    return InceptionScore(
        network,
        resize_imagenet,
        f"paper: 0..255 into a network for about -1..1, bilinear, 299x299, 10 splits of {batch}",
        "torchvision's ImageNet inception_v3, input not scaled",
        IS_SPLITS * batch,
        False,
    )


def _count(images: Tensor, wanted: int) -> str:
    return "" if len(images) == wanted else f", {len(images):,} images where the protocol takes {wanted:,}"
