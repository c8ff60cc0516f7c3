"""Score images, a model's samples or a file's, by the metrics that compare them with a data set."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from data import read_image_set
from errors import UnavailableError, UserError
from metrics.fad import N_SAMPLES, SAMPLE_BATCH, FadMetric, load_feature_network
from provenance import provenance
from training.device import resolve_device

FAD_PROTOCOLS = {"fad": "official", "fad_eval": "eval"}
METRICS = ("reconstruction", *FAD_PROTOCOLS)

Metric = Callable[[Tensor], dict[str, Any]]


def parse_metrics(names: str) -> tuple[str, ...]:
    """Names separated by commas, each once.

    Raises:
        UserError: an unknown one, or none.
    """
    parsed = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    unknown = [name for name in parsed if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {', '.join(map(repr, unknown))}; choose from {','.join(METRICS)}")
    return parsed


def prepare_metrics(
    names: Iterable[str],
    dataset: str,
    data_dir: Path | None = None,
    fad_weights: Path | None = None,
    device: str | torch.device = "cpu",
) -> tuple[dict[str, Metric], dict[str, str]]:
    """What scores images [N, C, H, W] in [-1, 1], by name, and why the others among `names` are left out.

    Raises:
        UserError: a file that cannot be used, or a data set that is needed and cannot be read.
    """
    wanted = {name: protocol for name, protocol in FAD_PROTOCOLS.items() if name in names}
    if not wanted:
        return {}, {}
    try:
        network = load_feature_network(dataset, fad_weights, device)
    except UnavailableError as error:
        return {}, dict.fromkeys(wanted, str(error))
    return {name: FadMetric.prepare(network, protocol, data_dir) for name, protocol in wanted.items()}, {}


@torch.no_grad()
def sample_images(model: nn.Module, n: int = N_SAMPLES, seed: int = 0) -> Tensor:
    """n images [n, C, H, W] in [-1, 1] from a model's prior, drawn in batches of 128."""
    generator = Generator(next(model.parameters()).device).manual_seed(seed)
    return torch.cat([model.sample(len(part), generator) for part in torch.arange(n).split(SAMPLE_BATCH)])


def evaluate_images(
    file: Path,
    dataset: str,
    metrics: tuple[str, ...] = ("fad",),
    data_dir: Path | None = None,
    fad_weights: Path | None = None,
    n_images: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """The record of a file of images: metrics with their protocol, provenance. Arguments as of `read_image_set`.

    Raises:
        UserError: images or files that cannot be used, or a metric that needs a model.
    """
    if "reconstruction" in metrics:
        raise UserError("--metrics reconstruction needs a model: give --checkpoint, or leave it out with --images")
    on = resolve_device(device)
    images = read_image_set(file, dataset, n_images).to(on)
    scorers, left_out = prepare_metrics(metrics, dataset, data_dir, fad_weights, on)
    if not scorers:
        raise UserError(next(iter(left_out.values())))
    record: dict[str, Any] = {"images": str(file), "dataset": dataset}
    record |= {name: score(images) for name, score in scorers.items()}
    return record | {"left_out": left_out, "baselines": {}, "epochs": None, "config": None} | provenance(on)
