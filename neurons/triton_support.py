"""Whether Triton can run here; can be asked where it is not installed."""

import os

import torch


def triton_obstacle() -> str:
    """Why Triton's kernels cannot run here, in one line; empty if they can, or if its interpreter runs them."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported, pip install triton ({error})"
    if triton_interprets():
        return ""
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    try:  # compiles a few lines of C
        triton.runtime.driver.active.get_current_device()
    except Exception as error:  # whatever compiler and driver raise
        return " ".join(f"Triton cannot use the GPU: {error}".split())[:200]
    return ""


def triton_interprets() -> bool:
    """Whether Triton's kernels run in its interpreter, slowly and on any device: $TRITON_INTERPRET is 1."""
    return os.environ.get("TRITON_INTERPRET") == "1"
