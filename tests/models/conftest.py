from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import ESVAE, ModelConfig, build_model
from neurons import ThresholdDependentBatchNorm

SMALL = {"image_channels": 2, "widths": (8, 16), "latent_dim": 12}


@pytest.fixture(scope="session")
def make_esvae() -> Callable[..., ESVAE]:
    """ESVAE on 8x8 images (or what `fields` say): tdBN's weights random, its statistics those of a batch."""

    def make(variant: str = "paper", **fields: object) -> ESVAE:
        surrogates = {"lif_surrogate": variant, "sampler_surrogate": variant, "strict_threshold": variant == "code"}
        torch.manual_seed(0)
        config = ModelConfig(**{**SMALL, **surrogates, **fields})
        model = build_model(config)
        norms = [module for module in model.modules() if isinstance(module, ThresholdDependentBatchNorm)]
        with torch.no_grad():
            for norm in norms:
                norm.weight.add_(0.1 * torch.rand_like(norm.weight))
                norm.bias.add_(0.1 * torch.rand_like(norm.bias))
                norm.momentum = 1.0
            model(torch.rand(8, config.image_channels, config.image_size, config.image_size) * 2 - 1)
            for norm in norms:
                norm.momentum = 0.1
        return model

    return make


@pytest.fixture
def images() -> Tensor:
    """Five images of 8x8 pixels."""
    return torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
