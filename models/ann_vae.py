"""The ANN VAE of the paper's tables: the same widths with ordinary neurons."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from losses import gaussian_kl, reconstruction_loss
from models.backbone import BOTTOM_SIZE, conv_down, conv_up, full_precision
from models.base import Model
from models.config import ModelConfig


@dataclass(frozen=True)
class ANNVAEOutput:
    """reconstruction [N, C, H, W] in [-1, 1]; posterior mean, log-variance and the drawn latent, [N, D]."""

    reconstruction: Tensor
    mean: Tensor
    log_variance: Tensor
    latent: Tensor


class ANNVAE(Model):
    """Gaussian VAE: convolution, BatchNorm, LeakyReLU. Has no spikes, hence no rates and no time.

    References:
        Kamata, Mukuta, Harada, "Fully spiking variational autoencoder", AAAI 2022 (their ANN baseline).
    """

    absent: ClassVar[dict[str, str]] = {
        "firing_rate": "it does not spike, use encode(images) for the posterior's mean and log-variance",
        "posterior": "its posterior has no time, use encode(images) for the mean and log-variance",
        "prior": "its prior is the standard normal distribution, use sample(n)",
        "prior_rate": "its prior is the standard normal distribution, use sample(n)",
        "sample_latent": "its latent is a standard normal vector [N, D], use decode(latent)",
    }

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.kl_weight = 1.0
        self.bottom = (config.widths[-1], BOTTOM_SIZE, BOTTOM_SIZE)
        n_bottom = config.widths[-1] * BOTTOM_SIZE**2
        down, up = (config.image_channels, *config.widths), (*reversed(config.widths), config.widths[0])
        self.encoder = nn.Sequential(*(_unit(conv_down, i, o) for i, o in pairwise(down)))
        self.to_mean = nn.Linear(n_bottom, config.latent_dim)
        self.to_log_variance = nn.Linear(n_bottom, config.latent_dim)
        self.from_latent = nn.Linear(config.latent_dim, n_bottom)
        self.decoder = nn.Sequential(*(_unit(conv_up, i, o) for i, o in pairwise(up)))
        self.readout = nn.ConvTranspose2d(config.widths[0], config.image_channels, kernel_size=3, padding=1)
        self.to(memory_format=torch.channels_last)

    def start_epoch(self, epoch: int, n_epochs: int, n_batches: int) -> None:
        """The KL term weighs 1 / (number of batches per epoch)."""
        self.kl_weight = 1.0 / n_batches

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, C, H, W] in [-1, 1] -> mean and log-variance of the posterior, [N, D] each."""
        features = self.encoder(x).flatten(1).to(x)
        with full_precision(x):
            return self.to_mean(features), self.to_log_variance(features)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent [N, D] -> images [N, C, H, W] in [-1, 1]."""
        features = self.from_latent(latent).unflatten(1, self.bottom)
        return torch.tanh(self.readout(self.decoder(features)).to(latent))

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Generate n images [n, C, H, W] in [-1, 1]."""
        weight = self.from_latent.weight
        shape = (n, self.config.latent_dim)
        return self.decode(torch.randn(shape, generator=generator, device=weight.device, dtype=weight.dtype))

    def forward(self, x: Tensor, generator: Generator | None = None) -> ANNVAEOutput:
        """Images [N, C, H, W] in [-1, 1] -> reconstruction and posterior; the latent is drawn in evaluation too."""
        mean, log_variance = self.encode(x)
        normal = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        latent = mean + torch.exp(0.5 * log_variance) * normal
        return ANNVAEOutput(self.decode(latent), mean, log_variance, latent)

    def loss(self, output: ANNVAEOutput, x: Tensor) -> dict[str, Tensor]:
        """`loss` = `reconstruction` + kl_weight * `kl`."""
        reconstruction = reconstruction_loss(output.reconstruction, x)
        kl = gaussian_kl(output.mean, output.log_variance)
        return {"loss": reconstruction + self.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


def _unit(layer, in_channels: int, out_channels: int) -> nn.Sequential:  # noqa: ANN001
    return nn.Sequential(layer(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.LeakyReLU())
