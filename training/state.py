"""Where a run stands, as a file: everything needed to go on exactly as if it had not stopped."""

import io
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from errors import DamagedError, UserError
from files import read_torch_file, write_atomically

FORMAT = "spiking-vae-run-1"
STATE_FILE = "last.pt"
LARGEST = 1e300  # of counts and sums: a foreign file may hold whole numbers that no float can


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


KINDS = {
    "model": (dict, OrderedDict),
    "optimizer": (dict,),
    "noise": (torch.Tensor,),
    "epoch": (int,),
    "step": (int,),
    "sums": (dict,),
    "seconds": (float,),
}


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
        UserError: damaged, not ours, or not to be read.
    """
    # To the CPU: generators and AdamW's step counts belong there, and `load_state_dict` moves the rest.
    try:
        values = read_torch_file(path)
    except DamagedError as error:
        raise UserError(f"{error}; --fresh starts the run over") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT or not _is_complete(values):
        raise UserError(f"{path} is not a run state of this project; --fresh starts the run over")
    return RunState(**values)


def _is_complete(values: dict[str, Any]) -> bool:
    if values.keys() != KINDS.keys() or not all(type(values[name]) in KINDS[name] for name in KINDS):
        return False
    numbers = (values["epoch"], values["step"], values["seconds"])
    return all(0 <= number < LARGEST for number in numbers) and all(map(_is_sum, values["sums"].items()))


def _is_sum(item: tuple[Any, Any]) -> bool:
    name, value = item
    return type(name) is str and type(value) in (int, float) and abs(value) < LARGEST
