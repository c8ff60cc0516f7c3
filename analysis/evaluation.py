"""Score a checkpoint and draw what it reconstructs and generates."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.generation import NO_FILES, Files, prepare_metrics, sample_images
from analysis.subjects import dataset_of, name_of, part_of_test_split
from data import load_split
from errors import UserError, check_at_least, check_seed
from metrics import EIGHT_BIT, MEAN_IMAGE, eight_bit_loss, evaluate_reconstruction, mean_image_loss
from models import load_model
from neurons import backend_of, set_backend
from provenance import provenance
from training.device import resolve_backend, resolve_device
from training.log import picture_grids, save_grid

N_SHOWN = 32


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and on what.

    Attributes:
        checkpoint: run folder or model file.
        dataset: test images; the data set that the model was trained on if None.
        n_images: reconstruct the first so many test images only; all if None.
        seed: of the posterior's and the prior's noise.
        device, backend: as in training.
        metrics: of `analysis.generation.METRICS`.
        n_samples: images generated for each of the metrics that need such; as many as its protocol takes if None.
        files: of the metrics and of the data sets.
    """

    checkpoint: Path
    dataset: str | None = None
    n_images: int | None = None
    seed: int = 0
    device: str = "auto"
    backend: str = "auto"
    metrics: tuple[str, ...] = ("reconstruction",)
    n_samples: int | None = None
    files: Files = NO_FILES

    def __post_init__(self) -> None:
        check_at_least(2, n_samples=self.n_samples)
        check_at_least(1, n_images=self.n_images)
        check_seed(self.seed)


def output_folder(evaluated: Path) -> Path:
    """Folder for pictures and numbers: the run folder, or one named after the file."""
    return evaluated if evaluated.is_dir() else Path("runs") / f"evaluation-{name_of(evaluated)}"


def check_replaceable(file: Path, asked: dict[str, Any]) -> None:
    """Nothing, where an evaluation may be written to `file`: in place of one that was asked for no more.

    Args:
        file: of the record.
        asked: `metrics`, `n_images` and `n_samples`, None for all, `dataset`, None for the one that the model was
            trained on, and whatever else decides the numbers.

    Raises:
        UserError: there is one of another file, by other settings, or with metrics or images that this one lacks.
    """
    try:
        record = json.loads(file.read_text())
        old, trained_on = record["asked"], (record.get("config") or {}).get("dataset")
        lost = set(old["metrics"]) - set(asked["metrics"])
        fewer = {name for name in ("n_images", "n_samples") if asked[name] not in (None, old[name])}
        exact = asked.keys() - {"metrics", "n_images", "n_samples", "dataset"}
        differs = fewer | {name for name in exact if asked[name] != old[name]}
        differs |= {"dataset"} if (asked["dataset"] or trained_on) != record["dataset"] else set()
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):  # no evaluation
        return
    if lost or differs:
        what = ", ".join(sorted(differs | lost))
        raise UserError(f"{file} is an evaluation with other {what}: give --json FILE, or remove it")


def evaluate(request: Evaluation) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Compute everything; write nothing.

    Returns:
        the record (JSON-serialisable: metrics with their protocol, what was left out and why, baselines,
        configuration, provenance), and picture grids by name, float [N, C, H, W] in [-1, 1].

    Raises:
        UserError: a checkpoint or data set that cannot be used, or that do not fit each other; or no metric that
            can be measured.
    """
    device = resolve_device(request.device)
    model = load_model(request.checkpoint, device)
    set_backend(model, resolve_backend(request.backend, device))
    run, dataset = model.run, dataset_of(request.checkpoint, model, request.dataset)
    scorers, left_out = prepare_metrics(request.metrics, dataset, request.files, device, request.n_samples)
    if len(left_out) == len(request.metrics):
        raise UserError(next(iter(left_out.values())))
    if scorers:
        _ = model.sample  # one that has none says so before anything is computed
    record = {"checkpoint": str(request.checkpoint), "dataset": dataset, "baselines": {}}
    pictures = {}
    if "reconstruction" in request.metrics:
        measured, pictures = _reconstruct(request, model, dataset, device)
        record |= measured
    if scorers:
        wanted = {name: request.n_samples or score.n_wanted for name, score in scorers.items()}
        samples = sample_images(model, max(wanted.values()), request.seed)
        parts = {n: samples[:n] for n in set(wanted.values())}  # one tensor for metrics that take as many
        record |= {name: score(parts[wanted[name]]) for name, score in scorers.items()}
        pictures.setdefault("samples", samples[: 2 * N_SHOWN])
    record |= {
        "left_out": left_out,
        "epochs": run.get("epochs"),
        "epoch_rule": run.get("epoch_rule", "last epoch" if "epochs" in run else "not known"),
        "config": run.get("config"),
        "model": model.config.to_dict(),
        "seed": request.seed,
        "lif_backend": backend_of(model),
    }
    return record | provenance(device), pictures


def _reconstruct(
    request: Evaluation, model: nn.Module, dataset: str, device: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reconstruction loss and its baselines; pictures."""
    train = load_split(dataset, "train", request.files.data_dir, device=device).images
    test = load_split(dataset, "test", request.files.data_dir, limit=request.n_images, device=device).images
    loss = evaluate_reconstruction(model, test, seed=request.seed)
    record = {
        "reconstruction_loss": _reconstruction(loss, model, dataset, test),
        "baselines": {MEAN_IMAGE: mean_image_loss(train, test), EIGHT_BIT: eight_bit_loss(test)},
    }
    generator = torch.Generator(device).manual_seed(request.seed)
    return record, picture_grids(model, test[:N_SHOWN], 2 * N_SHOWN, generator)


def _reconstruction(loss: float, model: nn.Module, dataset: str, test: Tensor) -> dict[str, Any]:
    latent = "posterior sampled" if hasattr(model, "sample") else "nothing sampled"
    part = part_of_test_split(dataset, len(test))
    return {
        "value": loss,
        "protocol": f"mean squared error per value on [-1, 1], {latent}, {part}",
        "n_images": len(test),
        "split": "test",
        "feature_network": None,
    }


def save_pictures(pictures: dict[str, Tensor], folder: Path) -> list[Path]:
    """Write the grids as PNG and return their paths."""
    paths = [folder / f"evaluation-{name}.png" for name in pictures]
    for path, grid in zip(paths, pictures.values(), strict=True):
        save_grid(grid, path)
    return paths
