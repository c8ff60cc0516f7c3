"""One switch at a time between paper and released code."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import trials, variant_switches
from analysis.variant_switches import Arguments, effects, switches
from cli import run_program
from training.config import preset


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_each_switch_changes_one_field_and_all_of_them_make_the_code_variant(dataset: str) -> None:
    code = preset(dataset, variant="code")
    found = switches(dataset, code.batch_size)
    alone = {name: change for name, change in found.items() if name not in ("paper", "all")}
    assert all(change == {name: getattr(code, name)} for name, change in alone.items())
    assert len(alone) == (5 if dataset == "mnist" else 4)
    differs = {k for k, v in code.to_dict().items() if v != preset(dataset).to_dict()[k]} - {"variant"}
    assert set(found["all"]) == differs


def test_the_codes_learning_rate_goes_with_the_batch() -> None:
    rate = switches("mnist", batch_size=16)["lr"]["lr"]
    assert rate == pytest.approx(3e-3 * 16 / 250)
    assert switches("mnist", batch_size=256)["all"]["lr"] == pytest.approx(16 * rate)


def test_effects_are_means_over_seeds_and_differences_to_the_paper(tmp_path: Path) -> None:
    a = Arguments("cifar10")
    rows = []
    for name, change in switches("cifar10", a.batch_size).items():
        for seed, loss in zip(a.seeds, (1.0, 2.0, 3.0), strict=True):
            config = {s: getattr(a.base(), s) for s in variant_switches.SETTINGS} | change
            identity = {"dataset": "cifar10", "model": "esvae", "train_images": 6_400, "epochs": 1, "seed": seed}
            rows.append(identity | config | {"loss": loss + (10 if name == "strict_threshold" else 0)})
    table = effects(pd.DataFrame(rows), a).set_index("switch")
    assert table.loc["paper", "mean"] == 2 and table.loc["paper", "deviation"] == 1 and (table["n"] == 3).all()
    assert table.loc["strict_threshold", "difference"] == 10 and table.loc["lif_surrogate", "difference"] == 0


def test_the_command_runs_every_trial_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(variant_switches, "N_SCORED", 20)
    monkeypatch.setattr(variant_switches, "switches", lambda *_: {"paper": {}, "latent_dim": {"latent_dim": 8}})
    sizes = ["--dataset", "digits", "--train-images", "32", "--batch-size", "16", "--seeds", "1", "2"]
    arguments = [*sizes, "--out", str(tmp_path / "trials.csv")]
    assert run_program(variant_switches.main, arguments) == 0
    table = pd.read_csv(tmp_path / "trials.csv")
    assert len(table) == 4 and sorted(table["latent_dim"]) == [8, 8, 128, 128] and table["loss"].nunique() == 4
    monkeypatch.setattr(trials, "prepare", None)  # nothing is left to run
    assert run_program(variant_switches.main, arguments) == 0
    assert "latent_dim" in capsys.readouterr().out
