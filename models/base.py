"""What all models share."""

from typing import Any, ClassVar

from torch import nn

from errors import AbsentError
from models.config import ModelConfig


class Model(nn.Module):
    """A model built from a configuration, kept as `config`.

    Attributes:
        absent: methods of other models that this one has not got -> why, and what to use instead.
        step_synchronises: whether a forward pass in training waits for numbers from the device to decide how to go on.
    """

    absent: ClassVar[dict[str, str]] = {}
    step_synchronises: ClassVar[bool] = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def __getattr__(self, name: str) -> Any:
        """PyTorch's look-up of parameters, buffers and modules.

        Raises:
            AbsentError: `name` is a method that only other models have.
        """
        if name in self.absent:
            raise AbsentError(f"{self.config.model} has no {name}: {self.absent[name]}")
        return super().__getattr__(name)
