"""The counts agree with a hand calculation and with PyTorch's own counter; floors follow from rates."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.formats import markdown_table
from benchmarks import floors
from benchmarks.costs import Cost, LayerCost, layer_costs, total
from benchmarks.floors import H200, Arguments, Machine, copy_rate, floor, floor_table, layer_table, main, matrix_rate
from cli import run_program
from models import ModelConfig, build_model
from models.backbone import SpikingBlock
from neurons import set_backend
from neurons.library import native_obstacle

T = 16
CIFAR10 = Arguments().model_config()
SMALL = replace(CIFAR10, image_channels=1, widths=(4, 6, 8, 10), latent_dim=5, n_steps=3, n_candidates=2)
CPU = torch.device("cpu")
DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()

# (values out of a layer, or into a transposed convolution) * weights that meet each of them, times the runs.
BY_HAND = {
    "encoder.blocks.0": 16 * 16 * 32 * (3 * 9),
    "encoder.blocks.1": 8 * 8 * 64 * (32 * 9) * T,
    "encoder.blocks.2": 4 * 4 * 128 * (64 * 9) * T,
    "encoder.blocks.3": 2 * 2 * 256 * (128 * 9) * T,
    "encoder.to_latent": 128 * 1024 * T,
    "bottleneck": 128 * 128,
    "decoder.from_latent": 1024 * 128 * T,
    "decoder.blocks.0": 2 * 2 * 256 * (128 * 9) * T,
    "decoder.blocks.1": 4 * 4 * 128 * (64 * 9) * T,
    "decoder.blocks.2": 8 * 8 * 64 * (32 * 9) * T,
    "decoder.blocks.3": 16 * 16 * 32 * (32 * 9) * T,
    "decoder.readout, sum over time": 32 * 32 * 32 * T,
    "decoder.readout": 32 * 32 * 32 * (3 * 9),
}


def by_name(config: ModelConfig, mode: str = "train", batch_size: int = 64) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in layer_costs(config, mode, batch_size)}


def test_cifar10_forward_agrees_with_a_hand_calculation() -> None:
    layers = layer_costs(CIFAR10, "train", 64)
    assert {x.name: x.cost.forward_macs for x in layers if x.cost.macs} == BY_HAND
    assert total(layers).forward_macs == sum(BY_HAND.values()) == 156_835_840


def test_backward_does_what_forward_does_once_per_gradient() -> None:
    layers = by_name(SMALL)
    no_input_gradient = {"encoder.blocks.0", "bottleneck"}
    for name, layer in layers.items():
        c = layer.cost
        assert c.backward_input_macs == (0 if name in no_input_gradient else c.forward_macs), name
        assert c.backward_weight_macs == (0 if "sum over time" in name else c.forward_macs), name


@pytest.mark.parametrize(("model", "left_out"), [("esvae", 0.0), ("fsvae", 0.0), ("taid", 0.01)])
def test_multiplies_agree_with_pytorchs_counter(model: str, left_out: float) -> None:
    network = build_model(replace(SMALL, model=model)).train()
    x = torch.rand(2, 1, 32, 32)
    with FlopCounterMode(display=False) as counter:
        output = network(x, generator=Generator().manual_seed(0))
        (output.reconstruction.sum() + output.prior_rate.sum()).backward()
    counted = total(layer_costs(network.config, "train", len(x))).macs
    assert counted == pytest.approx(counter.get_total_flops() / 2 / len(x), rel=left_out)


def test_values_moved_by_one_block() -> None:
    x, y = T * 32 * 16 * 16, T * 64 * 8 * 8  # into and out of the second convolution; as many spikes as y
    cost = by_name(CIFAR10)["encoder.blocks.1"].cost
    assert cost.forward_values == (x + y) + y + (y + y)
    assert cost.backward_values == (2 * y + y) + 3 * y + (y + x) + (y + x)
    assert cost.kept_values == x + y


def test_the_first_convolution_runs_once_and_its_spikes_leave_at_every_step() -> None:
    first = by_name(CIFAR10)["encoder.blocks.0"]
    x, y = 3 * 32 * 32, 32 * 16 * 16
    assert first.runs == 1
    assert first.cost.forward_values == (x + y) + y + (y + T * y)
    assert first.cost.backward_values == (2 * y + T * y) + 3 * y + (y + x)
    assert first.cost.kept_values == x + y


def test_the_last_block_leaves_the_sum_of_its_spikes_and_not_the_spikes() -> None:
    last = by_name(CIFAR10)["decoder.blocks.3"].cost
    x, y = T * 32 * 16 * 16, T * 32 * 32 * 32
    assert last.forward_values == (x + y) + y + (y + y // T)
    assert last.backward_values == (2 * y + y // T) + 3 * y + (y + x) + (y + x)


def test_sampling_decodes_without_statistics_and_keeps_nothing() -> None:
    layers = by_name(SMALL, "sample")
    assert not any(name.startswith("encoder") for name in layers)
    cost, block = total(list(layers.values())), layers["decoder.blocks.0"].cost
    assert cost.backward_values == cost.kept_values == cost.macs - cost.forward_macs == 0
    x, y = 3 * 10 * 2 * 2, 3 * 8 * 4 * 4
    assert block.forward_values == (x + y) + (y + y)


def test_images_of_a_batch_share_the_weights() -> None:
    n_weights = sum(m.weight.numel() for m in build_model(SMALL).modules() if isinstance(m, nn.Linear | nn.Conv2d))
    n_weights += sum(m.weight.numel() for m in build_model(SMALL).modules() if isinstance(m, nn.ConvTranspose2d))
    for batch_size in (1, 10):
        shared = by_name(SMALL, "train", batch_size)["weights, AdamW"].cost
        assert shared.forward_values == n_weights / batch_size
        assert shared.backward_values == 9 * n_weights / batch_size


def kept_per_image(monkeypatch: pytest.MonkeyPatch, look_up: bool) -> float:
    """Floats that the native backend keeps for the backward pass, with dense convolutions or with its own."""
    with monkeypatch.context() as patch:
        if not look_up:
            patch.setattr(SpikingBlock, "_uses_spike_kernel", lambda block, x: False)
        network = build_model(replace(CIFAR10, n_steps=4)).train()
        set_backend(network, "native")
        own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = network(torch.rand(4, 3, 32, 32))
        assert output.reconstruction.requires_grad
        return sum(n for pointer, n in kept.items() if pointer not in own) / 4 / 4


@pytest.mark.skipif(bool(native_obstacle()), reason="no C compiler")
def test_the_native_backend_keeps_what_the_model_of_traffic_says(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = layer_costs(replace(CIFAR10, n_steps=4), "train", 4)
    expected = total(layers).kept_values
    assert kept_per_image(monkeypatch, look_up=False) == pytest.approx(expected, rel=0.02)
    looked_up = [f"{part}.blocks.{i}" for part in ("encoder", "decoder") for i in range(4)][1:]
    spikes = sum(layer.runs * math.prod(layer.input) for layer in layers if layer.name in looked_up)
    assert kept_per_image(monkeypatch, look_up=True) == pytest.approx(expected - spikes * 15 / 16, rel=0.03)


@pytest.mark.parametrize(("macs", "values", "images_per_second"), [(100, 10, 10.0), (10, 100, 5.0)])
def test_the_slower_of_multiplying_and_moving_is_the_floor(macs: int, values: int, images_per_second: float) -> None:
    machine = Machine("", macs_per_second=1000.0, bytes_per_second=2000.0)
    found = floor(Cost(macs / 2, macs / 2, 0, values / 4, 3 * values / 4, 1e9), machine, bytes_per_value=4)
    assert found.images_per_second == images_per_second


def test_rates_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "MATRIX_SIZE", {"cpu": 10})
    monkeypatch.setattr(floors, "COPIED_BYTES", {"cpu": 400})
    monkeypatch.setattr(floors, "calibrate", lambda step, seconds, device: 3)
    seconds = iter([9.0, 6.0, 7.0, 9.0, 8.0] * 2)
    monkeypatch.setattr(floors, "time_steps", lambda step, n, device: step() is not None and next(seconds))
    assert matrix_rate(CPU, torch.float32) == 1000 / 2
    assert copy_rate(CPU) == 2 * 400 / 2


def test_columns_without_a_number_are_left_out() -> None:
    layers = [LayerCost("a", 2, (3, 4), (5,), Cost(forward_macs=2e6, forward_values=1e6))]
    header, _, row, last = (line.replace(" ", "") for line in layer_table(layers, 2).splitlines())
    assert header == "|layer|runs|input|output|MMACforward|MBforward|"
    assert row == "|a|2|3x4|5|2.000|2.000|" and last == "|sum||||2.000|2.000|"


def test_the_tables_in_the_documentation_are_what_the_program_prints() -> None:
    layers = {mode: layer_costs(CIFAR10, mode, 64) for mode in ("train", "sample")}
    tables = [layer_table(rows, 4) for rows in layers.values()]
    for size in (2, 4):
        tables.append(floor_table({(mode, H200): floor(total(rows), H200, size) for mode, rows in layers.items()}))
    assert all(table in DOCUMENTATION for table in tables)


def test_markdown_columns_line_up() -> None:
    lines = markdown_table(["name", "n"], [["a", 1], ["long name", 100]]).splitlines()
    assert lines == ["| name      |   n |", "| --------- | --: |", "| a         |   1 |", "| long name | 100 |"]


def test_json_holds_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "floors.json"
    arguments = "--dataset digits --n-steps 2 --gmacs-per-second 1 --gb-per-second 1e6 --json"
    assert run_program(main, [*arguments.split(), str(file)]) == 0
    record = json.loads(file.read_text())
    train = record["per_image"]["train"]
    assert train["total"]["forward_macs"] == sum(layer["cost"]["forward_macs"] for layer in train["layers"])
    given = record["floors"][0]
    macs = sum(train["total"][f"{name}_macs"] for name in ("forward", "backward_input", "backward_weight"))
    assert given["mode"] == "train" and given["images_per_second"] == pytest.approx(1e9 / macs)
    assert {x["machine"]["name"] for x in record["floors"]} == {"as given", "H200, bf16 multiplies"}
    assert "decoder.readout" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--n-steps 0", "--batch-size 0", "--gmacs-per-second -1", "--gb-per-second inf"])
def test_nonsense_is_one_line_and_exit_code_2(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, flag.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {flag.split()[0]} must be")
