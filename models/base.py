"""What all models share."""

from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from errors import AbsentError
from models.config import ModelConfig


class Model(nn.Module):
    """A model built from a configuration, kept as `config`; `run` is what its file says of its training.

    Training calls `forward(x, generator=...)`, whose result has a `reconstruction`, then `loss(output, x)`, a
    dictionary of `loss` and its terms; before an epoch, `start_epoch`.
    On a GPU a step, and the `forward` of a test, are recorded once a run as a CUDA graph and replayed: they must not
    wait for numbers from the GPU, and what changes between steps or epochs must be a tensor, as FSVAE's
    `scheduled_sampling`; a Python number stays as it was.
    What takes images raises UserError for those of another size than the model's (`ModelConfig.check_images`).
    A module called `bottleneck` learns at a rate of its own. Pictures and metrics of samples call
    `sample(n, generator)`. What the experiments on spikes need is a latent [T, N, D] of zeros and ones: `encode`,
    `firing_rate`, `sample_posterior`, `sample_latent`, `decode` and the output's `z`, as ESVAE has them.

    Attributes:
        absent: methods of other models that this one has not got -> why, and what to use instead.
        needs_n_epochs: whether `start_epoch` does something else in a longer run, which therefore trains anew.
    """

    absent: ClassVar[dict[str, str]] = {}
    needs_n_epochs: ClassVar[bool] = False

    @classmethod
    def unused(cls, config: ModelConfig) -> set[str]:
        """Fields of such a configuration, and of its training's, that change nothing with this model."""
        return set()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.run = config, {}

    def start_epoch(self, epoch: int, n_epochs: int, n_batches: int) -> None:
        """Change what changes over a run; `epoch` counts from 0, `n_batches` are the steps of each."""

    def prepare_for_graph(self) -> None:
        """From now on do the same work in every training step, whatever is drawn, for a CUDA graph to record."""

    def __getattr__(self, name: str) -> Any:
        """PyTorch's look-up of parameters, buffers and modules.

        Raises:
            AbsentError: `name` is a method that only other models have.
        """
        if name in self.absent:
            raise AbsentError(f"{self.config.model} has no {name}: {self.absent[name]}")
        return super().__getattr__(name)


class SpikingModel(Model):
    """What spiking VAEs share; a subclass makes `encoder` and `decoder`, and has `sample_latent`."""

    def encode(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> encoder spikes x_e, 0 or 1, [T, N, D]."""
        return self.encoder(x)

    def firing_rate(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> mean over T of x_e, in {0, 1/T, ..., 1}, [N, D] (Eq. 5)."""
        return self.encode(x).mean(0)

    def decode(self, z: Tensor) -> Tensor:
        """Latent spikes z [T, N, D] -> images [N, C, H, W] in [-1, 1]."""
        return self.decoder(z)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Generate n images [n, C, H, W] in [-1, 1] (Algorithm 1, GenerateImages)."""
        return self.decode(self.sample_latent(n, generator))
