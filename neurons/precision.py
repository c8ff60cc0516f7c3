"""What must not be rounded where a caller computes in bfloat16."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """Context without autocast on the device of x."""
    return torch.autocast(x.device.type, enabled=False)
