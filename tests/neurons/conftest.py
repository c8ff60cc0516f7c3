"""LIF neurons on every backend; `cupy` also without a GPU, its CUDA source compiled as C++."""

import contextlib
import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurons import LIF, lif
from neurons.library import native_obstacle
from neurons.triton_support import triton_interprets
from tests.neurons.lifs import make_lif

# Just enough of CUDA for SpikingJelly's kernels.
CUDA_ON_CPU = """
#include <cmath>
#define __global__
struct dim { int x; } blockIdx, blockDim, threadIdx;
"""
LAUNCH = """
extern "C" void launch(int blocks, int threads, void **p) {
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            %s(%s);
}
"""


class _CPUKernel:
    """Stands in for cupy.RawKernel: the same source, the same launch, on the memory of CPU tensors."""

    def __init__(self, folder: Path, source: str, name: str, **_options: object) -> None:
        self.launch = _compiled(folder, source, name)

    def __call__(self, grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
        pointers = [a if isinstance(a, int) else a.ctypes.data for a in arguments]
        self.launch(grid[0], block[0], (ctypes.c_void_p * len(pointers))(*pointers))


@functools.cache
def _compiled(folder: Path, source: str, name: str) -> Callable[..., None]:
    parameters = re.search(rf"{name}\((.*?)\)", source, re.DOTALL)[1].split(",")
    types = [p.rsplit(maxsplit=1)[0] for p in parameters]
    casts = [f"*({t[:-1]}*)p[{i}]" if t.endswith("&") else f"({t})p[{i}]" for i, t in enumerate(types)]
    file = folder / f"{name}-{abs(hash(source))}.cpp"
    source = source.replace("#include <cuda_fp16.h>", "")
    file.write_text(CUDA_ON_CPU + source + LAUNCH % (name, ", ".join(casts)))
    library = file.with_suffix(".so")
    command = ["g++", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w", "-o", library, file]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library)).launch


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def cuda_on_cpu(kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backend `cupy` run on CPU tensors: SpikingJelly's code path and CUDA source, compiled by g++."""
    pytest.importorskip("cupy")
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the CUDA source for the CPU")
    from spikingjelly.activation_based import cuda_utils
    from spikingjelly.activation_based.auto_cuda import base, neuron_kernel

    numpy_as_cupy = SimpleNamespace(
        asarray=np.asarray,
        ndarray=np.ndarray,
        ascontiguousarray=np.ascontiguousarray,
        RawKernel=functools.partial(_CPUKernel, kernel_folder),
    )
    monkeypatch.setattr(base, "cupy", numpy_as_cupy)
    monkeypatch.setattr(neuron_kernel, "cupy", numpy_as_cupy)
    monkeypatch.setattr(base.CKernel, "get_device", lambda *_: None)
    monkeypatch.setattr(base.CKernel, "check_device", lambda *_: None)
    monkeypatch.setattr(cuda_utils, "DeviceEnvironment", contextlib.nullcontext)
    monkeypatch.setattr(lif, "_check_cupy", lambda: None)
    monkeypatch.setattr(lif, "_check_cupy_input", lambda *_: None)


@dataclass(frozen=True)
class Backend:
    """name: as in LIF; device: where it runs here."""

    name: str
    device: str = "cpu"

    def lif(self, variant: str) -> LIF:
        return make_lif(variant, self.name, self.device)


BACKENDS = [
    pytest.param(Backend("scan"), id="scan"),
    pytest.param(Backend("native"), id="native"),
    pytest.param(Backend("torch"), id="torch"),
    *(
        pytest.param(Backend(name, "cuda"), marks=pytest.mark.gpu, id=f"{name}-cuda")
        for name in ("scan", "torch", "triton", "cupy")
    ),
    pytest.param(Backend("triton"), id="triton-interpreted"),
    pytest.param(Backend("cupy"), id="cupy-source-on-cpu"),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every LIF backend that can run here."""
    if request.param == Backend("cupy"):
        request.getfixturevalue("cuda_on_cpu")
    if request.param == Backend("triton"):
        request.getfixturevalue("triton_on_cpu")
    if request.param.name == "native" and (obstacle := native_obstacle()):
        pytest.skip(obstacle)
    return request.param


@pytest.fixture
def triton_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter, which takes a large tile in nearly the time of a small one."""
    pytest.importorskip("triton")
    if not triton_interprets():
        pytest.skip("the kernels are compiled for the GPU here")
    monkeypatch.setattr("neurons.triton_layer.LIF_TILE", 4096)


@pytest.fixture(scope="session")
def far_from_edges() -> Callable[..., Tensor]:
    """(membranes [T, N, ...], variant, margin) -> which neurons [N, ...] round alike in float32 and float64.

    Those are the neurons whose membrane never comes within `margin` of the threshold or of an edge of the box.
    """

    def is_far(membranes: Tensor, variant: str, margin: float = 1e-5) -> Tensor:
        edges = {"paper": (0.2, -0.05, 0.45), "code": (0.2, -0.5, 0.5)}[variant]
        distance = torch.stack([(membranes - edge).abs() for edge in edges]).amin(0)
        return distance.amin(0) > margin

    return is_far
