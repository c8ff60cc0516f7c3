"""Backend `triton` against the equations in float64: on the GPU if there is one, else in Triton's interpreter."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Generator, Tensor, nn

from errors import UserError
from models import ModelConfig, build_model
from neurons import LIF, ThresholdDependentBatchNorm, lif_surrogate, set_backend
from neurons.native import channels_last
from neurons.triton_support import triton_obstacle
from tests.neurons.lifs import make_lif
from training.device import describe_backend, resolve_backend

pytest.importorskip("triton")
from neurons import triton_layer

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
pytestmark = [pytest.mark.gpu] if ON_GPU else []

SHAPES = [
    (1, 3, 1, 5, 5),
    (3, 5, 33),
    (16, 3, 20, 3, 5),
    (32, 2, 5, 2, 3),
    (2, 7, 130),  # three tiles of channels, the last one nearly empty
    (2, 5, 4, 9, 11),  # more rows than a tile has
]
# How far an activation may be off that is rounded to this type twice: gradient of the current, then of its input.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
VECTORS = 2e-5  # membranes, and gradients per channel, are float32 sums whatever the type

Run = dict[str, Tensor]


@pytest.fixture
def reference(literal_lif, literal_tdbn, far_from_edges) -> Callable[..., tuple[Tensor, Tensor, nn.Module, Run]]:
    """Random input of a shape, a norm, and what the equations make of them in float64.

    The input is drawn again until no membrane is so near to an edge that float32 may see it on the other side.
    """

    def make(
        shape: tuple[int, ...],
        variant: str,
        n_repeats: int = 1,
        dtype: torch.dtype = torch.float32,
        training: bool = True,
    ) -> tuple[Tensor, Tensor, nn.Module, Run]:
        for seed in range(100):
            x, v, norm = draw(shape, Generator().manual_seed(seed), dtype)
            values, membranes = literal_run(x, v, norm.train(training), variant, n_repeats)
            if far_from_edges(membranes, variant, margin=2e-6).all():
                return x, v, norm, values
        raise AssertionError("no input stays clear of the edges; make the shape smaller")

    def literal_run(x: Tensor, v: Tensor, norm: nn.Module, variant: str, n_repeats: int) -> tuple[Run, Tensor]:
        leaves = [t.detach().double().requires_grad_() for t in (x, v, norm.weight, norm.bias)]
        repeated = leaves[0].expand(len(x) * n_repeats, *x.shape[1:])
        running = None if norm.training else [t.double() for t in (norm.running_mean, norm.running_var)]
        y, *_ = literal_tdbn(repeated, *leaves[2:], norm.scale, running)
        spikes, membranes, v_last = literal_lif(y, variant, leaves[1])
        gradients = torch.autograd.grad(loss(spikes, v_last), leaves)
        names = ("x.grad", "v.grad", "weight.grad", "bias.grad")
        return {"spikes": spikes, "v_last": v_last} | dict(zip(names, gradients, strict=True)), membranes

    return make


def draw(shape: tuple[int, ...], rng: Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor, nn.Module]:
    x = channels_last((torch.randn(shape, generator=rng) + 0.3).to(dtype))
    norm = ThresholdDependentBatchNorm(shape[2], v_threshold=0.2, alpha=2.0)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(shape[2], generator=rng) + 0.5)
        norm.bias.copy_(torch.randn(shape[2], generator=rng) * 0.2)
        norm.running_mean.copy_(torch.randn(shape[2], generator=rng) * 0.3)
    return x, torch.randn(shape[1:], generator=rng) * 0.3, norm


def loss(spikes: Tensor, v_last: Tensor) -> Tensor:
    """A sum of both outputs with weights that every type holds exactly."""
    weights = torch.arange(spikes.numel(), device=spikes.device).view(spikes.shape) * 37 % 129 / 64 - 1
    return (spikes.to(v_last) * weights).sum() + (v_last * weights[0]).sum()


def run(x: Tensor, v: Tensor | None, norm: nn.Module, variant: str, n_repeats: int = 1) -> Run:
    lif, norm = make_lif(variant, "triton", DEVICE), copy.deepcopy(norm).to(DEVICE)
    leaves = {"x": x.to(DEVICE).detach().requires_grad_(), "weight": norm.weight, "bias": norm.bias}
    if v is not None:
        leaves["v"] = lif.v = v.to(DEVICE).detach().requires_grad_()
    spikes = lif(leaves["x"], norm, None, n_repeats)
    gradients = torch.autograd.grad(loss(spikes, lif.v), tuple(leaves.values()))
    outputs = {"spikes": spikes.detach(), "v_last": lif.v.detach()}
    return outputs | {f"{name}.grad": grad for name, grad in zip(leaves, gradients, strict=True)}


def assert_close(found: Run, expected: Run, rounding: float = 1e-5) -> None:
    assert torch.equal(found["spikes"].cpu().double(), expected["spikes"])
    for name in expected.keys() - {"spikes"}:
        bound = rounding if name == "x.grad" else VECTORS
        value, true = found[name].cpu().double(), expected[name]
        assert true.any() and (value - true).norm() <= bound * true.norm(), name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_equations(reference, shape: tuple[int, ...], variant: str) -> None:
    x, v, norm, expected = reference(shape, variant)
    assert_close(run(x, v, norm, variant), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_half_precision_rounds_the_activations_and_nothing_else(
    reference, shape: tuple[int, ...], dtype: torch.dtype, variant: str
) -> None:
    """The reference has the same rounded input: spikes and membranes agree as in float32."""
    x, v, norm, expected = reference(shape, variant, dtype=dtype)
    found = run(x, v, norm, variant)
    assert found["spikes"].dtype == found["x.grad"].dtype == dtype
    assert found["v_last"].dtype == torch.float32
    assert_close(found, expected, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_steps", [5, 16, 33])
def test_a_sum_over_time_is_rounded_once(n_steps: int, dtype: torch.dtype, rng: Generator, variant: str) -> None:
    x, v, norm = draw((n_steps, 3, 20, 2, 2), rng, dtype)
    coefficients = 0.8 ** torch.arange(n_steps).flip(0).to(DEVICE)
    weight = torch.randn(x.shape[1:], generator=rng).to(dtype).to(DEVICE)

    def gradients(x: Tensor, summed: bool) -> tuple[Tensor, ...]:
        lif, own = make_lif(variant, "triton", DEVICE), copy.deepcopy(norm).to(DEVICE)
        lif.v = v.to(DEVICE)
        x = x.to(DEVICE).detach().requires_grad_()
        spikes = None if summed else lif(x, own)
        out = (
            lif.summed(x, coefficients, own) if summed else torch.einsum("t,tnchw->nchw", coefficients, spikes.float())
        )
        assert out.dtype == (dtype if summed else torch.float32)
        return out.detach(), *torch.autograd.grad((out * weight).sum(), (x, own.weight, own.bias))

    found, expected = gradients(x, True), gradients(x.float(), False)
    for one, true in zip(found, expected, strict=True):
        assert (one.float() - true).norm() <= 2 * ROUNDING[dtype] * true.norm()


def test_a_norm_in_bfloat16_keeps_its_types(rng: Generator) -> None:
    x, _, norm = draw((4, 3, 20), rng, torch.bfloat16)
    norm = norm.bfloat16().to(DEVICE)
    make_lif("paper", "triton", DEVICE)(x.to(DEVICE).requires_grad_(), norm).sum().backward()
    tensors = norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var
    assert all(tensor.dtype == torch.bfloat16 and tensor.any() for tensor in tensors)


@pytest.mark.parametrize("n_steps", [1, 2, 15, 16, 17, 31, 32, 33])
def test_any_number_of_steps(reference, n_steps: int, variant: str) -> None:
    x, v, norm, expected = reference((n_steps, 3, 6), variant)
    assert_close(run(x, v, norm, variant), expected)


@pytest.mark.parametrize("n_repeats", [1, 2, 16, 40])
@pytest.mark.parametrize("shape", [(1, 3, 5, 3, 3), (1, 5, 20)], ids=str)
def test_a_constant_input_is_its_repetition(reference, shape: tuple[int, ...], n_repeats: int, variant: str) -> None:
    x, v, norm, expected = reference(shape, variant, n_repeats)
    assert_close(run(x, v, norm, variant, n_repeats), expected)


@pytest.mark.parametrize("n_repeats", [1, 5])
def test_evaluation_mode(reference, n_repeats: int, variant: str) -> None:
    x, v, norm, expected = reference((1 if n_repeats > 1 else 5, 4, 20), variant, n_repeats, training=False)
    assert_close(run(x, v, norm, variant, n_repeats), expected)
    lif = make_lif(variant, "triton", DEVICE)
    lif.v = v.to(DEVICE)
    with torch.no_grad():  # one kernel, where gradients take two
        spikes = lif(x.to(DEVICE), norm.to(DEVICE), None, n_repeats)
    assert torch.equal(spikes.cpu().double(), expected["spikes"])


@pytest.mark.parametrize("training", [True, False])
def test_the_bias_of_the_synapse_moves_the_running_mean_only(training: bool, rng: Generator) -> None:
    x, _, norm = draw((3, 4, 5, 3, 3), rng, torch.float32)
    x_bias = torch.linspace(-0.5, 0.5, 5)
    inside, added = (copy.deepcopy(norm).to(DEVICE).train(training) for _ in range(2))
    a = make_lif("paper", "triton", DEVICE)(x.to(DEVICE), inside, x_bias.to(DEVICE))
    b = make_lif("paper", "triton", DEVICE)(channels_last(x + x_bias.view(5, 1, 1)).to(DEVICE), added)
    assert (a != b).float().mean() < 0.01
    torch.testing.assert_close(inside.running_mean, added.running_mean)
    torch.testing.assert_close(inside.running_var, added.running_var)
    assert torch.equal(inside.running_mean.cpu(), norm.running_mean) != training


@pytest.mark.parametrize("layout", ["NCHW", "every second image", "batch first"])
def test_any_memory_layout_is_taken(layout: str, rng: Generator) -> None:
    x, _, norm = draw((3, 4, 5, 3, 3), rng, torch.float32)
    x = {
        "NCHW": lambda: x.contiguous(),
        "every second image": lambda: x[:, ::2],
        "batch first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
    }[layout]()
    found, expected = run(x, None, norm, "paper"), run(channels_last(x.clone(), dense=True), None, norm, "paper")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("tile", "channels"), [(64, 16), (1024, 256)])
def test_the_size_of_a_tile_does_not_matter(
    tile: int, channels: int, reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, v, norm, expected = reference((4, 3, 40, 2, 2), "paper")
    for name in ("LIF_TILE", "ELEMENTWISE_TILE", "STATISTICS_TILE"):
        monkeypatch.setattr(triton_layer, name, tile)
    monkeypatch.setattr(triton_layer, "MAX_TILE_CHANNELS", channels)
    assert_close(run(x, v, norm, "paper"), expected)


def test_two_runs_are_bit_identical(rng: Generator) -> None:
    arguments = *draw((5, 6, 48, 3, 3), rng, torch.float32), "paper"
    first, second = run(*arguments), run(*arguments)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("parts", [1, 2, 512])
@pytest.mark.parametrize("rows", [1, 40, 64, 65, 200])
def test_statistics_of_values_far_from_zero(
    rows: int, parts: int, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn((2, rows, 70), generator=rng) * 1e-2 + 10
    norm, exact = ThresholdDependentBatchNorm(70, v_threshold=0.2, eps=1e-20, momentum=1.0), x.double().flatten(0, 1)
    norm, none = norm.to(DEVICE), torch.zeros(70, device=DEVICE)
    monkeypatch.setattr(triton_layer, "STATISTICS_PARTS", parts)
    layer = triton_layer.TritonLayer(x.to(DEVICE), len(x), 70, make_lif("paper", "triton", DEVICE).constants())
    vectors = layer.batch_affine_(norm, norm.gain, none)
    mean, inverse_std, slope, offset = (vector.cpu().double() for vector in vectors)
    torch.testing.assert_close(mean, exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(inverse_std, exact.var(0, correction=0).rsqrt(), rtol=5e-5, atol=0)
    torch.testing.assert_close(slope, 0.2 * inverse_std, rtol=1e-6, atol=0)
    torch.testing.assert_close(offset, -mean * slope, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_mean.cpu().double(), exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var.cpu().double(), exact.var(0), rtol=1e-4, atol=0)


def test_the_backward_pass_keeps_nothing_large_but_the_input(rng: Generator) -> None:
    x, _, norm = draw((16, 4, 8, 3, 3), rng, torch.float32)
    x, norm, kept = x.to(DEVICE).requires_grad_(), norm.to(DEVICE), {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        make_lif("paper", "triton", DEVICE)(x, norm)
    assert [pointer for pointer, tensor in kept.items() if tensor.numel() > 8] == [x.data_ptr()]


@pytest.mark.parametrize("code", [False, True], ids=["paper", "code"])
def test_a_whole_training_step_agrees_with_scan(code: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Membranes differ in the last bits, so now and then a spike near the threshold flips."""
    if not ON_GPU:
        monkeypatch.setattr(triton_layer, "LIF_TILE", 4096)  # nearly as fast as a small one in the interpreter
    more = {"lif_surrogate": "code", "strict_threshold": True, "sampler_surrogate": "code"} if code else {}
    torch.manual_seed(2)
    model = build_model(ModelConfig(widths=(8, 16), latent_dim=12, n_steps=8, **more)).to(DEVICE)
    x = torch.rand(6, 3, 8, 8, device=DEVICE) * 2 - 1

    def loss_and_gradient(backend: str) -> tuple[Tensor, Tensor]:
        other = copy.deepcopy(model)
        set_backend(other, backend)
        value = other.loss(other(x, Generator(DEVICE).manual_seed(0)), x)["loss"]
        value.backward()
        return value, torch.cat([p.grad.flatten() for p in other.parameters()])

    (value, gradient), (expected_value, expected) = loss_and_gradient("triton"), loss_and_gradient("scan")
    torch.testing.assert_close(value, expected_value, rtol=1e-3, atol=0)
    assert (gradient - expected).norm() < 0.03 * expected.norm()


