"""The neuron of docs/extending.md takes the LIF's place in a model and trains."""

import re
from pathlib import Path

import pytest
import torch

from models import ModelConfig, backbone, build_model
from neurons import lif_surrogate
from training.config import Config
from training.loop import fit

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def listings() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture
def adaptive(monkeypatch: pytest.MonkeyPatch) -> type[torch.nn.Module]:
    """The listing's class, made the neuron of every model."""
    listing, _ = listings()
    names: dict = {}
    exec(listing, names)
    kind = names["AdaptiveLIF"]
    surrogate = lif_surrogate("paper", 0.2, strict=False)
    monkeypatch.setattr(backbone, "make_lif", lambda config: kind(surrogate, config.v_threshold, config.decay))
    return kind


def test_its_threshold_rises_with_each_spike(adaptive: type[torch.nn.Module]) -> None:
    neuron = adaptive(lif_surrogate("paper", 0.2, strict=False), 0.2, 0.25)
    current = torch.tensor([0.25, 0.25, 0.32, 0.1]).view(4, 1)
    assert neuron(current).flatten().tolist() == [1, 0, 1, 0]  # thresholds 0.2, 0.3, 0.225, 0.306


@pytest.mark.parametrize("name", ["esvae", "fsvae"])
def test_a_model_of_it_forgets_its_state_between_calls(adaptive: type[torch.nn.Module], name: str) -> None:
    config = ModelConfig(model=name, image_channels=1, widths=(4, 6, 8, 10), latent_dim=5, n_steps=3, n_candidates=2)
    model = build_model(config).eval()
    assert sum(isinstance(module, adaptive) for module in model.modules()) > 5
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    assert torch.equal(model.encode(images), model.encode(images))


def test_it_trains(adaptive: type[torch.nn.Module], tmp_path: Path) -> None:
    fit(Config(dataset="digits", epochs=1, train_images=32, batch_size=16, n_steps=4, runs_dir=tmp_path, device="cpu"))
    (folder,) = tmp_path.iterdir()
    assert (folder / "model.safetensors").exists()


def test_what_the_page_does_from_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, listing = listings()
    short = listing.replace("epochs=1)", "epochs=1, train_images=32, batch_size=16, n_steps=4, latent_dim=8)")
    assert short != listing
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(short, names)
    assert names["folder"].resolve().parent == tmp_path / "runs"
    assert names["distance"] > 0 and names["fad"] > 0
    assert set(names["result"].table["latent"]) == {"vanilla", "time-shuffled", "length-shuffled", "redrawn"}
