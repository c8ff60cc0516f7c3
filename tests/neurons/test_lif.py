"""The LIF on every backend against the literal loop of tests/conftest.py."""

import re
from collections.abc import Callable
from importlib import metadata

import pytest
import torch
from spikingjelly.activation_based import surrogate as spikingjelly_surrogate
from torch import Tensor, nn

from errors import UserError
from neurons import LIF, ThresholdDependentBatchNorm, lif_surrogate, reset_state, scan, set_backend
from neurons.library import native_obstacle
from tests.neurons.lifs import make_lif

ROUNDING = 1e-5
THRESHOLD = torch.tensor(0.2)  # float32(0.2), a little above 0.2


def image(n_steps: int) -> Tensor:
    return torch.randn(n_steps, 3, 4, 5, 6, generator=torch.Generator().manual_seed(n_steps))


LAYOUTS: dict[str, Callable[[int], Tensor]] = {
    "vector": lambda t: image(t).flatten(2),
    "image": image,
    "channels_last": lambda t: image(t).flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (t, 3)),
    "same at every step": lambda t: image(1).expand(t, 3, 4, 5, 6),
    "same for every sample": lambda t: image(t)[:, :1].expand(t, 3, 4, 5, 6),
    "every second column": lambda t: image(t)[..., ::2],
    "thousands of neurons": lambda t: torch.randn(t, 3, 7, 20, 20, generator=torch.Generator().manual_seed(t)),
    "odd number of neurons": lambda t: image(t)[:, :, :3, :, :5].flatten(2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_steps", [1, 5, 16])
def test_spikes_membrane_and_gradient_are_those_of_eq_1_to_3(
    backend, variant: str, n_steps: int, layout: str, literal_lif, rng: torch.Generator, far_from_edges
) -> None:
    current = LAYOUTS[layout](n_steps).to(backend.device).requires_grad_()
    weight = torch.randn(current.shape, generator=rng)
    weight_v = torch.randn(current.shape[1:], generator=rng)
    lif = backend.lif(variant)
    spikes = lif(current)
    loss = (spikes * weight.to(spikes)).sum() + (lif.v * weight_v.to(spikes)).sum()
    (gradient,) = torch.autograd.grad(loss, current)

    exact = current.detach().cpu().double().requires_grad_()
    true_spikes, membranes, true_v = literal_lif(exact, variant)
    (true_gradient,) = torch.autograd.grad((true_spikes * weight).sum() + (true_v * weight_v).sum(), exact)
    clear = far_from_edges(membranes, variant)
    assert clear.double().mean() > 0.98
    assert torch.equal(spikes.cpu()[:, clear].double(), true_spikes[:, clear])
    torch.testing.assert_close(lif.v.cpu()[clear].double(), true_v[clear], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(gradient.cpu()[:, clear].double(), true_gradient[:, clear], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 5, 16, 33])
def test_the_sum_over_time_is_that_of_the_spikes_with_the_same_gradients(
    backend, variant: str, n_steps: int, rng: torch.Generator
) -> None:
    coefficients = (0.8 ** torch.arange(n_steps).flip(0)).to(backend.device)
    current = LAYOUTS["channels_last"](n_steps).to(backend.device).requires_grad_()
    weight, start = (torch.randn(current.shape[1:], generator=rng).to(backend.device) for _ in range(2))

    def outcome(sum_up: Callable[[LIF, nn.Module], Tensor]) -> list[Tensor]:
        norm, lif = ThresholdDependentBatchNorm(4, v_threshold=0.2).to(backend.device), backend.lif(variant)
        lif.v = start.clone().requires_grad_()
        leaves = current, lif.v, *norm.parameters()
        summed = sum_up(lif, norm)
        loss = (summed * weight).sum() + (lif.v * weight).sum()
        return [summed.detach(), lif.v.detach(), *torch.autograd.grad(loss, leaves)]

    found = outcome(lambda lif, norm: lif.summed(current, coefficients, norm))
    expected = outcome(lambda lif, norm: torch.einsum("t,tnchw->nchw", coefficients, lif(current, norm)))
    assert all(true.any() for true in expected)
    for one, true in zip(found, expected, strict=True):
        assert (one - true).norm() <= 1e-6 * true.norm()


@pytest.mark.parametrize("grad", [True, False])
def test_the_sum_over_time_in_evaluation_mode(backend, grad: bool, variant: str) -> None:
    norm = ThresholdDependentBatchNorm(4, v_threshold=0.2).eval().to(backend.device)
    current, coefficients = LAYOUTS["image"](5).to(backend.device), torch.arange(5.0).to(backend.device)
    with torch.set_grad_enabled(grad):
        found = backend.lif(variant).summed(current, coefficients, norm)
        spikes = backend.lif(variant)(current, norm)
    assert found.requires_grad is grad and spikes.any()
    torch.testing.assert_close(found, torch.einsum("t,tnchw->nchw", coefficients, spikes), rtol=1e-6, atol=0)


def test_the_gradient_of_a_sum_over_time_flows_through_either_output(backend, variant: str) -> None:
    coefficients = torch.arange(1.0, 6).to(backend.device)
    current = LAYOUTS["image"](5).to(backend.device).requires_grad_()

    def gradient(summed: bool, of_membrane: bool) -> Tensor:
        norm, lif = ThresholdDependentBatchNorm(4, v_threshold=0.2).to(backend.device), backend.lif(variant)
        out = (
            lif.summed(current, coefficients, norm)
            if summed
            else lif(current, norm) * coefficients.view(-1, 1, 1, 1, 1)
        )
        (found,) = torch.autograd.grad(lif.v.square().sum() if of_membrane else out.sum(), current)
        return found

    for of_membrane in (True, False):
        expected = gradient(False, of_membrane)
        assert expected.any() and (gradient(True, of_membrane) - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_see_neurons_whose_spikes_are_summed(backend, register: str, variant: str) -> None:
    norm, current = ThresholdDependentBatchNorm(4, v_threshold=0.2).to(backend.device), LAYOUTS["image"](5)
    lif, seen = backend.lif(variant), []
    getattr(lif, register)(lambda *passed: seen.append(passed[-1]))
    summed = lif.summed(current.to(backend.device), torch.ones(5, device=backend.device), norm)
    assert len(seen) == 1 and summed.any()
    if register == "register_forward_hook":
        assert seen[0].shape == current.shape
        torch.testing.assert_close(summed, seen[0].sum(0))


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_see_the_gradient_of_neurons_whose_spikes_are_summed(backend, register: str) -> None:
    norm = ThresholdDependentBatchNorm(4, v_threshold=0.2).to(backend.device)
    current = LAYOUTS["image"](5).to(backend.device).requires_grad_()
    lif, seen = backend.lif("paper"), []
    getattr(lif, register)(lambda _, *gradients: seen.append(gradients[-1][0].cpu()))
    lif.summed(current, torch.arange(5.0, device=backend.device), norm).sum().backward()
    (gradient,) = seen
    assert gradient.equal(torch.arange(5.0).view(5, 1, 1, 1, 1).expand(current.shape))


def test_coefficients_may_lie_anywhere_in_memory(backend, variant: str) -> None:
    norm, current = ThresholdDependentBatchNorm(4, v_threshold=0.2).to(backend.device), LAYOUTS["image"](5)
    spread = torch.arange(10.0).to(backend.device)[::2]
    found, expected = (
        backend.lif(variant).summed(current.to(backend.device), weights, norm) for weights in (spread, spread.clone())
    )
    assert torch.equal(found, expected) and found.any()


@pytest.mark.parametrize("coefficients", [torch.ones(4), torch.ones(6), torch.ones(5, requires_grad=True)])
def test_coefficients_of_another_length_or_with_a_gradient_are_refused(backend, coefficients: Tensor) -> None:
    norm = ThresholdDependentBatchNorm(4, v_threshold=0.2).to(backend.device)
    with pytest.raises(ValueError, match="wants 5 coefficients without a gradient"):
        backend.lif("paper").summed(LAYOUTS["image"](5).to(backend.device), coefficients.to(backend.device), norm)


@pytest.mark.parametrize("name", ["scan", "torch"])
def test_float64_is_exact_in_the_first_and_the_last_membrane_too(
    name: str, variant: str, literal_lif, rng: torch.Generator
) -> None:
    current, weight = torch.randn(2, 16, 4, 50, generator=rng, dtype=torch.float64)
    start, weight_v = torch.randn(2, 4, 50, generator=rng, dtype=torch.float64)
    start[0], current[0, 0] = 0, 0.2  # at the threshold to the last bit
    current.requires_grad_()
    start.requires_grad_()
    lif = make_lif(variant, name)
    lif.v = start
    spikes = lif(current)
    true_spikes, _, true_v = literal_lif(current, variant, start)
    assert torch.equal(spikes, true_spikes)
    torch.testing.assert_close(lif.v, true_v, rtol=0, atol=1e-15)
    found = torch.autograd.grad((spikes * weight).sum() + (lif.v * weight_v).sum(), (current, start))
    expected = torch.autograd.grad((true_spikes * weight).sum() + (true_v * weight_v).sum(), (current, start))
    assert min(gradient.abs().max() for gradient in expected) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_gradient_reaches_the_current_through_the_last_membrane_alone(
    backend, variant: str, literal_lif, far_from_edges
) -> None:
    current = LAYOUTS["vector"](5).to(backend.device).requires_grad_()
    lif = backend.lif(variant)
    lif(current)
    (gradient,) = torch.autograd.grad(lif.v.sum(), current)
    exact = current.detach().cpu().double().requires_grad_()
    _, membranes, true_v = literal_lif(exact, variant)
    clear = far_from_edges(membranes, variant)
    (true_gradient,) = torch.autograd.grad(true_v.sum(), exact)
    torch.testing.assert_close(gradient.cpu()[:, clear].double(), true_gradient[:, clear], rtol=1e-5, atol=1e-6)


def test_gradient_reaches_the_initial_membrane_on_every_backend(
    backend, variant: str, literal_lif, far_from_edges
) -> None:
    current = LAYOUTS["vector"](5)
    start = LAYOUTS["vector"](1)[0].to(backend.device).requires_grad_()
    lif = backend.lif(variant)
    lif.v = start
    (gradient,) = torch.autograd.grad(lif(current.to(backend.device)).sum(), start)
    exact = start.detach().cpu().double().requires_grad_()
    spikes, membranes, _ = literal_lif(current.double(), variant, exact)
    clear = far_from_edges(membranes, variant)
    (true_gradient,) = torch.autograd.grad(spikes.sum(), exact)
    assert true_gradient.abs().max() > 0.1
    torch.testing.assert_close(gradient.cpu()[clear].double(), true_gradient[clear], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_elements", [1, 60, 250])
@pytest.mark.parametrize("layout", ["vector", "channels_last", "same at every step"])
def test_chunks_do_not_change_a_bit_of_the_scan(
    chunk_elements: int, layout: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[Tensor, ...]:
        current = LAYOUTS[layout](5).requires_grad_()
        start = image(1)[0].reshape(current.shape[1:]).requires_grad_()
        lif = make_lif(variant, "scan")
        lif.v = start
        spikes = lif(current)
        loss = (spikes * LAYOUTS[layout](5).cos()).sum() + lif.v.square().sum()
        return spikes, lif.v, *torch.autograd.grad(loss, (current, start))

    whole = run()
    monkeypatch.setattr(scan, "CHUNK_ELEMENTS", chunk_elements)
    assert all(torch.equal(a, b) for a, b in zip(run(), whole, strict=True))


@pytest.mark.parametrize("name", ["scan", "native", "torch"])
def test_a_batch_of_no_images_has_no_spikes(name: str) -> None:
    if name == "native" and native_obstacle():
        pytest.skip(native_obstacle())
    current = torch.zeros(5, 0, 4, 6, requires_grad=True)
    spikes = make_lif("paper", name)(current)
    spikes.sum().backward()
    assert spikes.shape == current.grad.shape == (5, 0, 4, 6)


@pytest.mark.parametrize(("first", "second"), [(4, 8), (8, 4), (1, 4), (4, 1)])
def test_the_membrane_of_a_batch_of_another_size_is_refused(backend, first: int, second: int) -> None:
    lif = backend.lif("paper")
    lif(torch.ones(3, first, 5, device=backend.device))
    with pytest.raises(ValueError, match=rf"\[{first}, 5\], not \[{second}, 5\].*reset_state"):
        lif(torch.ones(3, second, 5, device=backend.device))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sums_up", [True, False])
def test_a_norm_for_another_number_of_channels_is_refused(backend, sums_up: bool, training: bool) -> None:
    norm = ThresholdDependentBatchNorm(3, 0.2).to(backend.device).train(training)
    current = torch.ones(2, 4, 7, device=backend.device)
    lif = backend.lif("paper")
    with torch.no_grad(), pytest.raises(ValueError, match="3 channels, the current has 7"):
        lif.summed(current, torch.ones(2, device=backend.device), norm) if sums_up else lif(current, norm)


def test_scan_keeps_channels_last() -> None:
    spikes = make_lif("paper", "scan")(LAYOUTS["channels_last"](5))
    assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["vector", "thousands of neurons", "channels_last", "same at every step"])
def test_a_norm_given_to_the_lif_is_tdbn_before_the_lif(
    backend, variant: str, training: bool, layout: str, literal_lif, literal_tdbn, rng: torch.Generator, far_from_edges
) -> None:
    x, n_repeats = LAYOUTS[layout](5), 1
    if layout == "same at every step":
        x, n_repeats = x[:1], 5
    n_channels = x.shape[2]
    norm = ThresholdDependentBatchNorm(n_channels, 0.2, alpha=2.0)
    bias = torch.linspace(-0.5, 0.5, n_channels)
    with torch.no_grad():
        for tensor, (low, high) in zip(
            norm.state_dict().values(), [(0.5, 2), (0.1, -0.1), (0.2, 0), (0.5, 1)], strict=True
        ):
            tensor.copy_(torch.linspace(low, high, n_channels))
    weight = torch.randn(5, *x.shape[1:], generator=rng)
    inputs = x, norm.weight, norm.bias
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    shape = bias.view(-1, *[1] * (x.dim() - 3))
    old = [tensor.double() for tensor in (norm.running_mean, norm.running_var)]
    repeated = (exact[0] + shape).expand(5, *x.shape[1:])
    y, mean, variance = literal_tdbn(repeated, *exact[1:], 0.4, None if training else old)
    true_spikes, membranes, _ = literal_lif(y, variant)
    true_gradients = torch.autograd.grad((true_spikes * weight).sum(), exact)

    norm.to(backend.device).train(training)
    x, weight = x.to(backend.device).requires_grad_(), weight.to(backend.device)
    lif = backend.lif(variant)
    spikes = lif(x, norm, bias.to(backend.device), n_repeats)
    assert far_from_edges(membranes, variant, margin=2e-6).all()  # or a gradient, which mixes all, may differ
    assert torch.equal(spikes.cpu().double(), true_spikes)
    gradients = torch.autograd.grad((spikes * weight).sum(), (x, norm.weight, norm.bias))
    for gradient, expected in zip(gradients, true_gradients, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradient.cpu().double(), expected, rtol=1e-4, atol=1e-5 * scale)
    if training:
        n = repeated.numel() // n_channels
        expected = 0.9 * old[0] + 0.1 * mean, 0.9 * old[1] + 0.1 * variance * n / (n - 1)
        torch.testing.assert_close(
            (norm.running_mean.cpu().double(), norm.running_var.cpu().double()), expected, rtol=1e-5, atol=1e-6
        )


def test_scan_and_torch_agree_to_the_last_bit(variant: str, rng: torch.Generator) -> None:
    current = torch.randn(16, 8, 200, generator=rng)
    a, b = make_lif(variant, "scan"), make_lif(variant, "torch")
    assert torch.equal(a(current), b(current))
    assert torch.equal(a.v, b.v)


@pytest.mark.parametrize("training", [True, False])
def test_a_membrane_at_the_threshold_fires_in_paper_and_is_silent_in_code(
    backend, variant: str, training: bool
) -> None:
    below, above = (torch.nextafter(THRESHOLD, torch.tensor(limit)) for limit in (-1.0, 1.0))
    current = torch.stack([below, THRESHOLD, above]).expand(1, 1, 3).to(backend.device)
    spikes = backend.lif(variant).train(training)(current)
    assert spikes.flatten().tolist() == [0.0, 1.0 if variant == "paper" else 0.0, 1.0]


def test_the_gradient_of_a_membrane_at_the_threshold_knows_whether_it_fired(backend, variant: str) -> None:
    current = torch.tensor([[[0.2]], [[0.3]]], device=backend.device, requires_grad=True)
    (gradient,) = torch.autograd.grad(backend.lif(variant)(current)[1].sum(), current)
    # paper: it fires, so v = 0 and dv/dm = -m * 2; code: it is silent, so v = 0.2 and dv/dm = 1 - m * 1
    expected = {"paper": 2 * 0.25 * (-0.2 * 2), "code": 1 * 0.25 * (1 - 0.2)}[variant]
    assert gradient[0].item() == pytest.approx(expected, rel=1e-5)


def test_evaluation_mode_has_the_same_spikes_and_gradient(backend, variant: str) -> None:
    def run(training: bool) -> tuple[Tensor, Tensor]:
        current = LAYOUTS["image"](5).to(backend.device).requires_grad_()
        spikes = backend.lif(variant).train(training)(current)
        return spikes, torch.autograd.grad(spikes.sum(), current)[0]

    (spikes, gradient), (expected_spikes, expected_gradient) = run(False), run(True)
    assert torch.equal(spikes, expected_spikes)
    assert torch.equal(gradient, expected_gradient)
    assert gradient.any()


def test_without_gradient_the_spikes_and_membrane_are_the_same(backend, variant: str) -> None:
    current = LAYOUTS["channels_last"](5).to(backend.device)
    plain, tracked = backend.lif(variant), backend.lif(variant)
    with torch.no_grad():
        spikes = plain(current)
    assert torch.equal(spikes, tracked(current.requires_grad_()))
    assert torch.equal(plain.v, tracked.v)


@pytest.mark.parametrize("layout", ["vector", "channels_last"])
def test_two_halves_of_the_time_steps_equal_one_pass(backend, variant: str, layout: str) -> None:
    current = LAYOUTS[layout](16).to(backend.device).requires_grad_()
    weight = LAYOUTS[layout](16).cos().to(backend.device)
    whole, halves = backend.lif(variant), backend.lif(variant)
    expected = whole(current)
    spikes = torch.cat([halves(current[:7]), halves(current[7:])])
    assert torch.equal(spikes, expected)
    assert torch.equal(halves.v, whole.v)
    gradients = [torch.autograd.grad((s * weight).sum(), current)[0] for s in (spikes, expected)]
    torch.testing.assert_close(*gradients)


def test_reset_state_forgets_every_membrane_below_a_module(backend, variant: str) -> None:
    net = nn.Sequential(nn.Sequential(backend.lif(variant)), backend.lif(variant))
    current = (LAYOUTS["vector"](5) * 0.1).to(backend.device)
    first, carried = net(current), net(current)
    reset_state(net)
    assert torch.equal(net(current), first)
    assert not torch.equal(carried, first)


def test_spikingjellys_reset_net_set_backend_and_monitor_work(variant: str) -> None:
    from spikingjelly.activation_based import functional, monitor

    net = nn.Sequential(make_lif(variant, "scan"), nn.Linear(120, 7), make_lif(variant, "scan"))
    current = LAYOUTS["vector"](5)
    expected = net(current)
    functional.reset_net(net)
    functional.set_backend(net, "torch", instance=LIF)
    assert net[0].backend == net[2].backend == "torch"
    recorded = monitor.OutputMonitor(net, LIF)
    assert torch.equal(net(current), expected)
    assert torch.equal(recorded["0"][0], make_lif(variant, "scan")(current))
    assert torch.equal(recorded["2"][0], expected)


def test_single_step_mode_gives_the_same_spikes(variant: str) -> None:
    from spikingjelly.activation_based import functional

    lif, current = make_lif(variant, "torch"), LAYOUTS["vector"](5)
    expected = lif(current)
    functional.reset_net(lif)
    functional.set_step_mode(lif, "s")
    lif.eval()
    assert torch.equal(torch.stack([lif(x) for x in current]), expected)


@pytest.mark.parametrize("layout", ["vector", "channels_last"])
def test_store_v_seq_records_the_membrane_after_each_reset(
    backend, variant: str, layout: str, literal_lif, far_from_edges
) -> None:
    current = LAYOUTS[layout](5).to(backend.device)
    lif = backend.lif(variant)
    lif.store_v_seq = True
    if lif.backend in ("scan", "native", "triton"):
        with pytest.raises(UserError, match="use backend 'torch'"):
            lif(current)
        return
    lif(current)
    spikes, membranes, _ = literal_lif(current.cpu().double(), variant)
    clear = far_from_edges(membranes, variant)
    expected = membranes * (1 - spikes)
    torch.testing.assert_close(lif.v_seq.cpu()[:, clear].double(), expected[:, clear], rtol=0, atol=ROUNDING)


class SoftLIF(LIF):
    def neuronal_reset(self, spike: Tensor) -> None:
        self.v = self.v - spike * self.v_threshold


def assign(name: str, value: object) -> Callable[[LIF], None]:
    return lambda lif: setattr(lif, name, value)


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        (LIF, assign("v_reset", None), "v_reset"),
        (LIF, assign("tau", 3.0), "tau"),
        (LIF, assign("decay_input", True), "decay_input"),
        (LIF, assign("detach_reset", True), "detach_reset"),
        (LIF, assign("surrogate_function", spikingjelly_surrogate.ATan()), "surrogate_function"),
        (SoftLIF, lambda _: None, "neuronal_reset"),
    ],
)
def test_a_changed_neuron_is_computed_by_pytorchs_loop_alone(
    kind: type[LIF], change: Callable[[LIF], None], named: str
) -> None:
    current = image(5).requires_grad_()
    coefficients, norm = torch.ones(5), ThresholdDependentBatchNorm(4, 0.2)
    lif = kind(lif_surrogate("paper", 0.2, strict=False), backend="scan")
    change(lif)
    for compute in (lif, lambda x: lif.summed(x, coefficients, norm)):
        with pytest.raises(UserError, match=rf"'scan' computes a LIF .* \({named}\): use backend 'torch'"):
            compute(current)
    lif.backend = "torch"
    unchanged = make_lif("paper", "torch")
    gradients = []
    for neurons in (lif, unchanged):
        spikes = neurons(current)
        (gradient,) = torch.autograd.grad((spikes * image(5)).sum(), current)
        gradients.append(gradient)
    assert not gradients[0].equal(gradients[1])


def test_the_decay_is_that_of_a_new_neuron() -> None:
    with pytest.raises(AttributeError):
        make_lif("paper").decay = 0.5


def test_set_backend_reaches_every_lif_and_refuses_an_unknown_one() -> None:
    net = nn.ModuleDict({"a": nn.Sequential(make_lif("paper", "scan")), "b": make_lif("code", "scan")})
    set_backend(net, "torch")
    assert {m.backend for m in net.modules() if isinstance(m, LIF)} == {"torch"}
    with pytest.raises(UserError, match=r"unknown LIF backend 'jax'; choose one of scan, .*torch, cupy"):
        set_backend(net, "jax")
    with pytest.raises(UserError, match="unknown LIF backend"):
        make_lif("paper", "lava")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cupy_without_a_gpu_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="cupy") as refusal:
        make_lif("paper", "cupy")
    assert "\n" not in str(refusal.value)
    lif = make_lif("paper", "scan")
    with pytest.raises(UserError, match="cupy"):
        set_backend(lif, "cupy")
    assert lif.backend == "scan"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_cupy_computes_in_float32_only(variant: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurons.lif._check_cupy", lambda: None)
    lif, current = make_lif(variant, "cupy"), torch.zeros(2, 1, 4, dtype=dtype)
    with pytest.raises(UserError, match="CUDA tensors only"):
        lif(current)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    with pytest.raises(UserError, match=f"in float32 only, not in {re.escape(str(dtype))}; use backend 'triton'"):
        lif(current)


def test_bfloat16_currents_meet_a_float32_membrane_in_the_scan(variant: str, rng: torch.Generator) -> None:
    rounded = torch.randn(16, 4, 100, generator=rng).bfloat16()
    weight = torch.randn(16, 4, 100, generator=rng).bfloat16().float()

    def run(current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lif, current = make_lif(variant, "scan"), current.requires_grad_()
        spikes = torch.cat([lif(current[:9]), lif(current[9:])])
        return spikes, lif.v, torch.autograd.grad((spikes * weight.to(spikes)).sum(), current)[0]

    spikes, v, gradient = run(rounded)
    expected_spikes, expected_v, expected_gradient = run(rounded.detach().float())
    assert spikes.dtype == gradient.dtype == torch.bfloat16
    assert v.dtype == torch.float32
    assert torch.equal(spikes.float(), expected_spikes)
    assert torch.equal(v, expected_v)
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=1e-2, atol=1e-3)


def test_another_spikingjelly_release_is_refused_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    for version in (lambda _: "2.0.0", unknown):
        monkeypatch.setattr("neurons.lif.metadata.version", version)
        with pytest.raises(UserError, match=re.escape("pip install spikingjelly==0.0.0.0.14")):
            make_lif("paper", "scan")


def test_a_second_derivative_is_refused_in_words() -> None:
    lif, current = make_lif("paper", "scan"), torch.randn(3, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(lif(current).square().sum(), current, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
