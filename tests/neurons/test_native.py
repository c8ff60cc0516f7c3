"""Backend `native` against tdBN and `scan`, which the other tests compare with the equations."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import ModelConfig
from models.backbone import SpikingBlock
from neurons import LIF, ThresholdDependentBatchNorm, library, lif_surrogate, reset_state, set_backend
from neurons.library import native_obstacle
from neurons.native import NativeLayer, channel_statistics, channels_last
from tests.neurons.lifs import make_lif

pytestmark = pytest.mark.skipif(bool(native_obstacle()), reason=native_obstacle() or "-")

SHAPES = [
    (1, 3, 1, 5, 5),
    (2, 3, 5, 4, 4),
    (5, 2, 16, 3, 3),
    (16, 3, 20, 7, 5),
    (5, 6, 33),
    (32, 7, 12),
    (2, 9, 1),
    (3, 4, 1500),  # more channels than neurons in a block
]
LARGE = (4, 5, 48, 17, 16)  # enough for three threads


@pytest.fixture(params=[1, 2, 3])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    assert library.n_threads(math.prod(LARGE)) == request.param
    yield request.param
    torch.set_num_threads(before)


def make_norm(n_channels: int, rng: Generator) -> ThresholdDependentBatchNorm:
    norm = ThresholdDependentBatchNorm(n_channels, v_threshold=0.2)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(n_channels, generator=rng) + 0.5)
        norm.bias.copy_(torch.randn(n_channels, generator=rng) * 0.2)
    return norm


def run(backend: str, variant: str, norm: nn.Module, x: Tensor, x_bias: Tensor, v: Tensor | None = None, **more: int):
    """Spikes, last membrane, norm, and the gradients of a weighted sum of both outputs."""
    norm, lif = copy.deepcopy(norm), make_lif(variant, backend)
    leaves = {"x": x.clone(), "x_bias": x_bias.clone()} | ({} if v is None else {"v": v.clone()})
    for leaf in leaves.values():
        leaf.requires_grad_()
    if v is not None:
        lif.v = leaves["v"]
    spikes = lif(leaves["x"], norm, leaves["x_bias"], **more)
    weights = torch.linspace(-1, 1, spikes.numel()).view(spikes.shape)
    ((spikes * weights).sum() + (lif.v * weights[0]).sum()).backward()
    leaves |= dict(norm.named_parameters())
    return spikes.detach(), lif.v.detach(), norm, {name: leaf.grad for name, leaf in leaves.items()}


def assert_agree(*arguments: object, **more: int) -> None:
    spikes, v, norm, grads = run("native", *arguments, **more)
    expected_spikes, expected_v, expected_norm, expected_grads = run("scan", *arguments, **more)
    assert torch.equal(spikes, expected_spikes)
    torch.testing.assert_close(v, expected_v, rtol=1e-5, atol=1e-6)
    for name, buffer in expected_norm.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer, rtol=1e-6, atol=1e-7)
    for name, expected in expected_grads.items():
        assert (grads[name] - expected).norm() <= 1e-5 * expected.norm(), name


def random_input(shape: tuple[int, ...], rng: Generator) -> tuple[ThresholdDependentBatchNorm, Tensor, Tensor]:
    x = torch.randn(shape, generator=rng) + 0.3
    return make_norm(shape[2], rng), channels_last(x), torch.randn(shape[2], generator=rng)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_agrees_with_tdbn_and_scan(shape: tuple[int, ...], variant: str, rng: Generator) -> None:
    assert_agree(variant, *random_input(shape, rng))


@pytest.mark.parametrize("shape", [*SHAPES[1:4], SHAPES[5]], ids=str)
def test_training_agrees_from_a_given_membrane(shape: tuple[int, ...], variant: str, rng: Generator) -> None:
    assert_agree(variant, *random_input(shape, rng), torch.randn(shape[1:], generator=rng))


@pytest.mark.parametrize("n_repeats", [1, 2, 16])
@pytest.mark.parametrize("shape", [(1, 3, 5, 6, 6), (1, 9, 20)], ids=str)
def test_a_constant_input_agrees_with_its_repetition(
    shape: tuple[int, ...], n_repeats: int, variant: str, rng: Generator
) -> None:
    assert_agree(variant, *random_input(shape, rng), torch.randn(shape[1:], generator=rng), n_repeats=n_repeats)


def test_any_number_of_threads_agrees(n_threads: int, variant: str, rng: Generator) -> None:
    assert_agree(variant, *random_input(LARGE, rng))


def test_two_runs_are_bit_identical(n_threads: int, rng: Generator) -> None:
    arguments = ("native", "paper", *random_input(LARGE, rng))
    (*first, _, first_grads), (*second, _, second_grads) = run(*arguments), run(*arguments)
    pairs = [*zip(first, second, strict=True), *((first_grads[name], second_grads[name]) for name in first_grads)]
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("layout", ["NCHW", "channels last", "every second image", "batch first"])
def test_any_memory_layout_is_taken(layout: str, rng: Generator) -> None:
    x = torch.randn((3, 4, 5, 6, 6), generator=rng)
    x = {
        "NCHW": lambda: x,
        "channels last": lambda: channels_last(x),
        "every second image": lambda: channels_last(x)[:, ::2],
        "batch first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
    }[layout]()
    assert_agree("paper", make_norm(5, rng), x, torch.zeros(5))


@pytest.mark.parametrize("grad", [True, False])
def test_evaluation_mode_is_bit_identical_to_scan(grad: bool, variant: str, rng: Generator) -> None:
    norm, x, x_bias = random_input((5, 3, 20, 6, 6), rng)
    norm.running_mean.normal_(generator=rng)
    norm.eval()
    lifs = [make_lif(variant, backend) for backend in ("native", "scan")]
    with torch.set_grad_enabled(grad):
        for _ in range(2):  # from rest, and from where that has ended
            first, second = (lif(x, norm, x_bias) for lif in lifs)
            assert torch.equal(first, second) and torch.equal(lifs[0].v, lifs[1].v)
    assert first.requires_grad is grad


@pytest.mark.parametrize("shape", [(1, 4), (5, 3, 7), (16, 2, 20, 5, 5)], ids=str)
def test_the_neurons_alone_are_bit_identical_to_scan(shape: tuple[int, ...], variant: str, rng: Generator) -> None:
    x, v = torch.randn(shape, generator=rng) * 0.3, torch.randn(shape[1:], generator=rng)

    def outputs_and_gradients(backend: str) -> tuple[Tensor, ...]:
        surrogate = lif_surrogate(variant, 0.2, strict=variant == "code")
        lif = LIF(surrogate, decay=0.3, backend=backend)
        leaves = [x.clone().requires_grad_(), v.clone().requires_grad_()]
        lif.v = leaves[1]
        spikes = lif(leaves[0])
        (spikes.cumsum(-1).sum() + lif.v.square().sum()).backward()
        return spikes, lif.v, *(leaf.grad for leaf in leaves)

    pairs = zip(outputs_and_gradients("native"), outputs_and_gradients("scan"), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_statistics_of_values_far_from_zero(rng: Generator) -> None:
    x = channels_last(torch.randn((4, 8, 12, 9, 9), generator=rng) * 1e-2 + 10)
    mean, variance = channel_statistics(x)
    exact = x.double().transpose(0, 2).flatten(1)
    torch.testing.assert_close(mean, exact.mean(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(variance, exact.var(1, correction=0), rtol=1e-5, atol=0)


def test_the_backward_pass_keeps_nothing_large_but_the_input(rng: Generator) -> None:
    norm, x, x_bias = random_input((16, 4, 8, 8, 8), rng)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        make_lif("paper", "native")(x.requires_grad_(), norm, x_bias)
    large = [tensor for tensor in kept.values() if tensor.numel() > 8]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


class _Sizes(TorchDispatchMode):
    """Notes how many values the memory of each tensor holds that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                memory = tensor.untyped_storage()
                self.seen[memory.data_ptr()] = memory.nbytes() // tensor.element_size()
        return made


