"""Operations of synapses are those that a hand count finds, spike by spike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.drawing import subject_colors
from analysis.operations import Operations, count_operations, energy
from analysis.spike_operations import STAGES, SUM, SpikeOperations, count, draw, reconstruct, to_table
from analysis.subjects import Subject, load_subjects
from analysis.summaries import SUMMARIES, Measured
from data import load_split
from models import MODELS, ModelConfig, build_model
from models.backbone import SpikingBlock, conv_down, conv_up
from models.tracing import SynapseTrace
from neurons.scan import sum_over_time

CONFIG = ModelConfig(image_channels=1, widths=(4, 6, 8, 10), latent_dim=5, n_steps=3, n_candidates=2)
DIGITS = Path(__file__).parents[2] / "pretrained" / "esvae-digits.safetensors"


class TwoLayers(nn.Module):
    """A convolution of stride 2 and a transposed one, 2 -> 3 -> 1 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = SpikingBlock(conv_down(2, 3), 3, CONFIG)
        self.up = SpikingBlock(conv_up(3, 1), 1, CONFIG)
        nn.init.constant_(self.down.norm.bias, 0.1)  # so that it fires
        self.eval()

    def forward(self, spikes: Tensor) -> Tensor:
        self.seen = self.down(spikes)
        return self.up(self.seen)


