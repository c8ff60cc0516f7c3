"""Frechet Inception distance (FID) and Inception score (IS), each by the paper's protocol and by the standard one.

FID compares the 2,048 pooled features of the Inception network of 2015 (torch-fidelity's copy of its weights):
    paper: clean-fid as the released program calls it. Images stay floats in 0..255, bicubic to 299x299, clipped.
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

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import batches, load_split, to_uint8
from errors import UnavailableError, UserError, reason_of
from files import read_torch_file, sha256_of
from metrics.frechet import frechet_distance, statistics

SIZE = 299
BATCH = 32
# The layers from image to pooled features, which torch-fidelity's network runs one after the other.
TRUNK = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)
IS_SPLITS = 10
LEAST_LOG_PROBABILITY = -700  # exp(-700) is 1e-304, near the least of float64


def resize_paper(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> floats [N, 3, 299, 299] in 0..255, by PIL's bicubic filter, clipped.

    torch's bicubic with antialias is PIL's (a = -0.5); without it is another (a = -0.75).
    """
    x = _coloured((images + 1) / 2 * 255)
    return F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)


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


RESIZE = {"paper": resize_paper, "standard": resize_standard}


def load_inception(weights: Path | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The network of 2015 with the weights of a file, or with those that torch-fidelity publishes, downloaded once.

    Raises:
        UnavailableError: no file given, and the download fails.
        UserError: no such file, damaged, or other weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = weights or _downloaded()
    _check_file(weights)  # torch-fidelity would unpickle whatever is in it
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{weights} holds other weights than the Inception network of 2015's") from error
    return network.to(device)


def _downloaded() -> Path:
    """torch-fidelity's file in torch.hub's folder, whose SHA-256 starts as the file's name ends.

    Raises:
        UnavailableError: it is not there, or is another or part of it, and cannot be downloaded.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as URL

    file = Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]
    checksum = file.stem.rpartition("-")[2]
    try:
        if not (file.is_file() and sha256_of(file).startswith(checksum)):
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(file), checksum, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # the last is for another checksum
        raise UnavailableError(
            f"the Inception network's weights cannot be downloaded ({reason_of(error)}): get {URL} and give it with "
            "--inception-weights"
        ) from error
    return file


def load_imagenet_inception(weights: Path | None, device: torch.device | str = "cpu") -> nn.Module:
    """torchvision's ImageNet network with the weights of a file; errors as `load_inception`."""
    from torchvision.models import Inception_V3_Weights, inception_v3

    if weights is None:
        raise UnavailableError(
            "the paper's Inception score needs torchvision's ImageNet weights: get "
            f"{Inception_V3_Weights.IMAGENET1K_V1.url} and give it with --imagenet-inception-weights"
        )
    _check_file(weights)
    network = inception_v3(weights=None, transform_input=False, init_weights=False)
    try:
        network.load_state_dict(read_torch_file(weights))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{weights} holds other weights than torchvision's inception_v3") from error
    return network.eval().requires_grad_(False).to(device)


def _check_file(weights: Path) -> None:
    if not weights.is_file():
        raise UserError(f"no file {weights}: give the weights of an Inception network")
    read_torch_file(weights)


def pooled_features(network: nn.Module, x: Tensor) -> Tensor:
    """Images [N, 3, 299, 299] in 0..255, not rounded -> features [N, 2048] (torch-fidelity's own door wants uint8)."""
    x = (x - 128) / 128
    for name in TRUNK:
        x = getattr(network, name)(x)
    return x.flatten(1)


@torch.no_grad()
def features(network: nn.Module, images: Iterable[Tensor], protocol: str) -> Tensor:
    """Batches [n, C, H, W] in [-1, 1] -> features [N, 2048], by `paper` or `standard`."""
    return torch.cat([pooled_features(network, RESIZE[protocol](x)).cpu() for x in images])


@dataclass(frozen=True, eq=False)
class FidMetric:
    """FID by one protocol, ready to score images.

    Attributes:
        network: as `load_inception` gives it.
        protocol: `paper` or `standard`.
        reference: mean and covariance of a split's features.
        split: its name.
        n_wanted: images that the protocol takes.
    """

    network: nn.Module
    protocol: str
    reference: tuple[Tensor, Tensor]
    split: str
    n_wanted: int

    @classmethod
    def prepare(
        cls, network: nn.Module, dataset: str, protocol: str, split: str, n_wanted: int, data_dir: Path | None = None
    ) -> "FidMetric":
        """Measure the split.

        Raises:
            UnavailableError: it cannot be read.
            UserError: it has fewer images than features.
        """
        device = next(network.parameters()).device
        try:
            images = load_split(dataset, split, data_dir, device=device).images
        except UserError as error:
            raise UnavailableError(f"not available, FID needs the {split} split of {dataset}: {error}") from error
        return cls(network, protocol, statistics(features(network, batches(images, BATCH), protocol)), split, n_wanted)

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """Images [N, C, H, W] in [-1, 1] -> the number, with what it needs to be compared with another."""
        measured = statistics(features(self.network, images.split(BATCH), self.protocol))
        how = {"paper": "floats, bicubic, clipped", "standard": "uint8, TensorFlow-1 bilinear"}[self.protocol]
        return {
            "value": frechet_distance(*measured, *self.reference),
            "protocol": f"{self.protocol}: {how}, 299x299{_count(images, self.n_wanted)}",
            "n_images": len(images),
            "split": self.split,
            "feature_network": "Inception of 2015 (torch-fidelity), 2,048 pooled features",
        }


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
    """IS of the network of 2015, 50,000 images; its logits have no bias, as torch-fidelity's."""
    return InceptionScore(
        lambda x: pooled_features(network, x) @ network.fc.weight.T,
        resize_standard,
        "standard: uint8, TensorFlow-1 bilinear, 299x299, 10 splits of shuffled images",
        "Inception of 2015 (torch-fidelity), logits without bias",
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
