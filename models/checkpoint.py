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
        dtype: store the weights in this type, but no counters; as they are if None.

    Raises:
        UserError: the file cannot be written; the previous one is intact.
    """
    tensors = {name: _stored(tensor, dtype) for name, tensor in model.state_dict().items()}
    metadata = {"format": FORMAT, "model": json.dumps(model.config.to_dict()), "run": json.dumps(run or {})}
    write_atomically(path, save(tensors, metadata))


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()


def load_model(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Read a model: a file written by `save_model`, a run folder that holds one, or the authors' `.pth`.

    Returns:
        the model on `device`, in evaluation mode, float32, with its `ModelConfig` as `.config` and what the file says
        of its training as `.run`, which is empty for a published one.

    Raises:
        UserError: missing, damaged, not a model of this project, or weights that do not fit its configuration.
        RuntimeError: PyTorch's, for a device that it does not know or find; `training.device.resolve_device` asks.
    """
    file = find_model_file(path)
    if file.suffix in authors.SUFFIXES:
        return _load_published(file).to(device).eval()
    metadata = read_metadata(file)
    model = _filled(ModelConfig.from_dict(metadata["model"]), load_file(file), file)
    model.run = metadata["run"]
    return model.to(device).eval()


def _load_published(file: Path) -> nn.Module:
    tensors = authors.read_state_dict(file)
    config = authors.infer_config(tensors, file)
    expected = _state_dict_of(config)
    ours = authors.to_our_layout(tensors, config, expected, file)
    counters = {name: torch.zeros_like(t, device="cpu") for name, t in expected.items() if name not in ours}
    return _filled(config, ours | counters, file)  # a published file has no use for BatchNorm's batch counters


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
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{file} has damaged metadata: {error}") from error
    if not all(isinstance(part, dict) for part in parts.values()):
        raise UserError(f"{file} has damaged metadata: no dictionaries")
    config = parts["run"].get("config")
    _check_kinds(parts["run"], {"epochs": int, "config": dict, "test_reconstruction": float}, file)
    words = dict.fromkeys(("dataset", "model", "variant", "recipe", "schedule"), str)
    _check_kinds(config or {}, words | {"train_images": int, "epochs": int, "warmup": int | float}, file)
    return parts


def _check_kinds(values: dict[str, Any], kinds: dict[str, Any], file: Path) -> None:
    wrong = [name for name, kind in kinds.items() if not isinstance(values.get(name), kind | None)]
    if wrong:
        raise UserError(f"{file} has damaged metadata: {', '.join(wrong)} of another kind than this project writes")


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


def _state_dict_of(config: ModelConfig) -> dict[str, Tensor]:
    """Names, shapes and types of a model's tensors; takes no memory, whatever a foreign file says."""
    with torch.device("meta"):
        return build_model(config).state_dict()


def _filled(config: ModelConfig, tensors: dict[str, Tensor], file: Path) -> nn.Module:
    """A model with the tensors of a file, which must fit it and be finite."""
    expected = _state_dict_of(config)
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} is {_described(tensors[name])}, not {_described(expected[name])}"
        for name in expected.keys() & tensors.keys()
        if not _fits(tensors[name], expected[name])
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise UserError(f"{file} does not fit its own configuration: {len(problems)} tensors differ ({shown})")
    if infinite := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{file} is damaged: weights that are not finite in {', '.join(sorted(infinite)[:5])}")
    model = build_model(config)
    model.load_state_dict({name: tensors[name].to(dtype=expected[name].dtype) for name in expected})
    return model


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    same_kind = tensor.is_floating_point() == expected.is_floating_point() and tensor.layout == torch.strided
    return same_kind and tensor.shape == expected.shape


def _described(tensor: Tensor) -> str:
    """Shape, and where it is no number of the usual kind, its type."""
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"
