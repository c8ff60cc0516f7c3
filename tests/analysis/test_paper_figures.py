"""The experiments of Table II and Fig. 1, 3 to 5 and 8 to 13, from checkpoints to files."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.command import Experiment, experiment_main
from analysis.image_grids import ImageGrids
from analysis.latent_raster import LatentRaster, extremes, latents
from analysis.noise_robustness import NoiseRobustness
from analysis.output import read_experiment, write_experiment
from analysis.published import PAPER
from analysis.subjects import load_subjects
from analysis.time_shuffle import TimeShuffle, paper_rows
from cli import run_program
from data import load_split, to_unit_range
from errors import UserError

DIGITS = Path(__file__).parents[2] / "pretrained" / "esvae-digits.safetensors"
FILES = {
    TimeShuffle: ("", "-images"),
    NoiseRobustness: ("", "-images"),
    LatentRaster: ("",),
    ImageGrids: ("-reconstruction-images", "-sample-images"),
}


def run(kind: type[Experiment], out: Path, checkpoints: list[Path], *flags: str) -> int:
    named = [word for path in checkpoints for word in ("--checkpoint", str(path))]
    return run_program(experiment_main(kind, "help"), [*named, "--device", "cpu", "--out", str(out), *flags])


@pytest.mark.parametrize("kind", FILES)
def test_an_experiment_takes_every_model_with_a_spiking_latent(
    kind: type[Experiment], small_models: dict[str, Path], tmp_path: Path
) -> None:
    spiking = [small_models[name] for name in ("esvae", "fsvae", "taid")]
    assert run(kind, tmp_path, spiking, "--n-images", "5") == 0
    name = f"{kind.name}-digits"
    figures = {f"{name}{figure}.{suffix}" for figure in FILES[kind] for suffix in ("png", "pdf")}
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.json", f"{name}.csv"} | figures
    record, table = read_experiment(tmp_path, name)
    labels = ["ESVAE, 0 epochs", "FSVAE, 0 epochs", "TAID, 0 epochs"]
    assert list(table["model"].unique()) == [s["label"] for s in record["subjects"]] == labels
    assert "5 " in record["protocol"]


def test_a_table_of_another_measurement_is_not_taken_for_the_records(tmp_path: Path) -> None:
    rest = {"dataset": "digits", "settings": {}, "subjects": [], "hardware": "a laptop"}
    write_experiment(tmp_path, "a", {"protocol": "first"} | rest, pd.DataFrame({"loss": [0.5]}))
    record, table = read_experiment(tmp_path, "a")
    assert record["protocol"] == "first" and table["loss"].tolist() == [0.5]
    (tmp_path / "a.csv").write_text("loss\n0.25\n")
    with pytest.raises(UserError, match="the table is not the record's"):
        read_experiment(tmp_path, "a")


@pytest.mark.parametrize("kind", [TimeShuffle, NoiseRobustness, LatentRaster])
def test_the_ann_vae_is_refused_where_there_must_be_spikes(
    kind: type[Experiment], small_models: dict[str, Path], tmp_path: Path, capsys
) -> None:
    assert run(kind, tmp_path, [small_models["esvae"], small_models["ann_vae"]]) == 2
    assert "ann_vae.safetensors has no spiking latent" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_ann_vae_has_its_images_beside_the_others(small_models: dict[str, Path], tmp_path: Path) -> None:
    assert run(ImageGrids, tmp_path, list(small_models.values()), "--n-columns", "3") == 0
    _, table = read_experiment(tmp_path, "image_grids-digits")
    assert list(table["model"])[-1] == "ANN VAE, 0 epochs"
    assert (table["n_images"] == 6).all()


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (TimeShuffle, ("--n-shuffles", "1")),
        (NoiseRobustness, ("--probabilities", "1.5")),
        (NoiseRobustness, ("--probabilities", "0.1", "0.1")),
        (ImageGrids, ("--n-columns", "0")),
    ],
)
def test_a_setting_without_meaning_is_refused(
    kind: type[Experiment], flags: tuple[str, ...], small_models: dict[str, Path], tmp_path: Path, capsys
) -> None:
    assert run(kind, tmp_path, [small_models["esvae"]], *flags) == 2
    assert flags[0] in capsys.readouterr().err


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Time shuffle of the trained digits model, by latent."""
    out = tmp_path_factory.mktemp("shuffle")
    assert run(TimeShuffle, out, [DIGITS], "--n-images", "32", "--n-shuffles", "2") == 0
    return read_experiment(out, "time_shuffle-digits")[1].set_index("latent")


