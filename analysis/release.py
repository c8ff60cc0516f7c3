"""What a trained row leaves behind: weights, their card, the result, pictures; all numbers are the released file's."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from analysis.evaluation import Evaluation, evaluate
from analysis.fingerprint import fingerprint
from analysis.generation import FAD_PROTOCOLS, Files
from analysis.row_results import is_of, read_done
from analysis.rows import Places, Row
from errors import UserError
from files import sha256_of, write_atomically, write_json
from metrics import MEAN_IMAGE
from models import load_model, read_metadata, save_model
from provenance import card_lines, combine, device_types, in_turn
from training.config import Config, Precision, scheduled_epochs
from training.folder import starts_of
from training.log import METRICS_FILE, RATES_FILE, save_grid

HALF_PRECISION_TOLERANCE = 0.005  # relative change of the loss that it may cost; what is reported is of the file itself
RELEASE_METRICS = ("reconstruction", *FAD_PROTOCOLS)
OPTIONAL_METRICS = ("fid", "fid_original")  # their network does not come with the project
PRIVATE_IMAGES = ("celeba",)  # pictures of people stay in the run folder


def release(row: Row, folder: Path, places: Places, device: str = "auto") -> dict[str, Any]:
    """Write pretrained/<name>.safetensors and its card, results/<name>.json, logs and pictures from a run folder.

    The weights go out in half precision if that leaves the reconstruction loss alone.
    """
    training = training_figures(folder)
    model = load_model(folder)
    weights = places.weights(row)
    with TemporaryDirectory() as scratch:  # released weights stay as they are until those of this run are measured
        file = Path(scratch) / weights.name
        save_model(model, file, model.run, torch.float16)
        record, pictures = _measure(file, device)
        if not _close(record["reconstruction_loss"]["value"], model.run["test_reconstruction"]):
            save_model(model, file, model.run)
            record, pictures = _measure(file, device)
        write_atomically(weights, file.read_bytes())
    record |= training
    for log in (METRICS_FILE, RATES_FILE):
        if (folder / log).exists():  # a model without a spiking latent has no rates
            write_atomically(places.results / f"{row.name}-{log}", (folder / log).read_bytes())
    return _write(row, record, pictures, places)


def training_figures(folder: Path) -> dict[str, Any]:
    """What a run folder says of its training: provenance, seconds, images per second of all epochs.

    Raises:
        UserError: no log or no record of a start, or damaged ones.
    """
    try:
        epochs, log = read_metadata(folder)["run"]["epochs"], pd.read_csv(folder / METRICS_FILE)
        if len(log) != epochs:
            raise ValueError(f"{METRICS_FILE} has {len(log)} of {epochs} epochs")
        starts = starts_of(folder, epochs)
        seconds = float(log["seconds"].sum())
        n_images = float((log["seconds"] * log["images_per_second"]).sum())
        return {
            "trained": combine(starts) | {"precision": _precision_of(starts)},
            "training_seconds": round(seconds, 1),
            "images_per_second": round(n_images / seconds, 1),
        }
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder} does not say how it was trained ({reason}); remove it to train again") from error


def remeasure(row: Row, places: Places, device: str = "auto", inception_weights: Path | None = None) -> dict[str, Any]:
    """Measure pretrained/<name>.safetensors again and write its result, card and pictures; training's figures stay.

    With the file of the Inception network FID is measured too. Where it is not, the FID that the result has stays.

    Raises:
        UserError: the row has no result, or no released file, or one of another run.
    """
    before = read_done(row, places)
    if not before:
        raise UserError(f"{row.name} has no result to measure again: `python reproduce.py {row.name}` makes one")
    if not places.weights(row).exists():
        raise UserError(
            f"{places.weights(row)} is not there, and some weights do not come with the repository: remove "
            f"{places.result(row)}, then `python reproduce.py {row.name}` makes both again"
        )
    if not is_of(before, places.weights(row)):
        raise UserError(
            f"{places.weights(row)} are not the weights that {places.result(row)} is of: remove both, then "
            f"`python reproduce.py {row.name}` makes them anew"
        )
    record, pictures = _measure(places.weights(row), device, inception_weights)
    record |= {key: before[key] for key in ("trained", "training_seconds", "images_per_second")}
    record |= {name: _kept_metric(name, before) for name in OPTIONAL_METRICS if name in before and name not in record}
    return _write(row, record, pictures, places)


def _kept_metric(name: str, before: dict[str, Any]) -> dict[str, Any]:
    """A metric of the result before, with where it is from; says so."""
    metric = {"measured": {key: before[key] for key in ("date", "commit")}} | before[name]
    print(f"{name} kept, {_when(metric)}", flush=True)
    return metric


def _when(metric: dict[str, Any]) -> str:
    return f"measured {metric['measured']['date']} at commit {metric['measured']['commit']}"


def _measure(
    weights: Path, device: str, inception_weights: Path | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metrics = (*RELEASE_METRICS, *OPTIONAL_METRICS) if inception_weights else RELEASE_METRICS
    files = Files(inception_weights=inception_weights)
    record, pictures = evaluate(Evaluation(weights, device=device, metrics=metrics, files=files))
    for name, reason in record["left_out"].items():
        print(f"{name} left out: {reason}", flush=True)
    return record, pictures


def _write(row: Row, record: dict[str, Any], pictures: dict[str, Tensor], places: Places) -> dict[str, Any]:
    weights = places.weights(row)
    record |= {
        "name": row.name,
        "status": "done",
        "checkpoint": weights.name,
        "checkpoint_sha256": sha256_of(weights),
        "budget": budget(row, record),
        "command": _command(row, record),
        "fingerprint": fingerprint(weights),
    }
    write_json(places.result(row), record)
    write_atomically(weights.with_suffix(".md"), card(record).encode())
    if row.dataset not in PRIVATE_IMAGES:
        for name, grid in pictures.items():
            save_grid(grid, places.results / f"{row.name}-{name}.png")
    return record


def budget(row: Row, record: dict[str, Any]) -> str:
    """Label of how far a result went: the row's recipe, and whether its epochs were reduced."""
    epochs, scheduled = record["epochs"], scheduled_epochs(record["config"], record["epochs"])
    if epochs >= row.epochs:
        return f"{row.label}, {epochs} epochs"
    schedule = "" if scheduled == epochs else f" by the schedule of {scheduled}"
    return f"{row.label}, REDUCED: {epochs} of {row.epochs} epochs{schedule}"


