"""Small stand-ins for the real data sets: idx files of random pixels, and synthetic CelebA images."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import sources

N_TRAIN, N_TEST = 12, 5


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture
def mnist_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose MNIST has 12 training and 5 test images of random pixels."""
    monkeypatch.setattr(sources, "EXPECTED_IMAGES", {"mnist": {"train": N_TRAIN, "test": N_TEST}})
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", N_TRAIN), ("t10k", N_TEST)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        _write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        _write_idx(raw / f"{prefix}-labels-idx1-ubyte", rng.integers(0, 10, count, dtype=np.uint8))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise urllib.request.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def _smooth_image(width: int, height: int, phase: float) -> Image.Image:
    """A slowly varying colour pattern that is the same at any size."""
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height)[:, None] + 0.5) / height
    planes = [np.sin(3 * x + phase + k) * np.cos(2 * y - k) for k in range(3)]
    return Image.fromarray(np.uint8(127.5 + 120 * np.stack(planes, axis=-1)))


@pytest.fixture
def write_faces() -> Callable[..., list[str]]:
    """Write synthetic images named by the given numbers into a folder; returns the file names."""

    def write(folder: Path, numbers: list[int], size: tuple[int, int] = (89, 109)) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{number:06d}.jpg" for number in numbers]
        for name, number in zip(names, numbers, strict=True):
            _smooth_image(*size, phase=number % 7).save(folder / name, quality=95)
        return names

    return write
