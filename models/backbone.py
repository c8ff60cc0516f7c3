"""Spiking encoder and decoder, shared by all spiking VAEs and parametrised by their widths (Sec. IV-B1).

Time is the first axis everywhere: [T, N, ...]. What leaves encoder and decoder has the type of what came in, whatever
autocast makes of the layers between. Encoder and decoder reset their neurons at the start of every call,
so no caller can forget to, and let go of the autograd graph at its end, so that a model can be copied at any time.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import ModelConfig
from neurons import LIF, ThresholdDependentBatchNorm, detach_state, lif_surrogate, reset_state, spike_conv

BOTTOM_SIZE = 2  # height and width of the deepest feature map
READOUT_DECAY = 0.8


def make_lif(config: ModelConfig) -> LIF:
    """The LIF that every layer of a model uses."""
    surrogate = lif_surrogate(config.lif_surrogate, config.v_threshold, config.strict_threshold)
    return LIF(surrogate, config.v_threshold, config.decay)


class SpikingBlock(nn.Module):
    """Synapse (convolution, transposed convolution or linear layer), tdBN, LIF."""

    def __init__(self, synapse: nn.Module, n_features: int, config: ModelConfig, alpha: float = 1.0) -> None:
        super().__init__()
        self.synapse = synapse
        self.norm = ThresholdDependentBatchNorm(n_features, config.v_threshold, alpha)
        self.lif = make_lif(config)

    def forward(self, x_seq: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """[T, N, ...] -> spikes [T, N, ...], or with coefficients [T] their weighted sum over time [N, ...].

        A convolution's input must be spikes.
        """
        x = x_seq.flatten(0, 1)
        current = spike_conv(self.synapse, x) if self._uses_spike_kernel(x) else self._current(x)
        current = current.unflatten(0, x_seq.shape[:2])
        if coefficients is not None:
            return self.lif.summed(current, coefficients, self.norm, self.synapse.bias)
        return self.lif(current, self.norm, self.synapse.bias)

    def forward_constant(self, x: Tensor, n_steps: int) -> Tensor:
        """[N, ...], the same input at every step -> spikes [T, N, ...]. Synapse and tdBN run once."""
        return self.lif(self._current(x)[None], self.norm, self.synapse.bias, n_steps)

    def _uses_spike_kernel(self, x: Tensor) -> bool:
        """Whether the CPU kernel for spikes takes the convolution."""
        is_conv = isinstance(self.synapse, (nn.Conv2d, nn.ConvTranspose2d))
        return is_conv and self.lif.backend == "native" and x.dtype == self.synapse.weight.dtype == torch.float32

    def _current(self, x: Tensor) -> Tensor:
        """The synapse without its bias, which tdBN takes in: summing a bias gradient is slow, and this one is zero."""
        layer = self.synapse
        if isinstance(layer, nn.Linear):
            return F.linear(x, layer.weight)
        if isinstance(layer, nn.ConvTranspose2d):
            shape = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            return F.conv_transpose2d(x, layer.weight, None, *shape)
        return F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def conv_down(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Halves the image."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)


def conv_up(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Doubles the image."""
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1)


class Encoder(nn.Module):
    """Images [N, C, H, W] in [-1, 1] -> spikes x_e [T, N, D]. Direct input: the image is the current at every step.

    Raises UserError for images of another size than the model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels = (config.image_channels, *config.widths)
        pairs = pairwise(channels)
        self.blocks = nn.ModuleList(SpikingBlock(conv_down(i, o), o, config) for i, o in pairs)
        n_bottom = config.widths[-1] * BOTTOM_SIZE**2
        self.to_latent = SpikingBlock(nn.Linear(n_bottom, config.latent_dim), config.latent_dim, config)

    def forward(self, images: Tensor) -> Tensor:
        self.config.check_images(images)
        reset_state(self)
        first, *rest = self.blocks
        spikes = first.forward_constant(images.contiguous(memory_format=torch.channels_last), self.config.n_steps)
        for block in rest:
            spikes = block(spikes)
        spikes = self.to_latent(spikes.flatten(2))
        detach_state(self)
        return spikes.to(images)


class Decoder(nn.Module):
    """Latent spikes z [T, N, D] -> images [N, C, H, W] in [-1, 1].

    Args:
        config: of the model.
        readout: makes images before the tanh, of the last spikes [T, N, C, H, W] or, if its `coefficients` are not
            None, of the sum over t of coefficients[t] * spikes[t], [N, C, H, W].
    """

    def __init__(self, config: ModelConfig, readout: nn.Module) -> None:
        super().__init__()
        self.bottom = (config.widths[-1], BOTTOM_SIZE, BOTTOM_SIZE)
        n_bottom = config.widths[-1] * BOTTOM_SIZE**2
        self.from_latent = SpikingBlock(nn.Linear(config.latent_dim, n_bottom), n_bottom, config)
        channels = (*reversed(config.widths), config.widths[0])
        pairs = pairwise(channels)
        self.blocks = nn.ModuleList(SpikingBlock(conv_up(i, o), o, config) for i, o in pairs)
        self.readout = readout

    def forward(self, z: Tensor) -> Tensor:
        reset_state(self)
        spikes = self.from_latent(z).unflatten(2, self.bottom)
        *blocks, last = self.blocks
        for block in blocks:
            spikes = block(spikes)
        image = self.readout(last(spikes, self.readout.coefficients))
        detach_state(self)
        return torch.tanh(image.to(z))


class MembraneReadout(nn.Module):
    """Last transposed convolution, then the membrane that a neuron without threshold has after the last step.

    The membrane is sum over t of 0.8^(T-1-t) x_t. The convolution is linear, so it runs once, on the
    weighted sum of spikes; its bias, present at every step, then counts sum over t of 0.8^(T-1-t) times.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.synapse = nn.ConvTranspose2d(config.widths[0], config.image_channels, kernel_size=3, padding=1)
        exponents = torch.arange(config.n_steps - 1, -1, -1, dtype=torch.float32)
        self.register_buffer("coefficients", READOUT_DECAY**exponents, persistent=False)

    def forward(self, weighted: Tensor) -> Tensor:
        """Sum over t of coefficients[t] * spikes[t], [N, C, H, W] -> pre-activation [N, channels, H, W]."""
        image = F.conv_transpose2d(weighted, self.synapse.weight, padding=1)
        return image + (self.coefficients.sum() * self.synapse.bias)[:, None, None]
