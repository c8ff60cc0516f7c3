"""What keeps the notebooks thin: which checkpoints there are, and results that are read or, if need be, measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from IPython.display import Image, display

from analysis.comparison import comparison, metric_lines
from analysis.drawing import rendered
from analysis.evaluation import Evaluation, evaluate
from analysis.experiment import Experiment
from analysis.experiment_result import ANALYSIS_RESULTS, other_settings, read_experiment, stored_pictures
from analysis.release import RELEASE_METRICS
from analysis.row_results import is_of
from analysis.subjects import Subject
from data import DATASETS
from errors import UserError
from models import read_metadata

PRETRAINED = Path("pretrained")


def best_checkpoints(dataset: str, *kinds: str, folder: Path = PRETRAINED) -> list[Path]:
    """Of each kind of model the file that was trained on most images of the data set; says which kinds have none.

    One of variant `code` is taken only where there is no other.
    """
    runs = {path: read_metadata(path)["run"] for path in sorted(folder.glob("*.safetensors"))}
    found = []
    for kind in kinds:
        fitting = {p: r for p, r in runs.items() if _trained(r) == (dataset, kind)}
        if fitting:
            found.append(max(fitting, key=lambda path: _preference(runs[path])))
        else:
            print(f"{folder} has no {kind} trained on {dataset}")
    return found


def _trained(run: dict) -> tuple[str | None, str | None]:
    config = run.get("config") or {}
    return config.get("dataset"), config.get("model")


def _preference(run: dict) -> tuple[bool, int]:
    """Whether it is the paper's variant, then the number of images that it was shown."""
    config = run["config"]
    n_images = config.get("train_images") or DATASETS[config["dataset"]].n_train
    return config.get("variant") != "code", run["epochs"] * n_images


def show(experiment: Experiment, rerun: bool) -> None:
    """Display an experiment's protocol, table and figures.

    They come from results/analysis, or are measured where `rerun` says so, nothing is stored for these weights, or the
    experiment asks for a setting that what is stored does not have.
    What is measured here is displayed and not written.
    """
    subjects = experiment.load_subjects()
    record, table, pictures = (None if rerun else _stored(experiment, subjects)) or _measured(experiment, subjects)
    print(record["protocol"], f"{record['date']}, {record['hardware']}", sep="\n")
    with pd.option_context("display.precision", 4, "display.max_rows", 200):
        display(table)
    for picture in pictures:
        display(Image(picture))


def _stored(experiment: Experiment, subjects: Sequence[Subject]) -> tuple[dict, pd.DataFrame, list[bytes]] | None:
    """Record, table and pictures on file, if they are of these weights, or more, and of the settings asked for."""
    name = experiment.file_name(subjects)
    try:
        record, table = read_experiment(ANALYSIS_RESULTS, name)
    except UserError as error:
        print(f"measuring now: {error}")
        return None
    if not {s.describe()["sha256"] for s in subjects} <= {s["sha256"] for s in record["subjects"]}:
        print(f"measuring now: {ANALYSIS_RESULTS}/{name}.json is of other weights")
        return None
    if other := other_settings(record, experiment.settings()):
        print(f"measuring now: {ANALYSIS_RESULTS}/{name}.json has another {', '.join(other)}")
        return None
    return record, table, stored_pictures(ANALYSIS_RESULTS, name)


def _measured(experiment: Experiment, subjects: list[Subject]) -> tuple[dict, pd.DataFrame, list[bytes]]:
    result = experiment.measure(subjects)
    return result.record, result.table, [rendered(figure, "png") for figure in result.figures.values()]


def show_evaluation(checkpoint: Path | str, rerun: bool, n_images: int | None = None) -> None:
    """Display a model's numbers with their protocols.

    A released model's are read from results/; others, and all where `rerun` says so, are measured.
    """
    checkpoint = Path(checkpoint)
    stored = Path("results") / f"{checkpoint.stem}.json"
    record = json.loads(stored.read_text()) if stored.is_file() else {}
    if rerun or checkpoint.parent != PRETRAINED or not is_of(record, checkpoint):
        record, _ = evaluate(Evaluation(checkpoint, n_images=n_images, metrics=RELEASE_METRICS))
    print(f"{checkpoint.stem}: {record.get('budget', 'measured now')}", *metric_lines(record), sep="\n")
    display(comparison(record).round(4))
