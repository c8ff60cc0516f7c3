"""The comparison of both ways to draw z runs, times what it says, and does not time ways that differ."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.carried_state import DrawBenchmark, compare, differing_fraction, main, make_draws
from cli import run_program
from errors import UserError

TINY_BENCHMARK = DrawBenchmark("digits", batch_size=4, n_steps=6, repeats=2, warmup=0, seconds=0.01, device="cpu")
TINY_FLAGS = "--dataset digits --batch-size 4 --n-steps 6 --repeats 2 --warmup 0 --seconds 0.01 --device cpu"


@pytest.mark.parametrize("model", ["fsvae", "taid"])
def test_json_and_printed_lines(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert run_program(main, [*TINY_FLAGS.split(), "--model", model, "--json", str(file)]) == 0
    record, out = json.loads(file.read_text()), capsys.readouterr().out
    for name in ("sample_latent", "draw_posterior"):
        carried, recomputed = (record[name][way]["images_per_second_each"] for way in ("carried", "recomputed"))
        assert len(carried) == len(recomputed) == 2
        assert record[name]["gain"] == pytest.approx(sum(carried) / sum(recomputed))  # the median of two
        assert f"{name}: {record[name]['gain']:.2f} times as fast, 0.00% of z differs" in out
    assert {"model": model, "n_steps": 6, "device": "cpu"}.items() <= record.items()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_both_draw_the_same_z_at_every_call_and_it_is_not_all_zero(batch_size: int) -> None:
    benchmark = DrawBenchmark("digits", batch_size=batch_size, n_steps=6, device="cpu")
    for draw in make_draws(benchmark, torch.device("cpu")).values():
        z = draw(False)
        assert z.shape == (6, batch_size, 128) and 0.1 < z[:-1].mean() < 0.9
        assert z.equal(draw(False)) and z.equal(draw(True))


def test_both_ways_are_timed_with_their_own_draw() -> None:
    asked: list[bool] = []
    compare("a draw", lambda recompute: asked.append(recompute) or torch.ones(2), TINY_BENCHMARK)
    first_timed = 2  # after the check, which draws once each way
    switch = asked.index(True, first_timed)
    assert not any(asked[first_timed:switch]) and all(asked[switch:])
    assert first_timed < switch < len(asked)


def test_ways_that_differ_are_not_timed() -> None:
    with pytest.raises(UserError, match=r"a draw draws another z if recomputed \(25\.00% of it\)"):
        differing_fraction("a draw", lambda recompute: torch.tensor([float(recompute), 1, 0, 0]))


def test_a_rare_difference_is_told_as_a_fraction() -> None:
    zeros = torch.zeros(50)
    one = zeros.index_fill(0, torch.tensor(3), 1)
    assert differing_fraction("a draw", lambda recompute: one if recompute else zeros) == pytest.approx(0.02)


@pytest.mark.parametrize("arguments", ["--model esvae", "--mode train", "--compare", "--precision bf16"])
def test_what_draws_no_z_step_by_step_is_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main, f"{TINY_FLAGS} {arguments}".split()) == 2
    assert arguments.split()[0] in capsys.readouterr().err
