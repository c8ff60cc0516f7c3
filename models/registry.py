"""Names of the models; docs/extending.md says what a new one needs."""

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


def build_model(config: ModelConfig) -> Model:
    """A freshly initialised model (PyTorch's default initialisation, from the global generator).

    Raises:
        UserError: no model of that name.
    """
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