def test_spikes_that_are_summed_are_never_stored(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x, x_bias = random_input((16, 4, 8, 8, 8), rng)
    with _Sizes() as sizes:
        summed = make_lif("paper", "native").summed(x.requires_grad_(), torch.rand(16, generator=rng), norm, x_bias)
    sizes.seen.pop(x.data_ptr(), None)
    assert summed.any() and max(sizes.seen.values()) <= x[0].numel()
    backward, strides = NativeLayer.backward, []

    def look(layer: NativeLayer, *arguments: Any) -> Any:
        strides.append(arguments[4].stride(0))
        return backward(layer, *arguments)

    monkeypatch.setattr(NativeLayer, "backward", look)
    summed.sum().backward()
    assert strides == [0] and x.grad.any()  # their gradient is one step in memory


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_run_as_scan(dtype: torch.dtype, rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", lambda: pytest.fail("C code called"))
    x = torch.randn((3, 2, 5), generator=rng).to(dtype)
    assert torch.equal(make_lif("paper", "native")(x), make_lif("paper", "scan")(x))


def test_only_a_single_step_can_be_repeated() -> None:
    with pytest.raises(ValueError, match="x_seq has 2"):
        make_lif("paper", "native")(torch.zeros(2, 1, 3), n_repeats=2)


@pytest.mark.parametrize("backend", ["native", "scan"])
def test_output_monitor_sees_the_spikes_of_every_layer(backend: str, rng: Generator) -> None:
    from spikingjelly.activation_based import monitor

    block = SpikingBlock(nn.Conv2d(2, 5, 3), 5, ModelConfig())
    set_backend(block, backend)
    records = monitor.OutputMonitor(block, LIF)
    spikes = block(torch.rand((3, 2, 2, 6, 6), generator=rng).round())
    reset_state(block)
    constant = block.forward_constant(torch.rand((2, 2, 6, 6), generator=rng), 3)
    assert [torch.equal(seen, sent) for seen, sent in zip(records.records, (spikes, constant), strict=True)] == [
        True
    ] * 2
