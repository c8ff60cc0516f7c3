"""A plain autoencoder of ordinary neurons: FAD's feature network, and what the ANN VAE is built on."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from losses import reconstruction_loss
from models.backbone import BOTTOM_SIZE, conv_down, conv_up
from models.base import Model
from models.config import ModelConfig


@dataclass(frozen=True)
class AutoencoderOutput:
    """reconstruction [N, C, H, W] in [-1, 1]; latent [N, D]."""

    reconstruction: Tensor
    latent: Tensor


class Autoencoder(Model):
    """Convolution, BatchNorm, LeakyReLU down the widths, a linear layer to D features, and the way back.

    Attributes:
        heads: names of the linear layers from the encoder's map to D values.

    References:
        Kamata, Mukuta, Harada, "Fully spiking variational autoencoder", AAAI 2022: the network of their Frechet
        autoencoder distance.
    """

    heads: ClassVar[tuple[str, ...]] = ("to_latent",)
    absent: ClassVar[dict[str, str]] = dict.fromkeys(
        ("firing_rate", "posterior", "prior", "prior_rate", "sample", "sample_latent", "sample_posterior"),
        "it has no prior and does not spike, use encode(images) for its features",
    )

    @classmethod
    def unused(cls, config: ModelConfig) -> set[str]:
        """All that is of spikes, of time, or of a distance of posterior and prior with a weight."""
        of_spikes = {"n_steps", "v_threshold", "decay", "lif_surrogate", "strict_threshold", "sampler_surrogate"}
        return of_spikes | {"mmd_weight", "n_candidates", "distance", "bottleneck_lr_factor"}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.bottom = (config.widths[-1], BOTTOM_SIZE, BOTTOM_SIZE)
        n_bottom = config.widths[-1] * BOTTOM_SIZE**2
        down, up = (config.image_channels, *config.widths), (*reversed(config.widths), config.widths[0])
        self.encoder = nn.Sequential(*(_unit(conv_down, i, o) for i, o in pairwise(down)))
        for head in self.heads:
            self.add_module(head, nn.Linear(n_bottom, config.latent_dim))
        self.from_latent = nn.Linear(config.latent_dim, n_bottom)
        self.decoder = nn.Sequential(*(_unit(conv_up, i, o) for i, o in pairwise(up)))
        self.readout = nn.ConvTranspose2d(config.widths[0], config.image_channels, kernel_size=3, padding=1)
        self.to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> features [N, D]."""
        return self.to_latent(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> what the linear layers see, [N, 4 * widths[-1]]."""
        self.config.check_images(x)
        return self.encoder(x).flatten(1)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent [N, D] -> images [N, C, H, W] in [-1, 1]."""
        features = self.from_latent(latent).unflatten(1, self.bottom)
        return torch.tanh(self.readout(self.decoder(features)).to(latent))

    def forward(self, x: Tensor, generator: Generator | None = None) -> AutoencoderOutput:
        """Images [N, C, H, W] in [-1, 1] -> reconstruction and features; nothing is random."""
        latent = self.encode(x)
        return AutoencoderOutput(self.decode(latent), latent)

    def loss(self, output: AutoencoderOutput, x: Tensor) -> dict[str, Tensor]:
        """The reconstruction's mean squared error is all of the loss."""
        reconstruction = reconstruction_loss(output.reconstruction, x)
        return {"loss": reconstruction, "reconstruction": reconstruction}


def _unit(layer, in_channels: int, out_channels: int) -> nn.Sequential:  # noqa: ANN001
    return nn.Sequential(layer(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.LeakyReLU())
