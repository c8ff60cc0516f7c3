"""Show that backends differ no more than rounding does: train with each, and again with some weights one bit away.

    python -m benchmarks.divergence --dataset digits --steps 200

Training of spiking networks is chaotic: a difference in the last bit of a weight grows until the losses of two runs
are apart by percents. So a backend cannot be judged by whether its curve equals another's, but by whether it is
further away than such a neighbour of the first is. Prints how far apart training losses are, for every backend
that runs here and for the neighbours. Takes a minute per run on one core.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Generator, Tensor

from cli import parse_arguments, run_program
from data import load_split
from data.batches import training_batches
from errors import UserError
from files import write_json
from models import build_model
from neurons import set_backend
from provenance import provenance
from training.config import Config, Dataset, Model, preset
from training.device import keep_freed_memory, resolve_backend, resolve_device
from training.loop import make_optimizer, training_step

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
    """runs of the first backend with the weights of one channel of the first layer one bit away"""
    train_images: int | None = None
    """use only the first so many images"""
    n_steps: int = 16
    """time steps T"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA if there is one"""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """file for the losses"""

    def __post_init__(self) -> None:
        for name in ("steps", "neighbours"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")

    def config(self) -> Config:
        """The preset's run."""
        changes = {"data_dir": self.data_dir, "train_images": self.train_images, "n_steps": self.n_steps}
        return replace(preset(self.dataset, self.model, "paper"), **changes)


def losses(config: Config, images: Tensor, backend: str, n: int, moved: int | None = None) -> Tensor:
    """Training losses [n] of n steps on uint8 images; `moved` is the first layer's channel whose weights are moved."""
    torch.manual_seed(config.seed)
    model = build_model(config.model_config()).to(images.device).train()
    set_backend(model, backend)
    if moved is not None:
        move_one_bit(model.encoder.blocks[0].synapse.weight, moved)
    optimizer, noise = make_optimizer(model, config), Generator(images.device).manual_seed(config.seed)
    steps = islice(endless_batches(config, images), n)
    return torch.tensor([training_step(model, optimizer, x, noise)["loss"].item() for x in steps])


def endless_batches(config: Config, images: Tensor) -> Iterator[Tensor]:
    """Batches in [-1, 1], epoch after epoch."""
    order = Generator(images.device).manual_seed(config.seed)
    settings = {"generator": order, "drop_last": True, "horizontal_flip": config.horizontal_flip}
    while True:
        yield from training_batches(images, config.batch_size, **settings)


@torch.no_grad()
def move_one_bit(weight: Tensor, channel: int) -> None:
    """Replace the values of a channel by the next larger ones of their type. A single value may never turn a spike."""
    values = weight[channel]
    values.copy_(torch.nextafter(values, torch.full_like(values, torch.inf)))


def distance(a: Tensor, b: Tensor) -> float:
    """How far apart two runs are: mean over steps of the relative difference of their losses."""
    return ((a - b).abs() / torch.maximum(a, b)).mean().item()


def measure(a: Arguments) -> dict[str, Any]:
    """Distance of every run to the first backend's, by name; JSON-serialisable."""
    config, device = a.config(), resolve_device(a.device)
    images = load_split(a.dataset, "train", config.data_dir, limit=a.train_images, device=device).images
    first = resolve_backend("auto", device)
    reference = losses(config, images, first, a.steps)
    runs = {f"{first}, channel {k} one bit away": (first, k) for k in range(a.neighbours)}
    runs |= {name: (name, None) for name in BACKENDS_ON[device.type] if name != first}
    found = {}
    for name, (backend, moved) in runs.items():
        try:
            found[name] = losses(config, images, backend, a.steps, moved)
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
    keep_freed_memory()
    record = measure(a)
    print(verdict(record))
    if a.json is not None:
        write_json(a.json, record | {"provenance": provenance(resolve_device(a.device))})
        print(a.json)


if __name__ == "__main__":
    sys.exit(run_program(main))
