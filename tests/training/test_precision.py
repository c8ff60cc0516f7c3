"""What bf16 leaves in float32, how far its gradients are off, and where it is refused."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

import training.precision
from errors import UserError
from models import MODELS, ModelConfig, build_model
from neurons import LIF, set_backend
from training.config import preset
from training.precision import autocast, check_precision, resolve_precision
from training.step import Runtime, set_runtime, training_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def small(name: str = "esvae", backend: str = "scan", n_steps: int = 7) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=name, widths=(8, 16), latent_dim=6, n_steps=n_steps, n_candidates=5)).train()
    set_backend(model, backend)
    return model


def images(n: int = 6) -> Tensor:
    return torch.rand((n, 3, 8, 8), generator=Generator().manual_seed(1)) * 2 - 1


def loss_and_gradient(model: nn.Module, context) -> tuple[Tensor, Tensor]:
    """Of one step on a copy of the model: a scalar, and all parameters' gradients in one vector."""
    model, x = copy.deepcopy(model), images()
    with context:
        output = model(x, generator=Generator().manual_seed(0))
    loss = model.loss(output, x)["loss"]
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "scan") for name in MODELS), ("esvae", "triton"), ("fsvae", "triton")]
)
def test_autocast_leaves_everything_outside_the_layers_in_float32(
    name: str, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "triton":  # whose spikes are bfloat16
        request.getfixturevalue("triton_in_large_tiles")
    model, x = small(name, backend, n_steps=2 if backend == "triton" else 7), images()
    with autocast(CPU, "bf16"):  # as on a GPU, with the backends that run here
        output = model(x, generator=Generator().manual_seed(0))
    terms = model.loss(output, x)
    terms["loss"].backward()
    values = [getattr(output, field.name) for field in fields(output)] + list(terms.values())
    membranes = [module.v for module in model.modules() if isinstance(module, LIF)]
    gradients = [p.grad for p in model.parameters()]
    floats = [v for v in (*values, *membranes, *gradients, *model.state_dict().values()) if v.is_floating_point()]
    assert len(floats) > 30 and {value.dtype for value in floats} == {torch.float32}


@pytest.mark.parametrize("backend", ["scan", "torch", "triton"])
def test_the_synapses_of_every_backend_multiply_in_bfloat16(
    backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "triton":
        request.getfixturevalue("triton_in_large_tiles")
    model = small(backend=backend)
    currents: list[torch.dtype] = []
    for block in [*model.encoder.blocks, *model.decoder.blocks]:
        block.lif.register_forward_pre_hook(lambda _, arguments: currents.append(arguments[0].dtype))
    loss, gradient = loss_and_gradient(model, autocast(CPU, "bf16"))
    exact_loss, exact = loss_and_gradient(model, nullcontext())
    assert currents == [torch.bfloat16] * 4 + [torch.float32] * 4
    # Spikes near the threshold flip, so the bound says only that the direction is the same.
    torch.testing.assert_close(loss, exact_loss, rtol=0.02, atol=0)
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.9


@pytest.fixture
def triton_in_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter, which takes a large tile in nearly the time of a small one."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("the kernels are compiled for the GPU here")
    monkeypatch.setattr("neurons.triton_layer.LIF_TILE", 4096)


def test_batch_statistics_of_bfloat16_values_are_those_of_float32() -> None:
    norm = small().encoder.blocks[1].norm
    x = (3 + torch.randn((4, 8, 16, 5, 5), generator=Generator().manual_seed(0))).bfloat16()
    exact = copy.deepcopy(norm)
    ours, theirs = x.clone().requires_grad_(), x.float().requires_grad_()
    y, reference = norm(ours), exact(theirs)
    y.square().sum().backward()
    reference.square().sum().backward()
    assert y.equal(reference) and norm.running_mean.equal(exact.running_mean)
    assert norm.weight.grad.equal(exact.weight.grad) and ours.grad.equal(theirs.grad.bfloat16())


@pytest.mark.parametrize(
    ("backend", "device", "capability", "found"),
    [
        ("triton", CUDA, (9, 0), "bf16"),
        ("triton", CUDA, (8, 0), "bf16"),
        ("triton", CUDA, (7, 5), "fp32"),  # has no instructions for it
        ("triton", CPU, None, "fp32"),
        ("scan", CUDA, (9, 0), "fp32"),
        ("cupy", CUDA, (9, 0), "fp32"),
        (None, CUDA, (9, 0), "fp32"),
    ],
)
def test_auto_is_bf16_for_spikes_by_triton_on_a_gpu(
    backend: str | None, device: torch.device, capability: tuple[int, int], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.precision, "backend_of", lambda _: backend)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision("auto", nn.Identity(), device) == found
    assert [resolve_precision(name, nn.Identity(), device) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


@pytest.mark.parametrize(("name", "found"), [("esvae", "bf16"), ("ann_vae", "fp32")])
@pytest.mark.gpu
def test_on_a_gpu_a_run_takes_bf16_by_itself(name: str, found: str) -> None:
    config = preset("digits", name)
    runtime = set_runtime(build_model(config.model_config()).cuda(), replace(config, device="cuda"), CUDA)
    assert runtime == Runtime("triton", found, records=True)


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("native", CPU, "--precision bf16 is for a GPU, a CPU's kernels are float32; use --precision fp32"),
        ("cupy", CUDA, "backend 'cupy' does not compute in bfloat16; use --backend triton or scan"),
    ],
)
def test_what_cannot_use_bf16_refuses_it(backend: str, device: torch.device, message: str) -> None:
    check_precision("fp32", backend, device)
    with pytest.raises(UserError, match=message):
        check_precision("bf16", backend, device)


def test_a_refusal_comes_before_anything_is_written(
    train: Callable, run_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("--precision", "bf16") == 2
    assert capsys.readouterr().err.startswith("error: --precision bf16 is for a GPU")
    assert not run_dir.exists()


def test_a_step_computes_in_the_precision_that_it_is_given() -> None:
    exact_loss, exact = loss_and_gradient(small(), nullcontext())
    losses, gradients = {}, {}
    for precision in ("fp32", "bf16"):
        model = small()
        metrics = training_step(
            model, torch.optim.SGD(model.parameters(), 0.0), images(), Generator().manual_seed(0), precision
        )
        losses[precision] = metrics["loss"]
        gradients[precision] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert losses["fp32"].equal(exact_loss) and gradients["fp32"].equal(exact)
    assert not gradients["bf16"].equal(exact)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ["triton", "scan"])
@pytest.mark.gpu
def test_on_a_gpu_a_step_in_bf16_goes_where_float32_goes(name: str, backend: str) -> None:
    # So large that single spikes which flip do not turn the gradient: in the small model they do, by up to 45 degrees.
    torch.manual_seed(0)
    config = ModelConfig(model=name, widths=(16, 32), latent_dim=16, n_steps=8, n_candidates=5)
    model, x, runs = build_model(config).train().cuda(), images(64).cuda(), []
    set_backend(model, backend)
    for precision in ("fp32", "bf16"):
        other = copy.deepcopy(model)
        optimizer = torch.optim.SGD(other.parameters(), 0.0)
        metrics = training_step(other, optimizer, x, Generator("cuda").manual_seed(0), precision)
        assert metrics["loss"].dtype == torch.float32
        runs.append((metrics["loss"], torch.cat([p.grad.flatten() for p in other.parameters()])))
    (exact_loss, exact), (loss, gradient) = runs
    torch.testing.assert_close(loss, exact_loss, rtol=0.02, atol=0)
    assert not gradient.equal(exact) and torch.cosine_similarity(gradient, exact, dim=0) > 0.9
