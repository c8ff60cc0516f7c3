"""FSVAE: a spiking VAE with an autoregressive posterior and prior, the paper's main comparison."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from losses import bernoulli_kl, psp_mmd, reconstruction_loss
from models.backbone import Decoder, Encoder, MembraneReadout, SpikingBlock
from models.base import SpikingModel
from models.config import ModelConfig
from neurons import detach_state, reset_state

TDBN_ALPHA = 2.0  # of the posterior and prior networks
KL_WEIGHT = 1e-4
FIRST_SCHEDULED_STEP = 5
PRIOR_NOISE = 1e-3


@dataclass(frozen=True)
class FSVAEOutput:
    """reconstruction [N, C, H, W] in [-1, 1]; z [T, N, D]; posterior q and prior p, binary, [T, N, D, k]."""

    reconstruction: Tensor
    z: Tensor
    posterior: Tensor
    prior: Tensor

    @property
    def posterior_rate(self) -> Tensor:
        """Mean over time and candidates of q, [N, D]."""
        return self.posterior.mean((0, 3))

    @property
    def prior_rate(self) -> Tensor:
        """Mean over time and candidates of p, [N, D]."""
        return self.prior.mean((0, 3))


class LatentNetwork(nn.Module):
    """Three spiking linear layers, [T, N, in] -> k binary candidates per latent unit, [T, N, D, k].

    Neurons keep their state between calls: the caller resets.
    """

    def __init__(self, in_features: int, config: ModelConfig) -> None:
        super().__init__()
        d, self.candidates = config.latent_dim, (config.latent_dim, config.n_candidates)
        sizes = (in_features, 2 * d, 4 * d, config.n_candidates * d)
        layers = (SpikingBlock(nn.Linear(i, o), o, config, TDBN_ALPHA) for i, o in pairwise(sizes))
        self.layers = nn.Sequential(*layers)

    def forward(self, x_seq: Tensor) -> Tensor:
        # Output channel = unit * k + candidate.
        return self.layers(x_seq).unflatten(-1, self.candidates).to(x_seq)


class FSVAE(SpikingModel):
    """Fully spiking VAE.

    The posterior network sees x_e[t] and z[t-1], the prior network z[t-1]; each puts out k binary candidates per
    latent unit and step, of which z[t] is one, picked uniformly. z[-1] = 0.

    References:
        Kamata, Mukuta, Harada, "Fully spiking variational autoencoder", AAAI 2022.
    """

    readout_type: type[nn.Module] = MembraneReadout
    absent: ClassVar[dict[str, str]] = {"prior_rate": "its prior is a process in time, use prior(z)"}
    needs_n_epochs: ClassVar[bool] = True

    @classmethod
    def unused(cls, config: ModelConfig) -> set[str]:
        """It has no sampler and no bottleneck; the KL divergence has a weight of its own."""
        return {"sampler_surrogate", "bottleneck_lr_factor"} | ({"mmd_weight"} if config.distance == "kl" else set())

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.posterior_network = LatentNetwork(2 * config.latent_dim, config)
        self.prior_network = LatentNetwork(config.latent_dim, config)
        self.decoder = Decoder(config, self.readout_type(config))
        self.register_buffer("scheduled_sampling", torch.zeros(()), persistent=False)
        self.draws_always = False
        self.to(memory_format=torch.channels_last)

    def start_epoch(self, epoch: int, n_epochs: int, n_batches: int) -> None:
        """Scheduled sampling with probability 0.1 + 0.2 e / E in epoch e = 0 .. E - 1."""
        self.scheduled_sampling.fill_(0.1 + 0.2 * epoch / n_epochs)

    def prepare_for_graph(self) -> None:
        """Draw every input that scheduled sampling might replace, and then take it or leave it."""
        self.draws_always = True

    def posterior(self, x_spikes: Tensor, z: Tensor) -> Tensor:
        """x_e and z [T, N, D] -> candidates q [T, N, D, k]; step t sees x_e[t] and z[t-1]. No gradient into z."""
        return from_rest(self.posterior_network, torch.cat([x_spikes, previous(z.detach())], dim=-1))

    def prior(self, z: Tensor) -> Tensor:
        """z [T, N, D] -> candidates p [T, N, D, k]; step t sees z[t-1]. No gradient into z."""
        return from_rest(self.prior_network, previous(z.detach()))

    def sample_posterior(self, x_spikes: Tensor, generator: Generator | None = None) -> Tensor:
        """Encoder spikes x_e [T, N, D] -> z [T, N, D], drawn step by step. Meant for evaluation mode."""
        index = self._pick(x_spikes.shape[1], x_spikes.device, generator)
        return draw_stepwise(self.posterior_network, x_spikes, index, recompute=False)

    def sample_latent(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw n latent spike trains from the prior: z [T, n, D]. Meant for evaluation mode; see `draw_stepwise`."""
        weight = self.prior_network.layers[0].synapse.weight
        index = self._pick(n, weight.device, generator)
        return draw_stepwise(self.prior_network, weight.new_empty(self.config.n_steps, n, 0), index, recompute=False)

    def forward(self, x: Tensor, generator: Generator | None = None) -> FSVAEOutput:
        """Images [N, C, H, W] in [-1, 1] -> reconstruction, z, q and p.

        z is first drawn step by step without a gradient, to be fed back; one pass over all steps then gives q,
        and the same picks choose the z that is decoded. In evaluation mode the two are equal; in training mode
        batch statistics over more steps make them differ in places, as in the released program.
        """
        x_spikes = self.encode(x)
        index = self._pick(len(x), x.device, generator)
        # In training, tdBN's statistics span all steps seen so far, so each step runs the earlier ones again.
        fed_back = self.draw_posterior(x_spikes, index, recompute=self.training)
        q = self.posterior(x_spikes, fed_back)
        z = choose(q, index)
        p = self._scheduled_prior(z.detach(), generator) if self.training else self.prior(z)
        return FSVAEOutput(self.decode(z), z, q, p)

    def loss(self, output: FSVAEOutput, x: Tensor) -> dict[str, Tensor]:
        """Reconstruction plus the distance of q and p: `mmd`, or `kl` where the configuration says so."""
        reconstruction = reconstruction_loss(output.reconstruction, x)
        rates = output.posterior.mean(-1), output.prior.mean(-1)
        if self.config.distance == "kl":
            kl = bernoulli_kl(*rates)
            return {"loss": reconstruction + KL_WEIGHT * kl, "reconstruction": reconstruction, "kl": kl}
        mmd = psp_mmd(*rates)
        loss = reconstruction + self.config.mmd_weight * mmd
        return {"loss": loss, "reconstruction": reconstruction, "mmd": mmd}

    def draw_posterior(self, x_spikes: Tensor, index: Tensor, recompute: bool = False) -> Tensor:
        """The z that is fed back: x_e and picks [T, N, D] -> z [T, N, D], its last step, which nothing sees, 0."""
        z = draw_stepwise(self.posterior_network, x_spikes, index[:-1], recompute)
        return torch.cat([z, torch.zeros_like(x_spikes[:1])])

    def _scheduled_prior(self, z: Tensor, generator: Generator | None) -> Tensor:
        """The prior, some of its inputs replaced by its own draws: one coin per step for the whole batch.

        A draw runs the steps up to its own only: tdBN's statistics in training must not span later ones.
        """
        inputs = previous(z)
        coins = torch.rand(len(z), generator=generator, device=z.device) < self.scheduled_sampling
        noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        known = None if self.draws_always else coins.tolist()  # waits for the device
        for t in range(FIRST_SCHEDULED_STEP, len(z) - 1):
            if known is None:
                self._replace_if(coins[t], inputs, t, noise[t])
            elif known[t]:
                inputs[t + 1] = self._draw_prior(inputs[: t + 1], noise[t])
        return from_rest(self.prior_network, inputs)

    def _replace_if(self, coin: Tensor, inputs: Tensor, t: int, noise: Tensor) -> None:
        """inputs[t + 1] <- a draw where the coin is true; where it is not, tdBN's running statistics stay too."""
        buffers = list(self.prior_network.buffers())
        before = [buffer.clone() for buffer in buffers]
        inputs[t + 1] = torch.where(coin, self._draw_prior(inputs[: t + 1], noise), inputs[t + 1])
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(coin, buffer, old))

    @torch.no_grad()
    def _draw_prior(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """z[t] as the prior would have it after inputs [t + 1, N, D] with standard normal noise [N, D]: [N, D]."""
        rate = from_rest(self.prior_network, inputs)[-1].mean(-1)
        return (rate + PRIOR_NOISE * noise > 0.5).to(inputs)

    def _pick(self, n: int, device: torch.device, generator: Generator | None) -> Tensor:
        """Which candidate each latent unit takes at each step, [T, n, D]."""
        shape = (self.config.n_steps, n, self.config.latent_dim)
        return torch.randint(self.config.n_candidates, shape, generator=generator, device=device)


def from_rest(network: LatentNetwork, x_seq: Tensor) -> Tensor:
    """All steps at once, from membranes at rest: [T, N, in] -> candidates [T, N, D, k]."""
    reset_state(network)
    candidates = network(x_seq)
    detach_state(network)
    return candidates


@torch.no_grad()
def draw_stepwise(network: LatentNetwork, x_seq: Tensor, index: Tensor, recompute: bool) -> Tensor:
    """Draw z step by step, each step seeing the z before it.

    In evaluation mode a step depends on the earlier ones through the membranes alone, so these can be carried on;
    recomputing gives the same z then, for (T + 1) / 2 times the work.

    Args:
        network: the one to draw from.
        x_seq: what it sees beside z[t-1], [T or more, N, in - D].
        index: which candidate becomes z, [T, N, D].
        recompute: run the earlier steps again at every step.

    Returns:
        z [T, N, D].
    """
    z = x_seq.new_zeros(len(index) + 1, *index.shape[1:])  # from z[-1] = 0 on
    for t in range(len(index)):
        first = 0 if recompute else t
        if first == 0:
            reset_state(network)
        candidates = network(torch.cat([x_seq[first : t + 1], z[first : t + 1]], dim=-1))
        z[t + 1] = choose(candidates[-1:], index[t : t + 1])[0]
    return z[1:]


def previous(z: Tensor) -> Tensor:
    """z [T, ...] -> z[t-1] at step t, zeros at the first; a new tensor."""
    return torch.cat([torch.zeros_like(z[:1]), z[:-1]])


def choose(candidates: Tensor, index: Tensor) -> Tensor:
    """Candidates [T, N, D, k], picks [T, N, D] -> the picked ones [T, N, D], with their gradient."""
    return candidates.gather(-1, index[..., None]).squeeze(-1)
