"""Literal forms of the paper's equations, written for reading only; the tests compare the project with them."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.stop import StopRequest

if not torch.cuda.is_available():  # Triton looks when it is imported, which PyTorch does as late as in the optimizers
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` need one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


# variant: (surrogate kind, fires only above the threshold, centre of the box on the membrane, width of the box)
VARIANTS = {"paper": ("paper", False, 0.2, 0.5), "code": ("code", True, 0.0, 1.0)}


class _Fire(torch.autograd.Function):
    """Eq. 2 with a box of unit area for a derivative."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor, strict: bool, centre: float, width: float) -> Tensor:
        ctx.save_for_backward(((membrane - centre).abs() < width / 2) / width)
        return (membrane > 0.2 if strict else membrane >= 0.2).to(membrane)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        return grad * ctx.saved_tensors[0], None, None, None


def _literal_lif(current: Tensor, variant: str, v: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    _, strict, centre, width = VARIANTS[variant]
    spikes, membranes = [], []
    for x in current:
        m = 0.25 * v + x
        spike = _Fire.apply(m, strict, centre, width)
        v = m * (1 - spike)
        spikes.append(spike)
        membranes.append(m)
    return torch.stack(spikes), torch.stack(membranes), v


@pytest.fixture(scope="session")
def literal_lif() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Eq. 1 to 3: (current [T, ...], variant, v) -> spikes, membranes before the reset, last membrane after it."""
    return _literal_lif


def _literal_tdbn(
    x: Tensor, weight: Tensor, bias: Tensor, factor: float, statistics: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    axes = [axis for axis in range(x.dim()) if axis != 2]
    shape = [-1 if axis == 2 else 1 for axis in range(x.dim())]
    mean, variance = statistics or (x.mean(axes), x.var(axes, correction=0))
    normal = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return weight.view(shape) * (factor * normal) + bias.view(shape), mean, variance


@pytest.fixture(scope="session")
def literal_tdbn() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """tdBN of [T, N, C, ...]: (x, weight, bias, alpha * v_th, (mean, var) if given) -> y, mean, biased variance."""
    return _literal_tdbn


@pytest.fixture(scope="session", autouse=True)
def signal_from_outside_ends_the_tests() -> Iterator[None]:
    """Training takes a signal for a wish to save and stop; one that no test sent, but `timeout`, ends the tests."""
    ours: list[int] = []
    kill, note = os.kill, StopRequest.note

    def noted_kill(pid: int, number: int) -> None:
        if pid == os.getpid():
            ours.append(number)
        kill(pid, number)

    def checked_note(request: StopRequest, number: int, frame: object) -> None:
        if number not in ours:
            pytest.exit(f"signal {number}", 128 + number)
        ours.remove(number)
        note(request, number, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", noted_kill)
        patch.setattr(StopRequest, "note", checked_note)
        yield


@contextmanager
def _no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def no_more_files() -> Callable[[], AbstractContextManager[None]]:
    """Context in which the process may open no more files."""
    return _no_more_files


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """`paper` and `code`, the two readings of Eq. 2 and of its surrogate."""
    return request.param


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    """The folder of the real data sets; the test is skipped where ESVAE_DATA_DIR does not name one."""
    if not os.environ.get("ESVAE_DATA_DIR"):
        pytest.skip("ESVAE_DATA_DIR is not set")
    return Path(os.environ["ESVAE_DATA_DIR"])
