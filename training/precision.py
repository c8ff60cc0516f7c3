"""Training in bfloat16: when it is taken, what of a step is computed in it, and what refuses."""

import torch
from torch import nn

from errors import UserError
from neurons import backend_of
from training.config import Precision, PrecisionChoice

BF16_CAPABILITY = (8, 0)  # compute capability from which on NVIDIA's GPUs multiply bfloat16


def resolve_precision(name: PrecisionChoice, model: nn.Module, device: torch.device) -> Precision:
    """`auto` takes bf16 where it was measured to be faster and to train as well, docs/trials.md, and else fp32.

    The model must have been told of its backend.
    """
    if name != "auto":
        return name
    is_faster = device.type == "cuda" and backend_of(model) == "triton" and _multiplies_bf16(device)
    return "bf16" if is_faster else "fp32"


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether a GPU has instructions for it; with older ones PyTorch emulates it, and convolves without cuDNN."""
    return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context for a model's forward pass: in bf16 PyTorch's autocast, without its cache of cast weights.

    The cache forgets that they have gradients: FSVAE draws its latent without a gradient first, and the pass with one
    would be given the weights that were cast then.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def check_precision(precision: Precision, backend: str, device: torch.device) -> None:
    """UserError for bf16 where nothing gains from it, or where the backend computes wrongly in it."""
    if precision == "bf16" and device.type == "cpu":
        raise UserError("--precision bf16 is for a GPU, a CPU's kernels are float32; use --precision fp32")
    if precision == "bf16" and backend == "cupy":
        raise UserError(
            "backend 'cupy' does not compute in bfloat16; use --backend triton or scan, or --precision fp32"
        )
