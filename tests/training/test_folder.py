"""A run folder holds one run: another one is refused, --fresh replaces it, and foreign files stay."""

import csv
import errno
import fcntl
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from errors import BusyError, UserError
from training.config import Config
from training.folder import is_running, previous_starts, read_record, run_lock, start_run

OTHER_VALUES = {
    "dataset": "mnist",
    "model": "ann_vae",
    "variant": "code",
    "seed": 1,
    "batch_size": 3,
    "lr": 0.1,
    "bottleneck_lr_factor": 2.0,
    "weight_decay": 0.1,
    "mmd_weight": 0.1,
    "latent_dim": 3,
    "n_steps": 3,
    "v_threshold": 0.3,
    "decay": 0.5,
    "lif_surrogate": "code",
    "strict_threshold": True,
    "recipe": "fast",
    "schedule": "cosine",
    "warmup": 0.25,
    "sampler_surrogate": "code",
    "distance": "kl",
    "n_candidates": 3,
    "horizontal_flip": False,
    "drop_last": False,
    "train_images": 1000,
    "data_dir": Path("elsewhere"),
    "device": "cpu",
    "backend": "torch",
    "precision": "bf16",
    "cuda_graph": "off",
    "deterministic": True,
    "checkpoint_every": 1.0,
    "keep_every": 2,
    "tensorboard": True,
    "epochs": 7,
}


FOREIGN = ("notes.txt", "images/mine.png", "epochs/epoch-mine.safetensors", "last.pt.bak")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(runs_dir=tmp_path, name="run")


def errors_line(capsys: pytest.CaptureFixture) -> str:
    line, *more = capsys.readouterr().err.splitlines()
    assert not more and line.startswith("error: ")
    return line


def test_a_new_folder_has_no_starts_and_nothing_is_created(config: Config) -> None:
    assert previous_starts(config, fresh=False) == previous_starts(config, fresh=True) == []
    assert not config.run_dir.exists()


def test_an_empty_folder_is_a_new_one(config: Config) -> None:
    config.run_dir.mkdir()
    assert previous_starts(config, fresh=False) == []


def test_starts_are_kept(config: Config) -> None:
    start_run(config, [{"epoch": 0}], fresh=False)
    assert previous_starts(config, fresh=False) == [{"epoch": 0}]
    record = json.loads((config.run_dir / "config.json").read_text())
    assert record == {"config": config.to_dict(), "starts": [{"epoch": 0}]}


def test_the_table_of_other_values_names_every_field() -> None:
    assert OTHER_VALUES.keys() | {"runs_dir", "name"} == {field.name for field in fields(Config)}


@pytest.mark.parametrize("name", Config().identity())
def test_another_identity_is_refused_with_the_difference(config: Config, name: str) -> None:
    start_run(config, [], fresh=False)
    other = replace(config, **{name: OTHER_VALUES[name]})
    difference = f"{name} {getattr(config, name)!r} -> {OTHER_VALUES[name]!r}"
    with pytest.raises(UserError) as refused:
        previous_starts(other, fresh=False)
    assert f"holds another run ({difference}); give a --name, or --fresh" in str(refused.value)
    assert previous_starts(other, fresh=True) == []


@pytest.mark.parametrize("name", sorted(OTHER_VALUES.keys() - Config().identity().keys()))
def test_runtime_fields_may_differ(config: Config, name: str) -> None:
    start_run(config, [], fresh=False)
    assert previous_starts(replace(config, **{name: OTHER_VALUES[name]}), fresh=False) == []


