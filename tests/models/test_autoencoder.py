"""FAD's feature network, as a model."""

import pytest
import torch
from torch import nn

from models import MODELS, Autoencoder, ModelConfig, build_model


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(0)
    return build_model(ModelConfig(model="autoencoder", image_channels=2, widths=(4, 8), latent_dim=5))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_features_are_what_the_layers_say(model: Autoencoder, images: torch.Tensor) -> None:
    """Twice convolution, normalisation over the batch, leaky rectifier of slope 0.01; then a linear layer."""
    x = images
    for conv, norm, _ in model.encoder:
        x = nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
        x = torch.where(x > 0, x, 0.01 * x)
    expected = x.flatten(1) @ model.to_latent.weight.T + model.to_latent.bias
    torch.testing.assert_close(model.train().encode(images), expected)


def test_it_learns_to_copy(model: Autoencoder, images: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        terms = model.loss(model(images), images)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < losses[0] / 2


def test_it_is_no_model_to_evaluate(model: Autoencoder) -> None:
    assert "autoencoder" not in MODELS
    assert not hasattr(model, "sample")
