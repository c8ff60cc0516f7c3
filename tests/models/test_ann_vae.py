import pytest
import torch
from torch.nn import functional as F

from losses import gaussian_kl
from models import ModelConfig, build_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(ModelConfig(model="ann_vae", widths=(8, 16), latent_dim=5))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_gaussian_kl_equals_pytorchs_own() -> None:
    mean, log_variance = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    assert gaussian_kl(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_kl_weighs_one_over_the_number_of_batches(model, images: torch.Tensor) -> None:
    model.start_epoch(0, 150, 40)
    terms = model.loss(model(images), images)
    assert terms["loss"].item() == pytest.approx((terms["reconstruction"] + terms["kl"] / 40).item(), rel=1e-6)


def test_the_latent_is_drawn_from_the_posterior_in_evaluation_too(model, images: torch.Tensor) -> None:
    model.eval()
    torch.nn.init.constant_(model.to_log_variance.bias, 2.0)  # far from 0, where a variance is its own root
    rng = torch.Generator().manual_seed(3)
    draws = torch.stack([model(images, generator=rng).latent for _ in range(2000)])
    mean, log_variance = model.encode(images)
    std = (0.5 * log_variance).exp()
    assert ((draws.mean(0) - mean).abs() < 5 * std / 2000**0.5).all()
    assert ((draws.std(0) / std - 1).abs() < 0.1).all()


def test_samples_are_decoded_normal_latents(model) -> None:
    latent = torch.randn((4, 5), generator=torch.Generator().manual_seed(4))
    assert model.eval().sample(4, torch.Generator().manual_seed(4)).equal(model.decode(latent))


def test_the_decoder_is_the_literal_network(model) -> None:
    """With large weights of the last layer, so that tanh differs from a cut and from nothing at all."""
    with torch.no_grad():
        for _, norm, _ in model.decoder:  # starts as the identity
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                tensor.uniform_(0.5, 1.5)
        model.readout.weight *= 5
    model.eval()
    latent = torch.randn((4, 5), generator=torch.Generator().manual_seed(5))
    x = F.linear(latent, model.from_latent.weight, model.from_latent.bias).view(4, 16, 2, 2)
    for layer, norm, _ in model.decoder:
        x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1, output_padding=1)
        mean, variance, gain, shift = (
            t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        x = gain * (x - mean) / (variance + 1e-5).sqrt() + shift
        x = torch.where(x > 0, x, 0.01 * x)
    x = F.conv_transpose2d(x, model.readout.weight, model.readout.bias, padding=1)
    assert 0.05 < (x.abs() > 1).float().mean() < 0.95
    torch.testing.assert_close(model.decode(latent), (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()))
