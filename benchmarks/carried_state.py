"""Measure what FSVAE and TAID gain by carrying the membranes from step to step where they draw z.

    python -m benchmarks.carried_state --dataset cifar10 --model fsvae --batch-size 64

Times the draw from the prior (`sample_latent`, for generation) and from the posterior (`draw_posterior`, for
reconstruction), in evaluation mode, with the membranes carried on and with all earlier steps run again at every
step. The encoder and the decoder are not timed. Checks first that both ways draw the same z, rounding aside.
Takes about a minute. Run it on a machine that does nothing else.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Generator, Tensor, nn

from benchmarks.throughput import (
    SEED,
    Benchmark,
    PointArguments,
    make_model,
    measure,
    prepare,
    random_images,
    save_record,
)
from cli import parse_arguments, run_program
from errors import UserError
from models import FSVAE
from neurons import ThresholdDependentBatchNorm
from training.config import CudaGraph
from training.device import resolve_device

# A matrix product of another shape may round otherwise; a membrane at the threshold then moves the rest of its sample.
MAX_DIFFERING = 0.05

Draw = Callable[[bool], Tensor]


@dataclass(frozen=True)
class DrawBenchmark(Benchmark):
    """What to time, and for how long."""

    model: Literal["fsvae", "taid"] = "fsvae"
    """model to time"""
    mode: tyro.conf.Suppress[Literal["sample"]] = "sample"
    precision: tyro.conf.Suppress[Literal["fp32"]] = "fp32"
    cuda_graph: tyro.conf.Suppress[CudaGraph] = "auto"  # of training, as precision is


@dataclass(frozen=True)
class Arguments(PointArguments):
    """Measure what FSVAE and TAID gain by carrying the membranes from step to step where they draw z."""

    benchmark: Annotated[DrawBenchmark, tyro.conf.arg(name="")]


def make_draws(benchmark: DrawBenchmark, device: torch.device) -> dict[str, Draw]:
    """By name, functions recompute -> z [T, N, D]; the same z at every call."""
    model: FSVAE = make_model(benchmark, device)[0].eval()
    noise = Generator(device).manual_seed(SEED)
    let_it_fire(model, noise)
    with torch.no_grad():
        spikes = model.encode(random_images(benchmark.batch_size, model.config, noise))
    index = torch.randint(model.config.n_candidates, spikes.shape, generator=noise, device=device)
    return {
        "sample_latent": lambda recompute: model.sample_latent(spikes.shape[1], noise.manual_seed(SEED), recompute),
        "draw_posterior": lambda recompute: model.draw_posterior(spikes, index, recompute),
    }


def let_it_fire(model: FSVAE, noise: Generator) -> None:
    """Biases on both sides of the threshold: freshly initialised, the prior's z would be 0 and the check void."""
    for norm in (module for module in model.modules() if isinstance(module, ThresholdDependentBatchNorm)):
        nn.init.uniform_(norm.bias, 0, 2 * model.config.v_threshold, generator=noise)


def compare(name: str, draw: Draw, benchmark: DrawBenchmark) -> dict[str, Any]:
    """Time one draw both ways; prints them and their ratio.

    Raises:
        UserError: the two ways draw different z.
    """
    differing = differing_fraction(name, draw)
    carried = measure(benchmark, lambda *_: lambda: draw(False))
    recomputed = measure(benchmark, lambda *_: lambda: draw(True))
    gain = carried.median / recomputed.median
    print(f"{name}, carried: {carried}\n{name}, recomputed: {recomputed}")
    print(f"{name}: {gain:.2f} times as fast, {differing:.2%} of z differs", flush=True)
    both = {"carried": carried.to_dict(), "recomputed": recomputed.to_dict()}
    return both | {"gain": gain, "differing_fraction": differing}


def differing_fraction(name: str, draw: Draw) -> float:
    """Fraction of z in which the two ways differ.

    Raises:
        UserError: it is more than rounding explains.
    """
    fraction = (draw(False) != draw(True)).float().mean().item()
    if fraction > MAX_DIFFERING:
        raise UserError(f"{name} draws another z if recomputed ({fraction:.2%} of it); report this as a bug")
    return fraction


def main(argv: list[str]) -> None:
    """Parse, measure, print and write."""
    a = parse_arguments(Arguments, argv, __doc__, default=Arguments(DrawBenchmark()))
    conditions = prepare(a)
    draws = make_draws(a.benchmark, resolve_device(a.benchmark.device))
    save_record(a.json, {name: compare(name, draw, a.benchmark) for name, draw in draws.items()} | conditions)


if __name__ == "__main__":
    sys.exit(run_program(main))
