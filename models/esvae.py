"""ESVAE: a spiking VAE whose latent space is a firing rate per unit (Sec. III)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from losses import mmd2, reconstruction_loss
from models.backbone import Decoder, Encoder, MembraneReadout
from models.base import SpikingModel
from models.config import ModelConfig
from neurons import PoissonSampler, sampler_surrogate
from neurons.precision import full_precision


@dataclass(frozen=True)
class ESVAEOutput:
    """reconstruction [N, C, H, W] in [-1, 1]; posterior_rate r_p and prior_rate r_q [N, D] in [0, 1]; z [T, N, D]."""

    reconstruction: Tensor
    posterior_rate: Tensor
    prior_rate: Tensor
    z: Tensor


class ESVAE(SpikingModel):
    """Efficient spiking VAE.

    image -> encoder -> spikes x_e -> firing rate r_p -> Poisson sampler -> z -> decoder -> image; to generate,
    normal noise -> bottleneck -> firing rate r_q -> Poisson sampler -> z -> decoder -> image (Fig. 2, Algorithm 1).

    Every method may be called in any order: each starts from membranes at rest. `generator` makes the random
    draws reproducible and must live on the model's device.

    References:
        Zhan et al., "ESVAE: An Efficient Spiking Variational Autoencoder with Reparameterizable Poisson Spiking
        Sampling", 2023.
    """

    absent: ClassVar[dict[str, str]] = {
        "posterior": "its posterior is one rate per latent unit, use firing_rate(images)",
        "prior": "its prior is one rate per latent unit, use prior_rate(normal)",
    }

    @classmethod
    def unused(cls, config: ModelConfig) -> set[str]:
        """Its distance is the MMD of rates, of which a unit has one."""
        return {"distance", "n_candidates"}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.bottleneck = nn.Linear(config.latent_dim, config.latent_dim)
        self.sampler = PoissonSampler(config.n_steps, sampler_surrogate(config.sampler_surrogate))
        self.decoder = Decoder(config, MembraneReadout(config))
        self.to(memory_format=torch.channels_last)

    def prior_rate(self, normal: Tensor) -> Tensor:
        """Standard normal noise [N, D] -> prior rates r_q = sigmoid(W n + c) in (0, 1), [N, D]."""
        with full_precision(normal):  # its rates are continuous, and rounded ones would be another prior
            return torch.sigmoid(self.bottleneck(normal))

    def sample_posterior(self, x_spikes: Tensor, generator: Generator | None = None) -> Tensor:
        """Encoder spikes x_e [T, N, D] -> latent spikes z [T, N, D], drawn from their firing rates."""
        return self.sampler(x_spikes.mean(0), generator)

    def sample_latent(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw n latent spike trains from the prior: z_q [T, n, D]."""
        return self.sampler(self.prior_rate(self._normal(n, generator)), generator)

    def forward(
        self,
        x: Tensor,
        generator: Generator | None = None,
        uniform: Tensor | None = None,
        normal: Tensor | None = None,
    ) -> ESVAEOutput:
        """One pass of Algorithm 1 up to the loss.

        Args:
            x: images [N, C, H, W] in [-1, 1].
            generator: source of the noise that is not given.
            uniform: noise of the sampler in [0, 1), [T, N, D].
            normal: noise of the prior, [N, D].
        """
        posterior_rate = self.firing_rate(x)
        prior_rate = self.prior_rate(self._normal(len(x), generator) if normal is None else normal)
        z = self.sampler(posterior_rate, generator, uniform)
        return ESVAEOutput(self.decode(z), posterior_rate, prior_rate, z)

    def loss(self, output: ESVAEOutput, x: Tensor) -> dict[str, Tensor]:
        """Eq. 11 and its terms as scalars: `loss` = `reconstruction` + mmd_weight * `mmd`."""
        reconstruction = reconstruction_loss(output.reconstruction, x)
        mmd = mmd2(output.posterior_rate, output.prior_rate)
        return {
            "loss": reconstruction + self.config.mmd_weight * mmd,
            "reconstruction": reconstruction,
            "mmd": mmd,
        }

    def _normal(self, n: int, generator: Generator | None) -> Tensor:
        weight = next(self.bottleneck.parameters())
        return torch.randn(n, self.config.latent_dim, generator=generator, device=weight.device, dtype=weight.dtype)
