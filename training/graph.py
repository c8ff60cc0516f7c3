"""A training step or a test as one CUDA graph: recorded once, then started as a whole instead of kernel by kernel."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TypeVar

import torch
from torch import Generator, Tensor

from errors import UserError

WARM_UP_STEPS = 3  # of training, in which kernels are compiled, and the optimizer and cuDNN make what they keep

Result = TypeVar("Result")
Step = Callable[[Tensor], dict[str, Tensor]]  # what is done with a batch: scalars by name


class Graphed:
    """Called as the step that it is given: the first calls run it, later ones its graph.

    Every call does its work, on its own batch: nothing has to be undone after warming up. A batch of another size than
    `batch_size` runs the step as it is. Numbers that the step takes from Python are recorded as they are then.

    Args:
        step: may draw from `noise` alone.
        batch_size: images in the batches that are recorded.
        noise: the step's, on the GPU.
        warm_up_steps: calls before the one that records.
        recording: context to record in.
    """

    def __init__(
        self,
        step: Step,
        batch_size: int,
        noise: Generator,
        warm_up_steps: int = 1,
        recording: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.step, self.batch_size, self.noise = step, batch_size, noise
        self.warm_up_steps, self.recording = warm_up_steps, recording
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """The step's scalars, in memory of their own."""
        if len(x) != self.batch_size:
            return self.step(x)
        if self.warm_up_steps:
            self.warm_up_steps -= 1
            return on_side_stream(lambda: self.step(x), x.device)
        if self.replay is None:
            self._record(x)
        self.x.copy_(x)
        self.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    def _record(self, x: Tensor) -> None:
        """Make the graph, whose input is `x` and whose output is `values`; computes nothing."""
        self.x = x.clone()

        def step() -> Tensor:
            scalars = self.step(self.x)
            self.names = tuple(scalars)
            return torch.stack(tuple(scalars.values()))

        with self.recording():
            self.replay, self.values = capture(step, self.noise)


def capture(function: Callable[[], Result], noise: Generator) -> tuple[Callable[[], None], Result]:
    """Record what a function does on the GPU of `noise`: what runs it again, and where that leaves its result.

    Every run draws from `noise` what the function itself would have drawn.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(noise.device):
        graph.register_generator_state(noise)  # keeps seed and offset on the device that is current
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            result = function()
    return graph.replay, result


def on_side_stream(function: Callable[[], Result], device: torch.device) -> Result:
    """Run a function as it will be recorded: not on the default stream, whose work a graph cannot wait for."""
    here, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        result = function()
    here.wait_stream(side)
    return result


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: cuBLAS keeps a workspace, 32 MiB on an H100, for each stream that it has worked on."""
    return torch.cuda.Stream(device)


def resolve_graph(name: str, backend: str, device: torch.device, deterministic: bool = False) -> bool:
    """Whether training steps on `backend` and `device` are recorded: `auto` records where that is possible.

    Raises:
        UserError: `on` asked for where it is not.
    """
    obstacle = _obstacle(backend, device, deterministic)
    if name == "on" and obstacle:
        raise UserError(f"--cuda-graph on {obstacle}, or --cuda-graph auto")
    return name != "off" and not obstacle


def _obstacle(backend: str, device: torch.device, deterministic: bool) -> str:
    if device.type != "cuda":
        return "needs an NVIDIA GPU; use --device cuda"
    if backend == "cupy":
        return "cannot record backend 'cupy', which does not run on PyTorch's stream; use --backend triton or scan"
    if deterministic:  # its form of scatter, with which FSVAE takes the gradient of a choice, waits for the device
        return "cannot record the kernels of --deterministic; leave that out"
    return ""
