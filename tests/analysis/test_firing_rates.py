"""Histograms of firing rates are distributions, their distances are those of the definitions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.experiment import experiment_main
from analysis.experiment_result import read_experiment
from analysis.firing_rates import PANELS, FiringRates, measure_rates, sampling_range
from analysis.latents import STAGES
from analysis.rate_histograms import intersection, mean_range, rate_histograms, stage_rates, wasserstein
from analysis.rate_log import find_rate_log, read_rate_log
from analysis.subjects import Subject, load_subjects
from cli import run_program
from data import load_split, to_unit_range
from errors import UserError
from models import ModelConfig, build_model, save_model
from training.run import stream_seed

DIGITS = Path(__file__).parents[2] / "pretrained" / "esvae-digits.safetensors"
SPIKING = ("esvae", "fsvae", "taid")
SMALL = {"image_channels": 1, "widths": (8, 8, 8, 8), "n_steps": 4, "latent_dim": 8, "n_candidates": 3}


def saved(folder: Path, model: str) -> Path:
    path = folder / f"{model}.safetensors"
    save_model(build_model(ModelConfig(model=model, **SMALL)), path, {"epochs": 1, "config": {"dataset": "digits"}})
    return path


@pytest.fixture
def latents(rng: torch.Generator) -> torch.Tensor:
    """z [T, N, D] with a rate of its own per unit."""
    return (torch.rand(8, 30, 20, generator=rng) < torch.rand(20, generator=rng)).float()


def test_a_histogram_has_mass_one_and_counts_spikes(latents: torch.Tensor) -> None:
    found = rate_histograms(latents.mean(0), 8)
    assert found.sum(1) == pytest.approx(np.ones(30))
    for image in range(30):
        fired = [(latents[:, image].sum(0) == k).sum().item() for k in range(9)]
        assert found[image] * 20 == pytest.approx(fired)


def test_histograms_do_not_depend_on_how_images_are_batched(latents: torch.Tensor) -> None:
    whole, parts = stage_rates([latents]), stage_rates(latents.split(7, dim=1))
    for kind in PANELS:
        assert getattr(whole, kind) == pytest.approx(getattr(parts, kind))
        assert getattr(whole, kind).sum() == pytest.approx(1)
    assert whole.single_to_pooled == pytest.approx(parts.single_to_pooled)


def test_the_mean_rate_of_a_unit_is_over_images() -> None:
    z = torch.zeros(2, 2, 3)
    z[:, 0] = 1  # every unit: all in one image, never in the other
    found = stage_rates([z])
    assert found.pooled.tolist() == [0.5, 0, 0.5]
    assert found.unit_means.tolist() == [0, 1, 0]
    assert found.single.tolist() == [0, 0, 1]
    assert found.single_to_pooled == pytest.approx(0.5)
    assert found.single_to_unit_means == pytest.approx(0.5)


def test_equal_histograms_intersect_at_one_and_are_at_distance_zero(latents: torch.Tensor) -> None:
    pooled = stage_rates([latents]).pooled
    assert intersection(pooled, pooled) == pytest.approx(1)
    assert wasserstein(pooled, pooled) == 0


def test_histograms_without_a_common_rate_do_not_intersect() -> None:
    never, always = np.array([1.0, 0, 0, 0, 0]), np.array([0, 0, 0, 0, 1.0])
    assert intersection(never, always) == 0
    assert wasserstein(never, always) == 1  # all mass moves from rate 0 to rate 1


def test_the_wasserstein_distance_is_the_cheapest_way_to_move_one_sample_onto_another(rng: torch.Generator) -> None:
    spikes = torch.randint(17, (2, 500), generator=rng)
    spikes[1] = spikes[1] // 2
    p, q = (rate_histograms(k[None] / 16, 16)[0] for k in spikes)
    moved = (spikes[0].sort().values - spikes[1].sort().values).abs() / 16  # in one dimension, in order
    assert wasserstein(p, q) == pytest.approx(moved.mean().item(), rel=1e-6)


def test_the_sampling_range_is_that_of_the_binomial(rng: torch.Generator) -> None:
    rates = torch.tensor([0.0, 0.25, 0.5, 1.0])
    z = (torch.rand(16, 20_000, 4, generator=rng) < rates).float()
    found = mean_range([z])
    assert found.rate_variance == pytest.approx((rates * (1 - rates) / 16).mean().item(), rel=0.03)
    assert found.varying_units == 0.5


def test_an_esvae_samples_as_widely_as_the_binomial_of_its_encoders_rates(small_models: dict[str, Path]) -> None:
    (esvae,) = load_subjects([small_models["esvae"]], device="cpu")
    images = load_split("digits", "test", limit=3).images
    with torch.no_grad():
        rates = esvae.model.encode(to_unit_range(images)).mean(0)
    expected = (rates * (1 - rates) / esvae.model.config.n_steps).mean().item()
    found = sampling_range(esvae, images, n_draws=2000, seed=0)
    assert expected > 0.005 and found.rate_variance == pytest.approx(expected, rel=0.05)
    assert found.varying_units == pytest.approx(((rates > 0) & (rates < 1)).double().mean().item())


def test_distinct_draws_are_counted() -> None:
    z = torch.zeros(3, 4, 2)
    z[0, 1, 0] = z[1, 2, 0] = 1  # draws 1 and 2 fire once each, at another time; draws 0 and 3 never
    found = mean_range([z])
    assert (found.distinct_z, found.distinct_rates) == (3, 2)


def test_rates_are_those_of_the_posterior_of_the_images_and_of_the_prior(tmp_path: Path) -> None:
    trained = load_subjects([DIGITS], device="cpu")[0]
    images = load_split("digits", "test").images[:40]
    found = measure_rates(trained, images, seed=5)
    with torch.no_grad():
        model = trained.model
        posterior = model.sample_posterior(model.encode(to_unit_range(images)), trained.generator(stream_seed(5, 1)))
        prior = model.sample_latent(40, trained.generator(stream_seed(5, 2)))
    for stage, z in zip(STAGES, (posterior, prior), strict=True):
        assert found[stage].pooled == pytest.approx(stage_rates([z]).pooled)
        assert found[stage].single == pytest.approx(stage_rates([z]).single)
    assert found["training"].pooled != pytest.approx(found["generation"].pooled, abs=1e-3)


def test_every_spiking_model_gives_numbers_and_figures(tmp_path: Path) -> None:
    paths = [saved(tmp_path, model) for model in SPIKING]
    flags = [word for path in paths for word in ("--checkpoint", str(path))]
    main = experiment_main(FiringRates, None)
    flags += ["--n-images", "20", "--n-draws", "5", "--n-range-images", "2", "--out", str(tmp_path / "out")]
    assert run_program(main, flags) == 0
    record, table = read_experiment(tmp_path / "out", "firing_rates-digits")
    assert len(table.columns) == 4
    for found in record["histograms"].values():
        assert all(sum(found[kind][stage]) == pytest.approx(1) for kind in PANELS for stage in STAGES)
    assert len(record["without_record_of_epochs"]) == 3
    assert (tmp_path / "out" / "firing_rates-digits.png").stat().st_size > 0
    assert not (tmp_path / "out" / "firing_rates-digits-epochs.png").exists()


def record_epochs(path: Path, n_steps: int = 4) -> None:
    counts = {f"fired_{k}": [k + 1] * 4 for k in range(n_steps + 1)}
    pd.DataFrame({"epoch": [1, 1, 2, 2], "stage": ["posterior", "prior"] * 2} | counts).to_csv(path, index=False)


def subject(folder: Path) -> Subject:
    return load_subjects([saved(folder, "esvae")], device="cpu")[0]


def trained_for(epochs: int, folder: Path) -> Subject:
    folder.mkdir(exist_ok=True)
    known = subject(folder)
    return replace(known, run=known.run | {"epochs": epochs})


def test_rates_over_epochs_are_read_from_a_run_folder_or_beside_results(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    released = trained_for(2, tmp_path / "pretrained")
    assert find_rate_log(released, tmp_path / "results") is None
    file = tmp_path / "results" / "esvae-firing_rates.csv"
    record_epochs(file)
    assert find_rate_log(released, tmp_path / "results") == file
    found = read_rate_log(released, tmp_path / "results")
    assert found.keys() == set(STAGES) and found["training"].keys() == {1, 2}
    assert found["training"][1] == pytest.approx(np.arange(1, 6) / 15)
    run = tmp_path / "run"
    run.mkdir()
    saved(tmp_path, "esvae").rename(run / "model.safetensors")
    record_epochs(run / "firing_rates.csv")
    assert find_rate_log(load_subjects([run], device="cpu")[0]) == run / "firing_rates.csv"


def test_the_log_of_another_training_is_not_taken_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    record_epochs(tmp_path / "results" / "esvae-firing_rates.csv")
    assert find_rate_log(trained_for(2, tmp_path / "elsewhere"), tmp_path / "results") is None
    with pytest.raises(UserError, match="it ends with epoch 2, the model with 3"):
        read_rate_log(trained_for(3, tmp_path / "pretrained"), tmp_path / "results")


def test_recorded_epochs_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    record_epochs(Path("results/esvae-firing_rates.csv"))
    result = FiringRates(n_images=4, n_draws=2, n_range_images=1).measure([trained_for(2, tmp_path / "pretrained")])
    titles = [axis.get_title() for axis in result.figures["epochs"].axes]
    assert [title for title in titles if title] == [f"ESVAE, 1 epoch\n{stage}" for stage in STAGES]


def test_a_record_of_another_number_of_steps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    record_epochs(tmp_path / "results" / "esvae-firing_rates.csv", n_steps=2)
    with pytest.raises(UserError, match=r"esvae-firing_rates\.csv is damaged or of another model"):
        read_rate_log(trained_for(2, tmp_path / "pretrained"), tmp_path / "results")
