"""Work rows of experiments.toml off: train, evaluate, write result, weights, card and pictures."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.evaluation import Evaluation, evaluate, save_pictures
from analysis.experiments import Places, Row, read_result
from analysis.generation import FAD_PROTOCOLS
from errors import UserError
from files import write_atomically, write_json
from models import load_model, read_metadata, save_model
from models.checkpoint import MODEL_FILE
from training.log import METRICS_FILE, RATES_FILE
from training.loop import fit
from training.stop import Stopped

HALF_PRECISION_TOLERANCE = 0.002  # relative change of the reconstruction loss that half precision may cost
RELEASE_METRICS = ("reconstruction", *FAD_PROTOCOLS)  # FID and IS take files that do not come with the project
PRIVATE_IMAGES = ("celeba",)  # pictures of people stay in the run folder


def reproduce(
    rows: tuple[Row, ...], places: Places, minutes: float = math.inf, epochs: int | None = None, device: str = "auto"
) -> list[str]:
    """Run rows in order until they are done or the time is up.

    Args:
        rows: what to run; a row that has its epochs is skipped.
        places: where to.
        minutes: stop training after so long, with the state saved.
        epochs: a reduced budget for every row, labelled so in its result.
        device: as in training.

    Returns:
        names of the rows that failed; each has a result that says why.

    Raises:
        Stopped: Ctrl-C or SIGTERM.
    """
    deadline = time.monotonic() + 60 * minutes
    failed = []
    for row in rows:
        if _epochs_done(row, places) >= (epochs or row.epochs):
            continue
        if time.monotonic() > deadline:
            break
        print(f"== {row.name}", flush=True)
        try:
            run_row(row, places, epochs or row.epochs, device, deadline)
        except UserError as error:
            print(f"failed: {error}", flush=True)
            _write_failure(row, places, error)
            failed.append(row.name)
        except Stopped as stopped:
            if stopped.exit_code:
                raise
            print(stopped, flush=True)
    return failed


def run_row(row: Row, places: Places, epochs: int, device: str, deadline: float = math.inf) -> None:
    """Train one row as far as the deadline allows, then release what there is.

    Raises:
        UserError: training or evaluation is not possible.
        Stopped: training was interrupted. Where the deadline did it, finished epochs are released; whoever sends
            a signal wants the program to end now.
    """
    config = row.config(epochs, runs_dir=places.runs, device=device)
    try:
        fit(config, deadline=deadline)
    except Stopped as stopped:
        if not stopped.exit_code and _has_news(row, config.run_dir, places):
            release(row, config.run_dir, places, device)
        raise
    release(row, config.run_dir, places, device)


def release(row: Row, folder: Path, places: Places, device: str = "auto") -> dict[str, Any]:
    """Write pretrained/<name>.safetensors and its card, results/<name>.json, logs and pictures from a run folder.

    The weights go out in half precision if that leaves the reconstruction loss alone. All numbers are those of
    the released file.
    """
    weights = places.pretrained / f"{row.name}.safetensors"
    model, run = load_model(folder), read_metadata(folder)["run"]
    save_model(model, weights, run, torch.float16)
    record, pictures = evaluate(Evaluation(weights, device=device, metrics=RELEASE_METRICS))
    if not _close(record["reconstruction_loss"]["value"], run["test_reconstruction"]):
        save_model(model, weights, run)
        record, pictures = evaluate(Evaluation(weights, device=device, metrics=RELEASE_METRICS))
    for name, reason in record["left_out"].items():
        print(f"{name} left out: {reason}", flush=True)
    epochs = pd.read_csv(folder / METRICS_FILE)
    record |= {
        "name": row.name,
        "status": "done",
        "checkpoint": weights.name,
        "budget": budget(row, record["epochs"]),
        "command": f"python reproduce.py {row.name}",
        "training_seconds": round(float(epochs["seconds"].sum()), 1),
        "images_per_second": round(float(epochs["images_per_second"].iloc[-1]), 1),
    }
    write_json(places.results / f"{row.name}.json", record)
    for log in (METRICS_FILE, RATES_FILE):
        if (folder / log).exists():  # a model without a spiking latent has no rates
            shutil.copy(folder / log, places.results / f"{row.name}-{log}")
    write_atomically(weights.with_suffix(".md"), card(record).encode())
    if row.dataset not in PRIVATE_IMAGES:
        for path in save_pictures(pictures, folder):
            shutil.copy(path, places.results / f"{row.name}-{path.name.removeprefix('evaluation-')}")
    return record


def budget(row: Row, epochs: int) -> str:
    """Label of how far a result went: the row's recipe, and whether its epochs were reduced."""
    reduced = f", REDUCED: {epochs} of {row.epochs} epochs" if epochs < row.epochs else f", {epochs} epochs"
    return row.label + reduced


def card(record: dict[str, Any]) -> str:
    """What a user of the weights must know, as Markdown."""
    loss = record["reconstruction_loss"]
    config = record["config"]
    lines = {
        "model": f"{config['model']}, variant `{config['variant']}`, T = {config['n_steps']}, "
        f"D = {config['latent_dim']}",
        "data": f"{record['dataset']}, {loss['split']} split for the numbers",
        "budget": record["budget"],
        "recipe": f"batch {config['batch_size']}, lr {config['lr']:g}, seed {config['seed']}, "
        f"{record['epoch_rule']} ({record['epochs']})",
        "reconstruction loss": f"{loss['value']:.5f} ({loss['protocol']}; n = {loss['n_images']})",
        "mean training image": f"{record['baselines']['mean training image']:.5f}",
        **{name: _fad_text(record[name]) for name in FAD_PROTOCOLS if name in record},
        "command": f"`{record['command']}`",
        "training time": f"{record['training_seconds']:.0f} s at {record['images_per_second']:.0f} images/s",
        "hardware": record["hardware"],
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "commit": record["commit"],
        "date": record["date"],
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in lines.items())
    return f"# {record['name']}\n\n| | |\n|---|---|\n{rows}\n"


def _fad_text(measured: dict[str, Any]) -> str:
    real = measured["training_images"]
    beside = f"; real training images score {real['value']:.3f}" if real else ""
    return (
        f"{measured['value']:.3f}{beside} ({measured['protocol']}; n = {measured['n_images']}; "
        f"{measured['feature_network']})"
    )


def _has_news(row: Row, folder: Path, places: Places) -> bool:
    """Whether the run folder holds weights of more epochs than the result."""
    return (folder / MODEL_FILE).exists() and read_metadata(folder)["run"]["epochs"] > _epochs_done(row, places)


def _epochs_done(row: Row, places: Places) -> int:
    result = read_result(row, places)
    return result["epochs"] if result and result["status"] == "done" else 0


def _close(value: float, exact: float) -> bool:
    return abs(value - exact) <= HALF_PRECISION_TOLERANCE * exact


def _write_failure(row: Row, places: Places, error: UserError) -> None:
    """A failure is a result too, unless there is a better one."""
    if _epochs_done(row, places) == 0:
        record = {"name": row.name, "status": "failed", "epochs": 0, "error": str(error)}
        write_json(places.results / f"{row.name}.json", record)
