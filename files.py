"""Writing files so that a reader never sees half of one, and reading files that may be anything."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import secrets
import stat
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from errors import DamagedError, UserError

HALF_WRITTEN_SECONDS = 3600  # after which nobody is writing a file any more


def sha256_of(path: Path) -> str:
    """Checksum of a file's content, 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`: whatever happens, the file has its old content or all of the new.

    A symbolic link stays, and what it names is written. What is there and no file, as /dev/stdout or a pipe with a
    name, stays too and takes the content as it comes.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        if _is_no_file(path):
            path.write_bytes(content)
        else:
            target = Path(os.path.realpath(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced(target) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _is_no_file(path: Path) -> bool:
    """Whether something is there that is no file; asked of the name as it was given, as no path leads to a pipe."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file beside `path` for the block to write, which takes that name once the block is done and has not failed.

    It is complete on disk before, and has the permissions of a new file, whatever the block's writer gave it.

    Raises:
        OSError: the folder is not there or cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f"{temporary_prefix(path.name)}{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        os.chmod(temporary, mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_prefix(name: str) -> str:
    """How the names start under which `replaced` has a file written; one stays behind where a process is killed."""
    return f".{name}-"


def remove_half_written(folder: Path, stem: str) -> None:
    """Remove what processes left that were killed while they wrote files whose names start with `stem`."""
    with contextlib.suppress(OSError):
        for file in folder.glob(f".{stem}*"):
            if time.time() - file.stat().st_mtime > HALF_WRITTEN_SECONDS:
                file.unlink()


def write_json(path: str | Path, record: dict[str, Any]) -> None:
    """Write `record` as indented JSON, atomically; errors as `write_atomically`."""
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_torch_file(path: str | Path) -> Any:
    """What `torch.save` wrote, on the CPU, without unpickling anything but tensors and plain values.

    Raises:
        DamagedError: damaged, or with other things in it.
        UserError: a file that cannot be read, or none.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # about what the error says better
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is PyTorch's
            raise
        raise DamagedError(f"{path} is damaged ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds other things than tensors and plain values"  # PyTorch's text advises to run the file's code
    if not isinstance(error, OSError | RuntimeError):
        return type(error).__name__
    return str(error).partition("\n")[0][:80]  # PyTorch adds paragraphs of advice