def test_all_differences_are_listed_and_nothing_changes(
    train: Callable, run_dir: Path, contents: Callable, uninterrupted: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(uninterrupted, run_dir)
    before = contents(run_dir)
    assert train("--epochs", "5", "--lr", "0.5", "--n-steps", "3", "--no-horizontal-flip") == 2
    line = errors_line(capsys)
    for difference in ("lr 0.008 -> 0.5", "n_steps 2 -> 3", "horizontal_flip True -> False"):
        assert difference in line
    assert "epochs" not in line and "latent_dim" not in line
    assert contents(run_dir) == before


@pytest.mark.parametrize("epochs", ["3", "2"])
def test_a_finished_run_does_nothing_and_says_so(
    train: Callable,
    run_dir: Path,
    contents: Callable,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture,
    epochs: str,
) -> None:
    shutil.copytree(uninterrupted, run_dir)
    before = contents(run_dir)
    assert train("--epochs", epochs) == 0
    assert f"nothing to do: {run_dir} has 3 epochs; --epochs for more" in capsys.readouterr().out
    assert contents(run_dir) == before


@pytest.fixture
def finished(run_dir: Path, uninterrupted: Path) -> Path:
    """A finished run, evaluated, with files that its owner put there."""
    shutil.copytree(uninterrupted, run_dir)
    (run_dir / "epochs").mkdir()
    own = (
        "evaluation.json",
        "evaluation-samples.png",
        "events.out.tfevents.1.host.1.0",
        "epochs/epoch-0002.safetensors",
    )
    for name in own:
        (run_dir / name).write_text("old")
    for name in FOREIGN:
        (run_dir / name).write_text("foreign")
    return run_dir


def test_fresh_starts_over_and_keeps_foreign_files(
    train: Callable, finished: Path, uninterrupted: Path, results: Callable
) -> None:
    assert train("--epochs", "1", "--fresh") == 0
    names = {str(file.relative_to(finished)) for file in finished.rglob("*") if file.is_file()}
    own = {".lock", "config.json", "metrics.csv", "firing_rates.csv", "last.pt", "model.safetensors"}
    images = {f"images/{kind}{number}.png" for kind in ("reconstructions", "samples") for number in ("", "-0001")}
    assert names == own | images | set(FOREIGN)
    assert all((finished / name).read_text() == "foreign" for name in FOREIGN)
    assert results(finished)["metrics"] == results(uninterrupted)["metrics"][:1]
    assert [start["epoch"] for start in read_record(finished)["starts"]] == [0]


def test_fresh_takes_another_configuration(train: Callable, finished: Path) -> None:
    assert train("--epochs", "1", "--fresh", "--n-steps", "1", "--train-images", "10") == 0
    assert read_record(finished)["config"]["n_steps"] == 1
    with (finished / "firing_rates.csv").open(newline="") as file:
        assert csv.DictReader(file).fieldnames == ["epoch", "stage", "fired_0", "fired_1"]


def test_fresh_killed_while_deleting_leaves_no_run_to_go_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    start_run(config, [], fresh=False)
    for name in ("last.pt", "metrics.csv"):
        (config.run_dir / name).write_text("old")
    unlink, deleted = Path.unlink, []

    def die_after_one(path: Path, missing_ok: bool = False) -> None:
        if deleted:
            raise KeyboardInterrupt
        deleted.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", die_after_one)
    with pytest.raises(KeyboardInterrupt):
        start_run(config, [], fresh=True)
    assert not (config.run_dir / "last.pt").exists()
    assert previous_starts(config, fresh=True) == []  # and the same command can be given again


@pytest.mark.parametrize("fresh", [False, True])
def test_what_killed_processes_had_half_written_goes(config: Config, fresh: bool) -> None:
    start_run(config, [], fresh=False)
    half_written = (
        *(".last.pt-x", ".model.safetensors-x", ".config.json-x", ".evaluation.json-x", ".evaluation-samples.png-x"),
        *("images/.samples.png-x", "images/.reconstructions-0010.png-x", "epochs/.epoch-0010.safetensors-x"),
    )
    foreign = (".notes.txt-x", "images/.mine.png-x", "epochs/.mine.safetensors-x")
    for folder in ("images", "epochs"):
        (config.run_dir / folder).mkdir()
    for name in (*half_written, *foreign):
        (config.run_dir / name).write_text("half")
    start_run(config, [], fresh)
    assert not [name for name in half_written if (config.run_dir / name).exists()]
    assert all((config.run_dir / name).exists() for name in foreign)


def test_fresh_tells_what_it_cannot_remove(train: Callable, finished: Path, capsys: pytest.CaptureFixture) -> None:
    (finished / "firing_rates.csv").unlink()
    (finished / "firing_rates.csv").mkdir()
    capsys.readouterr()
    assert train("--epochs", "1", "--fresh") == 2
    assert f"cannot remove {finished / 'firing_rates.csv'}: " in errors_line(capsys)


def test_a_trained_run_without_its_state_is_not_trained_again_unasked(
    train: Callable, finished: Path, contents: Callable, capsys: pytest.CaptureFixture
) -> None:
    (finished / "last.pt").unlink()
    before = contents(finished)
    assert train("--epochs", "3") == 2
    assert "has a trained model but no last.pt" in errors_line(capsys)
    assert contents(finished) == before
    assert train("--epochs", "1", "--fresh") == 0 and (finished / "last.pt").exists()


@pytest.mark.parametrize("flags", [(), ("--fresh",)])
def test_a_folder_of_other_things_is_refused(
    train: Callable, run_dir: Path, contents: Callable, capsys: pytest.CaptureFixture, flags: tuple[str, ...]
) -> None:
    run_dir.mkdir()
    (run_dir / "thesis.txt").write_text("years of work")
    before = contents(run_dir)
    assert train(*flags) == 2
    assert f"{run_dir} is not a run folder: it has no config.json" in errors_line(capsys)
    assert contents(run_dir) == before


@pytest.mark.parametrize("flags", [(), ("--fresh",)])
def test_a_file_in_place_of_the_folder_is_refused(
    train: Callable, run_dir: Path, capsys: pytest.CaptureFixture, flags: tuple[str, ...]
) -> None:
    run_dir.write_text("a file")
    assert train(*flags) == 2
    assert f"{run_dir} cannot be a run folder (Not a directory)" in errors_line(capsys)
    assert run_dir.read_text() == "a file"


DAMAGED_RECORDS = {
    "empty": b"",
    "torn": b'{"config": {"dataset"',
    "text": b"lr = 0.1",
    "not unicode": b"\xff\xfe\x00",
    "a list": b"[]",
    "without starts": b'{"config": {}}',
    "config is a list": b'{"config": [], "starts": []}',
    "starts is a number": b'{"config": {}, "starts": 3}',
}


@pytest.mark.parametrize("content", DAMAGED_RECORDS.values(), ids=DAMAGED_RECORDS)
def test_a_damaged_record_is_refused(
    train: Callable, finished: Path, contents: Callable, capsys: pytest.CaptureFixture, content: bytes
) -> None:
    (finished / "config.json").write_bytes(content)
    before = contents(finished)
    assert train("--epochs", "5") == 2
    line = errors_line(capsys)
    assert str(finished / "config.json") in line and "--fresh" in line
    assert contents(finished) == before


def test_a_damaged_record_is_no_obstacle_to_fresh(config: Config) -> None:
    start_run(config, [], fresh=False)
    (config.run_dir / "config.json").write_text("")
    assert previous_starts(config, fresh=True) == []


def test_a_sound_record_that_cannot_be_read_is_not_called_damaged(config: Config, no_more_files: Callable) -> None:
    start_run(config, [], fresh=False)
    with pytest.raises(UserError) as refused, no_more_files():
        read_record(config.run_dir)
    assert str(refused.value) == f"{config.run_dir / 'config.json'} cannot be read: Too many open files"


def test_a_folder_has_one_trainer_at_a_time(
    train: Callable, finished: Path, contents: Callable, capsys: pytest.CaptureFixture, results: Callable[..., Any]
) -> None:
    assert not is_running(finished)
    with run_lock(finished):
        assert is_running(finished)
        before = results(finished)
        for flags in ((), ("--fresh",)):
            assert train("--epochs", "4", *flags) == 2
            assert "another process is training" in errors_line(capsys)
        assert results(finished) == before
    assert not is_running(finished)


def test_asking_whether_a_run_is_going_on_creates_nothing(tmp_path: Path) -> None:
    assert not is_running(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_told_and_no_run_looks_busy(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(config, [], fresh=False)
    (config.run_dir / ".lock").touch()

    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.raises(UserError, match=r"cannot lock .*: No locks available") as refused, run_lock(config.run_dir):
        pass
    assert not isinstance(refused.value, BusyError)
    assert not is_running(config.run_dir)


def test_a_look_at_a_folder_does_not_keep_a_run_from_starting(config: Config) -> None:
    start_run(config, [], fresh=False)
    (config.run_dir / ".lock").touch()
    with (config.run_dir / ".lock").open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with run_lock(config.run_dir):
            assert is_running(config.run_dir)
