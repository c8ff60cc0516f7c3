"""Trials as tables of docs/trials.md."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.recipe_search import SETTINGS
from analysis.trial_tables import precision_table, recipe_table, switch_table
from analysis.variant_switches import SETTINGS as SWITCHES
from analysis.variant_switches import Arguments, switches


def test_without_trials_the_tables_say_so(tmp_path: Path) -> None:
    for table in (recipe_table, switch_table, precision_table):
        assert table(tmp_path / "none.csv") == "No trial has been run yet.\n"


def test_a_recipe_is_a_line_with_a_column_per_model_best_first(tmp_path: Path) -> None:
    settings = dict(zip(SETTINGS, (16, 2e-3, 10.0, "cosine", 0.1), strict=True))
    shared = {"dataset": "mnist", "train_images": 6400, "seed": 42, "epochs": 1, "commit": "c"}
    rows = [
        shared | settings | {"model": "esvae", "loss": 0.5},
        shared | settings | {"model": "fsvae", "loss": 0.25},
        shared | settings | {"model": "esvae", "loss": 0.125, "lr": 1e-3},
        shared | settings | {"model": "fsvae", "loss": None, "lr": 1e-3},  # diverged
        shared | settings | {"model": "esvae", "loss": 0.25, "seed": 43},
        shared | settings | {"model": "esvae", "loss": None, "lr": 1.0},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    head, _, *lines = recipe_table(tmp_path / "trials.csv").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *lines)]
    assert cells[0][-2:] == ["ESVAE", "FSVAE"]
    assert cells[1] == ["MNIST", "6400", "42", "16", "0.001", "10", "cosine", "0.1", "0.1250", "diverged"]
    assert cells[2] == ["MNIST", "6400", "43", "16", "0.002", "10", "cosine", "0.1", "0.2500", "-"]
    assert cells[3] == ["MNIST", "6400", "42", "16", "0.002", "10", "cosine", "0.1", "0.5000", "0.2500"]
    assert cells[4] == ["MNIST", "6400", "42", "16", "1", "10", "cosine", "0.1", "diverged", "-"]


def test_a_switch_is_a_line_with_its_difference_to_the_paper(tmp_path: Path) -> None:
    a, rows = Arguments("mnist"), []
    for name, change in switches("mnist", a.batch_size).items():
        config = replace(a.base(), **change)
        for seed in a.seeds:
            identity = {
                "dataset": "mnist",
                "model": "esvae",
                "train_images": a.train_images,
                "epochs": 1,
                "seed": seed,
            }
            rows.append(
                identity | {s: getattr(config, s) for s in SWITCHES} | {"loss": 1 + (name == "all"), "commit": "c"}
            )
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    lines = switch_table(tmp_path / "trials.csv").splitlines()
    assert "| `paper` " in lines[2] and "1.0000 ± 0.0000" in lines[2] and "+0.0000" in lines[2]
    assert "| `all` " in lines[-1] and "2.0000 ± 0.0000" in lines[-1] and "+1.0000" in lines[-1]
    pd.DataFrame(rows[: -len(a.seeds)]).to_csv(tmp_path / "trials.csv", index=False)
    missing = [cell.strip() for cell in switch_table(tmp_path / "trials.csv").splitlines()[-1].strip("|").split("|")]
    assert missing[1:] == ["`all`", "not run", "-", "0 of 0"]


def test_a_switch_whose_runs_all_diverged_says_so(tmp_path: Path) -> None:
    a = Arguments("mnist", seeds=(7,))  # not the seeds of the program's default
    identity = {"dataset": "mnist", "model": "esvae", "train_images": a.train_images, "epochs": 1, "seed": 7}
    rows = [
        identity | {s: getattr(replace(a.base(), **change), s) for s in SWITCHES} | {"loss": loss, "commit": "c"}
        for change, loss in zip(switches("mnist", a.batch_size).values(), (1.0, None), strict=False)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    lines = switch_table(tmp_path / "trials.csv").splitlines()[2:4]
    cells = [[cell.strip() for cell in line.strip("|").split("|")][2:] for line in lines]
    assert cells == [["1.0000", "+0.0000", "1 of 1"], ["diverged", "-", "0 of 1"]]


def test_a_precision_is_a_line_with_the_runs_that_did_not_diverge(tmp_path: Path) -> None:
    shared = {"dataset": "cifar10", "model": "esvae", "recipe": "fast", "train_images": None, "epochs": 10}
    shared["commit"] = "c"
    losses = {"fp32": (0.25, 0.75), "bf16": (0.5, None)}
    rows = [
        shared | {"device": "cuda", "precision": name, "seed": seed, "loss": loss}
        for name, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    lines = precision_table(tmp_path / "trials.csv").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["CIFAR-10", "ESVAE", "10 of all images, `fast`", "cuda", "fp32", "0.5000 ± 0.3536", "2 of 2"]
    assert cells[1][-3:] == ["bf16", "0.5000", "1 of 2"]
