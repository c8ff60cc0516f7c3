"""Models as files: safetensors, with the model's and the run's configuration in the metadata."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from errors import UserError
from files import write_atomically
from models import authors
from models.config import ModelConfig
from models.registry import build_model

FORMAT = "spiking-vae-1"
MODEL_FILE = "model.safetensors"


def save_model(
    model: nn.Module, path: str | Path, run: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write weights and configuration to one file, atomically.

    Args:
        model: its `config` is stored with it.
        path: file to write.
        run: whatever else describes the weights (training configuration, epochs, ...), JSON-serialisable.
        dtype: store the weights in this type; as they are if None.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": FORMAT, "model": json.dumps(model.config.to_dict()), "run": json.dumps(run or {})}
    write_atomically(path, save(tensors, metadata))


def load_model(path: str | Path, device: str = "cpu") -> nn.Module:
    """Read a model: a file written by `save_model`, a run folder that holds one, or the authors' `.pth`.

    Returns:
        the model on `device`, in evaluation mode, float32, with its `ModelConfig` as `.config`.

    Raises:
        UserError: missing, damaged, not a model of this project, or weights that do not fit its configuration.
    """
    file = find_model_file(path)
    if file.suffix in authors.SUFFIXES:
        return _load_published(file).to(device).eval()
    metadata = read_metadata(file)
    model = build_model(ModelConfig.from_dict(metadata["model"]))
    _load_weights(model, load_file(file), file)
    return model.to(device).eval()


def _load_published(file: Path) -> nn.Module:
    tensors = authors.read_state_dict(file)
    config = authors.infer_config(tensors, file)
    model = build_model(config)
    ours = authors.to_our_layout(tensors, config, model.state_dict(), file)
    model.load_state_dict(ours, strict=False)  # a published file has no use for BatchNorm's batch counters
    return model


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The `model` and `run` dictionaries stored with the weights; nothing is known of the run of a published file.

    Raises:
        UserError: as `load_model`.
    """
    file = find_model_file(path)
    if file.suffix in authors.SUFFIXES:
        return {"model": authors.infer_config(authors.read_state_dict(file), file).to_dict(), "run": {}}
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or no safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{file} was not written by this project (format {metadata.get('format')!r})")
    try:
        parts = {key: json.loads(metadata[key]) for key in ("model", "run")}
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{file} has damaged metadata: {error}") from error
    if not all(isinstance(part, dict) for part in parts.values()):
        raise UserError(f"{file} has damaged metadata: no dictionaries")
    return parts


def find_model_file(path: str | Path) -> Path:
    """The weights file that `path`, a file or a run folder, stands for.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise UserError(f"{path} is no run folder with a finished epoch: it has no {MODEL_FILE}")
        return path / MODEL_FILE
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: give a run folder or a model file")
    return path


def _load_weights(model: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise UserError(f"{file} does not fit its own configuration: {len(problems)} tensors differ ({shown})")
    model.load_state_dict({name: tensors[name].to(expected[name]) for name in expected})
