"""One step of Algorithm 1 with AdamW, and how a model is made to take it on a device."""

import torch
from torch import Generator, Tensor, nn

from neurons import set_backend
from training.config import Config, Precision
from training.device import resolve_backend
from training.graph import GraphedStep, Step, resolve_graph
from training.precision import autocast, set_precision

RATES = ("posterior_rate", "prior_rate")


def set_runtime(model: nn.Module, config: Config, device: torch.device) -> bool:
    """Let a model on `device` run as the configuration says: its backend, its precision, its graph.

    Returns:
        whether its training step is to be recorded as a CUDA graph.

    Raises:
        UserError: something that cannot run here, or not together.
    """
    backend = resolve_backend(config.backend, device)
    set_backend(model, backend)
    set_precision(model, config.precision, backend, device)
    if records := resolve_graph(config.cuda_graph, backend, device, config.deterministic):
        model.prepare_for_graph()
    return records


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW (Sec. IV-B2), the bottleneck with its own learning rate. Fused: each value is read and written once."""
    fast = list(model.bottleneck.parameters()) if hasattr(model, "bottleneck") else []
    slow = [p for p in model.parameters() if not any(p is other for other in fast)]
    groups = [{"params": p, "lr": rate} for p, rate in zip((slow, fast), config.learning_rates, strict=True)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True)


def make_training_step(config: Config, records: bool) -> Step:
    """`training_step` at the configured precision, `records` as a CUDA graph."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, noise: Generator) -> dict[str, Tensor]:
        return training_step(model, optimizer, x, noise, config.precision)

    return GraphedStep(step, config.batch_size) if records else step


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, noise: Generator, precision: Precision = "fp32"
) -> dict[str, Tensor]:
    """One step of Algorithm 1, lines 6 to 12, on images x [N, C, H, W] in [-1, 1].

    The model must have been told of the precision by `set_precision`. The loss is taken in float32 at any.

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
