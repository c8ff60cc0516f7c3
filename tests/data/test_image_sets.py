"""Images from a file: what is read, and what is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data import load_split, read_image_set
from errors import UserError


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "set.npz", **arrays)
    return folder / "set.npz"


@pytest.mark.parametrize(
    ("dataset", "shape"),
    [("mnist", (3, 32, 32)), ("digits", (3, 32, 32, 1)), ("cifar10", (3, 32, 32, 3)), ("celeba", (2, 64, 64, 3))],
)
def test_bytes_and_floats_are_the_same_images(tmp_path: Path, dataset: str, shape: tuple[int, ...]) -> None:
    values = pixels(*shape)
    expected = values.astype(np.float64).reshape(*shape[:3], -1).transpose(0, 3, 1, 2) / 127.5 - 1
    for array in (values, values / 127.5 - 1, (values / 127.5 - 1).astype(np.float32)):
        images = read_image_set(save(tmp_path, whatever=array), dataset)
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images, expected, atol=1e-6)


def test_small_bytes_are_enlarged_as_the_data_set_is(tmp_path: Path, mnist_dir: Path) -> None:
    raw = np.fromfile(mnist_dir / "MNIST/raw/t10k-images-idx3-ubyte", dtype=np.uint8, offset=16).reshape(5, 28, 28)
    images = read_image_set(save(tmp_path, x=raw), "mnist")
    of_the_data_set = load_split("mnist", "test", mnist_dir).images
    assert torch.equal(((images + 1) * 127.5).round().byte(), of_the_data_set)
    assert torch.equal(images, read_image_set(save(tmp_path, x=of_the_data_set[:, 0].numpy()), "mnist"))


def test_small_floats_are_enlarged_alike_and_not_rounded(tmp_path: Path) -> None:
    values = pixels(3, 28, 28)
    rounded = read_image_set(save(tmp_path, x=values), "fashion_mnist")
    exact = read_image_set(save(tmp_path, x=values / 127.5 - 1), "fashion_mnist")
    assert exact.shape == (3, 1, 32, 32)
    assert 1e-4 < (exact - rounded).abs().max() <= 1 / 127.5  # PIL rounds bytes after each of two passes


def test_a_limit_keeps_the_first(tmp_path: Path) -> None:
    file = save(tmp_path, x=pixels(5, 32, 32))
    assert torch.equal(read_image_set(file, "mnist", limit=2), read_image_set(file, "mnist")[:2])


def test_floats_without_a_negative_one_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    read_image_set(save(tmp_path, x=pixels(2, 32, 32) / 255), "mnist")
    assert "no value is below 0" in capsys.readouterr().err
    read_image_set(save(tmp_path, x=pixels(2, 32, 32)), "mnist")
    assert not capsys.readouterr().err


def test_bytes_that_seem_to_be_in_0_to_1_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bits = (pixels(2, 32, 32) > 127).astype(np.uint8)
    read_image_set(save(tmp_path, x=bits), "mnist")
    assert "no value is above 1" in capsys.readouterr().err


def test_scaling_in_single_precision_may_leave_the_range_by_a_rounding(tmp_path: Path) -> None:
    barely = np.nextafter(np.float32(1), np.float32(2))
    array = np.array([-1, barely], np.float32).repeat(512).reshape(1, 32, 32)
    assert read_image_set(save(tmp_path, x=array), "mnist").shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("dataset", "array", "message"),
    [
        ("mnist", pixels(2, 1, 32, 32), r"holds an array \[2, 1, 32, 32\]: images of mnist are \[N, 28, 28\] or"),
        ("mnist", pixels(2, 32, 32, 3), r"\[2, 32, 32, 3\]"),
        ("mnist", pixels(2, 30, 30), r"\[2, 30, 30\]"),
        ("mnist", pixels(2, 28, 32), r"\[2, 28, 32\]"),
        ("mnist", pixels(0, 32, 32), r"\[0, 32, 32\]"),
        ("mnist", pixels(32, 32), r"\[32, 32\]"),
        ("cifar10", pixels(2, 28, 28, 3), r"images of cifar10 are \[N, 32, 32, 3\]"),
        ("cifar10", pixels(2, 32, 32), r"\[2, 32, 32\]"),
        ("mnist", pixels(2, 32, 32).astype(np.int64), "holds int64: save uint8 from 0 to 255, or floats from -1 to 1"),
        ("mnist", pixels(2, 32, 32) > 99, "holds bool"),
        ("mnist", pixels(2, 32, 32).astype(complex), "holds complex128"),
        ("mnist", pixels(2, 32, 32).astype(float), "these go from 0 to 255; uint8 from 0 to 255 would do too"),
        ("mnist", np.full((2, 32, 32), -1.01), "go from -1.01 to -1.01"),
        ("mnist", np.full((2, 32, 32), 1e300), "go from inf to inf"),
        ("mnist", np.full((2, 32, 32), np.nan), "go from nan to nan"),
        ("mnist", np.full((2, 32, 32), np.inf, np.float32), "go from inf to inf"),
        ("mnist", np.full((2, 32, 32), None), "is damaged or no .npz archive of plain arrays"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, dataset: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_image_set(save(tmp_path, x=array), dataset)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short", b"\x80\x04."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"set\.npz is damaged or no \.npz archive"):
        read_image_set(tmp_path / "set.npz", "mnist")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path, x=pixels(50, 32, 32))
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(UserError, match="is damaged"):
        read_image_set(file, "mnist")


def test_a_single_array_file_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", pixels(2, 32, 32))
    with pytest.raises(UserError, match=r"set\.npy is damaged or no \.npz archive"):
        read_image_set(tmp_path / "set.npy", "mnist")


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_an_archive_holds_one_array(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"holds {len(names)} arrays"):
        read_image_set(save(tmp_path, **dict.fromkeys(names, pixels(2, 32, 32))), "mnist")


def test_a_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*absent\.npz"):
        read_image_set(tmp_path / "absent.npz", "mnist")


@pytest.mark.parametrize("limit", [0, -1, 3])
def test_a_limit_outside_the_file_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UserError, match=f"--n-images {limit}: must be at least 1 and at most 2"):
        read_image_set(save(tmp_path, x=pixels(2, 32, 32)), "mnist", limit=limit)


def test_a_sound_file_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, no_more_files: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(tmp_path, x=pixels(2, 32, 32))
    with pytest.raises(UserError) as refused, no_more_files():
        read_image_set(file, "mnist")
    assert str(refused.value) == f"{file} cannot be read: Too many open files"

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(UserError, match=r"set\.npz holds, or claims to, more than fits in memory"):
        read_image_set(file, "mnist")
