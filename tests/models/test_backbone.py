"""A block takes any convolution that one gives it."""

import pytest
import torch
from torch import nn

from models import ModelConfig
from models.backbone import SpikingBlock
from neurons import reset_state


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("shape", [{"groups": 2}, {"dilation": 2}, {"stride": 2, "padding": 1}], ids=str)
def test_block_convolves_as_its_synapse_does(
    kind: type[nn.Module], shape: dict[str, int], rng: torch.Generator
) -> None:
    torch.manual_seed(0)
    block = SpikingBlock(kind(4, 6, 3, **shape), 6, ModelConfig()).double()
    x_seq = torch.rand((5, 2, 4, 9, 9), generator=rng).round().double()
    spikes = block(x_seq)
    reset_state(block)
    expected = block.lif(torch.stack([block.synapse(x) for x in x_seq]), block.norm)
    assert torch.equal(spikes, expected) and 0 < spikes.mean() < 1
