"""A training step or a test as one CUDA graph: recorded once, then started as a whole instead of kernel by kernel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from errors import UserError

WARM_UP_STEPS = 3  # in which kernels are compiled, and the optimizer and cuDNN make what they keep

Step = Callable[[nn.Module, Optimizer, Tensor, Generator], dict[str, Tensor]]
Result = TypeVar("Result")


class GraphedStep:
    """Called as the step that it is given, which must return scalars: the first calls run it, later ones its graph.

    Every call trains, on its own batch: nothing has to be undone after warming up. A batch of another size than
    `batch_size` runs the step as it is. Numbers that the step takes from Python are recorded as they are then.
    """

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step, self.batch_size = step, batch_size
        self.warm_up_steps = WARM_UP_STEPS
        self.replay: Callable[[], None] | None = None

    def __call__(self, model: nn.Module, optimizer: Optimizer, x: Tensor, noise: Generator) -> dict[str, Tensor]:
        """The step's scalars, in memory of their own.

        Raises:
            ValueError: model, optimizer or generator is not the one that was recorded.
        """
        if len(x) != self.batch_size:
            return self.step(model, optimizer, x, noise)
        if self.warm_up_steps:
            self.warm_up_steps -= 1
            return on_side_stream(lambda: self.step(model, optimizer, x, noise), x.device)
        if self.replay is None:
            self._record(model, optimizer, x, noise)
        if any(a is not b for a, b in zip(self.recorded, (model, optimizer, noise), strict=True)):
            raise ValueError("a graph goes on with the model, optimizer and generator that it was recorded with")
        self.x.copy_(x)
        self.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    def _record(self, model: nn.Module, optimizer: Optimizer, x: Tensor, noise: Generator) -> None:
        """Make the graph, whose input is `x` and whose output is `values`; computes nothing."""
        self.recorded, self.x = (model, optimizer, noise), x.clone()

        def step() -> Tensor:
            metrics = self.step(model, optimizer, self.x, noise)
            self.names = tuple(metrics)
            return torch.stack(tuple(metrics.values()))

        optimizer.zero_grad(set_to_none=True)  # the graph has gradients of its own
        with _capturable(optimizer):
            self.replay, self.values = capture(step, noise)


class GraphedPass:
    """Called as the function of a batch that it is given: the first call runs it, later ones its graph.

    The function may draw from `noise` alone. A batch of another size than `batch_size` runs it as it is.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], batch_size: int, noise: Generator) -> None:
        self.function, self.batch_size, self.noise = function, batch_size, noise
        self.is_warm = False
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What the function returns, in memory of its own."""
        if len(x) != self.batch_size:
            return self.function(x)
        if not self.is_warm:
            self.is_warm = True
            return on_side_stream(lambda: self.function(x), x.device)
        if self.replay is None:
            self.x = x.clone()
            self.replay, self.value = capture(lambda: self.function(self.x), self.noise)
        self.x.copy_(x)
        self.replay()
        return self.value.clone()


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
    here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        result = function()
    here.wait_stream(side)
    return result


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Let PyTorch record the optimizer; a fused one needs no more than that. Elsewhere the mark only makes it warn."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


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
