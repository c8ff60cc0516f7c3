"""Spiking neurons: LIF, tdBN, the Poisson sampler and their surrogate gradients. Knows nothing of VAEs."""

from neurons.lif import BACKENDS, LIF, backend_of, detach_state, reset_state, set_backend
from neurons.poisson import PoissonSampler
from neurons.spike_convolution import spike_conv
from neurons.surrogate import Rectangular, lif_surrogate, sampler_surrogate
from neurons.tdbn import ThresholdDependentBatchNorm

__all__ = [
    "BACKENDS",
    "LIF",
    "PoissonSampler",
    "Rectangular",
    "ThresholdDependentBatchNorm",
    "backend_of",
    "detach_state",
    "lif_surrogate",
    "reset_state",
    "sampler_surrogate",
    "set_backend",
    "spike_conv",
]
