"""Show that backends differ no more than rounding does: train with each, and again with weights one bit away.

    python -m benchmarks.divergence --dataset digits --steps 200

Training of spiking networks is chaotic: a difference in the last bit of a weight grows until the losses of two runs
are apart by percents. So a backend cannot be judged by whether its curve equals another's, but by whether it is
further away than such a neighbour of the first is. Prints how far apart training losses are, for every backend
that runs here and for the neighbours. Takes a minute per run on one core.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Generator, Tensor, nn

from cli import parse_arguments, run_program
from data import load_split
from data.batches import training_batches
from errors import UserError, check_at_least
from files import write_json
from models import build_model
from neurons import set_backend
from provenance import provenance
from training.config import Config, Dataset, Model, preset
from training.device import resolve_backend, resolve_device
from training.run import NOISE, stream
from training.step import make_optimizer, training_step

BACKENDS_ON = {"cpu": ("native", "scan", "torch"), "cuda": ("triton", "scan", "torch", "cupy")}


@dataclass(frozen=True)
class Arguments:
    """Compare the training losses of backends with those of neighbours by one bit."""

    dataset: Dataset = "digits"
    """real images to train on, by their preset"""
    data_dir: Path | None = None
    """as in train.py"""
    model: Model = "esvae"
    """model to train"""
    steps: int = 200
    """training steps"""
    neighbours: int = 3
    """runs of the first backend with every weight one bit away, up or down at random"""
    train_images: int | None = None
    """use only the first so many images"""
    n_steps: int = 16
    """time steps T"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """file for the losses"""

    def __post_init__(self) -> None:
        check_at_least(1, steps=self.steps, neighbours=self.neighbours)

    def config(self) -> Config:
        """The preset's run."""
        changes = {"data_dir": self.data_dir, "train_images": self.train_images, "n_steps": self.n_steps}
        return replace(preset(self.dataset, self.model, "paper"), **changes)


def losses(config: Config, images: Tensor, backend: str, n: int, move: Callable[[nn.Module], None]) -> Tensor:
    """Training losses [n] of n steps on uint8 images, from the initial weights that `move` has changed."""
    model = build_model(config.model_config(), config.seed).to(images.device).train()
    set_backend(model, backend)
    move(model)
    optimizer, noise = make_optimizer(model, config), stream(config, images.device, NOISE)
    steps = islice(endless_batches(config, images), n)
    return torch.tensor([training_step(model, optimizer, x, noise)["loss"].item() for x in steps])


def endless_batches(config: Config, images: Tensor) -> Iterator[Tensor]:
    """Batches in [-1, 1], epoch after epoch."""
    order = stream(config, images.device, 0)
    settings = {"generator": order, "drop_last": True, "horizontal_flip": config.horizontal_flip}
    while True:
        yield from training_batches(images, config.batch_size, **settings)


def move_nothing(model: nn.Module) -> None:
    """Leave the initial weights as they are."""


@torch.no_grad()
def move_first_weight(model: nn.Module) -> None:
    """Replace one weight by the next larger number: it turns a spike late, or never, since few membranes feel it."""
    weight = model.encoder.blocks[0].synapse.weight[0, 0, 0, 0]
    weight.copy_(torch.nextafter(weight, torch.full_like(weight, torch.inf)))


@torch.no_grad()
def move_all_weights(model: nn.Module, seed: int) -> None:
    """Replace every weight by the next number, up or down at random: all membranes feel it, as they feel a backend."""
    generator = Generator().manual_seed(seed)
    for weight in model.parameters():
        up = (torch.rand(weight.shape, generator=generator) < 0.5).to(weight.device)
        weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf)))


def distance(a: Tensor, b: Tensor) -> float:
    """How far apart two runs are: mean over steps of the relative difference of their losses."""
    return ((a - b).abs() / torch.maximum(a, b)).mean().item()


def measure(a: Arguments) -> dict[str, Any]:
    """Distance of every run to the first backend's, by name; JSON-serialisable."""
    config, device = a.config(), resolve_device(a.device)
    images = load_split(a.dataset, "train", config.data_dir, limit=a.train_images, device=device).images
    first = resolve_backend("auto", device)
    if a.model == "ann_vae":
        raise UserError("the ANN VAE has no LIF neurons whose backends could differ; choose another --model")
    reference = losses(config, images, first, a.steps, move_nothing)
    runs = {f"{first}, first weight one bit away": (first, move_first_weight)}
    for k in range(a.neighbours):
        runs[f"{first}, all weights one bit away ({k})"] = first, partial(move_all_weights, seed=k)
    runs |= {name: (name, move_nothing) for name in BACKENDS_ON[device.type] if name != first}
    found = {}
    for name, (backend, move) in runs.items():
        try:
            found[name] = losses(config, images, backend, a.steps, move)
        except UserError as error:  # a backend that cannot run here
            print(f"{name}: left out, {error}", flush=True)
            continue
        print(f"{name}: {distance(reference, found[name]):.3%} from {first}", flush=True)
    distances = {name: distance(reference, run) for name, run in found.items()}
    return {
        "reference": first,
        "distances": distances,
        "losses": {name: run.tolist() for name, run in ({first: reference} | found).items()},
    }


def verdict(record: dict[str, Any]) -> str:
    """Whether the furthest backend is nearer than the furthest neighbour."""
    neighbours, backends = (
        {name: value for name, value in record["distances"].items() if ("one bit" in name) == is_neighbour}
        for is_neighbour in (True, False)
    )
    furthest, limit = max(backends, key=backends.get), max(neighbours.values())
    word = "no further than" if backends[furthest] <= limit else "further than"
    return f"{furthest} is {word} rounding takes a run: {backends[furthest]:.3%} against {limit:.3%}"


def main(argv: list[str]) -> None:
    """Train all, compare, print and write."""
    a = parse_arguments(Arguments, argv, __doc__)
    record = measure(a)
    print(verdict(record))
    if a.json is not None:
        write_json(a.json, record | {"provenance": provenance(resolve_device(a.device))})
        print(a.json)


if __name__ == "__main__":
    sys.exit(run_program(main))
