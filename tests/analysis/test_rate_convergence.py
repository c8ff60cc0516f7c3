"""How fast rates settle is read from what long runs by published recipes recorded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.rate_convergence import NOT_RUN, convergence_table, settled
from analysis.rows import Places, Plan, Row
from errors import UserError
from tests.records import done_result

ROW = Row("a", "mnist", 300, "Fig. 7")


def write_run(places: Places, row: Row, rest: list[int]) -> None:
    """A run of T = 1: of 100 units in epoch e `rest[e - 1]` never fire in training, and half in generation."""
    places.results.mkdir(exist_ok=True)
    config = {"seed": 42, "n_steps": 1}
    record = done_result(name=row.name, epochs=len(rest), config=config)
    (places.results / f"{row.name}.json").write_text(json.dumps(record))
    lines = [f"{e},posterior,{k},{100 - k}\n{e},prior,50,50" for e, k in enumerate(rest, start=1)]
    (places.results / f"{row.name}-firing_rates.csv").write_text("\n".join(["epoch,stage,fired_0,fired_1", *lines]))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(results=tmp_path / "results")


def test_rates_are_settled_after_the_last_epoch_that_is_far_from_the_goal() -> None:
    epochs = {e: np.array([share, 1 - share]) for e, share in enumerate((0.5, 0.9, 0.5, 0.86, 0.9, 0.4), start=1)}
    assert settled(epochs, 5) == 4  # epoch 2 was near, but epoch 3 was not
    assert settled(epochs, 1) == 1
    assert settled(epochs, 6) == 6


def test_runs_of_a_data_set_are_looked_at_up_to_the_epoch_that_all_have(places: Places) -> None:
    slow, fast = [*range(10, 70, 2), *[70] * 5], [20] + [60] * 39
    rows = [ROW, replace(ROW, name="b", model="fsvae"), replace(ROW, name="other", dataset="cifar10")]
    for row, rest in zip(rows, (slow, fast, [50] * 30), strict=True):
        write_run(places, row, rest)
    lines = convergence_table(Plan(tuple(rows), {}), places).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["MNIST", "`a`", "35", "8", "28", "29", "0.60", "0.68", "0.80"],
        ["MNIST", "`b`", "35", "2", "2", "2", "0.70", "0.90", "0.90"],
        ["CIFAR-10", "`other`", "30", "1", "1", "1", "1.00", "1.00", "1.00"],
    ]


def test_short_runs_recipes_of_our_own_and_runs_without_a_record_are_left_out(places: Places) -> None:
    rows = [ROW, replace(ROW, name="ours", recipe="fast"), replace(ROW, name="silent"), replace(ROW, name="not_run")]
    for row, n_epochs in zip(rows[:3], (29, 30, 30), strict=True):
        write_run(places, row, [50] * n_epochs)
    (places.results / "silent-firing_rates.csv").unlink()
    assert convergence_table(Plan(tuple(rows), {}), places) == NOT_RUN


def test_a_record_of_another_run_is_told(places: Places) -> None:
    write_run(places, ROW, [50] * 30)
    (places.results / "a.json").write_text(
        json.dumps(done_result(name="a", epochs=31, config={"seed": 1, "n_steps": 1}))
    )
    with pytest.raises(UserError, match=r"a-firing_rates\.csv is damaged or of another model: it ends with epoch 30"):
        convergence_table(Plan((ROW,), {}), places)
