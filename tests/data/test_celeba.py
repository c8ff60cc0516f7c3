import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import load_split
from errors import UserError

PARTITION = "list_eval_partition.txt"


def message_of(data_dir: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        load_split("celeba", split, data_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_partition(root: Path, codes: dict[str, int]) -> None:
    (root / PARTITION).write_text("".join(f"{name} {code}\n" for name, code in codes.items()))


def count(data_dir: Path, split: str) -> int:
    return len(load_split("celeba", split, data_dir).images)


def zip_folder(folder: Path, archive: Path, prefix: str) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for image in sorted(folder.iterdir()):
            file.write(image, prefix + image.name)


@pytest.fixture
def expected(tmp_path_factory, write_faces) -> torch.Tensor:
    """The images 1..3 read from a plain folder."""
    root = tmp_path_factory.mktemp("plain")
    write_faces(root / "celeba", [1, 2, 3])
    return load_split("celeba", "train", root).images


def test_plain_folder(expected: torch.Tensor) -> None:
    assert expected.shape == (3, 3, 64, 64) and expected.dtype == torch.uint8
    assert not torch.equal(expected[0], expected[1])


def test_torchvision_layout(tmp_path: Path, write_faces, expected: torch.Tensor) -> None:
    names = write_faces(tmp_path / "celeba" / "img_align_celeba", [1, 2, 3])
    write_partition(tmp_path / "celeba", dict.fromkeys(names, 0))
    split = load_split("celeba", "train", tmp_path)
    assert torch.equal(split.images, expected) and split.labels is None


@pytest.mark.parametrize("archive", ["img_align_celeba.zip", "faces.zip"])
@pytest.mark.parametrize("prefix", ["", "img_align_celeba/", "a/b/"])
def test_zip_with_images_at_any_depth(tmp_path: Path, write_faces, expected, archive: str, prefix: str) -> None:
    write_faces(tmp_path / "loose", [1, 2, 3])
    (tmp_path / "loose" / "._000001.jpg").write_bytes(b"what macOS leaves beside files")
    (tmp_path / "celeba").mkdir()
    zip_folder(tmp_path / "loose", tmp_path / "celeba" / archive, prefix)
    assert torch.equal(load_split("celeba", "train", tmp_path).images, expected)


def test_celeba_folder_itself_may_be_the_data_folder(tmp_path: Path, write_faces, expected) -> None:
    write_faces(tmp_path / "img_align_celeba", [1, 2, 3])
    assert torch.equal(load_split("celeba", "train", tmp_path).images, expected)


def test_official_id_ranges_without_a_partition_file(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "celeba", [1, 162_770, 162_771, 182_636, 182_637, 182_638, 202_599])
    assert [count(tmp_path, split) for split in ("train", "validation", "test")] == [2, 3, 2]


def test_partition_file_decides_against_the_id_ranges(tmp_path: Path, write_faces) -> None:
    names = write_faces(tmp_path / "celeba", [1, 2, 3, 182_700])
    write_partition(tmp_path / "celeba", dict(zip(names, [2, 1, 2, 0], strict=True)) | {"999999.jpg": 0})
    assert [count(tmp_path, split) for split in ("train", "validation", "test")] == [1, 1, 2]


def test_changed_partition_file_is_noticed(tmp_path: Path, write_faces) -> None:
    names = write_faces(tmp_path / "celeba", [1, 2, 3])
    assert count(tmp_path, "train") == 3
    write_partition(tmp_path / "celeba", dict(zip(names, [0, 2, 2], strict=True)))
    assert count(tmp_path, "train") == 1


def test_added_image_is_noticed(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "celeba", [1, 2])
    assert count(tmp_path, "train") == 2
    write_faces(tmp_path / "celeba", [3])
    assert count(tmp_path, "train") == 3


def test_empty_split_is_said(tmp_path: Path, write_faces) -> None:
    names = write_faces(tmp_path / "celeba", [1, 2])
    write_partition(tmp_path / "celeba", dict.fromkeys(names, 0))
    message = message_of(tmp_path, "validation")
    assert "none of the 2 images" in message and "validation" in message and PARTITION in message


def test_crop_is_torchvisions_center_crop(tmp_path: Path) -> None:
    from torchvision.transforms import CenterCrop, Resize

    (tmp_path / "celeba").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 218, 178, 3), dtype=np.uint8)
    full, half = Image.fromarray(noise[0]), Image.fromarray(noise[1, :109, :89])
    full.save(tmp_path / "celeba" / "000001.png")
    half.save(tmp_path / "celeba" / "000002.png")
    images = load_split("celeba", "train", tmp_path).images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images[0], np.asarray(Resize((64, 64))(CenterCrop(148)(full))))
    assert np.array_equal(images[1], np.asarray(Resize((64, 64))(CenterCrop(74)(half))))


