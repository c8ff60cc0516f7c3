"""One step of Algorithm 1 with AdamW, and how a model is made to take it on a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from neurons import set_backend
from training.config import Config, Precision
from training.device import resolve_backend
from training.graph import WARM_UP_STEPS, Graphed, Step, resolve_graph
from training.precision import autocast, check_precision, resolve_precision

RATES = ("posterior_rate", "prior_rate")


@dataclass(frozen=True)
class Runtime:
    """How the training steps of a model run, with nothing left to `auto`."""

    backend: str
    """of its LIF neurons"""
    precision: Precision
    """of a step"""
    records: bool
    """whether a step is recorded as a CUDA graph"""


def set_runtime(model: nn.Module, config: Config, device: torch.device) -> Runtime:
    """Let a model on `device` run as the configuration says: its backend, its precision, its graph.

    Raises:
        UserError: something that cannot run here, or not together.
    """
    backend = resolve_backend(config.backend, device)
    set_backend(model, backend)
    precision = resolve_precision(config.precision, model, device)
    check_precision(precision, backend, device)
    if records := resolve_graph(config.cuda_graph, backend, device, config.deterministic):
        model.prepare_for_graph()
    return Runtime(backend, precision, records)


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW (Sec. IV-B2), the bottleneck with its own learning rate. Fused: each value is read and written once."""
    fast = list(model.bottleneck.parameters()) if hasattr(model, "bottleneck") else []
    slow = [p for p in model.parameters() if not any(p is other for other in fast)]
    groups = [{"params": p, "lr": rate} for p, rate in zip((slow, fast), config.learning_rates, strict=True)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True)


def make_training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, noise: Generator, batch_size: int, runtime: Runtime
) -> Step:
    """`training_step` of a model on batches of that size, run in that way."""

    def step(x: Tensor) -> dict[str, Tensor]:
        return training_step(model, optimizer, x, noise, runtime.precision)

    if not runtime.records:
        return step
    return Graphed(step, batch_size, noise, WARM_UP_STEPS, partial(_capturable, optimizer))


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let PyTorch record the optimizer; a fused one needs no more than that. Elsewhere the mark only makes it warn."""
    optimizer.zero_grad(set_to_none=True)  # the graph has gradients of its own
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, noise: Generator, precision: Precision = "fp32"
) -> dict[str, Tensor]:
    """One step of Algorithm 1, lines 6 to 12, on images x [N, C, H, W] in [-1, 1].

    The loss is taken in float32 at any precision.

    Returns:
        scalars on the model's device: the loss, its terms, and the mean firing rates of posterior and prior where
        the model has such.
    """
    with autocast(x.device, precision):
        output = model(x, generator=noise)
    terms = model.loss(output, x)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    optimizer.step()
    rates = {f"{name}_mean": getattr(output, name).mean() for name in RATES if hasattr(output, name)}
    return {name: value.detach() for name, value in (terms | rates).items()}
