"""What defines a model: everything needed to build it, nothing about its training."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from torch import Tensor

from errors import UserError

SurrogateKind = Literal["paper", "code"]
SURROGATES = get_args(SurrogateKind)
LARGEST_SIZE, MOST_WIDTHS = 4096, 10  # far above use: what a foreign file says must not fill the memory
LARGEST = 1e6  # of factors and weights: far above use, far below what overflows float32
WIDTHS = {32: (32, 64, 128, 256), 64: (32, 64, 128, 256, 512)}


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and neuron constants of a model.

    Attributes:
        model: name in `models.MODELS`.
        image_channels: 1 or 3.
        widths: channels of the stride-2 convolutions, Sec. IV-B1. Each halves the image down to 2x2, so
            the image size is 2 ** (len(widths) + 1).
        latent_dim: D.
        n_steps: time steps T.
        v_threshold: firing threshold of every LIF.
        decay: membrane decay factor, the paper's tau.
        lif_surrogate: `paper`: box of width 0.5 on the threshold; `code`: width 1 on a membrane of 0.
        strict_threshold: fire at m > v_threshold (code) instead of m >= v_threshold (paper).
        sampler_surrogate: width of Eq. 8's box, `paper`: 0.5, `code`: 1.
        mmd_weight: lambda of Eq. 11; for FSVAE and TAID the weight of the PSP-MMD.
        n_candidates: k, outputs per latent unit of FSVAE's and TAID's posterior and prior.
        distance: between FSVAE's and TAID's posterior and prior, `mmd` or `kl`.

    Raises:
        UserError: a value out of range, by the name of its field, which is the first word.
    """

    model: str = "esvae"
    image_channels: int = 3
    widths: tuple[int, ...] = WIDTHS[32]
    latent_dim: int = 128
    n_steps: int = 16
    v_threshold: float = 0.2
    decay: float = 0.25
    lif_surrogate: SurrogateKind = "paper"
    strict_threshold: bool = False
    sampler_surrogate: SurrogateKind = "paper"
    mmd_weight: float = 0.001
    n_candidates: int = 20
    distance: Literal["mmd", "kl"] = "mmd"

    def __post_init__(self) -> None:
        for name in ("image_channels", "latent_dim", "n_steps", "n_candidates"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
            self._check(name, getattr(self, name) <= LARGEST_SIZE, f"at most {LARGEST_SIZE}")
        sizes = 1 <= len(self.widths) <= MOST_WIDTHS and all(1 <= width <= LARGEST_SIZE for width in self.widths)
        self._check("widths", sizes, f"1 to {MOST_WIDTHS} numbers from 1 to {LARGEST_SIZE}")
        self._check("v_threshold", self.v_threshold > 0, "positive")
        # SpikingJelly's tau = 1 / (1 - decay) must be above 1.
        leaks = 0 < self.decay < 1 and 1 / (1 - self.decay) > 1
        self._check("decay", leaks, "above 0, by more than a rounding, and below 1")
        self._check("mmd_weight", self.mmd_weight >= 0, "at least 0")
        for name in ("v_threshold", "mmd_weight"):
            self._check(name, getattr(self, name) <= LARGEST, f"at most {LARGEST:g}")
        choices = {"lif_surrogate": SURROGATES, "sampler_surrogate": SURROGATES, "distance": ("mmd", "kl")}
        for name, allowed in choices.items():
            self._check(name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}")

    def _check(self, name: str, fits: bool, wanted: str) -> None:
        """UserError, whose first word is the field, where its value does not fit."""
        if not fits:
            raise UserError(f"{name} must be {wanted}, got {str(getattr(self, name))[:80]}")

    @property
    def image_size(self) -> int:
        """Height and width of the images."""
        return 2 ** (len(self.widths) + 1)

    def check_images(self, images: Tensor) -> None:
        """UserError where images are not [N, C, H, W] of the model's size: convolutions would take any."""
        expected = (self.image_channels, self.image_size, self.image_size)
        if images.shape[1:] != expected:
            channels, size, _ = expected
            found = list(images.shape)
            what_to_do = "resize them first" if images.dim() == 4 else "stack them to a batch"
            raise UserError(f"the model takes images [N, {channels}, {size}, {size}], got {found}: {what_to_do}")
        if not images.is_floating_point():
            raise UserError(f"the model takes floats in [-1, 1], got {images.dtype}: data.to_unit_range makes them")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`. Fields that an older version did not have take their defaults.

        Raises:
            UserError: no dictionary, unknown fields, or values of another type or out of range.
        """
        if not isinstance(values, dict):
            raise UserError(f"model config is no dictionary but {type(values).__name__}")
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise UserError(f"model config has fields that this version does not know: {', '.join(sorted(unknown))}")
        widths = values.get("widths", cls.widths)
        values = values | {"widths": tuple(widths) if isinstance(widths, list) else widths}
        wrong = [name for name, value in values.items() if not _is_like(value, getattr(cls, name))]
        if wrong:
            raise UserError(f"model config has a value of the wrong type: {', '.join(sorted(wrong))}")
        return cls(**values)


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has the type of a field's default; a whole number may stand for any number."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(type(each) is int for each in value)
    return type(value) is type(default) or (type(default) is float and type(value) is int)
