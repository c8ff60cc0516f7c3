"""What a run is: one frozen dataclass, and presets that state only what differs from the paper's CIFAR-10 run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from data import DATASETS
from errors import UserError, check_at_least, check_seed, flag_of
from models import WIDTHS, ModelConfig
from models.config import LARGEST
from models.registry import model_type
from training.schedule import Schedule

Dataset = Literal["digits", "mnist", "fashion_mnist", "cifar10", "celeba"]
Model = Literal["esvae", "fsvae", "taid", "ann_vae"]
Variant = Literal["paper", "code"]
Backend = Literal["auto", "native", "triton", "scan", "torch", "cupy"]
Precision = Literal["fp32", "bf16"]
PrecisionChoice = Literal["auto", Precision]
CudaGraph = Literal["auto", "on", "off"]
Recipe = Literal["paper", "fast"]

RUNTIME = {"runtime": True}  # marks fields that may change when a run goes on


@dataclass(frozen=True)
class Config:
    """A training run. Fields not marked as runtime are its identity: a resumed run must have the same.

    Raises:
        UserError: a value out of range, by its flag.
    """

    dataset: Dataset = "cifar10"
    """images to train on; `digits` needs no download"""
    model: Model = "esvae"
    """model to train"""
    variant: Variant = "paper"
    """where paper and released code differ: as the paper says, or as the authors' program does"""
    recipe: Recipe = "paper"
    """how it is trained: as the authors did, or `fast`, ours, which needs far fewer epochs"""
    seed: int = 42
    """fixes initialisation, order of images and all noise"""
    epochs: int = 300
    """passes over the training images; a finished run may be continued with more"""
    batch_size: int = 256
    """images per step"""
    lr: float = 6e-4
    """AdamW's learning rate"""
    bottleneck_lr_factor: float = 10.0
    """the bottleneck layer's learning rate is this many times `lr`"""
    schedule: Schedule = "constant"
    """learning rates after the warm-up: as they are, or falling to 0 along a cosine over the run"""
    warmup: float = 0.0
    """share of the run in which learning rates rise from 0; 0.3 with `cosine` is a one-cycle schedule"""
    weight_decay: float = 0.001
    """AdamW's weight decay"""
    mmd_weight: float = 0.001
    """lambda of Eq. 11; FSVAE and TAID: weight of the PSP-MMD"""
    distance: Literal["mmd", "kl"] = "mmd"
    """FSVAE and TAID: distance of posterior and prior"""
    n_candidates: int = 20
    """FSVAE and TAID: k, outputs per latent unit of posterior and prior"""
    latent_dim: int = 128
    """latent units D"""
    n_steps: int = 16
    """time steps T"""
    v_threshold: float = 0.2
    """membrane at which a LIF fires"""
    decay: float = 0.25
    """factor that a LIF's membrane keeps from one step to the next, the paper's tau"""
    lif_surrogate: Literal["paper", "code"] = "paper"
    """box of the LIF: `paper` width 0.5 on the threshold, `code` width 1 on a membrane of 0"""
    strict_threshold: bool = False
    """fire where the membrane is above the threshold, not where it equals it"""
    sampler_surrogate: Literal["paper", "code"] = "paper"
    """box of the sampler, Eq. 8: `paper` width 0.5, `code` width 1"""
    horizontal_flip: bool = True
    """mirror each training image with probability 1/2"""
    drop_last: bool = True
    """leave out the last training batch of an epoch if it is not full"""
    train_images: int | None = None
    """use the first so many training images; all of them, none of which may be missing, if None"""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = field(default=None, metadata=RUNTIME)
    """where the data sets are or go; $ESVAE_DATA_DIR or ./datasets if None"""
    runs_dir: Path = field(default=Path("runs"), metadata=RUNTIME)
    """folder of the run folders"""
    name: str | None = field(default=None, metadata=RUNTIME)
    """name of the run folder; <dataset>-<model>-<variant>-seed<seed> if None, `-fast` before the seed"""
    device: str = field(default="auto", metadata=RUNTIME)
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    backend: Backend = field(default="auto", metadata=RUNTIME)
    """what runs the LIF neurons; auto takes native on a CPU and triton on a GPU if they can run there, else scan"""
    precision: PrecisionChoice = field(default="auto", metadata=RUNTIME)
    """bf16, on a GPU only: synapses multiply in bfloat16, and with backend triton spikes are stored in it;
    auto takes it for a spiking model with backend triton on a GPU that multiplies it, else fp32"""
    cuda_graph: CudaGraph = field(default="auto", metadata=RUNTIME)
    """record the training step as a CUDA graph and replay it; auto does on a GPU but with cupy or --deterministic"""
    deterministic: bool = field(default=False, metadata=RUNTIME)
    """let a GPU compute the same bits in every run, which costs time; a CPU does so anyway"""
    checkpoint_every: float = field(default=10.0, metadata=RUNTIME)
    """minutes between checkpoints inside an epoch; one is written after every epoch too"""
    keep_every: int | None = field(default=None, metadata=RUNTIME)
    """epochs between weights that stay, in epochs/, to see how a number came about in training; none stay if None"""
    tensorboard: bool = field(default=False, metadata=RUNTIME)
    """write TensorBoard events beside metrics.csv"""

    def __post_init__(self) -> None:
        for f in fields(self):
            value, choices = getattr(self, f.name), get_args(f.type)
            # The registry knows more models than train.py: FAD's autoencoder.
            if get_origin(f.type) is Literal and f.name != "model" and value not in choices:
                raise UserError(f"{flag_of(f.name)} must be one of {', '.join(choices)}, got {value!r}")
        check_at_least(1, epochs=self.epochs, keep_every=self.keep_every)
        check_at_least(2, batch_size=self.batch_size)  # batch statistics and the MMD need a batch
        check_seed(self.seed)  # the order of an epoch has a seed a million times larger, and torch a limit
        if self.train_images is not None and self.train_images < self.batch_size:
            raise UserError(f"--train-images {self.train_images} is less than one batch of {self.batch_size}")
        n_train = DATASETS[self.dataset].n_train
        if self.train_images is not None and self.train_images > n_train:
            raise UserError(f"--train-images {self.train_images} is more than {self.dataset} has: {n_train}")
        if self.name == "":
            raise UserError("--name must not be empty; leave it out for the default")
        for name in ("lr", "bottleneck_lr_factor"):
            if not getattr(self, name) > 0:
                raise UserError(f"{flag_of(name)} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{flag_of(name)} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise UserError(f"--warmup is a share of the run, at least 0 and below 1, got {self.warmup}")
        for name in ("lr", "bottleneck_lr_factor", "weight_decay"):
            if getattr(self, name) > LARGEST:
                raise UserError(f"{flag_of(name)} must be at most {LARGEST:g}, got {getattr(self, name)}")
        try:
            self.model_config()
        except UserError as error:
            field_name, _, problem = str(error).partition(" ")
            raise UserError(f"{flag_of(field_name)} {problem}") from error

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        recipe = "" if self.recipe == "paper" else f"-{self.recipe}"
        name = self.name or f"{self.dataset}-{self.model}-{self.variant}{recipe}-seed{self.seed}"
        return Path(self.runs_dir) / name

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Of all parameters but the bottleneck's, and of the bottleneck's."""
        return self.lr, self.lr * self.bottleneck_lr_factor

    def model_config(self) -> ModelConfig:
        """The part of the configuration that builds the model."""
        spec = DATASETS[self.dataset]
        shared = {f.name for f in fields(ModelConfig)} & {f.name for f in fields(self)}
        return ModelConfig(
            image_channels=spec.channels,
            widths=WIDTHS[spec.image_size],
            **{name: getattr(self, name) for name in shared},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """The fields that a resumed run must share: `epochs` only where the model's schedule depends on the total."""
        names = [f.name for f in fields(self) if not f.metadata]
        return {name: getattr(self, name) for name in names if name != "epochs" or self.schedule_needs_epochs}

    @property
    def schedule_needs_epochs(self) -> bool:
        """Whether training depends on the total number of epochs: scheduled sampling does, and most learning rates."""
        return model_type(self.model).needs_n_epochs or self.learning_rates_change

    @property
    def learning_rates_change(self) -> bool:
        """Whether learning rates change during the run."""
        return self.schedule != "constant" or self.warmup > 0


def scheduled_epochs(stored: Mapping[str, Any], trained: int) -> int:
    """Epochs that a run's schedule was laid out for; those that it was trained where it has no schedule.

    Args:
        stored: the run's configuration as `Config.to_dict` gave it; what an older one lacks has its default.
        trained: epochs.
    """
    config = Config(**{name: stored[name] for name in ("model", "epochs", "schedule", "warmup") if name in stored})
    return config.epochs if config.schedule_needs_epochs else trained


def settings_of_its_own(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a run's identity in which it differs from its preset, seed and budget aside.

    Args:
        stored: the run's configuration as `Config.to_dict` gave it; what an older one lacks is as in the preset.
    """
    try:
        names = ("dataset", "model", "variant", "recipe")
        standard = preset(**{name: stored[name] for name in names if name in stored}).identity()
    except UserError:  # FAD's autoencoder has no preset, and a foreign file may say anything
        return {}
    compared = standard.keys() - {"seed", "epochs", "train_images"}
    return {name: value for name, value in stored.items() if name in compared and value != standard[name]}


# What differs from Config's defaults, which are the paper's CIFAR-10 run. The paper gives no batch size and no
# augmentation: there both variants do what the released code does.
DATASET_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"batch_size": 25, "lr": 8e-3, "epochs": 9, "horizontal_flip": False},
    "mnist": {"horizontal_flip": False, "drop_last": False},
    "fashion_mnist": {"horizontal_flip": False},
    "cifar10": {},
    "celeba": {"batch_size": 64, "drop_last": False},
}

CODE_LIF: dict[str, Any] = {"lif_surrogate": "code", "strict_threshold": True}
# ESVAE's released code scales a configured rate by batch_size / 250, and has a smaller latent on MNIST.
CODE_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {"lr": 3e-3 * 256 / 250, "latent_dim": 32},
    "fashion_mnist": {"lr": 3e-3 * 256 / 250, "latent_dim": 32},
    "cifar10": {"lr": 6e-4 * 256 / 250},
    "celeba": {"lr": 1e-3 * 64 / 250},
}

# The other models as their authors trained them, FSVAE and TAID as ESVAE's authors did again: D = 128 everywhere.
FSVAE_PRESET = {"batch_size": 250, "lr": 1e-3, "epochs": 150, "mmd_weight": 1.0}
MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "esvae": {},
    "fsvae": FSVAE_PRESET,
    "taid": FSVAE_PRESET,
    "ann_vae": {"batch_size": 250, "lr": 1e-3, "epochs": 150, "weight_decay": 0.01},
}
DIGITS_DEMO = {name: DATASET_PRESETS["digits"][name] for name in ("batch_size", "epochs")}
MODEL_DATASET_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("fsvae", "cifar10"): {"epochs": 300},
    ("taid", "cifar10"): {"epochs": 300},
    ("ann_vae", "cifar10"): {"horizontal_flip": False},
    ("fsvae", "celeba"): {"batch_size": 64, "lr": 1e-3 * 64 / 250},
    ("taid", "celeba"): {"batch_size": 64, "lr": 1e-3 * 64 / 250},
    ("fsvae", "digits"): DIGITS_DEMO | {"lr": 8e-3},
    ("taid", "digits"): DIGITS_DEMO | {"lr": 8e-3},
    ("ann_vae", "digits"): DIGITS_DEMO | {"lr": 2e-3},
}


# `--recipe fast`: told in docs/trials.md. Of ESVAE and FSVAE from trials; those of `python -m analysis.recipe_search`
# are later. TAID's is FSVAE's, from which its readout alone differs; the ANN VAE's is by analogy, without a search.
FAST_RECIPES: dict[str, dict[str, Any]] = {
    "esvae": {"batch_size": 16, "lr": 2e-3, "schedule": "cosine", "warmup": 0.1},
    "fsvae": {"batch_size": 32, "lr": 4e-3, "schedule": "cosine", "warmup": 0.1},
    "taid": {"batch_size": 32, "lr": 4e-3, "schedule": "cosine", "warmup": 0.1},
    "ann_vae": {"batch_size": 64, "lr": 2e-3, "schedule": "cosine", "warmup": 0.1},
}


def preset(dataset: str = "cifar10", model: str = "esvae", variant: str = "paper", recipe: str = "paper") -> Config:
    """The configuration of a data set, model, variant and recipe; every field of it is a flag of train.py.

    Raises:
        UserError: an unknown data set, model, variant or recipe.
    """
    choices = (dataset, Dataset, "data set"), (model, Model, "model"), (variant, Variant, "variant")
    for value, known, what in (*choices, (recipe, Recipe, "recipe")):
        if value not in get_args(known):
            raise UserError(f"unknown {what} {value!r}; choose one of {', '.join(get_args(known))}")
    changes = DATASET_PRESETS[dataset] | MODEL_PRESETS[model] | MODEL_DATASET_PRESETS.get((model, dataset), {})
    if variant == "code":
        changes = changes | _code_preset(dataset, model)
    if recipe == "fast":
        changes = changes | FAST_RECIPES[model]
    return replace(Config(), dataset=dataset, model=model, variant=variant, recipe=recipe, **changes)


def check_used(config: Config) -> None:
    """Refuse fields that change nothing with the model and differ from the preset: they would name another run.

    Raises:
        UserError: names their flags.
    """
    unused = model_type(config.model).unused(config.model_config())
    standard = preset(config.dataset, config.model, config.variant, config.recipe)
    if flags := [flag_of(name) for name in sorted(unused) if getattr(config, name) != getattr(standard, name)]:
        chosen = f"--model {config.model}" + ("" if "distance" in unused else f" --distance {config.distance}")
        raise UserError(f"{', '.join(flags)}: without effect with {chosen}; leave it out")


def _code_preset(dataset: str, model: str) -> dict[str, Any]:
    """What the released code changes: of ESVAE the table in docs/variants.md, of FSVAE and TAID the LIF only."""
    if model == "esvae":
        return CODE_LIF | {"sampler_surrogate": "code"} | CODE_PRESETS[dataset]
    return {} if model == "ann_vae" else CODE_LIF
