"""Released weights still score what they did."""

from pathlib import Path

import pytest
import torch

from analysis.fingerprint import fingerprint
from analysis.row_results import read_result
from analysis.rows import Places, read_plan
from models import ModelConfig, build_model, load_model, save_model

ROOT = Path(__file__).parents[2]
PLACES = Places(ROOT / "runs", ROOT / "results", ROOT / "pretrained")
ROWS = read_plan(ROOT / "experiments.toml").rows
RELEASED = [row for row in ROWS if (PLACES.pretrained / f"{row.name}.safetensors").exists()]
TOLERANCE = 0.01  # rounding turns a spike here and there


def test_there_are_released_weights() -> None:
    assert {"esvae-digits", "esvae-cifar10", "fsvae-cifar10", "esvae-mnist"} <= {row.name for row in RELEASED}


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.name)
def test_committed_weights_give_the_committed_number(row) -> None:
    mark = read_result(row, PLACES)["fingerprint"]
    found = fingerprint(PLACES.pretrained / f"{row.name}.safetensors")
    assert found["protocol"] == mark["protocol"]
    assert found["value"] == pytest.approx(mark["value"], rel=TOLERANCE)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_change_to_the_weights_shows(part: str, tmp_path: Path) -> None:
    file = PLACES.pretrained / "esvae-digits.safetensors"
    changed = load_model(file)
    with torch.no_grad():
        weight = getattr(changed, part).blocks[1].synapse.weight
        weight.copy_(weight.flip(1))  # tdBN would make good for a change of size
    save_model(changed, tmp_path / "changed.safetensors", {})
    true, found = fingerprint(file)["value"], fingerprint(tmp_path / "changed.safetensors")["value"]
    assert abs(found / true - 1) > 5 * TOLERANCE


def test_models_of_other_sizes_see_the_same_digits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = ModelConfig(image_channels=3, widths=(4, 4, 4, 4, 4), latent_dim=5, n_steps=2)
    save_model(build_model(small), tmp_path / "large.safetensors", {})
    assert 0 < fingerprint(tmp_path / "large.safetensors")["value"] < 4
