"""What the classifier of Table III may see of an image: the encoder's firing rates, and controls for them."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from data import batches, to_unit_range
from models import build_model
from neurons import ThresholdDependentBatchNorm, backend_of, set_backend
from training.run import NOISE, stream_seed

ENCODING_BATCH = 128
STATISTICS_BATCHES = 10
RateKind = Literal["encoder", "draw"]


@torch.no_grad()
def encoder_rates(
    model: nn.Module, images: Tensor, seed: int = 0, kind: RateKind = "encoder", title: str = ""
) -> Tensor:
    """Firing rates of a spiking model in evaluation mode: images uint8 [N, C, H, W] -> [N, D] in [0, 1].

    Args:
        model: the frozen encoder's.
        images: on the model's device.
        seed: of the noise of `draw`.
        kind: `encoder`: of the encoder's spikes x_e, the paper's r_p, which is not random; `draw`: of one z drawn from
            the posterior for each image.
        title: of the progress bar.
    """
    generator = Generator(images.device).manual_seed(seed)
    rates: dict[str, Callable[[Tensor], Tensor]] = {
        "encoder": model.firing_rate,
        "draw": lambda x: model.sample_posterior(model.encode(x), generator).mean(0),
    }
    steps = tqdm(batches(images, ENCODING_BATCH), title, -(-len(images) // ENCODING_BATCH), leave=False, disable=None)
    return torch.cat([rates[kind](x) for x in steps])


@torch.no_grad()
def untrained_copy(model: nn.Module, train_images: Tensor, seed: int = 0, kind: RateKind = "encoder") -> nn.Module:
    """A freshly initialised model of the same configuration, in evaluation mode: the control of what training added.

    tdBN of a fresh model normalises by mean 0 and variance 1 in evaluation mode, which would silence most neurons.
    So what gives its rates first sees `STATISTICS_BATCHES` batches of training images in training mode; tdBN's running
    statistics become the mean of theirs, and no weight changes.

    Args:
        model: the trained one.
        train_images: uint8 [N, C, H, W] on the model's device.
        seed: of the weights and of the choice of images.
        kind: of rates that are wanted of it, as in `encoder_rates`: `draw` prepares the whole model.
    """
    control = build_model(model.config, seed).to(train_images.device).train()
    set_backend(control, backend_of(model))
    for module in control.modules():
        if isinstance(module, ThresholdDependentBatchNorm):
            _average(module)
    generator = Generator().manual_seed(stream_seed(seed, 1))
    noise = Generator(train_images.device).manual_seed(stream_seed(seed, NOISE))
    for _ in range(STATISTICS_BATCHES):
        index = torch.randint(len(train_images), (ENCODING_BATCH,), generator=generator)
        x = to_unit_range(train_images[index.to(train_images.device)])
        control.firing_rate(x) if kind == "encoder" else control(x, noise)
    return control.eval()


def _average(norm: ThresholdDependentBatchNorm) -> None:
    """Let running statistics be the mean of all that follow, of which FSVAE's posterior network makes T in a batch."""
    move, counts = norm.update_running, itertools.count(1)

    def update(mean: Tensor, inverse_std: Tensor, n: int) -> None:
        norm.momentum = 1 / next(counts)
        move(mean, inverse_std, n)

    norm.update_running = update


class PixelPCA:
    """Principal components of images, fitted on training images; scores have a mean square of 1 over all of them.

    Attributes:
        n_components: how many there are.

    One common scale keeps the components' proportions, and puts what SGD sees in the range that its step is made for.

    Args:
        train_images: uint8 [N, C, H, W].
        n_components: fewer if the images or their values are fewer.
    """

    def __init__(self, train_images: Tensor, n_components: int) -> None:
        n, n_values = len(train_images), train_images[0].numel()
        self.n_components = min(n_components, n - 1, n_values)
        self.mean = sum(x.flatten(1).sum(0, dtype=torch.float64) for x in batches(train_images, 1024)).float() / n
        covariance = torch.zeros(n_values, n_values, dtype=torch.float64, device=train_images.device)
        for x in tqdm(batches(train_images, 1024), "PCA", -(-n // 1024), leave=False, disable=None):
            centred = x.flatten(1) - self.mean
            covariance += centred.T @ centred
        variances, axes = torch.linalg.eigh(covariance / n)
        kept = variances[-self.n_components :].flip(0)
        self.axes = (axes[:, -self.n_components :].flip(1) / kept.mean().sqrt()).float()

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 [N, C, H, W] -> scores [N, n_components], the largest component first."""
        return torch.cat([(x.flatten(1) - self.mean) @ self.axes for x in batches(images, 1024)])
