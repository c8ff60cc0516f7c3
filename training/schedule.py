"""Learning rates over a run: a linear warm-up, then constant or falling along a cosine."""

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["constant", "cosine"]


def learning_rate_factor(progress: float, schedule: Schedule, warmup: float) -> float:
    """What to multiply a learning rate by.

    Args:
        progress: share of the run that is behind, in [0, 1].
        schedule: what follows the warm-up.
        warmup: share of the run in which the factor rises from 0 to 1; 0.3 with `cosine` is a one-cycle schedule.
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: tuple[float, ...]) -> None:
    """One rate per parameter group. A rate that is a tensor, as a CUDA graph reads it, is changed in place."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rates_as_tensors(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep each rate in memory of the device, in float32, where a CUDA graph looks it up at every replay."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
