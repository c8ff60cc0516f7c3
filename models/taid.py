"""TAID: FSVAE with a temporal-attention readout."""

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.fsvae import FSVAE


class AttentionReadout(nn.Module):
    """Last transposed convolution at every step, then a weighted sum over time with weights from the images.

    Spatial mean of the step images [N, T, channels] -> linear over time (a Conv1d with kernel 1 and no bias)
    -> sigmoid -> one weight per sample, step and channel.
    """

    coefficients = None  # it weighs images, and later

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.synapse = nn.ConvTranspose2d(config.widths[0], config.image_channels, kernel_size=3, padding=1)
        self.attention = nn.Conv1d(config.n_steps, config.n_steps, kernel_size=1, bias=False)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes [T, N, C, H, W] -> pre-activation [N, channels, H, W]."""
        images = self.synapse(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
        weights = torch.sigmoid(self.attention(images.mean((3, 4)).transpose(0, 1)))
        return torch.einsum("ntc,tnchw->nchw", weights, images)


class TAID(FSVAE):
    """FSVAE, its readout replaced.

    References:
        Qiu et al., "When spiking neural networks meet temporal attention image decoding and adaptive spiking
        neuron", ICLR 2023 Tiny Papers.
    """

    readout_type = AttentionReadout
