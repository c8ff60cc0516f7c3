"""The layer benchmark times the network's own layers, against a baseline that computes the same."""

import json
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from benchmarks.lif_kernels import Benchmark, Layer, layers_of, main, make_layer, make_pass, plain_layer, recorded
from cli import run_program
from models.backbone import make_lif
from neurons import ThresholdDependentBatchNorm

TINY = ["--device", "cpu", "--batch-size", "1", "--n-steps", "2", "--repeats", "2", "--seconds", "0.001"]
LAYERS = [
    Layer("same at every step", (1, 3, 5, 4, 4), 4),
    Layer("image", (4, 3, 5, 4, 4), 1),
    Layer("vector", (4, 3, 7), 1),
    Layer("summed", (4, 3, 5, 4, 4), 1, (0.512, 0.64, 0.8, 1.0)),
]


def gradients(backend: str, layer: Layer, variant: str, device: str = "cpu") -> tuple[Tensor, ...]:
    config = Benchmark(variant=variant).model_config()
    norm = ThresholdDependentBatchNorm(layer.shape[2], config.v_threshold).to(device)
    if backend == "plain":
        run = plain_layer(norm, make_lif(config).constants(), layer)
    else:
        run = make_layer(backend, layer, norm, config)
    return make_pass(run, layer, norm, torch.float32)()


def assert_same_gradients(backend: str, layer: Layer, variant: str, device: str = "cpu") -> None:
    found, expected = (gradients(name, layer, variant, device) for name in (backend, "scan"))
    for gradient, true in zip(found, expected, strict=True):
        assert (gradient - true).norm() <= 1e-5 * true.norm()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_the_plain_loop_has_the_gradients_of_scan(layer: Layer, variant: str) -> None:
    assert_same_gradients("plain", layer, variant)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["compiled", "triton"])
def test_on_a_gpu_the_gradients_are_those_of_scan(backend: str, variant: str) -> None:
    for layer in LAYERS * 4:  # more than torch.compile takes without a reset
        assert_same_gradients(backend, layer, variant, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["compiled", "triton", "scan", "torch"])
def test_on_a_gpu_a_recorded_pass_is_the_pass(backend: str) -> None:
    device, layer, gradients = torch.device("cuda"), LAYERS[1], []
    config = Benchmark().model_config()
    norm = ThresholdDependentBatchNorm(layer.shape[2], config.v_threshold).to(device)
    run = make_pass(make_layer(backend, layer, norm, config), layer, norm, torch.float32)
    replay = recorded(lambda: gradients.append(run()), backend, device)
    replay()
    for ours, theirs in zip(gradients[-1], run(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_on_a_cpu_and_with_cupy_nothing_is_recorded() -> None:
    assert recorded(len, "scan", torch.device("cpu")) is len
    assert recorded(len, "cupy", torch.device("cuda")) is len


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_plain_loop_spikes_as_scan_does(variant: str) -> None:
    x = torch.randn((4, 3, 5, 4, 4), generator=Generator().manual_seed(0))
    config, norm = Benchmark(variant=variant).model_config(), ThresholdDependentBatchNorm(5, 0.2)
    spikes = plain_layer(norm, make_lif(config).constants(), LAYERS[1])(x)
    assert 0.01 < spikes.mean() < 0.9
    assert torch.equal(spikes, make_layer("scan", LAYERS[1], norm, config)(x))


def test_the_layers_are_those_of_the_network() -> None:
    layers = layers_of(Benchmark(n_steps=3).model_config(), batch_size=7)
    assert layers[0] == Layer("encoder.blocks.0", (1, 7, 32, 16, 16), 3)
    *_, last = layers
    assert (last.name, last.shape, last.n_repeats) == ("decoder.blocks.3", (3, 7, 32, 32, 32), 1)
    assert last.coefficients == pytest.approx((0.64, 0.8, 1.0)) and not any(x.coefficients for x in layers[:-1])
    assert [len(layer.shape) for layer in layers] == [5, 5, 5, 5, 3, 3, 5, 5, 5, 5]


def test_bytes_are_counted_per_pass_over_memory() -> None:
    n = 3 * 5 * 4 * 4
    constant, image, _, summed = LAYERS
    assert image.bytes_moved(4) == 4 * 4 * n * sum((1, 2, 3, 3))  # statistics, forward, backward, gradient of tdBN
    assert constant.bytes_moved(2) == 2 * n * sum((1, 1 + 4, 1 + 4 + 1, 3))
    assert summed.bytes_moved(4) == image.bytes_moved(4) - 4 * n * 2 * (4 - 1)


def test_json_and_printed_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert run_program(main, [*TINY, "--backends", "scan", "cupy", "--json", str(file)]) == 0
    record, lines = json.loads(file.read_text()), capsys.readouterr().out.splitlines()
    assert record["device"] == "cpu" and record["copy_bytes_per_second"] > 0 and len(record["layers"]) == 10
    assert len([line for line in lines if " scan " in line and "GB/s" in line]) == 10
    for layer in record["layers"]:
        scan, cupy = layer["backends"]["scan"], layer["backends"]["cupy"]
        assert scan["milliseconds"] > 0 and len(scan["milliseconds_each"]) == 2
        assert scan["bytes_per_second"] == pytest.approx(layer["bytes_moved"] / scan["milliseconds"] * 1e3)
        if not torch.cuda.is_available():
            assert "needs an NVIDIA GPU" in cupy["refused"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scan_is_not_timed_under_the_name_of_native(dtype: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert run_program(main, [*TINY, "--backends", "native", "--dtype", dtype, "--json", str(file)]) == 0
    layers = [layer["backends"]["native"] for layer in json.loads(file.read_text())["layers"]]
    refused = f"backend 'native' runs torch.{dtype} as 'scan' does; use --dtype float32"
    assert layers == [{"refused": refused}] * 10


@pytest.mark.parametrize(
    "arguments", ["--batch-size 0", "--repeats 0", "--seconds nan", "--device nonsense", "--backends"]
)
def test_nonsense_is_one_line_and_exit_code_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, [*TINY, *arguments.split()]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: ")
