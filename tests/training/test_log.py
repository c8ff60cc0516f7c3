"""Rows, histograms and pictures of a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import load_split, to_unit_range
from errors import UserError
from models import load_model
from training.log import CsvLog, RunLog, check_log, interleave_rows, rate_histogram, save_grid

DIGITS = Path(__file__).parents[2] / "pretrained" / "esvae-digits.safetensors"


def test_rows_are_appended_under_one_header(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    CsvLog(file, 0).append({"epoch": 1, "loss": 0.5})
    CsvLog(file, 1).append({"epoch": 2, "loss": 0.25})
    assert file.read_bytes().split() == [b"epoch,loss", b"1,0.5", b"2,0.25"]


@pytest.mark.parametrize(
    ("content", "last_epoch", "kept"),
    [
        ("epoch,loss\n1,0.5\n2,0.4\n3,0.3\n", 2, "epoch,loss\n1,0.5\n2,0.4\n"),
        ("epoch,loss\n1,0.5\n1,0.6\n2,0.4\n", 1, "epoch,loss\n1,0.5\n1,0.6\n"),
        ("epoch,loss\n1,0.5\n", 1, "epoch,loss\n1,0.5\n"),
        ("epoch,loss\n1,0.5\n", 0, None),
        ("epoch,loss\n11,0.5\n1", 11, "epoch,loss\n11,0.5\n"),
        ("epoch,loss\n1,0.5\n2,0.4", 2, "epoch,loss\n1,0.5\n2,0.4\n"),
        ("epoch,loss\n1,0.5\nx,y\n", 1, "epoch,loss\n1,0.5\n"),
        ("epo", 3, None),
        ("", 3, None),
    ],
)
def test_rows_that_are_too_late_or_torn_are_dropped(
    tmp_path: Path, content: str, last_epoch: int, kept: str | None
) -> None:
    file = tmp_path / "log.csv"
    file.write_text(content)
    CsvLog(file, last_epoch)
    assert (file.read_text() if file.exists() else None) == kept


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        CsvLog(tmp_path / "absent" / "log.csv", 0).append({"epoch": 1})


def test_a_log_of_other_columns_is_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("epoch,mmd,loss\n1,0.1,0.5\n")
    with pytest.raises(UserError, match=r"log\.csv has other columns than epoch, loss, mmd"):
        CsvLog(file, 1).append({"epoch": 2, "loss": 0.4, "mmd": 0.1})
    assert file.read_text() == "epoch,mmd,loss\n1,0.1,0.5\n"


def test_a_sound_log_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, no_more_files: Callable) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss\n")
    with pytest.raises(UserError) as refused, no_more_files():
        check_log(tmp_path, 0)
    assert str(refused.value) == f"{tmp_path / 'metrics.csv'} cannot be read: Too many open files"


@pytest.mark.parametrize(
    ("rows", "is_sound"),
    [
        (["1,0.5", "2,0.4"], True),
        (["1,0.5", "2,0.4", "3,0.3", "4"], True),  # killed after it logged epoch 3, and while it logged epoch 4
        (["2,0.4"], True),  # one that was removed after epoch 1
        (["1,0.5", "2"], False),
        (["1,0.5", "x,0.4"], False),
        (["1,0.5"], False),
        ([], False),
    ],
)
def test_a_log_that_lacks_an_epoch_is_not_gone_on_with(tmp_path: Path, rows: list[str], is_sound: bool) -> None:
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,loss", *rows]))
    if is_sound:
        check_log(tmp_path, 2)
    else:
        with pytest.raises(UserError, match="lacks epochs: restore it, or remove it and it starts anew at epoch 3"):
            check_log(tmp_path, 2)


def test_rate_histogram_counts_units_by_their_spikes() -> None:
    z = torch.zeros(3, 2, 4)  # T = 3, N = 2, D = 4
    z[0, 0, 0] = 1
    z[:, 1, 2] = 1
    z[1:, 1, 3] = 1
    assert rate_histogram(z) == [5, 1, 1, 1]
    assert rate_histogram(torch.ones(2, 3, 5)) == [0, 0, 15]


def test_rows_of_originals_and_reconstructions_alternate() -> None:
    originals, reconstructions = torch.arange(5.0)[:, None], -torch.arange(5.0)[:, None]
    assert interleave_rows(originals, reconstructions, columns=2).flatten().tolist() == [
        *[0, 1, 0, -1],
        *[2, 3, -2, -3],
        *[4, -4],
    ]


def test_a_grid_shows_the_whole_range(tmp_path: Path) -> None:
    images = torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, 0.0, 1.0)])
    save_grid(images, tmp_path / "new" / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    assert pixels.shape == (8, 20, 3)  # three images of 4 pixels, framed by 2 white ones
    assert [pixels[3, 2 + 6 * k + 1, 0] for k in range(3)] == [0, 128, 255]
    assert pixels[0, 0, 0] == 255


def test_a_grid_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "file" / "grid.png")
    with pytest.raises(UserError, match="cannot write"):
        save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "file" / "deeper" / "grid.png")


def test_the_same_weights_give_the_same_pictures_and_counts_in_every_epoch(uninterrupted: Path, tmp_path: Path) -> None:
    model, images = load_model(uninterrupted), load_split("digits", "test", limit=40).images
    log = RunLog(tmp_path, 0, tensorboard=False)
    for epoch in (1, 2, 11, 20):
        log.pictures(epoch, model, images)
    names = sorted(file.name for file in (tmp_path / "images").iterdir())
    numbers = ("-0001.png", "-0002.png", "-0020.png", ".png")
    assert names == [f"{kind}{number}" for kind in ("reconstructions", "samples") for number in numbers]
    assert len({(tmp_path / "images" / name).read_bytes() for name in names}) == 2
    rows = [line.split(",", 1)[1] for line in (tmp_path / "firing_rates.csv").read_text().splitlines()[1:]]
    assert rows[2:] == rows[:2] * 3 and rows[0] != rows[1]


def test_pictures_are_numbered_in_the_first_epochs(uninterrupted: Path) -> None:
    names = sorted(file.name for file in (uninterrupted / "images").iterdir())
    numbers = ("-0001.png", "-0002.png", "-0003.png", ".png")
    assert names == [f"{kind}{number}" for kind in ("reconstructions", "samples") for number in numbers]
    for name in names:
        pixels = np.asarray(Image.open(uninterrupted / "images" / name).convert("L"), dtype=float)
        assert pixels.std() > 10, name
    latest = uninterrupted / "images" / "samples.png"
    assert latest.read_bytes() == (uninterrupted / "images" / "samples-0003.png").read_bytes()


def test_rates_are_counted_of_posterior_and_prior(tmp_path: Path) -> None:
    model = load_model(DIGITS)
    images = load_split("digits", "test").images[: RunLog.N_HISTOGRAM]
    RunLog(tmp_path, 0, tensorboard=False).pictures(1, model, images)
    rng, n_shown = torch.Generator().manual_seed(RunLog.SEED), RunLog.N_SHOWN
    with torch.no_grad():
        model(to_unit_range(images[:n_shown]), generator=rng), model.sample(n_shown, rng)  # the grids
        counted = [rate_histogram(model(to_unit_range(x), generator=rng).z) for x in images.split(64)]
        prior = rate_histogram(model.sample_latent(len(images), rng))
    rows = [line.split(",") for line in (tmp_path / "firing_rates.csv").read_text().splitlines()[1:]]
    posterior = [sum(pair) for pair in zip(*counted, strict=True)]
    assert rows == [["1", stage, *map(str, found)] for stage, found in (("posterior", posterior), ("prior", prior))]
    assert prior != posterior
