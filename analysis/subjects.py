"""The trained models that an experiment compares: loaded, checked against their data, labelled with their budget."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from data import DATASETS
from errors import UserError
from files import sha256_of
from models import load_model
from models.checkpoint import MODEL_FILE, find_model_file
from neurons import backend_of, set_backend
from training.config import scheduled_epochs, settings_of_its_own
from training.device import resolve_backend, resolve_device
from training.folder import CONFIG_FILE, EPOCHS_FOLDER

MODEL_NAMES = {"esvae": "ESVAE", "fsvae": "FSVAE", "taid": "TAID", "ann_vae": "ANN VAE", "autoencoder": "Autoencoder"}


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model under study.

    Attributes:
        name: as `name_of` says.
        path: run folder or model file.
        model: in evaluation mode, on its device.
        dataset: whose images it is shown.
        label: as `model_label` says, for legends and tables; among subjects loaded together no two are the same.
        run: what is stored of its training.
    """

    name: str
    path: Path
    model: nn.Module
    dataset: str
    label: str
    run: dict[str, Any]
    sha256: str

    @property
    def kind(self) -> str:
        """Name in `models.MODELS`."""
        return self.model.config.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def generator(self, seed: int) -> Generator:
        """A source of noise on the model's device."""
        return Generator(self.device).manual_seed(seed)

    def describe(self) -> dict[str, Any]:
        """JSON-serialisable: which weights these are, and how they were trained."""
        return {
            "label": self.label,
            "name": self.name,
            "checkpoint": self.path.name,
            "sha256": self.sha256,
            "dataset": self.dataset,
            "epochs": self.run.get("epochs"),
            "config": self.run.get("config"),
            "model": self.model.config.to_dict(),
            "lif_backend": backend_of(self.model),
        }


def name_of(path: Path) -> str:
    """Name of a run folder or of a model file.

    A file is called as its run where it is the run's, with its epoch where --keep-every kept it, and else as itself.
    """
    if path.is_dir():
        return path.resolve().name
    folder = path.absolute().parent  # not resolved: a run's file may be a link into some other folder
    if path.name == MODEL_FILE and (folder / CONFIG_FILE).is_file():
        return folder.resolve().name
    if folder.name == EPOCHS_FOLDER and (folder.parent / CONFIG_FILE).is_file():
        return f"{folder.parent.resolve().name}-{path.stem}"
    return path.stem


def load_subjects(
    checkpoints: Sequence[Path | str],
    dataset: str | None = None,
    device: str = "auto",
    backend: str = "auto",
    *,
    spiking: bool = True,
) -> list[Subject]:
    """Load the models that share a table or figure, hence a data set.

    Args:
        checkpoints: run folders, model files, or the authors' `.pth`.
        dataset: of the images that they are shown; the one that each was trained on if None.
        device, backend: as in training.
        spiking: whether the experiment needs a spiking latent.

    Raises:
        UserError: no checkpoint, one that cannot be used or does not spike where it must, or different data sets.
    """
    if not checkpoints:
        raise UserError("give at least one model: --checkpoint FILE, as often as there are models to compare")
    on = resolve_device(device)
    subjects = [_load(Path(path), dataset, on, resolve_backend(backend, on)) for path in checkpoints]
    for subject in subjects:
        if spiking and not hasattr(subject.model, "sample_latent"):
            raise UserError(f"{subject.path} has no spiking latent, which this experiment needs: {subject.kind}")
    if len({s.dataset for s in subjects}) > 1:
        trained_on = ", ".join(f"{s.name} on {s.dataset}" for s in subjects)
        raise UserError(f"the models must share a data set to be compared, but are trained {trained_on}")
    return _distinct(subjects)


def _load(path: Path, dataset: str | None, device: torch.device, backend: str) -> Subject:
    digest = sha256_of(find_model_file(path))  # before: a run under way may write others meanwhile
    model = load_model(path, device)
    dataset = dataset_of(path, model, dataset)
    set_backend(model, backend)
    label = model_label(model.config.model, model.run, dataset)
    return Subject(name_of(path), path, model, dataset, label, model.run, digest)


def dataset_of(checkpoint: Path, model: nn.Module, asked: str | None = None) -> str:
    """The data set asked for, else the one that a model was trained on.

    Raises:
        UserError: nothing known, unknown, or images of another shape than the model's.
    """
    dataset = asked or (model.run.get("config") or {}).get("dataset")
    if dataset is None:
        raise UserError(f"{checkpoint} does not say what it was trained on; give --dataset")
    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}; choose one of {', '.join(DATASETS)}")
    DATASETS[dataset].check_images_of(checkpoint, model.config.image_channels, model.config.image_size)
    return dataset


def model_label(model: str, run: Mapping[str, Any], dataset: str | None = None) -> str:
    """What is compared and how it was trained, so that no figure hides it.

    Args:
        model: name in `models.MODELS`.
        run: has `config` and `epochs`.
        dataset: of the images that it is shown; said where it was trained on others.
    """
    config, epochs = run.get("config") or {}, run.get("epochs")
    name = MODEL_NAMES.get(model, model)
    if config.get("variant") == "code" and model != "ann_vae":
        name += " (variant code)"
    if dataset and (trained_on := config.get("dataset", dataset)) != dataset:
        name += f" of {trained_on}"
    return f"{name}, {trained_label(config, epochs)}"


def trained_label(config: dict[str, Any], epochs: int | None) -> str:
    """How far a model was trained by its configuration, by whose schedule, on which images, with which settings."""
    if epochs is None:
        return "training unknown"
    scheduled = scheduled_epochs(config, epochs)
    stopped = "" if scheduled == epochs else f" of {scheduled}"
    images = f" of {config['train_images']:,} images" if config.get("train_images") else ""
    recipe = "" if config.get("recipe", "paper") == "paper" else f", {config['recipe']} recipe"
    own = "".join(f", {name} {value}" for name, value in settings_of_its_own(config).items())
    return f"{epochs}{stopped} epoch{'s' if epochs != 1 or stopped else ''}{images}{recipe}{own}"


def _distinct(subjects: list[Subject]) -> list[Subject]:
    """The subjects, their names added to labels that several share.

    Raises:
        UserError: the same name twice.
    """
    twice = [name for name, count in Counter(s.name for s in subjects).items() if count > 1]
    if twice:
        raise UserError(f"two models are called {twice[0]}: give each once, or copy one to another name")
    counts = Counter(s.label for s in subjects)
    return [replace(s, label=f"{s.label} ({s.name})") if counts[s.label] > 1 else s for s in subjects]


def part_of_test_split(dataset: str, n_images: int) -> str:
    """How much of a data set's test split the `n_images` are, in words; a folder may hold a part of the data set."""
    total = DATASETS[dataset].n_test
    if n_images == total:
        return "whole test split"
    first = "first image" if n_images == 1 else f"first {n_images} images"
    return f"{first} of the test split at hand (official: {total})"
