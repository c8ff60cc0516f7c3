"""The convolution of spikes by look-up against PyTorch's dense one in float64."""

import pytest
import torch
from torch import Generator, Tensor, nn

from neurons import library, spike_conv
from neurons.library import native_obstacle

pytestmark = pytest.mark.skipif(bool(native_obstacle()), reason="no C compiler")

CONVOLUTIONS = {
    "down, as in the encoder": (nn.Conv2d(32, 64, 3, 2, 1), 16),
    "up, as in the decoder": (nn.ConvTranspose2d(32, 32, 3, 2, 1, 1), 8),
    "up from 2x2": (nn.ConvTranspose2d(256, 128, 3, 2, 1, 1), 2),
    "one channel": (nn.Conv2d(1, 1, 3, 2, 1), 5),
    "no whole nibbles, no whole vectors": (nn.Conv2d(5, 7, 3, 2, 1), 9),
    "up, no whole nibbles, no whole vectors": (nn.ConvTranspose2d(13, 33, 3, 2, 1, 1), 5),
    "stride 1": (nn.Conv2d(8, 100, 3, 1, 1), 4),
    "stride 3, kernel 5, no padding left over": (nn.Conv2d(3, 130, 5, 3, 2), 8),
    "up, kernel 4": (nn.ConvTranspose2d(6, 17, 4, 2, 1), 4),
    "up, stride 3 beyond the kernel": (nn.ConvTranspose2d(4, 6, 2, 3, 0, 1), 3),
    "uneven": (nn.Conv2d(6, 20, (3, 1), (2, 1), (1, 0)), 6),
}


def random_spikes(rng: Generator, *shape: int) -> Tensor:
    return (torch.rand(shape, generator=rng) < 0.3).float()


def values_and_gradients(function, layer: nn.Module, spikes: Tensor) -> list[Tensor]:
    """Output, and the gradients of a fixed random projection of it."""
    spikes = spikes.clone().requires_grad_()
    layer.zero_grad()
    out = function(spikes)
    projection = torch.randn(out.shape, generator=Generator().manual_seed(1), dtype=torch.float64).to(out)
    out.backward(projection)
    return [out.detach(), spikes.grad, layer.weight.grad]


@pytest.mark.parametrize("n_images", [1, 3, 70])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_gradients_are_those_of_a_dense_convolution(name: str, n_images: int, rng: Generator) -> None:
    layer, size = CONVOLUTIONS[name]
    layer = type(layer)(*(getattr(layer, key) for key in _settings(layer)), bias=False)
    spikes = random_spikes(rng, n_images, layer.in_channels, size, size)
    found = values_and_gradients(lambda x: spike_conv(layer, x), layer, spikes)
    expected = values_and_gradients(layer.double(), layer, spikes.double())
    for value, reference in zip(found, expected, strict=True):
        assert value.shape == reference.shape
        torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5 * reference.abs().max().item())


def _settings(layer: nn.Module) -> list[str]:
    common = ["in_channels", "out_channels", "kernel_size", "stride", "padding"]
    return [*common, "output_padding"] if isinstance(layer, nn.ConvTranspose2d) else common


def test_the_bias_is_left_out(rng: Generator) -> None:
    layer = nn.Conv2d(4, 3, 3, 2, 1)
    silent = spike_conv(layer, torch.zeros(1, 4, 6, 6))
    assert layer.bias.abs().max() > 0 and silent.equal(torch.zeros_like(silent))


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, 1.0000001, 1e-40, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_what_is_no_spike_is_refused(value: float, place: int) -> None:
    spikes = torch.zeros(2, 5, 6, 6)
    spikes.view(-1)[place] = value
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        spike_conv(nn.Conv2d(5, 3, 3), spikes)


@pytest.mark.parametrize(
    ("layer", "reason"),
    {
        "groups": (nn.Conv2d(4, 8, 3, groups=2), "no groups"),
        "dilation": (nn.ConvTranspose2d(4, 8, 3, dilation=2), "no dilation"),
        "circular padding": (nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"), "zeros"),
        "padding by name": (nn.Conv2d(4, 8, 3, padding="same"), "zeros"),
        "float64": (nn.Conv2d(4, 8, 3).double(), "torch.float64 on cpu"),
        "another device": (nn.Conv2d(4, 8, 3, device="meta"), "float32 on meta"),
        "fewer channels": (nn.Conv2d(2, 8, 3), r"\[N, 2, H, W\], got \[2, 4, 6, 6\]"),
    }.values(),
)
def test_what_the_kernels_do_not_know_is_refused(layer: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        spike_conv(layer, torch.ones(2, 4, 6, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool])
def test_spikes_of_another_type_are_refused_by_its_name(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"float32 on cpu and {dtype}"):
        spike_conv(nn.Conv2d(4, 8, 3), torch.ones(2, 4, 6, 6, dtype=dtype))


def test_memory_layouts_make_no_difference(rng: Generator) -> None:
    layer = nn.Conv2d(8, 5, 3, 2, 1)
    spikes = random_spikes(rng, 4, 8, 6, 6)
    plain, last = (
        values_and_gradients(lambda x: spike_conv(layer, x), layer, spikes.contiguous(memory_format=layout))
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert all(a.equal(b) for a, b in zip(plain, last, strict=True))
    assert plain[0].is_contiguous(memory_format=torch.channels_last)


def test_the_same_number_of_threads_gives_the_same_bits(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.ConvTranspose2d(16, 40, 3, 2, 1, 1)
    spikes = random_spikes(rng, 50, 16, 4, 4)
    runs = {}
    monkeypatch.setattr(library, "VALUES_PER_THREAD", 1)
    for n in (1, 2, 2, 5, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n: n)
        assert library.n_threads(spikes.numel()) == n
        runs.setdefault(n, []).append(values_and_gradients(lambda x: spike_conv(layer, x), layer, spikes))
    assert all(a.equal(b) for a, b in zip(*runs[2], strict=True))
    for n in (2, 5, 64):
        for a, b in zip(runs[1][0], runs[n][0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_of_the_spikes_one_byte_for_four_is_kept(rng: Generator) -> None:
    kept: list[Tensor] = []
    layer = nn.Conv2d(32, 8, 3, 2, 1)
    spikes = random_spikes(rng, 6, 32, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        spike_conv(layer, spikes)
    assert sum(t.numel() * t.element_size() for t in kept if t is not layer.weight) == spikes.numel() // 4


def test_only_gradients_that_are_asked_for_are_computed(rng: Generator) -> None:
    layer = nn.Conv2d(4, 3, 3, 2, 1)
    spikes = random_spikes(rng, 2, 4, 6, 6)
    spike_conv(layer, spikes).sum().backward()
    assert layer.weight.grad is not None and spikes.grad is None
    layer.weight.requires_grad_(False)
    assert not spike_conv(layer, spikes).requires_grad
    spikes.requires_grad_()
    spike_conv(layer, spikes).sum().backward()
    assert spikes.grad is not None