def test_an_image_is_in_the_rates_and_not_in_their_timing(shuffled: pd.DataFrame) -> None:
    original, vanilla = shuffled["loss_vs_original"], shuffled["loss_vs_vanilla"]
    assert original["time-shuffled"] == pytest.approx(original["vanilla"], rel=0.1)
    assert original["length-shuffled"] > 3 * original["vanilla"]
    assert vanilla["vanilla"] == 0
    assert vanilla["length-shuffled"] > 10 * vanilla["time-shuffled"]


def test_a_time_shuffle_moves_an_esvae_no_further_than_another_draw(shuffled: pd.DataFrame) -> None:
    assert 0 < shuffled["loss_vs_vanilla"]["time-shuffled"] < 1.2 * shuffled["loss_vs_vanilla"]["redrawn"]


def test_each_row_says_over_how_many_draws_it_is(shuffled: pd.DataFrame) -> None:
    assert shuffled["n"].to_dict() == {"vanilla": 1, "time-shuffled": 2, "length-shuffled": 2, "redrawn": 1}
    assert shuffled["loss_vs_original_std"].notna().to_dict() == {
        "vanilla": False,
        "time-shuffled": True,
        "length-shuffled": True,
        "redrawn": False,
    }


def test_every_row_of_table_two_stands_beside_ours() -> None:
    counts = pd.read_csv(PAPER / "table2.csv")["dataset"].value_counts()
    assert {dataset: len(paper_rows(dataset)) for dataset in counts.index} == counts.to_dict()
    assert len(paper_rows("digits")) == 0


@pytest.mark.parametrize("flags", [(), ("--flips",)])
def test_noise_hurts_and_none_does_not(flags: tuple[str, ...], tmp_path: Path) -> None:
    assert run(NoiseRobustness, tmp_path, [DIGITS], "--n-images", "32", "--probabilities", "0", "0.5", *flags) == 0
    record, table = read_experiment(tmp_path, "noise_robustness-digits")
    assert table["loss_vs_vanilla"][0] == 0
    assert table["loss_vs_vanilla"][1] > 0.001
    assert table["loss_vs_original"][1] > table["loss_vs_original"][0]
    assert ("inverted" in record["protocol"]) == bool(flags)


def test_the_raster_shows_a_posterior_draw_and_a_prior_draw() -> None:
    trained = load_subjects([DIGITS], device="cpu")[0]
    images = load_split("digits", "test").images[:20]
    with torch.no_grad():
        expected = {
            "training": trained.model(to_unit_range(images), generator=trained.generator(0)).z,
            "generation": trained.model.sample_latent(20, trained.generator(0)),
        }
    for stage, z in expected.items():
        assert torch.cat([*latents(trained, images, stage, seed=0)], 1).equal(z)
    table = LatentRaster(n_images=20).measure([trained]).table.set_index("stage")
    for stage, z in expected.items():
        assert table.loc[stage, "firing_rate"] == pytest.approx(z.double().mean().item())
    assert table.loc["training", "firing_rate"] != table.loc["generation", "firing_rate"]


def trains(*counts: int, steps: int = 4) -> Tensor:
    """z [T, 1, D] whose units fire in the first so many steps."""
    return torch.stack([(torch.arange(steps) < count).float() for count in counts], 1)[:, None]


def test_shares_of_units_that_fire_always_or_never() -> None:
    shares = extremes([trains(0, 0, 4, 2), torch.cat([trains(0, 1, 4, 4), trains(0, 3, 4, 0)], 1)])
    assert shares["never"] == pytest.approx(5 / 12)
    assert shares["always"] == pytest.approx(4 / 12)
    assert shares["sometimes"] == pytest.approx(3 / 12)
    assert shares["units_never"] == 1 / 4
    assert shares["units_always"] == 1 / 4
    assert shares["firing_rate"] == pytest.approx(22 / 48)
