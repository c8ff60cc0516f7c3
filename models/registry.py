"""Names of the models; docs/extending.md says what a new one needs."""

import torch

from errors import UserError
from models.ann_vae import ANNVAE
from models.autoencoder import Autoencoder
from models.base import Model
from models.config import ModelConfig
from models.esvae import ESVAE
from models.fsvae import FSVAE
from models.taid import TAID

MODELS: dict[str, type[Model]] = {"esvae": ESVAE, "fsvae": FSVAE, "taid": TAID, "ann_vae": ANNVAE}
FEATURE_NETWORKS: dict[str, type[Model]] = {"autoencoder": Autoencoder}  # what metrics look at images with


def build_model(config: ModelConfig, seed: int | None = None) -> Model:
    """A freshly initialised model by PyTorch's default initialisation, on the CPU.

    Args:
        config: of the model.
        seed: fixes its weights and leaves PyTorch's global generators as they are; the CPU's draws them if None.

    Raises:
        UserError: no model of that name.
    """
    if seed is None:
        return model_type(config.model)(config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and no GPU's, as torch.manual_seed would
        return model_type(config.model)(config)


def model_type(name: str) -> type[Model]:
    """The class of that name.

    Raises:
        UserError: no such model.
    """
    known = MODELS | FEATURE_NETWORKS
    if name not in known:
        raise UserError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    return known[name]
