"""Models: `build_model(config)` makes one, `load_model(path)` reads one, `save_model(model, path)` writes one."""

from models.autoencoder import Autoencoder
from models.checkpoint import load_model, read_metadata, save_model
from models.config import WIDTHS, ModelConfig
from models.esvae import ESVAE, ESVAEOutput
from models.fsvae import FSVAE
from models.registry import MODELS, build_model

__all__ = [
    "ESVAE",
    "FSVAE",
    "MODELS",
    "WIDTHS",
    "Autoencoder",
    "ESVAEOutput",
    "ModelConfig",
    "build_model",
    "load_model",
    "read_metadata",
    "save_model",
]
