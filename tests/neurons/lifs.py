"""The LIF of a variant of the model, for the tests of every backend."""

import torch

from neurons import LIF, lif_surrogate


def make_lif(variant: str, backend: str = "scan", device: str | torch.device = "cpu") -> LIF:
    return LIF(lif_surrogate(variant, 0.2, strict=variant == "code"), backend=backend).to(device)
