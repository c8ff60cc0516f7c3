import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, is_at_hand, load_original_images, load_split, sources
from errors import UserError


def message_of(*arguments: object, **options: object) -> str:
    """The message of the UserError that load_split raises; one line."""
    with pytest.raises(UserError) as caught:
        load_split(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_have_their_documented_shape_and_range() -> None:
    train, test = load_split("digits", "train"), load_split("digits", "test")
    assert train.images.shape == (1500, 1, 32, 32) and test.images.shape == (297, 1, 32, 32)
    for split in (train, test):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert len(split.labels) == len(split.images)
        assert set(split.labels.tolist()) == set(range(10))
        assert split.images.min() == 0 and split.images.max() == 255


def test_digits_splits_share_no_image_and_hold_them_all() -> None:
    images = [image.numpy().tobytes() for s in ("train", "test") for image in load_split("digits", s).images]
    # No two of the originals are alike.
    assert len(images) == len(set(images)) == 1797


def test_digits_never_vary_with_seeds() -> None:
    first = load_split("digits", "test")
    np.random.seed(123)
    torch.manual_seed(123)
    again = load_split("digits", "test")
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert first.labels[:12].tolist() == [2, 2, 9, 8, 8, 3, 6, 0, 4, 4, 7, 6]


def test_digits_touch_no_folder(tmp_path: Path) -> None:
    load_split("digits", "train", tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_mnist_is_read_and_enlarged_as_pil_does(mnist_dir: Path, no_network: None) -> None:
    split = load_split("mnist", "test", mnist_dir)
    raw = (mnist_dir / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    pixels = np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(5, 28, 28)
    expected = np.asarray(Image.fromarray(pixels[3]).resize((32, 32), Image.Resampling.BILINEAR))
    assert split.images.shape == (5, 1, 32, 32) and split.labels.shape == (5,)
    assert np.array_equal(split.images[3, 0].numpy(), expected)
    original = load_original_images("mnist", "test", mnist_dir)
    assert np.array_equal(original.numpy(), pixels[:, None])


@pytest.mark.parametrize("dataset", ["digits", "celeba"])
def test_original_images_are_those_that_torchvision_reads(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"are those of mnist, fashion_mnist and cifar10, not {dataset}"):
        load_original_images(dataset, "test", tmp_path)


def test_limit_keeps_the_first_images(mnist_dir: Path) -> None:
    whole, part = load_split("mnist", "train", mnist_dir), load_split("mnist", "train", mnist_dir, limit=7)
    assert torch.equal(part.images, whole.images[:7]) and torch.equal(part.labels, whole.labels[:7])


@pytest.mark.parametrize(("limit", "expected"), [(298, "only 297 images"), (0, "at least 1"), (-3, "at least 1")])
def test_impossible_limits_are_refused(limit: int, expected: str) -> None:
    assert expected in message_of("digits", "test", limit=limit)


def test_unknown_names_list_the_known_ones() -> None:
    message = message_of("minst", "train")
    assert all(name in message for name in ("'minst'", *DATASETS))
    message = message_of("mnist", "validation")
    assert all(name in message for name in ("'validation'", "train", "test"))


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_without_network_says_what_and_where(tmp_path: Path, no_network: None, dataset: str) -> None:
    message = message_of(dataset, "train", tmp_path)
    assert dataset in message and str(tmp_path) in message and "--data-dir" in message
    assert "no network in tests" in message


def test_a_download_that_fails_leaves_no_new_folder(tmp_path: Path, no_network: None) -> None:
    message_of("mnist", "train", tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_named(mnist_dir: Path, no_network: None) -> None:
    (mnist_dir / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte not found" in message_of("mnist", "test", mnist_dir)


def test_data_folder_that_is_a_file_is_refused(tmp_path: Path, no_network: None) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in message_of("mnist", "test", tmp_path / "file")


def test_present_files_never_touch_the_network(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("network used")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    load_split("mnist", "train", mnist_dir)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("images-idx3", n) for n in (0, 3, 10, 16, 1000)] + [("labels-idx1", n) for n in (0, 3, 8, 19)],
)
def test_truncated_mnist_names_its_folder(mnist_dir: Path, kept: int, kind: str) -> None:
    file = mnist_dir / "MNIST" / "raw" / f"train-{kind}-ubyte"
    assert file.stat().st_size > kept
    file.write_bytes(file.read_bytes()[:kept])
    message = message_of("mnist", "train", mnist_dir)
    assert str(file.parent) in message and "damaged" in message


def test_wrong_number_of_images_is_refused(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.sources.EXPECTED_IMAGES", {"mnist": {"train": 13, "test": 5}})
    assert "instead of [13, 28, 28]" in message_of("mnist", "train", mnist_dir)


def test_cifar_file_with_wrong_checksum_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"something else")
    message = message_of("cifar10", "test", tmp_path)
    assert str(folder) in message and "checksum: data_batch_1, " in message


def test_cifars_pixels_keep_their_place_and_their_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a batch is 1,024 values of red, then of green, then of blue, each from the top left row by row."""
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    rows = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, 12).tolist()
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for i, name in enumerate(names):
        batch = {"data": rows[2 * i : 2 * i + 2], "labels": labels[2 * i : 2 * i + 2]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(k) for k in range(10)]}))
    monkeypatch.setattr(sources, "EXPECTED_IMAGES", {"cifar10": {"train": 10, "test": 2}})
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)

    train, test = (load_split("cifar10", split, tmp_path) for split in ("train", "test"))
    images = torch.cat([train.images, test.images])
    assert len(train.images) == 10 and images.shape == (12, 3, 32, 32)
    assert torch.cat([train.labels, test.labels]).tolist() == labels
    for n, c, y, x in [(0, 0, 0, 1), (0, 0, 1, 0), (3, 1, 5, 20), (9, 2, 31, 0), (11, 2, 30, 31)]:
        assert images[n, c, y, x] == rows[n, c * 1024 + y * 32 + x]
    assert images.flatten().tolist() == rows.flatten().tolist()


def test_the_home_of_an_unknown_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "no folder ~nosuchuser/x (Could not determine home directory.): name the one of the data sets with"
    assert expected in message_of("mnist", "test", "~nosuchuser/x")
    monkeypatch.setenv("ESVAE_DATA_DIR", "~nosuchuser/x")
    assert expected in message_of("mnist", "test")


def test_data_dir_comes_from_the_environment(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESVAE_DATA_DIR", str(mnist_dir))
    assert len(load_split("mnist", "test").images) == 5


def test_data_dir_is_datasets_by_default(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    work = tmp_path_factory.mktemp("work")
    (work / "datasets").symlink_to(mnist_dir)
    monkeypatch.delenv("ESVAE_DATA_DIR", raising=False)
    monkeypatch.chdir(work)
    assert len(load_split("mnist", "test").images) == 5


def test_a_split_is_at_hand_where_loading_it_needs_no_network(
    mnist_dir: Path, tmp_path: Path, no_network: None
) -> None:
    assert is_at_hand("mnist", "test", mnist_dir)
    (mnist_dir / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    for split in ("train", "test"):
        assert "no network in tests" in message_of("mnist", split, mnist_dir)
        assert not is_at_hand("mnist", split, mnist_dir)
    assert is_at_hand("digits", "test", tmp_path / "absent")
    assert not any(is_at_hand(name, "test", tmp_path / "absent") for name in ("cifar10", "celeba"))
    with pytest.raises(UserError, match="unknown data set 'minst'"):
        is_at_hand("minst", "test", tmp_path)
