"""Writing files so that a reader never sees half of one, and reading files that may be anything."""

import io
import json
import os
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from errors import DamagedError, UserError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`: whatever happens, the file has its old content or all of the new.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(path.name))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
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
