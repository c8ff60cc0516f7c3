"""What released weights score on a few images that are always at hand: a number that tells whether they still do.

It says nothing about a model, which mostly has never seen a digit; it says that weights, model code and kernels are
still those that made the other numbers, on a machine without the data set.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from data import load_split
from metrics import evaluate_reconstruction
from models import ModelConfig, load_model

N_IMAGES = 64
PROTOCOL = f"reconstruction loss of the first {N_IMAGES} test digits of scikit-learn, in the model's size and channels"


def fingerprint(weights: Path) -> dict[str, Any]:
    """`value` and `protocol`, by backend `scan` on a CPU."""
    model = load_model(weights)
    return {"value": evaluate_reconstruction(model, _digits(model.config)), "protocol": PROTOCOL}


def _digits(config: ModelConfig) -> Tensor:
    """uint8 [N_IMAGES, channels, size, size]: every pixel repeated to fill its place, grey in every channel."""
    images = load_split("digits", "test", limit=N_IMAGES).images
    factor = config.image_size // images.shape[-1]
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return large.expand(-1, config.image_channels, -1, -1)
