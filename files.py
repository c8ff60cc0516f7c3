"""Writing files so that a reader never sees half of one, and reading files that may be anything."""

import json
import os
import pickle
import stat
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from errors import UserError


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
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _is_no_file(path: Path) -> bool:
    """Whether something is there that is no file; asked of the name as it was given, as no path leads to a pipe."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(path.name))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def temporary_prefix(name: str) -> str:
    """How the names start under which `write_atomically` writes a file; one stays behind where a process is killed."""
    return f".{name}-"


def write_json(path: str | Path, record: dict[str, Any]) -> None:
    """Write `record` as indented JSON, atomically; errors as `write_atomically`."""
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_torch_file(path: str | Path) -> Any:
    """What `torch.save` wrote, on the CPU, without unpickling anything but tensors and plain values.

    Raises:
        UserError: damaged, no such file, or with other things in it.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about what the error says better
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is damaged ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds other things than tensors and plain values"  # PyTorch's text advises to run the file's code
    if not isinstance(error, OSError | RuntimeError):
        return type(error).__name__
    return str(error).partition("\n")[0][:80]  # PyTorch adds paragraphs of advice