def card(record: dict[str, Any]) -> str:
    """What a user of the weights must know, as Markdown."""
    loss, mark, origin = record["reconstruction_loss"], record["fingerprint"], record["trained"]
    config = Config().to_dict() | record["config"]  # a field that an older version had not stood for its default
    lines = {
        "model": f"{config['model']}, variant `{config['variant']}`, T = {config['n_steps']}, "
        f"D = {config['latent_dim']}",
        "data": f"{record['dataset']}, {loss['split']} split for the numbers",
        "budget": record["budget"],
        "recipe": f"batch {config['batch_size']}, lr {config['lr']:g}, {_rates(config)}, seed {config['seed']}, "
        f"{record['epoch_rule']} ({record['epochs']})",
        "reconstruction loss": f"{loss['value']:.5f} ({loss['protocol']}; n = {loss['n_images']})",
        MEAN_IMAGE: f"{record['baselines'][MEAN_IMAGE]:.5f}",
        **{name: _distance_text(record[name]) for name in (*FAD_PROTOCOLS, *OPTIONAL_METRICS) if name in record},
        **({"weights": f"sha256 {record['checkpoint_sha256']}"} if "checkpoint_sha256" in record else {}),
        "fingerprint": f"{mark['value']:.5f} ({mark['protocol']})",
        "command": f"`{record['command']}`",
        "training time": f"{record['training_seconds']:.0f} s at {record['images_per_second']:.0f} images/s"
        + _in_precision(origin),
        **{f"training's {key}": text for key, text in card_lines(origin).items()},
        **card_lines(record),
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in lines.items())
    return f"# {record['name']}\n\n| | |\n|---|---|\n{rows}\n"


def _rates(config: dict[str, Any]) -> str:
    """What a run does with its learning rate."""
    bottleneck = (
        f"the bottleneck's {config['bottleneck_lr_factor']:g} times that, " if config["model"] == "esvae" else ""
    )
    warmup = f" after a warm-up over {config['warmup']:g} of the run" if config["warmup"] else ""
    return f"{bottleneck}{config['schedule']}{warmup}"


def _precision_of(starts: list[dict[str, Any]]) -> str:
    """Of training: `fp32`, `bf16`, or each after the other where it changed."""
    # Older starts have no word for what ran beside what was asked for, the oldest neither.
    return in_turn([start.get("precision") or start["runtime"].get("precision", "fp32") for start in starts])


def _command(row: Row, record: dict[str, Any]) -> str:
    """What makes the result again: its epochs where they were reduced, its precision where `auto` may take another."""
    trained, epochs = record["trained"], scheduled_epochs(record["config"], record["epochs"])
    precision = trained.get("precision", "fp32")
    is_default = precision == "fp32" and device_types(trained["hardware"]) == {"cpu"}
    named = precision in get_args(Precision) and not is_default
    reduced = f" --epochs {epochs}" if epochs < row.epochs else ""
    return f"python reproduce.py {row.name}{reduced}" + (f" --precision {precision}" if named else "")


def _in_precision(trained: dict[str, Any]) -> str:
    """How training computed; nothing where older results do not say."""
    return f" in {trained['precision']}" if "precision" in trained else ""


def _distance_text(measured: dict[str, Any]) -> str:
    real = measured.get("training_images")
    beside = f"; real training images score {real['value']:.3f}" if real else ""
    beside += f"; {_when(measured)}" if "measured" in measured else ""
    return (
        f"{measured['value']:.3f}{beside} ({measured['protocol']}; n = {measured['n_images']}; "
        f"{measured['feature_network']})"
    )


def _close(value: float, exact: float) -> bool:
    return abs(value - exact) <= HALF_PRECISION_TOLERANCE * exact
