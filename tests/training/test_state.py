"""The state of a run as a file: all of it comes back, and a foreign file does no harm."""

import io
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from errors import UserError
from training.state import FORMAT, RunState, load_state, save_state


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


@pytest.fixture
def state() -> RunState:
    noise = torch.Generator().manual_seed(3).get_state()
    return RunState({"w": torch.rand(4, 3)}, {"state": {}, "param_groups": [{"lr": 0.1}]}, noise, 2, 5, {"a": 0.1}, 1.5)


def test_a_state_comes_back_whole(state: RunState, tmp_path: Path) -> None:
    save_state(state, tmp_path / "last.pt")
    again = load_state(tmp_path / "last.pt")
    assert torch.equal(again.model["w"], state.model["w"]) and torch.equal(again.noise, state.noise)
    for field in fields(RunState):
        if field.name not in ("model", "noise"):
            assert getattr(again, field.name) == getattr(state, field.name)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_failing_write_keeps_the_previous_state(
    state: RunState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.pt"
    save_state(state, file)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_state(state, file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


class Intruder:
    """Unpickled carelessly, it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.file), "w")


def complete(**changes: Any) -> dict[str, Any]:
    values = {"model": {}, "optimizer": {}, "noise": torch.zeros(1), "epoch": 0, "step": 0, "sums": {}, "seconds": 0.0}
    return {"format": FORMAT} | values | changes


def foreign_files(created: Path) -> dict[str, bytes]:
    good, intruder = saved(complete()), Intruder(created)
    flipped = bytearray(good)
    flipped[60:80] = b"\x80" * 20
    without = complete()
    del without["noise"]
    return {
        "empty": b"",
        "a byte": b"x",
        "text": b"hello, world\n" * 20,
        "zeros": bytes(5000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "first half": good[: len(good) // 2],
        "without its end": good[:-50],
        "flipped bytes": bytes(flipped),
        "pickle that runs code": pickle.dumps(intruder),
        "old pickle that runs code": pickle.dumps(intruder, protocol=0),
        "torch file that runs code": saved(intruder),
        "torch file that runs code inside": saved(complete(model=intruder)),
        "old torch file that runs code": saved(intruder, _use_new_zipfile_serialization=False),
        "a list": saved([1, 2]),
        "weights only": saved({"encoder.weight": torch.zeros(3)}),
        "nothing but the format": saved({"format": FORMAT}),
        "another format": saved(complete(format="spiking-vae-run-0")),
        "one field too many": saved(complete(scheduler={})),
        "one field too few": saved(without),
        "noise that is a number": saved(complete(noise=3)),
        "an epoch before the first": saved(complete(epoch=-1)),
        "a step before the first": saved(complete(step=-1)),
        "an epoch beyond numbers": saved(complete(epoch=10**400)),
        "seconds below zero": saved(complete(seconds=-1.0)),
        "seconds that are no number": saved(complete(seconds=float("nan"))),
        "sums in words": saved(complete(sums={"images": 5, "loss": "low"})),
        "sums of nothing": saved(complete(sums={"images": 5, "loss": None})),
        "sums that are no number": saved(complete(sums={"images": 5, "loss": float("nan")})),
        "sums without names": saved(complete(sums={3: 0.5})),
    }


@pytest.mark.parametrize("kind", foreign_files(Path("never")))
def test_a_foreign_or_damaged_state_is_refused_and_not_executed(kind: str, tmp_path: Path, recwarn: Any) -> None:
    file = tmp_path / "last.pt"
    file.write_bytes(foreign_files(tmp_path / "created")[kind])
    with pytest.raises(UserError) as refused:
        load_state(file)
    message = str(refused.value)
    assert message.startswith(str(file)) and message.endswith("; --fresh starts the run over")
    assert "\n" not in message and len(message) < len(str(file)) + 150
    assert "weights_only" not in message  # PyTorch advises to switch the protection off
    assert not recwarn.list
    assert not (tmp_path / "created").exists()


def test_the_intruder_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Intruder(tmp_path / "created"))).close()
    assert (tmp_path / "created").exists()


def spoilt(folder: Path, kind: str) -> bytes:
    state = torch.load(folder / "last.pt", weights_only=True)
    if kind == "another architecture":
        state["model"]["bottleneck.weight"] = torch.zeros(3, 3)
    elif kind == "another model":
        state["model"] = {"weight": torch.zeros(3)}
    elif kind == "another optimizer":
        state["optimizer"]["param_groups"] = []
    elif kind == "another generator":
        state["noise"] = torch.zeros(7, dtype=torch.uint8)
    else:
        return pickle.dumps(Intruder(folder / "created"))
    return saved(state)


@pytest.mark.parametrize(
    "kind", ["another architecture", "another model", "another optimizer", "another generator", "a foreign pickle"]
)
def test_a_state_that_does_not_fit_ends_the_program_and_changes_nothing(
    train: Callable,
    uninterrupted: Path,
    run_dir: Path,
    contents: Callable,
    capsys: pytest.CaptureFixture,
    kind: str,
) -> None:
    shutil.copytree(uninterrupted, run_dir)
    (run_dir / "last.pt").write_bytes(spoilt(run_dir, kind))
    before = contents(run_dir)
    assert train("--epochs", "4") == 2
    line, *more = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run_dir / 'last.pt'} ") and "--fresh starts the run over" in line and not more
    assert contents(run_dir) == before


def test_a_sound_state_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, no_more_files: Callable) -> None:
    file = tmp_path / "last.pt"
    file.write_bytes(saved(complete()))
    with pytest.raises(UserError) as refused, no_more_files():
        load_state(file)
    assert str(refused.value) == f"{file} cannot be read: Too many open files"
    assert load_state(file).epoch == 0


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_state_for_which_there_is_no_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "last.pt").write_bytes(saved(complete()))
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        load_state(tmp_path / "last.pt")