def reached_by_conv(place: int, size: int) -> int:
    """Outputs along one axis that an input at `place` reaches: kernel 3, stride 2, padding 1."""
    return sum(0 <= place - (2 * out - 1) <= 2 for out in range(size // 2))


def reached_by_transposed(place: int, size: int) -> int:
    """The same of the transposed one, which writes 2 * place - 1 to 2 * place + 1 of 2 * size places."""
    return sum(0 <= out < 2 * size for out in (2 * place - 1, 2 * place, 2 * place + 1))


def by_hand(spikes: Tensor, reached, n_out: int) -> int:
    """Spike by spike: outputs in reach along both axes, in each output channel."""
    size = spikes.shape[-1]
    places = spikes.nonzero()[:, -2:].tolist()
    return sum(reached(row, size) * reached(column, size) * n_out for row, column in places)


@pytest.fixture
def counted(rng: torch.Generator) -> tuple[Operations, TwoLayers, Tensor]:
    torch.manual_seed(0)
    network = TwoLayers()
    spikes = (torch.rand(3, 2, 2, 8, 8, generator=rng) < 0.3).float()
    return count_operations(network, lambda: network(spikes), n_images=2), network, spikes


def test_synaptic_operations_of_two_layers_equal_a_hand_count(counted) -> None:
    operations, network, spikes = counted
    accumulates = operations.layers.set_index("layer")["accumulates"]
    assert network.seen.sum() > 0
    assert accumulates["down"] * 2 == by_hand(spikes, reached_by_conv, 3)
    assert accumulates["up"] * 2 == by_hand(network.seen, reached_by_transposed, 1)
    assert operations.total("macs") == 0


def test_rates_are_spikes_per_value_and_step(counted) -> None:
    operations, network, spikes = counted
    layers = operations.layers.set_index("layer")
    assert layers["input_rate"]["down"] == pytest.approx(spikes.mean().item())
    assert layers["firing_rate"]["down"] == pytest.approx(network.seen.mean().item())
    assert layers["input_rate"]["up"] == pytest.approx(layers["firing_rate"]["down"])


def test_an_input_of_spikes_everywhere_costs_what_is_called_dense(counted) -> None:
    _, network, spikes = counted
    layers = count_operations(network, lambda: network(torch.ones_like(spikes)), 2).layers.set_index("layer")
    assert (
        layers["accumulates"]["down"]
        == layers["dense_operations"]["down"]
        == 3 * by_hand(torch.ones(2, 8, 8), reached_by_conv, 3)
    )


def test_a_real_input_costs_multiply_accumulates(counted) -> None:
    _, network, spikes = counted
    operations = count_operations(network, lambda: network(0.5 + 0 * spikes), 2)
    first = operations.layers.set_index("layer").loc["down"]
    assert first["macs"] == first["dense_operations"] and first["accumulates"] == 0


def test_the_readout_is_counted_on_the_spikes_of_every_step(rng: torch.Generator) -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    z, seen = (torch.rand(3, 2, 5, generator=rng) < 0.5).float(), []
    model.decoder.blocks[-1].lif.register_forward_hook(lambda *passed: seen.append(passed[-1]))
    layers = count_operations(model, lambda: model.decoder(z), 2).layers.set_index("layer")
    (spikes,) = seen
    reach = F.conv_transpose2d(
        torch.ones(1, 1, 32, 32), torch.ones(1, 1, 3, 3), padding=1
    )  # symmetric: its own adjoint
    assert layers["accumulates"]["decoder.readout"] * 2 == (spikes.sum((0, 1, 2)) * reach[0, 0]).sum()


class Thresholds(nn.Module):
    """A neuron of one's own, called as `LIF` is: without a memory."""

    backend = "scan"

    def forward(self, x_seq: Tensor, norm: nn.Module, x_bias: Tensor, n_repeats: int = 1) -> Tensor:
        return (norm(x_seq, x_bias, n_repeats) > 0.2).float().expand(len(x_seq) * n_repeats, *x_seq.shape[1:])

    def summed(self, x_seq: Tensor, coefficients: Tensor, norm: nn.Module, x_bias: Tensor) -> Tensor:
        return sum_over_time(coefficients, self(x_seq, norm, x_bias))


def test_neurons_of_ones_own_are_counted_as_lif_neurons_are(rng: torch.Generator) -> None:
    model = build_model(CONFIG).eval()
    layers = count_operations(model, lambda: model(torch.rand(2, 1, 32, 32), rng), 2).layers
    for block in model.modules():
        if isinstance(block, SpikingBlock):
            block.lif = Thresholds()
    others = count_operations(model, lambda: model(torch.rand(2, 1, 32, 32), rng), 2).layers
    assert others["layer"].tolist() == layers["layer"].tolist()
    assert others["firing_rate"].notna().equals(layers["firing_rate"].notna())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_networks_in_use(name: str, rng: torch.Generator) -> None:
    model = build_model(replace(CONFIG, model=name)).eval()
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    generating = count_operations(model, lambda: model.sample(2, rng), 2)
    both = generating.parameters | count_operations(model, lambda: reconstruct(model, images, rng), 2).parameters
    assert both == {n: p.numel() for n, p in model.named_parameters()}
    assert not any(n.startswith(("encoder", "posterior_network", "to_mean")) for n in generating.parameters)


def test_the_ann_vae_only_multiplies_and_a_spiking_model_hardly(rng: torch.Generator) -> None:
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    for name in MODELS:
        model = build_model(replace(CONFIG, model=name)).eval()
        operations = count_operations(model, lambda model=model: reconstruct(model, images, rng), 2)
        if name == "ann_vae":
            assert operations.total("accumulates") == 0
            assert operations.total("macs") == operations.total("dense_operations")
        else:
            (layer,) = operations.layers[operations.layers["macs"] > 0]["layer"]
            assert layer == "encoder.blocks.0"


def test_reconstruction_runs_fsvaes_posterior_once_and_not_its_prior(rng: torch.Generator) -> None:
    model = build_model(replace(CONFIG, model="fsvae")).eval()
    seen = []
    with SynapseTrace(model, lambda call: seen.append((call.name, len(call.input)))):
        reconstruct(model, torch.rand(2, 1, 32, 32), rng)
    steps = sum(n for name, n in seen if name == "posterior_network.layers.0")
    assert steps == 2 * CONFIG.n_steps
    assert not any(name.startswith("prior") for name, _ in seen)


def test_energy_is_of_the_stated_constants() -> None:
    assert energy(macs=1e6, accumulates=0) == pytest.approx(4.6)
    assert energy(macs=0, accumulates=2e6) == pytest.approx(1.8)


def test_the_table_sums_up_and_the_backend_stays() -> None:
    (subject,) = load_subjects([DIGITS], device="cpu", backend="auto")
    backend = subject.model.encoder.to_latent.lif.backend
    images = load_split("digits", "test", limit=4).images
    operations = count(subject, "generation", images, seed=0)
    assert subject.model.encoder.to_latent.lif.backend == backend
    table = to_table({(subject.label, "generation"): operations}).set_index("layer")
    for column in ("accumulates", "macs", "dense_operations", "energy_microjoule"):
        assert table[column].drop(SUM).sum() == pytest.approx(table[column][SUM])
    assert table["energy_microjoule"][SUM] == pytest.approx(
        energy(operations.total("macs"), operations.total("accumulates"))
    )


def test_the_experiment_compares_spiking_models_with_the_ann_vae() -> None:
    models = (build_model(replace(CONFIG, model=name)).eval() for name in MODELS)
    subjects = [Subject(m.config.model, DIGITS, m, "digits", m.config.model, {}, "") for m in models]
    result = SpikeOperations(n_images=3).measure(subjects)
    assert set(result.table["model"]) == set(MODELS)
    whole = {s.label: sum(p.numel() for p in s.model.parameters()) for s in subjects}
    assert result.record["parameters_of_both_stages"] == whole and set(whole) == set(MODELS)
    record = result.record | {"n_images": 3}
    assert SUMMARIES["spike_operations"]["parameters of both"](Measured(record, result.table, "fsvae")) == (
        f"{whole['fsvae'] / 1e6:.2f} million"
    )
    assert (result.table["accumulates"] <= result.table["dense_operations"]).all()


def test_the_figures_bars_are_the_energies_and_its_points_the_rates_of_the_table() -> None:
    subjects = load_subjects([DIGITS], device="cpu", backend="auto")
    images = load_split("digits", "test", limit=4).images
    counts = {(s.label, stage): count(s, stage, images, seed=0) for s in subjects for stage in STAGES}
    table = to_table(counts)
    bars, rates = draw(table, subject_colors(subjects), "4 digits").axes
    of_macs, of_spikes = ([c[0] for c in bars.containers[kind::2]] for kind in (0, 1))
    sums = table[table["layer"] == SUM]
    assert [bar.get_width() for bar in of_macs] == pytest.approx([energy(macs, 0) for macs in sums["macs"]])
    assert [bar.get_x() for bar in of_spikes] == [bar.get_width() for bar in of_macs]
    ends = [bar.get_x() + bar.get_width() for bar in of_spikes]
    assert ends == pytest.approx(sums["energy_microjoule"].tolist()) and max(ends) < bars.get_xlim()[1]
    assert all(bar.get_hatch() for bar in of_macs) and not any(bar.get_hatch() for bar in of_spikes)
    layers = table[(table["stage"] == "reconstruction") & table["firing_rate"].notna()]
    (line,) = rates.lines
    names = [label.get_text() for label in rates.get_yticklabels()]
    drawn = {names[place]: rate for rate, place in zip(*line.get_data(), strict=True)}
    assert drawn == dict(zip(layers["layer"], layers["firing_rate"], strict=True)) and len(drawn) > 5
