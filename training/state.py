"""Where a run stands, as a file: everything needed to go on exactly as if it had not stopped."""

import io
import pickle
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


def load_state(path: Path, device: torch.device) -> RunState:
    """Read a state written by `save_state`, without unpickling anything but tensors and plain values.

    Raises:
        UserError: damaged or not ours.
    """
    try:
        values = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({reason}); --fresh starts the run over") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not a run state of this project; --fresh starts the run over")
    state = RunState(**values)
    state.noise = state.noise.cpu()  # generators take their state from the CPU
    return state
