"""Compiles the C code of this folder with the system's C compiler on first use, and keeps and loads the library.

The library holds instructions of this machine's processor, so its file name is a hash of sources, compiler, flags
and processor: another machine that shares the folder builds its own.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from ctypes import c_int
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files import replaced, sha256_of

SOURCES = tuple(Path(__file__).with_name(name) for name in ("native.c", "spike_convolution.c"))
HEADERS = (Path(__file__).with_name("threads.h"),)
# No -ffast-math, and fused multiply-add only where native.c says so: membranes round as PyTorch's do.
FLAGS = ("-std=c99", "-D_POSIX_C_SOURCE=200112L", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-ffp-contract=off", "-fPIC", "-shared", "-pthread")
LIBRARIES = ("-lm",)
COMPILERS = ("cc", "gcc", "clang")
BUILD_SECONDS = 120
_NOT_SPIKES = 2  # error code of spike_convolution.c
VALUES_PER_THREAD = 1 << 16  # starting a thread costs about as much as computing so many values


class NativeUnavailable(Exception):
    """The library cannot be built or loaded here; the message is one line and says why."""


@functools.cache
def native_obstacle() -> str:
    """Why the library cannot be built or loaded here, in one line; empty if it can.

    Builds it if need be: about a second, once per machine.
    """
    try:
        _library()
    except NativeUnavailable as error:
        return str(error)
    return ""


@functools.cache
def _library() -> ctypes.CDLL:
    runtime = _openmp_runtime()
    if runtime:
        try:
            return _built([*_compiler(), *FLAGS, "-fopenmp"], [*LIBRARIES, runtime])
        except NativeUnavailable:  # a compiler without OpenMP
            pass
    return _built([*_compiler(), *FLAGS], LIBRARIES)


def _openmp_runtime() -> str:
    """The OpenMP library that PyTorch has loaded, whose threads the C code then shares; empty where none is found.

    Other packages may have loaded one of their own: PyTorch's lies in its folder or in the one beside it.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    paths = [fields[5] for line in lines if len(fields := line.split(None, 5)) == 6]  # a path may have spaces
    found = [path for path in paths if re.match(r"lib[gi]?omp\d*[-.]", Path(path).name)]
    folder = Path(torch.__file__).parent
    own = {folder, folder.with_name("torch.libs")}
    return max(found, key=lambda path: not own.isdisjoint(Path(path).parents), default="")


def _built(command: Sequence[str], libraries: Sequence[str]) -> ctypes.CDLL:
    path = _cache_folder() / f"native-{_key([*command, *libraries])}.so"
    if _is_whole(path):
        with contextlib.suppress(OSError):  # built for another system with the same processor and compiler
            return ctypes.CDLL(str(path))
    _build(command, libraries, path)
    return _load(path)


def _is_whole(path: Path) -> bool:
    """Whether the library is as it was built: loading one that was cut short ends the process with SIGBUS."""
    try:
        return sha256_of(path).encode() == _checksum_file(path).read_bytes()
    except OSError:  # not built yet
        return False


def _checksum_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"cannot load {path}: {error}") from error


def _compiler() -> list[str]:
    """$CC, which may hold options, or the first C compiler found."""
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise NativeUnavailable(f"$CC is {os.environ['CC']!r}, which is no command ({error})") from error
    for name in chosen[:1] or COMPILERS:
        if found := shutil.which(name):
            return [found, *chosen[1:]]
    missing = f"$CC is {chosen[0]!r}, which is not a program" if chosen else "there is no C compiler (cc, gcc, clang)"
    raise NativeUnavailable(missing)


def _cache_folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spiking-vae"
    except RuntimeError as error:
        raise NativeUnavailable("there is no home folder to keep the library in; set $XDG_CACHE_HOME") from error


def _key(command: Sequence[str]) -> str:
    version = _run([*command[:1], "--version"])
    sources = [path.read_text() for path in (*HEADERS, *SOURCES)]
    parts = [*sources, *command, version, platform.system(), platform.machine(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What tells apart processors with different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _build(command: Sequence[str], libraries: Sequence[str], path: Path) -> None:
    """Compile to a temporary name first: two processes may build at once, and neither loads half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary, replaced(_checksum_file(path)) as checksum:
            _run([*command, *map(str, SOURCES), "-o", str(temporary), *libraries])
            checksum.write_bytes(sha256_of(temporary).encode())
    except OSError as error:
        raise NativeUnavailable(f"cannot write to {path.parent}: {error.strerror}") from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr or error.stdout).split())[:200] or f"exit code {error.returncode}"
        raise NativeUnavailable(f"{command[0]} failed: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"{command[0]} failed: {error}") from error
    return done.stdout


def c_function(name: str, *argument_types: Any) -> Callable[..., None]:
    """The library's function of that name, which takes tensors where it wants pointers and returns 0 or an error.

    Nothing is built or loaded before the first call, which may raise NativeUnavailable.
    """

    def call(*arguments: Any) -> None:
        function = getattr(_library(), name)
        function.argtypes, function.restype = argument_types, c_int
        error = function(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))
        if error == _NOT_SPIKES:
            raise ValueError("a spike is neither 0 nor 1")
        if error:
            raise MemoryError(f"no memory for the scratch space of {name}")

    return call


def n_threads(n_values: int) -> int:
    """How many threads are worth starting for so many values."""
    return max(1, min(torch.get_num_threads(), n_values // VALUES_PER_THREAD))
