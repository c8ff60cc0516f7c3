"""Where a run computes: device, LIF backend, memory."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.backends import cudnn

from errors import UserError
from neurons.library import native_obstacle
from neurons.triton_support import triton_interprets, triton_obstacle

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30


def resolve_device(name: str) -> torch.device:
    """`auto` takes CUDA if there is one; anything else is taken at its word.

    Raises:
        UserError: not a device, or CUDA asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:<number>") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported; use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"device {name!r} was asked for, but PyTorch finds {found} CUDA devices; use --device cpu")
    return device


def resolve_backend(name: str, device: torch.device) -> str:
    """The LIF backend that runs: `auto` takes `native` on a CPU and `triton` on a GPU if they can run, else `scan`.

    Raises:
        UserError: `native` asked for on another device than a CPU, or `triton` on a CPU.
    """
    if name == "native" and device.type != "cpu":
        raise UserError("backend 'native' runs on a CPU only; use --device cpu or --backend scan")
    if name == "triton" and device.type == "cpu" and not triton_interprets():
        raise UserError("backend 'triton' runs on a GPU only; use --device cuda, or --backend native or scan")
    if name != "auto":
        return name
    if device.type == "cpu":
        return "scan" if native_obstacle() else "native"
    return "scan" if triton_obstacle() else "triton"


def describe_backend(name: str, device: torch.device) -> str:
    """One line for the user: the LIF backend that runs, and why if nobody asked for it."""
    backend = resolve_backend(name, device)
    if name != "auto":
        return f"LIF backend: {backend}"
    if backend == "native":
        return f"LIF backend: native (compiled C, {torch.get_num_threads()} threads)"
    if backend == "triton":
        return "LIF backend: triton (one kernel for tdBN and LIF, compiled at first use)"
    why = f"no compiled C: {native_obstacle()}" if device.type == "cpu" else f"no Triton: {triton_obstacle()}"
    return f"LIF backend: scan ({why})"


@contextmanager
def reproducible_kernels(enabled: bool) -> Iterator[None]:
    """Let PyTorch take only kernels that give the same bits in every run, and fail where it has none.

    cuBLAS looks at its variable when it is first used, hence before the first training step of the process.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn_before = cudnn.deterministic, cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = cudnn_before


def peak_memory_bytes(device: torch.device) -> int:
    """Highest memory use so far: of PyTorch's allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # getrusage would also count what the parent process used before it started this one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of returning each to the kernel, and PyTorch to ask for huge pages.

    Training frees and asks again for the same hundreds of megabytes every step; fresh pages cost a fault each,
    a third of a step's time. Elsewhere than on glibc this does nothing. For the process, so for programs to call,
    before the first tensor: PyTorch looks at the variable once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
