"""train.py as its users meet it: what it prints, its exit codes, and that bad input changes nothing."""

import csv
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from cli import run_program
from errors import UserError
from training.stop import Stopped

ROOT = Path(train.__file__).parent
SIZE = ("--train-images", "50", "--batch-size", "25", "--n-steps", "2", "--latent-dim", "8")
FLAGS = ("--dataset", "digits", *SIZE, "--device", "cpu")


def snapshot(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything below a folder: when it was changed, and the bytes of files."""
    entries = sorted(folder.rglob("*"))
    return {str(e): (e.stat().st_mtime_ns, e.read_bytes() if e.is_file() else None) for e in entries}


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one finished run in it, `finished`. To be left as it is."""
    folder = tmp_path_factory.mktemp("runs")
    assert run_program(train.main, [*FLAGS, "--runs-dir", str(folder), "--name", "finished", "--epochs", "1"]) == 0
    return folder


BAD_INPUT = {
    "--n-steps 0": "--n-steps must be at least 1, got 0",
    "--epochs 0": "--epochs must be at least 1, got 0",
    "--latent-dim -5": "--latent-dim must be at least 1, got -5",
    "--batch-size 0": "--batch-size must be at least 2, got 0",
    "--batch-size 1": "--batch-size must be at least 2, got 1",
    "--batch-size 51": "--train-images 50 is less than one batch of 51",
    "--batch-size 1501 --train-images None": "--batch-size 1501 is more than the 1500 training images",
    "--batch-size 1501 --train-images None --no-drop-last": "--batch-size 1501 is more than",
    "--train-images 1501": "--train-images 1501 is more than digits has: 1500",
    "--train-images 0": "--train-images 0 is less than one batch",
    "--lr -1": "--lr must be positive, got -1.0",
    "--lr 0": "--lr must be positive, got 0.0",
    "--lr nan": "--lr must be positive, got nan",
    "--lr inf": "--lr must be at most 1e+06",
    "--weight-decay -1": "--weight-decay must not be negative",
    "--seed -1": "--seed must be at least 0 and below 2**32, got -1",
    "--seed 99999999999999999999": "--seed must be at least 0 and below 2**32",
    "--device tpu": "unknown device 'tpu'; use cpu, cuda",
    "--device cuda:one": "unknown device 'cuda:one'",
    "--device meta": "device 'meta' is not supported; use cpu or cuda",
    "--device cuda:99": "device 'cuda:99' was asked for, but PyTorch finds",
    "--dataset imagenet": "unknown data set 'imagenet'; choose one of digits, mnist",
    "--model gan": "unknown model 'gan'; choose one of esvae",
    "--lr 1e38": "--lr must be at most 1e+06, got 1e+38",
    "--epochs many": "Error parsing --epochs: invalid literal for int() with base 10: 'many'; --help shows",
    "--backend fast": "invalid choice 'fast' for argument '--backend'",
    "--no-such-flag 3 --another": "Unrecognized options: --no-such-flag, 3, --another; --help shows every flag",
    "--model": "argument --model: expected one argument",
    "--variant original": "unknown variant 'original'; choose one of paper, code",
}


def check_refused(
    arguments: list[str], runs_dir: Path, message: str, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    before = snapshot(runs_dir)
    capsys.readouterr()
    assert run_program(train.main, arguments) == 2
    line, *more = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line and not more
    assert not recwarn.list
    assert snapshot(runs_dir) == before


@pytest.mark.parametrize("place", ["--name new", "--name finished --epochs 2", "--name finished --fresh"])
@pytest.mark.parametrize("flags", BAD_INPUT)
def test_bad_input_is_one_line_and_changes_nothing(
    flags: str, place: str, runs_dir: Path, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    arguments = [*FLAGS, *place.split(), "--runs-dir", str(runs_dir), *flags.split()]
    # A finished run may be refused for its identity first.
    message = BAD_INPUT[flags] if "finished --epochs" not in place else ""
    check_refused(arguments, runs_dir, message, capsys, recwarn)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
@pytest.mark.parametrize("flags", ["--device cuda", "--device cuda:0", "--backend cupy"])
def test_a_gpu_is_not_made_up(
    flags: str, runs_dir: Path, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    for place in ("--name new", "--name finished --fresh"):
        arguments = [*FLAGS, *place.split(), "--runs-dir", str(runs_dir), *flags.split()]
        wanted = "NVIDIA GPU" if "cupy" in flags else "PyTorch finds 0 CUDA devices; use --device cpu"
        check_refused(arguments, runs_dir, wanted, capsys, recwarn)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_without_a_network(
    dataset: str,
    runs_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    arguments = [*FLAGS, "--dataset", dataset, "--data-dir", str(tmp_path), "--runs-dir", str(runs_dir), "--name", "x"]
    check_refused(arguments, runs_dir, "no network in tests", capsys, recwarn)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_missing_celeba(
    runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    arguments = [*FLAGS, "--dataset", "celeba", "--data-dir", str(tmp_path), "--runs-dir", str(runs_dir), "--name", "x"]
    check_refused(arguments, runs_dir, "celeba", capsys, recwarn)


def test_part_of_a_data_set_is_trained_on_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "celeba").mkdir()
    for number in (1, 2, 182_638):  # two training images and a test image
        Image.new("L", (89, 109), number % 200).save(tmp_path / "celeba" / f"{number:06d}.jpg")
    size = ("--batch-size", "2", "--n-steps", "1", "--latent-dim", "4", "--epochs", "1", "--device", "cpu")
    folders = ("--data-dir", str(tmp_path), "--runs-dir", str(tmp_path / "runs"))
    arguments = ["--dataset", "celeba", *size, *folders]
    assert run_program(train.main, arguments) == 2
    expected = "celeba has 2 of 162,770 training images here: give --train-images 2 to train on these"
    assert capsys.readouterr().err.splitlines() == [f"error: {expected}"]
    assert not (tmp_path / "runs").exists()
    assert run_program(train.main, [*arguments, "--train-images", "2"]) == 0


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
def test_a_runs_folder_that_cannot_be_made(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "a-file").write_text("in the way")
    arguments = [*FLAGS, "--runs-dir", str(tmp_path / place)]
    check_refused(arguments, tmp_path, "cannot be a run folder (Not a directory)", capsys, recwarn)


def test_a_name_too_long_for_the_file_system(
    tmp_path: Path, capsys: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    check_refused([*FLAGS, "--runs-dir", str(tmp_path), "--name", "x" * 300], tmp_path, "too long", capsys, recwarn)


def test_debug_lets_the_error_through(runs_dir: Path) -> None:
    for arguments in (["--debug", *FLAGS], [*FLAGS, "--debug"]):
        with pytest.raises(UserError, match="--n-steps"):
            run_program(train.main, [*arguments, "--n-steps", "0", "--runs-dir", str(runs_dir)])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("first\nsecond"), 2, "error: first second\n"),
        (Stopped("stopped at epoch 1", signal.SIGTERM), 143, "stopped at epoch 1\n"),
        (Stopped("time is up", 0), 0, "time is up\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture) -> None:
    def program(_arguments: list[str]) -> None:
        raise error

    assert run_program(program, []) == code
    assert capsys.readouterr().err == text


def test_a_defect_keeps_its_traceback() -> None:
    def program(_arguments: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_program(program, [])


def test_dry_run_prints_the_configuration_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.load_split", None)  # reads no data either
    arguments = ["--dataset", "mnist", "--variant", "code", "--runs-dir", str(tmp_path), "--dry-run"]
    assert run_program(train.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    config = train.parse(arguments).config
    assert lines == [f"would train in {config.run_dir}:"] + [f"  {k} = {v}" for k, v in config.to_dict().items()]
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_where_it_is_and_how_it_goes(runs_dir: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_program(train.main, [*FLAGS, "--runs-dir", str(runs_dir / "other"), "--epochs", "1"]) == 0
    first, *_, epoch, last = capsys.readouterr().out.splitlines()
    folder = runs_dir / "other" / "digits-esvae-paper-seed42"
    assert first == f"esvae (paper) on digits: {folder}" and last == f"done: {folder}"
    assert epoch.split()[:2] == ["epoch", "1"] and all(word in epoch for word in ("train", "test", "mmd", "img/s"))


def test_tensorboard_leaves_the_metrics_as_events(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments = [*FLAGS, "--runs-dir", str(tmp_path), "--name", "run", "--epochs", "1", "--tensorboard"]
    assert run_program(train.main, arguments) == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert set(events.Tags()["scalars"]) == row.keys() - {"epoch", "step"}
    logged = events.Scalars("test_reconstruction")[0]
    assert logged.step == 1 and logged.value == pytest.approx(float(row["test_reconstruction"]))


def process(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Callable[[int], Path]:
    def run(epochs: int) -> Path:
        arguments = ["--runs-dir", str(tmp_path), "--name", "uninterrupted", "--epochs", str(epochs)]
        assert run_program(train.main, [*FLAGS, *arguments]) == 0
        return tmp_path / "uninterrupted"

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_asked_to_stop_can_be_continued(
    number: int, tmp_path: Path, uninterrupted: Callable[[int], Path], capsys: pytest.CaptureFixture
) -> None:
    where = ["--runs-dir", str(tmp_path), "--name", "run"]
    running = process(*FLAGS, *where, "--epochs", "1000")
    try:
        while not (line := running.stdout.readline()).startswith("epoch"):
            assert line, running.stderr.read()
        assert run_program(train.main, [*FLAGS, *where, "--epochs", "1000"]) == 2
        assert "another process is training in" in capsys.readouterr().err
        running.send_signal(number)
        _, error = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 128 + number
    assert error.startswith("stopped at ") and error.endswith("; the same command goes on from there\n")
    assert len(error.splitlines()) == 1
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    epochs = state["epoch"] + 1
    assert run_program(train.main, [*FLAGS, *where, "--epochs", str(epochs)]) == 0
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "run", uninterrupted(epochs)))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_process_refuses_bad_input_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    refused = process("--n-steps", "0", "--runs-dir", str(tmp_path))
    out, error = refused.communicate(timeout=300)
    assert (refused.returncode, out) == (2, "")
    assert error == "error: --n-steps must be at least 1, got 0\n"
    assert list(tmp_path.iterdir()) == []
