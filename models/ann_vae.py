"""The ANN VAE of the paper's tables: the same widths with ordinary neurons."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from losses import gaussian_kl
from models.autoencoder import Autoencoder, AutoencoderOutput
from models.config import ModelConfig
from neurons.precision import full_precision


@dataclass(frozen=True)
class ANNVAEOutput(AutoencoderOutput):
    """Beside the reconstruction and the drawn latent: posterior mean and log-variance, [N, D]."""

    mean: Tensor
    log_variance: Tensor


class ANNVAE(Autoencoder):
    """Gaussian VAE: convolution, BatchNorm, LeakyReLU. Has no spikes, hence no rates and no time.

    References:
        Kamata, Mukuta, Harada, "Fully spiking variational autoencoder", AAAI 2022 (their ANN baseline).
    """

    heads: ClassVar[tuple[str, ...]] = ("to_mean", "to_log_variance")
    absent: ClassVar[dict[str, str]] = {
        "firing_rate": "it does not spike, use encode(images) for the posterior's mean and log-variance",
        "posterior": "its posterior has no time, use encode(images) for the mean and log-variance",
        "prior": "its prior is the standard normal distribution, use sample(n)",
        "prior_rate": "its prior is the standard normal distribution, use sample(n)",
        "sample_posterior": "its posterior has no time, use encode(images) for the mean and log-variance",
        "sample_latent": "its latent is a standard normal vector [N, D], use decode(latent)",
    }

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.kl_weight = 1.0

    def start_epoch(self, epoch: int, n_epochs: int, n_batches: int) -> None:
        """From now on the KL term weighs 1 / (number of batches per epoch)."""
        self.kl_weight = 1.0 / n_batches

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, C, H, W] in [-1, 1] -> mean and log-variance of the posterior, [N, D] each."""
        features = self.features(x).to(x)
        with full_precision(x):
            return self.to_mean(features), self.to_log_variance(features)

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
        return ANNVAEOutput(self.decode(latent), latent, mean, log_variance)

    def loss(self, output: ANNVAEOutput, x: Tensor) -> dict[str, Tensor]:
        """`loss` = `reconstruction` + kl_weight * `kl`, where kl_weight is 1 until `start_epoch`."""
        reconstruction = super().loss(output, x)["reconstruction"]
        kl = gaussian_kl(output.mean, output.log_variance)
        return {"loss": reconstruction + self.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}
