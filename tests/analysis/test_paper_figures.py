"""The experiments of Table II and Fig. 1, 3 to 5 and 8 to 13, from checkpoints to files."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from torch import Tensor

from analysis.drawing import subject_colors
from analysis.experiment import Experiment, experiment_main
from analysis.experiment_result import read_experiment, write_experiment
from analysis.image_grids import ImageGrids
from analysis.latent_raster import LatentRaster, extremes
from analysis.latents import latents
from analysis.noise_robustness import NoiseRobustness
from analysis.published import PAPER
from analysis.subjects import Subject, load_subjects, part_of_test_split
from analysis.time_shuffle import TimeShuffle, paper_rows
from cli import run_program
from data import load_split, to_unit_range
from errors import UserError
from training.run import stream_seed

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


def test_the_ann_vae_has_its_images_beside_the_others(small_models: dict[str, Path], tmp_path: Path) -> None:
    assert run(ImageGrids, tmp_path, list(small_models.values()), "--n-columns", "3") == 0
    _, table = read_experiment(tmp_path, "image_grids-digits")
    assert list(table["model"])[-1] == "ANN VAE, 0 epochs"
    assert (table["n_images"] == 6).all()


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
    model, generators = trained.model, [trained.generator(stream_seed(0, stage)) for stage in (1, 2)]
    with torch.no_grad():
        expected = {
            "training": model.sample_posterior(model.encode(to_unit_range(images)), generators[0]),
            "generation": model.sample_latent(20, generators[1]),
        }
    for stage, z in expected.items():
        assert torch.cat([*latents(trained, images, stage, seed=0)], 1).equal(z)
    table = LatentRaster(n_images=20).measure([trained]).table.set_index("stage")
    for stage, z in expected.items():
        assert table.loc[stage, "firing_rate"] == pytest.approx(z.double().mean().item())
    assert table.loc["training", "firing_rate"] != table.loc["generation", "firing_rate"]


@pytest.fixture
def subjects(small_models: dict[str, Path]) -> list[Subject]:
    return load_subjects([small_models["esvae"], small_models["fsvae"]], device="cpu")


def test_the_noise_figure_has_a_solid_and_a_dashed_curve_of_each_model(subjects: list[Subject]) -> None:
    result = NoiseRobustness(n_images=5, probabilities=(0.1, 0.3, 0.5)).measure(subjects)
    (axis,) = result.figures[""].axes
    drawn = {
        (line.get_color(), line.get_linestyle()): line.get_xydata() for line in axis.lines if len(line.get_xdata())
    }
    expected = {
        (color, dashes): result.table[result.table["model"] == label][["a", loss]].to_numpy()
        for label, color in subject_colors(subjects).items()
        for dashes, loss in (("-", "loss_vs_original"), ("--", "loss_vs_vanilla"))
    }
    assert drawn.keys() == expected.keys()
    for curve, points in expected.items():
        np.testing.assert_array_equal(drawn[curve], points)
    (legend,) = result.figures[""].legends
    named = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert {name: to_rgb(line.get_color()) for name, line in named.items()}.items() >= subject_colors(subjects).items()
    dashes = {name: line.get_linestyle() for name, line in named.items() if name not in subject_colors(subjects)}
    assert dashes == {"against the original image": "-", "against the vanilla reconstruction": "--"}


@pytest.mark.parametrize("kind", [TimeShuffle, NoiseRobustness])
def test_nothing_of_a_figure_is_cut_off(
    kind: type[Experiment], subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = part_of_test_split("celeba", 10_000) + len("fashion_mnist"[len("digits") :]) * "m"
    monkeypatch.setattr(sys.modules[kind.__module__], "part_of_test_split", lambda *_: longest)
    figure = kind(n_images=2).measure(subjects).figures[""]
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.xmin >= 0 and drawn.ymin >= 0 and drawn.xmax <= width and drawn.ymax <= height


def test_the_shuffle_figure_has_a_bar_of_each_model_and_latent(subjects: list[Subject]) -> None:
    result = TimeShuffle(n_images=5, n_shuffles=2).measure(subjects)
    axes, latents_shown = result.figures[""].axes, ["vanilla", "time-\nshuffled", "length-\nshuffled", "redrawn"]
    assert [axis.get_title() for axis in axes] == ["against the original image", "against the vanilla reconstruction"]
    for axis, loss in zip(axes, ("loss_vs_original", "loss_vs_vanilla"), strict=True):
        assert [tick.get_text() for tick in axis.get_xticklabels()] == latents_shown
        groups = [drawn for drawn in axis.containers if isinstance(drawn, BarContainer)]
        for bars, (label, color) in zip(groups, subject_colors(subjects).items(), strict=True):
            rows = result.table[result.table["model"] == label]
            assert bars.get_label() == label and to_rgb(bars[0].get_facecolor()) == color
            assert bars.datavalues.tolist() == [bar.get_height() for bar in bars] == rows[loss].tolist()
            assert [round(bar.get_x() + bar.get_width() / 2) for bar in bars] == [0, 1, 2, 3]
            (errors,) = bars.errorbar.lines[2]
            spans = [np.ptp(segment[:, 1]) for segment in errors.get_segments() if len(segment)]
            np.testing.assert_allclose(spans, 2 * rows[f"{loss}_std"].dropna())
    (legend,) = result.figures[""].legends
    assert [text.get_text() for text in legend.get_texts()] == [s.label for s in subjects]


def test_the_raster_has_the_spikes_of_each_model_and_stage_under_its_title(subjects: list[Subject]) -> None:
    figure = LatentRaster(n_images=5).measure(subjects).figures[""]
    panels = [(subject, stage) for subject in subjects for stage in ("training", "generation")]
    image, colors = load_split("digits", "test", limit=1).images, subject_colors(subjects)
    for axis, (subject, stage) in zip(figure.axes, panels, strict=True):
        assert axis.get_title() == f"{subject.label}: {stage}"
        (z,) = latents(subject, image, stage, seed=0)
        (drawn,) = axis.images
        assert drawn.get_array().tolist() == z[:, 0].tolist()
        assert to_rgb(drawn.to_rgba(1.0)) == pytest.approx(colors[subject.label])


def shown(axis: Axes, n_rows: int, n_columns: int) -> np.ndarray:
    """Images [rows, columns, 32, 32] in [0, 1] of a panel, which frames and enlarges them."""
    (picture,) = axis.images
    grid, scale = picture.get_array()[..., 0], 2
    cells = grid[::scale, ::scale][2:, 2:].reshape(n_rows, 34, n_columns, 34)[:, :32, :, :32]
    return np.moveaxis(cells, 2, 1)


def test_the_image_grids_have_the_images_of_each_model_beside_its_name(subjects: list[Subject]) -> None:
    figures = ImageGrids(n_columns=3, n_rows=1).measure(subjects).figures
    x = to_unit_range(load_split("digits", "test", limit=3).images)
    with torch.no_grad():
        reconstructions = {s.label: s.model(x, generator=s.generator(0)).reconstruction for s in subjects}
        samples = {s.label: s.model.sample(3, s.generator(0)) for s in subjects}
    for name, rows in (("reconstruction", {"original": x} | reconstructions), ("sample", samples)):
        (axis,) = figures[f"{name}-images"].axes
        assert [tick.get_text().replace("\n", " ") for tick in axis.get_yticklabels()] == list(rows)
        expected = torch.stack([*rows.values()])[:, :, 0]
        np.testing.assert_allclose(shown(axis, len(rows), 3), (expected + 1) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("experiment", "latents_shown"),
    [
        (TimeShuffle(n_images=5), ["time-shuffled", "length-shuffled"]),
        (NoiseRobustness(n_images=5, probabilities=(0.0, 1.0)), ["time-shuffled", "a = 0", "a = 1"]),
    ],
)
def test_the_altered_images_are_panels_of_each_model(
    experiment: Experiment, latents_shown: list[str], subjects: list[Subject]
) -> None:
    axes = experiment.measure(subjects).figures["images"].axes
    assert [axis.get_title().replace("\n", " ") for axis in axes] == [s.label for s in subjects]
    images = load_split("digits", "test", limit=4).images
    for axis in axes:
        rows = [tick.get_text() for tick in axis.get_yticklabels()]
        assert rows == ["original", "vanilla", *latents_shown]
        n_columns = (axis.images[0].get_array().shape[1] // 2 - 2) // 34
        found = dict(zip(rows, shown(axis, len(rows), n_columns), strict=True))
        np.testing.assert_allclose(found["original"][:4], images[:, 0] / 255, atol=1e-6)
        if "a = 0" in found:
            np.testing.assert_array_equal(found["a = 0"], found["vanilla"])


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
