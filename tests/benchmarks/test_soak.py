"""What is called growth, and that a run is watched."""

import threading
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak import Sample, growth
from cli import run_program
from errors import UserError
from training.config import Config, preset


def samples(memory: float, files: int = 20) -> list[Sample]:
    """Ten minutes, with all memory in use after one; then it grows steadily by a factor `memory` to the end."""
    at = [(t, 1e9 * min(t / 60, 1) * (1 + (memory - 1) * max(t - 120, 0) / 480)) for t in range(601)]
    return [Sample(t, int(m), 20 if t < 300 else files) for t, m in at]


def test_growth_is_that_since_everything_was_allocated() -> None:
    assert growth(samples(1.0)).of_memory == 0
    assert growth(samples(1.1)).of_memory == pytest.approx(0.1, abs=0.01)
    assert growth(samples(1.0, files=21)).files == (20, 21)


def test_a_short_time_says_nothing() -> None:
    with pytest.raises(UserError, match="too few to compare"):
        growth(samples(1.0)[:150])


def test_a_run_is_watched_and_goes_on_to_the_end_of_the_time(tmp_path: Path) -> None:
    config = Config(dataset="digits", runs_dir=tmp_path, train_images=20, batch_size=5, n_steps=1, latent_dim=4)
    taken = soak.soak(config, minutes=1 / 60, every=0.02)
    assert len(taken) > 1 and all(s.memory > 1e7 and s.files > 2 for s in taken)
    assert "soak" not in {thread.name for thread in threading.enumerate()}
    assert (tmp_path / "digits-esvae-paper-seed42/last.pt").exists()


def test_flags_of_training_choose_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watch(config: Config, minutes: float) -> list[Sample]:
        asked.append((config, minutes))
        return samples(1.0)

    monkeypatch.setattr(soak, "soak", watch)
    assert run_program(soak.main, ["--minutes", "4", "--", "--model", "fsvae", "--recipe", "fast"]) == 0
    (config, minutes), preset_of_it = asked[0], preset("digits", "fsvae", recipe="fast")
    assert minutes == 4 and (config.dataset, config.train_images) == ("digits", 200)
    assert (config.batch_size, config.lr, config.mmd_weight) == (preset_of_it.batch_size, preset_of_it.lr, 1.0)


@pytest.mark.parametrize(
    ("memory", "files", "code"), [(1.0, 20, 0), (1.01, 20, 0), (0.5, 19, 0), (1.03, 20, 2), (1.0, 21, 2)]
)
def test_growth_of_memory_or_of_open_files_is_a_failure(
    memory: float, files: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(soak, "soak", lambda *_: samples(memory, files))
    assert run_program(soak.main, []) == code
    assert capsys.readouterr().err.startswith("error: memory grew by more than 2%, or more files") == bool(code)


@pytest.mark.parametrize("minutes", ["0.02", "nan"])
def test_too_little_time_is_refused(minutes: str, capsys: pytest.CaptureFixture) -> None:
    assert run_program(soak.main, ["--minutes", minutes]) == 2
    assert "--minutes must be at least 3" in capsys.readouterr().err
