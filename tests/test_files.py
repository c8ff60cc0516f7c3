"""A file is written whole or not at all."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from errors import UserError
from files import write_atomically


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_content_is_written_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "file.bin"
    for content in (b"first", b"", b"second, longer" * 1000):
        write_atomically(str(file), content)
        assert file.read_bytes() == content
    assert names(file.parent) == ["file.bin"]


@pytest.mark.parametrize("function", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_old_content_survives_a_failing_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected) as raised:
            write_atomically(file, b"new")
    if expected is UserError:
        assert str(raised.value) == f"cannot write {file}: No space left on device"
    assert file.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_failing_first_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError):
            write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == []


def test_the_file_is_complete_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, fsync, replace = [], os.fsync, os.replace

    def recorded_replace(source: str, target: Path) -> None:
        calls.append(("replace", Path(source).read_bytes(), Path(source).parent == Path(target).parent))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(("fsync",)), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_atomically(tmp_path / "file", b"content")
    assert calls == [("fsync",), ("replace", b"content", True)]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    previous = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", b"")
        assert os.umask(mask) == mask  # and the mask is as before
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.parametrize("place", ["a-file/name", "a-file/deeper/name"])
def test_a_folder_that_cannot_be_made_is_a_users_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("in the way")
    with pytest.raises(UserError, match=f"cannot write {tmp_path / place}: "):
        write_atomically(tmp_path / place, b"")
    assert names(tmp_path) == ["a-file"] and (tmp_path / "a-file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_users_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            write_atomically(tmp_path / "file", b"")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_in_place_of_the_file_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "file", b"content")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path, there: bool) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    if there:
        (folder / "file").write_bytes(b"old")
    link.symlink_to("folder/file")
    (tmp_path / "second").symlink_to("link")
    write_atomically(tmp_path / "second", b"new")
    assert (tmp_path / "second").is_symlink() and link.is_symlink() and (folder / "file").read_bytes() == b"new"
    assert names(folder) == ["file"] and names(tmp_path) == ["folder", "link", "second"]


def test_a_link_in_a_circle_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(UserError, match=f"cannot write {tmp_path / 'link'}: "):
        write_atomically(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_with_a_name_stays_and_hands_the_content_on(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, b"content")
    reader.join(timeout=10)
    assert read == [b"content"] and pipe.is_fifo() and names(tmp_path) == ["pipe"]


def test_a_device_stays_and_shows_the_content(tmp_path: Path) -> None:
    """A terminal: its folder takes no other files, so that a defect cannot replace a device of this machine."""
    ours, theirs = os.openpty()
    (tmp_path / "link").symlink_to(os.ttyname(theirs))
    write_atomically(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link").is_char_device()
    assert os.read(ours, 100) == b"content"
    os.close(ours)
    os.close(theirs)


def test_standard_output_can_be_the_file(tmp_path: Path) -> None:
    """By a link of the test's own that looks as /dev/stdout does."""
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    code = f"from files import write_json; write_json('{tmp_path}/stdout', {{'a': 1}})"
    command, root = [sys.executable, "-c", code], Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '{\n  "a": 1\n}\n', "")
    assert (tmp_path / "stdout").is_symlink()
