"""Where a run stands, as a file: everything needed to go on exactly as if it had not stopped."""

import io
import pickle
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from errors import UserError
from files import write_atomically

FORMAT = "spiking-vae-run-1"
STATE_FILE = "last.pt"


@dataclass
class RunState:
    """A point between two training steps.

    Attributes:
        model, optimizer: their state_dicts.
        noise: state of the generator behind all training noise.
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        sums: per-epoch running sums of what the log reports, so that an interrupted epoch reports all of itself.
        seconds: time spent in the epoch under way.
    """

    model: dict[str, Any]
    optimizer: dict[str, Any]
    noise: torch.Tensor
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def save_state(state: RunState, path: Path) -> None:
    """Write a state atomically.

    Raises:
        UserError: the file cannot be written; the previous one is intact.
    """
    content = io.BytesIO()
    torch.save({"format": FORMAT} | {f.name: getattr(state, f.name) for f in fields(state)}, content)
    write_atomically(path, content.getbuffer())


def load_state(path: Path) -> RunState:
    """Read a state written by `save_state`, to the CPU, without unpickling anything but tensors and plain values.

    Raises:
        UserError: damaged or not ours.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about what the error says better
            # To the CPU: generators and AdamW's step counts belong there, and `load_state_dict` moves the rest.
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is damaged ({_reason(error)}); --fresh starts the run over") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT or not _is_complete(values):
        raise UserError(f"{path} is not a run state of this project; --fresh starts the run over")
    return RunState(**values)


def _is_complete(values: dict[str, Any]) -> bool:
    return values.keys() == {f.name for f in fields(RunState)} and isinstance(values["noise"], torch.Tensor)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds other things than tensors and plain values"  # PyTorch's text advises to run the file's code
    return str(error).partition("\n")[0] if isinstance(error, OSError | RuntimeError) else type(error).__name__
