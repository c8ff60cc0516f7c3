"""Watching a model compute: every call of a synapse, by the name of its weight, and the parameters that are used.

Blocks call synapses as functions, not as modules, so hooks would miss them. Backends that convolve in C instead of
calling PyTorch are missed: trace on backend `scan`, which every model is built with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SYNAPSES = (F.conv2d, F.conv_transpose2d, F.linear)


@dataclass(frozen=True)
class SynapseCall:
    """A synapse that ran: `function(input, weight, bias, *settings, **options)` gave `output`.

    `name` is that of the layer: of the block that the synapse belongs to, if there is one.
    """

    name: str
    function: Callable
    input: Tensor
    weight: Tensor
    output: Tensor
    settings: tuple
    options: dict[str, Any]

    def fan_out(self) -> Tensor:
        """How many outputs each value of the input reaches, shaped as one input without N; at borders it is fewer.

        It is the gradient of the sum of outputs where all weights are one.
        """
        with torch.enable_grad():
            x = torch.ones_like(self.input[:1], requires_grad=True)
            y = self.function(x, torch.ones_like(self.weight), None, *self.settings, **self.options)
            return torch.autograd.grad(y.sum(), x)[0][0]


class SynapseTrace(TorchFunctionMode):
    """While active, hands each call of one of the model's synapses to `on_call`.

    Attributes:
        used: parameters that any PyTorch function was given so far, by name.
    """

    def __init__(self, model: nn.Module, on_call: Callable[[SynapseCall], None]) -> None:
        super().__init__()
        self.on_call = on_call
        self.used: dict[str, Tensor] = {}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        options = kwargs or {}
        out = func(*args, **options)
        for value in (*args, *options.values()):
            if id(value) in self._names:
                self.used[self._names[id(value)]] = value
        if func in SYNAPSES:
            self.on_call(self._synapse_call(func, args, options, out))
        return out

    def _synapse_call(self, func: Callable, args: tuple, options: dict[str, Any], out: Tensor) -> SynapseCall:
        x, weight, *rest = args
        name = self._names[id(weight)].removesuffix(".weight").removesuffix(".synapse")
        options = {key: value for key, value in options.items() if key != "bias"}
        return SynapseCall(name, func, x, weight, out, tuple(rest[1:]), options)
