"""ESVAE against the network written down plainly: every layer with its bias at every step, literal tdBN and LIF."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import ESVAE
from neurons import set_backend

T = 16


class Plain:
    """Forward pass of an ESVAE's weights; `statistics` collects tdBN's new running mean and variance by layer."""

    def __init__(self, model: ESVAE, variant: str, lif: Callable, tdbn: Callable) -> None:
        self.model, self.variant, self.lif, self.tdbn = model, variant, lif, tdbn
        self.statistics: list[tuple[Tensor, Tensor]] = []

    def layer(self, x_seq: Tensor, block: nn.Module) -> Tensor:
        current = torch.stack([block.synapse(x) for x in x_seq])
        norm = block.norm
        running = norm.running_mean.clone(), norm.running_var.clone()
        y, mean, var = self.tdbn(current, norm.weight, norm.bias, 0.2, None if self.model.training else running)
        if self.model.training:
            n = current.numel() // current.shape[2]
            self.statistics.append((0.9 * running[0] + 0.1 * mean, 0.9 * running[1] + 0.1 * var * n / (n - 1)))
        return self.lif(y, self.variant)[0]

    def encode(self, images: Tensor) -> Tensor:
        x_seq = images.expand(T, *images.shape)
        for block in self.model.encoder.blocks:
            x_seq = self.layer(x_seq, block)
        return self.layer(x_seq.flatten(2), self.model.encoder.to_latent)

    def sample(self, rate: Tensor, uniform: Tensor) -> Tensor:
        difference = rate - uniform
        width = 0.5 if self.variant == "paper" else 1.0
        slope = (difference.detach().abs() < width / 2) / width
        return (difference > 0).double() + slope * (difference - difference.detach())

    def decode(self, z: Tensor) -> Tensor:
        decoder = self.model.decoder
        x_seq = self.layer(z, decoder.from_latent)
        x_seq = x_seq.view(T, len(z[0]), -1, 2, 2)
        for block in decoder.blocks:
            x_seq = self.layer(x_seq, block)
        membrane = 0.0
        for x in x_seq:
            membrane = 0.8 * membrane + decoder.readout.synapse(x)
        return torch.tanh(membrane)

    def forward(self, images: Tensor, uniform: Tensor, normal: Tensor) -> tuple[Tensor, ...]:
        posterior_rate = self.encode(images).mean(0)
        prior_rate = 1 / (1 + torch.exp(-F.linear(normal, self.model.bottleneck.weight, self.model.bottleneck.bias)))
        z = self.sample(posterior_rate, uniform)
        return self.decode(z), posterior_rate, prior_rate, z


def in_float64(model: ESVAE) -> ESVAE:
    model.double()
    model.decoder.readout.coefficients = 0.8 ** torch.arange(T - 1, -1, -1, dtype=torch.float64)
    return model


def noise(rng: torch.Generator) -> dict[str, Tensor]:
    uniform = torch.rand(T, 5, 12, generator=rng, dtype=torch.float64)
    return {"uniform": uniform, "normal": torch.randn(5, 12, generator=rng, dtype=torch.float64)}


@pytest.mark.parametrize("backend", ["scan", "torch"])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_running_statistics_are_the_plain_forms(
    variant: str,
    training: bool,
    backend: str,
    make_esvae,
    images: Tensor,
    literal_lif,
    literal_tdbn,
    rng: torch.Generator,
) -> None:
    model = in_float64(make_esvae(variant)).train(training)
    set_backend(model, backend)
    images, draws = images.double(), noise(rng)
    plain = Plain(model, variant, literal_lif, literal_tdbn)
    expected = plain.forward(images, **draws)
    output = model(images, **draws)
    found = output.reconstruction, output.posterior_rate, output.prior_rate, output.z
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert 0.05 < output.posterior_rate.mean() < 0.95
    assert output.reconstruction.std() > 0.05

    weights = [torch.randn(value.shape, generator=rng, dtype=torch.float64) for value in expected]
    parameters = dict(model.named_parameters())
    gradients = []
    for values in (found, expected):
        loss = sum((weight * value).sum() for weight, value in zip(weights, values, strict=True))
        gradients.append(dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True)))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    assert all(gradient.any() for name, gradient in gradients[0].items() if not name.endswith("synapse.bias"))

    if training:
        blocks = [m for m in model.modules() if hasattr(m, "norm")]
        for block, (mean, var) in zip(blocks, plain.statistics, strict=True):
            torch.testing.assert_close(block.norm.running_mean, mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(block.norm.running_var, var, rtol=1e-9, atol=1e-12)


def test_readout_weights_are_powers_of_0_8_that_count_the_bias_4_859_times(make_esvae) -> None:
    readout = make_esvae().decoder.readout
    expected = [0.8**15, 0.8**14, 0.8**13]
    assert readout.coefficients[:3].tolist() == pytest.approx(expected, rel=1e-6)
    silent = torch.zeros(1, 8, 8, 8)
    torch.testing.assert_close(readout(silent)[0, :, 0, 0], 4.859263 * readout.synapse.bias)


def test_generated_images_are_the_decoded_prior(make_esvae, rng: torch.Generator) -> None:
    model = make_esvae().eval()
    state = rng.get_state()
    found = model.sample(6, rng)
    rng.set_state(state)
    rate = torch.sigmoid(model.bottleneck(torch.randn(6, 12, generator=rng)))
    z = (torch.rand(T, 6, 12, generator=rng) < rate).float()
    assert torch.equal(found, model.decode(z))
