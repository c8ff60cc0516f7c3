"""Compiles native.c with the system's C compiler on first use, keeps the library, and calls it on tensors.

The library holds instructions of this machine's processor, so its file name is a hash of source, compiler, flags
and processor: another machine that shares the folder builds its own.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurons.scan import LIFConstants

SOURCE = Path(__file__).with_name("native.c")
# No -ffast-math, and fused multiply-add only where native.c says so: membranes round as PyTorch's do.
FLAGS = ("-std=c99", "-D_POSIX_C_SOURCE=200112L", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-ffp-contract=off", "-fPIC", "-shared", "-pthread")
LIBRARIES = ("-lm",)
COMPILERS = ("cc", "gcc", "clang")
BUILD_SECONDS = 120
VALUES_PER_THREAD = 1 << 16  # starting a thread costs about as much as computing so many values


class NativeUnavailable(Exception):
    """The library cannot be built or loaded here; the message is one line and says why."""


def native_available() -> bool:
    """Whether the library is there, building it if need be (about a second, once per machine)."""
    return not native_obstacle()


@functools.cache
def native_obstacle() -> str:
    """Why the library cannot be built or loaded here, in one line; empty if it can."""
    try:
        _library()
    except NativeUnavailable as error:
        return str(error)
    return ""


@functools.cache
def _library() -> ctypes.CDLL:
    command = [*_compiler(), *FLAGS]
    path = _cache_folder() / f"native-{_key(command)}.so"
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # not built yet, or damaged
        _build(command, path)
        library = _load(path)
    for name, types in _SIGNATURES.items():
        getattr(library, name).argtypes = types
    return library


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"cannot load {path}: {error}") from error


def _compiler() -> list[str]:
    """$CC, which may hold options, or the first C compiler found."""
    chosen = shlex.split(os.environ.get("CC", ""))
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


def _key(command: list[str]) -> str:
    version = _run([*command[:1], "--version"])
    parts = [SOURCE.read_text(), *command, *LIBRARIES, version, platform.system(), platform.machine(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What tells apart processors with different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _build(command: list[str], path: Path) -> None:
    """Compile to a temporary name first: two processes may build at once, and neither loads half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".native-", suffix=".so")
    except OSError as error:
        raise NativeUnavailable(f"cannot write to {path.parent}: {error.strerror}") from error
    os.close(descriptor)
    try:
        _run([*command, str(SOURCE), "-o", temporary, *LIBRARIES])
        os.replace(temporary, path)
    except OSError as error:
        raise NativeUnavailable(f"cannot write to {path.parent}: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr or error.stdout).split())[:200] or f"exit code {error.returncode}"
        raise NativeUnavailable(f"{command[0]} failed: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"{command[0]} failed: {error}") from error
    return done.stdout


class _Layer(ctypes.Structure):
    """`Layer` of native.c."""

    _fields_ = (
        *((name, c_int64) for name in ("n_steps", "n_neurons", "n_channels")),
        *((name, c_float) for name in ("decay", "fires_from", "box_middle", "box_half", "box_height")),
        ("n_threads", c_int32),
    )


_LAYER = ctypes.POINTER(_Layer)
_SIGNATURES = {
    "channel_statistics": (c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p),
    "lif_forward": (_LAYER, c_void_p, c_int64, *[c_void_p] * 5),
    "lif_backward": (_LAYER, c_void_p, c_int64, *[c_void_p] * 5, c_int64, c_void_p, c_int32, *[c_void_p] * 4),
    "combine": (*[c_void_p] * 5, c_int64, c_int64, c_int64),
}


def _n_threads(n_values: int) -> int:
    return max(1, min(torch.get_num_threads(), n_values // VALUES_PER_THREAD))


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the scratch space of the native LIF")


def channels_last(x: Tensor, dense: bool = False) -> Tensor:
    """x [T, N, C, ...] itself if each step lies dense in memory with its channels last, else such a copy.

    The distance between steps is free, and 0 where all steps are one; `dense` asks for steps without a gap.
    """
    last = x.movedim(2, -1) if x.dim() > 3 else x
    if not (last if dense else last[0]).is_contiguous():
        last = last.contiguous()
    return last.movedim(-1, 2) if x.dim() > 3 else last


@dataclass(frozen=True)
class NativeLayer:
    """The passes over one layer's activations. Every tensor is float32 and `channels_last`.

    x: input [T, N, C, ...], or [1, N, C, ...] for the same input at each of `n_steps` steps; `n_channels` tells
    how the vectors `slope`, `offset` and `mean` repeat along a step's memory.
    """

    x: Tensor
    n_steps: int
    n_channels: int
    constants: LIFConstants

    @property
    def constant(self) -> bool:
        return len(self.x) < self.n_steps

    def forward(self, slope: Tensor, offset: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Spikes [n_steps, N, ...] and the last membrane [N, ...] for a current slope * x + offset."""
        spikes, v_last = self._empty(self.n_steps), self._empty()
        vectors = [_pointer(tensor) for tensor in (slope, offset, v)]
        failed = _library().lif_forward(self._layer(), *self._input(), *vectors, _pointer(spikes), _pointer(v_last))
        _check(failed)
        return spikes, v_last

    def backward(
        self,
        slope: Tensor,
        offset: Tensor,
        mean: Tensor,
        v: Tensor | None,
        grad_spikes: Tensor,
        grad_v_last: Tensor | None,
        needs_grad_v: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradient of the current, like x; its sum and that of it times x - mean, per channel in float64; of v."""
        grad_y = self._empty(len(self.x))
        grad_v = self._empty() if needs_grad_v else None
        sums = torch.empty((2, self.n_channels), dtype=torch.float64)
        inputs = [_pointer(tensor) for tensor in (slope, offset, mean, v, grad_spikes)]
        failed = _library().lif_backward(
            self._layer(),
            *self._input(),
            *inputs,
            grad_spikes.stride(0),
            _pointer(grad_v_last),
            self.constant,
            *(_pointer(tensor) for tensor in (grad_y, grad_v, sums[0], sums[1])),
        )
        _check(failed)
        return grad_y, sums[0], sums[1], grad_v

    def _empty(self, *n_steps: int) -> Tensor:
        """Uninitialised memory laid out as x: one step, or so many without a gap."""
        step = self.x[0]
        return torch.empty_strided((*n_steps, *step.shape), (*(step.numel() for _ in n_steps), *step.stride()))

    def _input(self) -> tuple[int, int]:
        return self.x.data_ptr(), 0 if self.constant else self.x.stride(0)

    def _layer(self) -> _Layer:
        c, n_neurons = self.constants, self.x[0].numel()
        threshold = np.float32(c.v_threshold)
        fires_from = np.nextafter(threshold, np.float32(np.inf)) if c.strict else threshold
        middle, half = (c.lower + c.upper) / 2, (c.upper - c.lower) / 2
        box = c.decay, float(fires_from), middle, half, c.height
        return _Layer(self.n_steps, n_neurons, self.n_channels, *box, _n_threads(self.n_steps * n_neurons))


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a dense channels_last x [T, N, C, ...], in float64."""
    mean, variance = torch.empty((2, x.shape[2]), dtype=torch.float64)
    n_rows = x.numel() // x.shape[2]
    failed = _library().channel_statistics(
        _pointer(x), n_rows, x.shape[2], _n_threads(x.numel()), _pointer(mean), _pointer(variance)
    )
    _check(failed)
    return mean, variance


def combine_(grad: Tensor, x: Tensor, on_grad: Tensor, on_x: Tensor, constant: Tensor) -> Tensor:
    """grad <- on_grad * grad + on_x * x + constant, per channel, in place; both dense and channels_last."""
    pointers = [_pointer(tensor) for tensor in (grad, x, on_grad, on_x, constant)]
    _check(_library().combine(*pointers, x.numel(), x.shape[2], _n_threads(x.numel())))
    return grad
