"""A downloaded file must not be able to do harm: no code in it runs, and nothing in it names a place to write."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import metrics.reference
import reproduce
import train
from benchmarks.crashes import what_lasts
from cli import run_program
from models import read_metadata
from tests.reliability.cases_train import GO_ON
from tests.reliability.spoil import mnist, put, rewrite


class Intruder:
    """Unpickled carelessly, it creates a file `intruded` in the working directory."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("intruded", "w")


def pickled(**options: Any) -> bytes:
    return pickle.dumps({"net": Intruder()}, **options)


def saved(**options: Any) -> bytes:
    file = BytesIO()
    torch.save({"format": "spiking-vae-run-1", "net": Intruder()}, file, **options)
    return file.getvalue()


def array() -> bytes:
    """The bytes of an .npy file of objects."""
    file = BytesIO()
    np.save(file, np.array([Intruder()], dtype=object), allow_pickle=True)
    return file.getvalue()


def archive() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("images.npy", array())
    return file.getvalue()


KINDS = {
    "pickle": pickled(),
    "pickle of protocol 0": pickled(protocol=0),
    "torch": saved(),
    "torch of old": saved(_use_new_zipfile_serialization=False),
    "array": array(),
    "archive": archive(),
}
EVALUATE = "evaluate --device cpu --checkpoint"
FAD = f"{EVALUATE} model.safetensors --dataset mnist --n-samples 80 --metrics fad --fad-weights"
PLACES = {
    "runs/finished/last.pt": GO_ON,
    "runs/finished/config.json": GO_ON,
    "runs/finished/model.safetensors": f"{EVALUATE} runs/finished",
    "model.safetensors": f"{EVALUATE} model.safetensors",
    "model.pth": f"{EVALUATE} model.pth",
    "fad.safetensors": f"{FAD} fad.safetensors",
    "fad.pth": f"{FAD} fad.pth",
    "images.npz": "evaluate --dataset mnist --images images.npz",
    "images.npy": "evaluate --dataset mnist --images images.npy",
    "inception.pth": f"{EVALUATE} model.safetensors --metrics fid --inception-weights inception.pth",
    "imagenet.pth": f"{EVALUATE} model.safetensors --metrics inception_score --imagenet-inception-weights imagenet.pth",
    "data/cifar-10-batches-py/data_batch_1": f"{GO_ON} --name new --dataset cifar10 --data-dir data",
    "data/MNIST/raw/train-images-idx3-ubyte": f"{GO_ON} --name new --dataset mnist --data-dir data",
    "results/finished.json": "reproduce --list",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_is_refused_and_not_executed(
    kind: str, place: str, world: Path, snapshot: Callable, capsys: pytest.CaptureFixture
) -> None:
    if place.startswith("data/MNIST"):
        mnist(200)()
    for name in (*(f"data_batch_{k}" for k in range(2, 6)), "test_batch", "batches.meta"):
        put(f"data/cifar-10-batches-py/{name}", b"")()
    put(place, KINDS[kind])()
    before = snapshot(world)
    module, *arguments = PLACES[place].split()
    programs = {"train": train.main, "evaluate": evaluate.main, "reproduce": reproduce.main}
    assert run_program(programs[module], arguments) == 2
    line, *more = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and not more
    assert f"{place} " in line or f"{Path(place).parent} is damaged" in line  # refused for what is in the file
    assert snapshot(world) == before and not (world / "intruded").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_intruders_are_live(kind: str, world: Path) -> None:
    content = BytesIO(KINDS[kind])
    if kind.startswith("torch"):
        torch.load(content, weights_only=False)
    elif kind.startswith("pickle"):
        pickle.load(content)
    else:
        loaded = np.load(content, allow_pickle=True)
        _ = loaded["images"] if kind == "archive" else loaded
    assert (world / "intruded").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_in_the_cache_is_built_anew_and_not_executed(
    kind: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    counts = {"mnist": {"train": 50, "test": 50}}
    monkeypatch.setattr("data.sources.EXPECTED_IMAGES", counts)
    mnist(50)()
    arguments = [*GO_ON.split()[1:], "--name", "new", "--dataset", "mnist", "--data-dir", "data", "--epochs", "1"]
    assert run_program(train.main, arguments) == 0
    cached = sorted(Path("data/.esvae-cache").iterdir())
    assert len(cached) == 2
    for file in cached:
        file.write_bytes(KINDS[kind])
    shutil.move("runs/new", "runs/before")
    capsys.readouterr()
    assert run_program(train.main, arguments) == 0
    assert capsys.readouterr().err.count("is damaged") == 2
    assert what_lasts(Path("runs/new")) == what_lasts(Path("runs/before"))
    assert not Path("intruded").exists()


PATHS = ("../escaped", "/tmp/escaped-from-a-checkpoint", "runs/../../escaped", "~/escaped", "escaped\0")


@pytest.mark.parametrize("path", PATHS)
def test_metadata_cannot_name_a_path_to_write_to(path: str, world: Path, snapshot: Callable) -> None:
    known = read_metadata("model.safetensors")
    config = dict.fromkeys(("name", "runs_dir", "data_dir", "json", "variant"), path) | {"dataset": "digits"}
    known["run"] |= {"config": known["run"]["config"] | config, "name": path, "folder": path, "checkpoint": path}
    rewrite({name: json.dumps(value) for name, value in known.items()})
    shutil.copy("model.safetensors", "runs/finished/model.safetensors")
    before = snapshot(world.parent).keys()
    for checkpoint in ("model.safetensors", "runs/finished"):
        assert run_program(evaluate.main, ["--device", "cpu", "--n-images", "2", "--checkpoint", checkpoint]) == 0
    new = {Path(file).relative_to(world) for file in snapshot(world.parent).keys() - before}
    grids = {f"evaluation-{name}.png" for name in ("reconstructions", "samples")} | {"evaluation.json"}
    folders = (Path("runs/evaluation-model"), Path("runs/finished"))
    assert new == {folder / name for folder in folders for name in grids} | {folders[0]}
    assert not Path("/tmp/escaped-from-a-checkpoint").exists() and not Path("~/escaped").expanduser().exists()


@pytest.mark.parametrize("path", PATHS[:3])
def test_neither_can_a_runs_record(path: str, world: Path, snapshot: Callable) -> None:
    file = Path("runs/finished/config.json")
    record = json.loads(file.read_text())
    record["config"] |= {"name": path, "runs_dir": path, "data_dir": path}
    file.write_text(json.dumps(record))
    before = snapshot(world.parent).keys()
    assert run_program(train.main, GO_ON.split()[1:]) == 0  # to its second epoch
    new = {str(Path(name).relative_to(world)) for name in snapshot(world.parent).keys() - before}
    assert new == {f"runs/finished/images/{kind}-0002.png" for kind in ("reconstructions", "samples")}


def test_an_own_autoencoder_is_not_unpickled_by_the_reference(world: Path, capsys: pytest.CaptureFixture) -> None:
    Path("fad.pth").write_bytes(saved())
    assert run_program(metrics.reference.main, ["--dataset", "digits", "--fad-weights", "fad.pth"]) == 2
    assert "is damaged" in capsys.readouterr().err and not Path("intruded").exists()
