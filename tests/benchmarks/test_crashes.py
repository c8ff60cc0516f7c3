"""What is compared of a killed run and an undisturbed one, and what is called a failure; no process is killed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import crashes
from benchmarks.crashes import Kill, Report, Trainer, crash
from cli import run_program
from models.checkpoint import MODEL_FILE
from training.log import IMAGES_FOLDER, METRICS_FILE, RATES_FILE

RUN = {"weight": 1.0, "loss": "0.5", "seconds": "3", "picture": b"a", "rates": "0.25"}


def write_run(folder: Path, weight: float, loss: str, seconds: str, picture: bytes, rates: str | None) -> None:
    (folder / IMAGES_FOLDER).mkdir(parents=True)
    save_file({"weight": torch.tensor([weight])}, folder / MODEL_FILE)
    (folder / METRICS_FILE).write_text(f"epoch,train_loss,seconds\n1,{loss},{seconds}\n")
    (folder / IMAGES_FOLDER / "1.png").write_bytes(picture)
    if rates is not None:
        (folder / RATES_FILE).write_text(rates)


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({}, ()),
        ({"seconds": "4"}, ()),
        ({"weight": 1.0000001}, ("weights",)),
        ({"loss": "0.50"}, ("metrics",)),
        ({"picture": b"b"}, ("images",)),
        ({"rates": None}, ("rates",)),
        ({"weight": -1.0, "rates": "0.5"}, ("weights", "rates")),
    ],
    ids=str,
)
def test_everything_is_compared_but_times(
    change: dict, differences: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(trainer: Trainer) -> None:
        write_run(trainer.folder, **(RUN | change if trainer.folder.name == "killed" else RUN))

    monkeypatch.setattr(Trainer, "finish", finish)
    monkeypatch.setattr(crashes, "kill_once", lambda *_, while_writing: Kill(while_writing, trained=5, lost=3))
    assert crash(tmp_path, kills=2) == Report((Kill(False, 5, 3), Kill(True, 5, 3)), differences)


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (Report((Kill(False, 9, 0), Kill(True, 9, 8)), ()), 0),
        (Report((Kill(False, 9, 0), Kill(True, 9, 9)), ()), 2),  # more than the interval of 8
        (Report((Kill(False, 9, 0),), ()), 2),  # one kill of two
        (Report((), ()), 2),
        (Report((Kill(False, 9, 0), Kill(True, 9, 8)), ("weights",)), 2),
    ],
)
def test_a_loss_a_difference_or_too_few_kills_are_a_failure(
    report: Report, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(crashes, "crash", lambda *_: report)
    assert run_program(crashes.main, ["--kills", "2"]) == code
    assert ("finished run: bit-identical" in capsys.readouterr().out) == (not report.differences)
