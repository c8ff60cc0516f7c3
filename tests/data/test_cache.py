import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data import Split, load_split, sources
from data.cache import FOLDER
from files import temporary_prefix


def cache_files(data_dir: Path) -> list[Path]:
    return sorted((data_dir / FOLDER).iterdir())


def same(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise AssertionError("built although the cache was there")

    monkeypatch.setattr(sources, "_build", fail)


def test_second_use_reads_the_cache_file_only(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = load_split("mnist", "train", mnist_dir)
    (file,) = cache_files(mnist_dir)
    assert file.name.startswith("mnist-train-32-") and file.suffix == ".safetensors"
    forbid_building(monkeypatch)
    assert same(load_split("mnist", "train", mnist_dir), built)


def test_splits_have_files_of_their_own(mnist_dir: Path) -> None:
    load_split("mnist", "train", mnist_dir)
    load_split("mnist", "test", mnist_dir)
    assert len(cache_files(mnist_dir)) == 2


@pytest.mark.parametrize("change", ["mtime", "content"])
def test_changed_source_gives_a_new_file_in_place_of_the_old(mnist_dir: Path, change: str) -> None:
    before = load_split("mnist", "train", mnist_dir)
    (old,) = cache_files(mnist_dir)
    source = mnist_dir / "MNIST" / "raw" / "train-images-idx3-ubyte"
    if change == "content":
        content = bytearray(source.read_bytes())
        content[16:] = bytes(255 - value for value in content[16:])
        source.write_bytes(content)
    os.utime(source, ns=(1, 1))
    after = load_split("mnist", "train", mnist_dir)
    (new,) = cache_files(mnist_dir)
    assert new != old
    assert same(before, after) == (change == "mtime")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def rewrite_as_float(file: Path) -> None:
    save_file({"images": torch.zeros(12, 1, 32, 32), "labels": torch.zeros(12, dtype=torch.int64)}, file)


def rewrite_with_other_shape(file: Path) -> None:
    save_file({"images": torch.zeros(12, 1, 28, 28, dtype=torch.uint8)}, file)


def rewrite_with_fewer_labels(file: Path) -> None:
    images = torch.zeros(12, 1, 32, 32, dtype=torch.uint8)
    save_file({"images": images, "labels": torch.zeros(11, dtype=torch.int64)}, file)


def rewrite_without_images(file: Path) -> None:
    save_file({"labels": torch.zeros(12, dtype=torch.int64)}, file)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        empty,
        rewrite_as_float,
        rewrite_with_other_shape,
        rewrite_with_fewer_labels,
        rewrite_without_images,
    ],
)
def test_damaged_file_is_rebuilt_with_one_line_of_notice(mnist_dir: Path, damage, capsys) -> None:
    built = load_split("mnist", "train", mnist_dir)
    built = Split(built.images.clone(), built.labels.clone())
    (file,) = cache_files(mnist_dir)
    damage(file)
    capsys.readouterr()
    assert same(load_split("mnist", "train", mnist_dir), built)
    notice = capsys.readouterr().err
    assert str(file) in notice and "damaged" in notice and notice.count("\n") == 1
    assert same(load_split("mnist", "train", mnist_dir), built)
    assert capsys.readouterr().err == ""


def test_unwritable_folder_is_done_without_and_said_once(mnist_dir: Path, capsys) -> None:
    # Permissions do not stop root; a file in the folder's place stops everyone.
    (mnist_dir / FOLDER).write_text("in the way")
    splits = [load_split("mnist", split, mnist_dir) for split in ("train", "test", "train")]
    assert [len(split.images) for split in splits] == [12, 5, 12]
    notice = capsys.readouterr().err
    assert str(mnist_dir / FOLDER) in notice and "cannot be written" in notice and notice.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_data_folder_is_done_without(mnist_dir: Path, capsys) -> None:
    mnist_dir.chmod(0o555)
    try:
        assert len(load_split("mnist", "train", mnist_dir).images) == 12
    finally:
        mnist_dir.chmod(0o755)
    assert "cannot be written" in capsys.readouterr().err


def test_others_may_read_the_file_as_the_umask_allows(mnist_dir: Path) -> None:
    load_split("mnist", "train", mnist_dir)
    (mnist_dir / "plain").touch()
    assert cache_files(mnist_dir)[0].stat().st_mode == (mnist_dir / "plain").stat().st_mode


def test_interrupted_write_leaves_no_file(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.cache.os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_split("mnist", "train", mnist_dir)
    assert cache_files(mnist_dir) == []
    load_split("mnist", "train", mnist_dir)
    assert len(cache_files(mnist_dir)) == 1


def test_what_a_killed_process_had_begun_to_write_goes_once_nobody_can_be_writing_it(mnist_dir: Path) -> None:
    load_split("mnist", "train", mnist_dir)
    (file,) = cache_files(mnist_dir)
    old, new = (file.with_name(f"{temporary_prefix(file.name)}{name}") for name in ("dead", "beef"))
    for half in (old, new):
        half.write_bytes(b"half")
    os.utime(old, (1, 1))
    load_split("mnist", "train", mnist_dir)
    assert cache_files(mnist_dir) == sorted([file, new])