def test_half_size_copies_show_the_same_part(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "full" / "celeba", [1, 2], size=(178, 218))
    write_faces(tmp_path / "half" / "celeba", [1, 2], size=(89, 109))
    full, half = (load_split("celeba", "train", tmp_path / size).images.float() for size in ("full", "half"))
    # The half-size crop is rounded by half a pixel of 89, at which these patterns change by under 2 levels.
    assert (full - half).abs().mean() < 1.5
    assert (full - full.flip(-1)).abs().mean() > 20


@pytest.mark.parametrize("kept", [0, 10, 700])
def test_truncated_image_is_named(tmp_path: Path, write_faces, kept: int) -> None:
    write_faces(tmp_path / "celeba", [1, 2, 3])
    broken = tmp_path / "celeba" / "000002.jpg"
    assert broken.stat().st_size > kept
    broken.write_bytes(broken.read_bytes()[:kept])
    message = message_of(tmp_path)
    assert "000002.jpg" in message and str(tmp_path / "celeba") in message


def test_damaged_member_of_a_zip_is_named(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "loose", [1, 2])
    (tmp_path / "celeba").mkdir()
    archive = tmp_path / "celeba" / "faces.zip"
    zip_folder(tmp_path / "loose", archive, "")
    content = bytearray(archive.read_bytes())
    content[500] ^= 0xFF
    archive.write_bytes(content)
    assert "000001.jpg" in message_of(tmp_path)


def test_file_that_is_no_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"<html>quota exceeded</html>")
    assert "img_align_celeba.zip" in message_of(tmp_path)


def test_image_that_is_wider_than_high_is_refused(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "celeba", [1], size=(218, 178))
    assert "000001.jpg" in message_of(tmp_path)


def test_missing_data_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    message = message_of(tmp_path)
    expected = ("img_align_celeba.zip", PARTITION, "by hand", str(tmp_path / "celeba"), "--data-dir")
    assert all(part in message for part in expected)
    assert list(tmp_path.iterdir()) == []


def test_malformed_partition_line_is_named(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "celeba", [1])
    (tmp_path / "celeba" / PARTITION).write_text("000001.jpg 0\n000002.jpg 7\n")
    assert f"{PARTITION} line 2" in message_of(tmp_path)


def test_image_without_a_split_is_named(tmp_path: Path, write_faces) -> None:
    names = write_faces(tmp_path / "celeba", [1, 2])
    write_partition(tmp_path / "celeba", {names[0]: 0})
    assert "000002.jpg" in message_of(tmp_path)
    (tmp_path / "celeba" / PARTITION).unlink()
    shutil.move(tmp_path / "celeba" / "000002.jpg", tmp_path / "celeba" / "face.jpg")
    assert "face.jpg" in message_of(tmp_path)


def test_broken_link_is_named(tmp_path: Path, write_faces) -> None:
    write_faces(tmp_path / "celeba", [1])
    (tmp_path / "celeba" / "000002.jpg").symlink_to(tmp_path / "absent.jpg")
    assert "000002.jpg" in message_of(tmp_path)
