"""Training in bfloat16: when it is taken, what of a step is computed in it, on which device, and what refuses."""

import torch
from torch import nn

from errors import UserError
from models.backbone import set_gradient_dtype
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
    """Context for a model's forward pass: PyTorch's autocast on a GPU in bf16, nothing otherwise.

    A CPU has no use for it: the kernels for spikes and the LIF's C code are float32.
    """
    return synapses_in_bfloat16(device.type, enabled=precision == "bf16" and device.type == "cuda")


def synapses_in_bfloat16(device_type: str, enabled: bool = True) -> torch.autocast:
    """PyTorch's autocast without its cache of cast weights, which forgets that they have gradients.

    FSVAE draws its latent without a gradient first; the pass with one would be given the weights that were cast then.
    """
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def set_precision(model: nn.Module, precision: Precision, backend: str, device: torch.device) -> None:
    """Prepare a model that runs on `backend` and `device`; `training_step` must be given the same precision.

    On a CPU bf16 is for one product only, the dense convolution that makes the gradient of the spikes.

    Raises:
        UserError: bf16 where nothing could use it, or where the backend computes wrongly in it.
    """
    if precision == "bf16":
        _check_bf16(model, backend, device)
    on_cpu = device.type == "cpu" and precision == "bf16"
    set_gradient_dtype(model, torch.bfloat16 if on_cpu else torch.float32)


def _check_bf16(model: nn.Module, backend: str, device: torch.device) -> None:
    if backend_of(model) is None:
        if device.type == "cpu":
            raise UserError("--precision bf16 on a CPU is for spiking models; use --precision fp32 or --device cuda")
    elif device.type == "cpu" and backend != "native":
        raise UserError(
            f"--precision bf16 on a CPU needs backend 'native', not {backend!r}; use --backend native, which needs a "
            "C compiler, or --precision fp32"
        )
    elif backend == "cupy":
        raise UserError(
            "backend 'cupy' does not compute in bfloat16; use --backend triton or scan, or --precision fp32"
        )