# ---- what it refuses, and what `auto` takes ----


def test_other_types_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"bfloat16 and float16, not torch.float64; use backend 'scan'"):
        make_lif("paper", "triton", DEVICE)(torch.zeros(2, 1, 4, dtype=torch.float64, device=DEVICE))


def test_outside_the_interpreter_cpu_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lif = make_lif("paper", "triton", DEVICE)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match="CUDA tensors only"):
        lif(torch.zeros(2, 1, 3))
    with pytest.raises(UserError, match="runs on a GPU only; use --device cuda"):
        resolve_backend("triton", CPU)


def forget_triton(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "triton", None)  # what `import` finds where it is not installed
    return "pip install triton"


def forget_the_gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return "PyTorch finds no GPU"


def forget_the_driver(monkeypatch: pytest.MonkeyPatch) -> str:
    import triton

    def fail() -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver = SimpleNamespace(active=SimpleNamespace(get_current_device=fail))
    monkeypatch.setattr(triton.runtime, "driver", driver)
    return "Failed to find C compiler"


@pytest.mark.parametrize("forget", [forget_triton, forget_the_gpu, forget_the_driver])
def test_where_it_cannot_run_auto_takes_scan_and_triton_is_an_error(
    forget: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = forget(monkeypatch)
    assert why in triton_obstacle()
    assert resolve_backend("auto", CUDA) == "scan"
    assert describe_backend("auto", CUDA) == f"LIF backend: scan (no Triton: {triton_obstacle()})"
    with pytest.raises(UserError, match=f"'triton' cannot run: .*{why}.*use backend 'scan'") as error:
        LIF(lif_surrogate("paper", 0.2, strict=False), backend=resolve_backend("triton", CUDA))
    assert "\n" not in str(error.value)


def test_auto_takes_it_on_a_gpu_and_says_so() -> None:
    assert resolve_backend("auto", CUDA) == "triton"
    assert describe_backend("auto", CUDA).startswith("LIF backend: triton")


# ---- without a GPU, the compiler's word that the kernels run on one ----

COMPILE = """
import subprocess, sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neurons import triton_kernels as kernels
from neurons.triton_layer import LIF_TILE, lif_warps

ACTIVATIONS = ("x", "spikes", "grad_spikes", "last_grad_y", "grad")
NUMBERS = ("decay", "fires_from", "middle", "half", "height", "unbiased", "momentum", "eps")
SIZES = ("n_rows", "n_neurons", "n_channels", "x_stride", "grad_stride", "n_parts", "part_rows")


def compiled(kernel, dtype, num_warps=4, **constants):
    def type_of(name):
        if name in constants:
            return "constexpr"
        if name in ("spikes", "grad_spikes") and "coefficients" not in constants:
            return "*fp32"  # the sum, and its gradient
        if name == "sums":
            return "*fp64"
        return "fp32" if name in NUMBERS else "i32" if name in SIZES else f"*{dtype if name in ACTIVATIONS else 'fp32'}"

    source = ASTSource(kernel, {name: type_of(name) for name in kernel.arg_names}, constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})


for dtype in ("fp32", "bf16"):
    tile = {"ROWS": LIF_TILE // 32, "CHANNELS": 32, "num_warps": lif_warps(4 if dtype == "fp32" else 2)}
    spikes = {"coefficients": None}
    compiled(kernels.forward, dtype, N_STEPS=16, v=None, **tile)
    compiled(kernels.forward, dtype, N_STEPS=16, **spikes, **tile)
    compiled(kernels.forward, dtype, N_STEPS=16, spikes=None, v=None, **spikes, n_channels=1, ROWS=256, CHANNELS=1)
    none = {"v": None, "grad_v_last": None, "grad_v": None}
    compiled(kernels.backward, dtype, N_STEPS=16, SUM_STEPS=True, **none, **spikes, **tile)
    of_a_sum = compiled(kernels.backward, dtype, N_STEPS=16, SUM_STEPS=False, **none, **tile)
    backward = compiled(kernels.backward, dtype, N_STEPS=16, SUM_STEPS=False, **spikes, **tile)
    compiled(kernels.moments, dtype, N_LOOPS=64, ROWS=128, CHANNELS=32)
    compiled(kernels.statistics, dtype, num_warps=8, PARTS=512, CHANNELS=8)
    compiled(kernels.input_gradient, dtype, ROWS=32, CHANNELS=32)
    for kernel in (backward, of_a_sum):
        file = Path(sys.argv[1]) / "backward.cubin"
        file.write_bytes(kernel.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
        print(usage.stdout + usage.stderr)
"""


def test_the_kernels_compile_for_an_h100_and_keep_16_steps_in_registers(tmp_path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    program = tmp_path / "compile_kernels.py"
    program.write_text(COMPILE)
    command = [sys.executable, program, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("REG:") == done.stdout.count("STACK:0 ") == 4  # nothing spilled, for either type
