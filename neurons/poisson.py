"""The reparameterizable Poisson spiking sampler, Eq. 6 to 8."""

import torch
from torch import Generator, Tensor, nn

from neurons.surrogate import Rectangular


class PoissonSampler(nn.Module):
    """Neurons without parameters that fire at a given rate: z[t] = 1 where u[t] < r, u ~ U(0, 1), Eq. 7.

    Each step is one Bernoulli draw, so the spike count over T steps is Binomial(T, r): what the paper calls a
    Poisson process. The noise u does not depend on r, hence dz/dr can be the surrogate box of Eq. 8,
    1 / alpha where |r - u| < alpha / 2.

    Args:
        n_steps: time steps T.
        surrogate: the step and its box; must be strict, so that a rate of 0 never fires.
    """

    def __init__(self, n_steps: int, surrogate: Rectangular) -> None:
        super().__init__()
        if not surrogate.strict:
            raise ValueError("the sampler fires where u < r: its surrogate must be strict")
        self.n_steps, self.surrogate = n_steps, surrogate

    def forward(self, rate: Tensor, generator: Generator | None = None, uniform: Tensor | None = None) -> Tensor:
        """Draw spikes.

        Args:
            rate: firing rates in [0, 1], [N, D].
            generator: source of the noise; the default one of the device if None.
            uniform: given noise in [0, 1), [T, N, D], instead of a fresh draw.

        Returns:
            spikes z, 0 or 1, [T, N, D], in the type of the rates.
        """
        if uniform is None:
            dtype = torch.promote_types(rate.dtype, torch.float32)  # bfloat16's has 256 values: too few for low rates
            uniform = torch.rand((self.n_steps, *rate.shape), generator=generator, device=rate.device, dtype=dtype)
        elif uniform.shape != (self.n_steps, *rate.shape):
            raise ValueError(f"uniform must have shape {(self.n_steps, *rate.shape)}, got {tuple(uniform.shape)}")
        return self.surrogate(rate - uniform).to(rate)

    def extra_repr(self) -> str:
        return f"n_steps={self.n_steps}"
