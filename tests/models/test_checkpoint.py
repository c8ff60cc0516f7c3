import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from errors import UserError
from models import ESVAE, ModelConfig, build_model, load_model, read_metadata, save_model
from models.checkpoint import MODEL_FILE


def refusal(action: Callable[[], Any]) -> str:
    """The message of the UserError that `action` must raise; it has one line."""
    with pytest.raises(UserError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def model(make_esvae, images: Tensor) -> ESVAE:
    """A model whose running statistics have moved."""
    model = make_esvae("code", mmd_weight=0.5)
    model(images)
    return model


@pytest.fixture
def file(model: ESVAE, tmp_path: Path) -> Path:
    path = tmp_path / MODEL_FILE
    save_model(model, path, run={"epoch": 3, "dataset": "digits"})
    return path


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], object] = lambda _: None, **metadata: str) -> None:
    """Write the file again with other tensors or metadata."""
    tensors = load_file(file)
    known = {key: json.dumps(value) for key, value in read_metadata(file).items()}
    change(tensors)
    save_file(tensors, file, {"format": "spiking-vae-1", **known, **metadata})


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_saved_model_gives_the_same_bits_in_evaluation_mode(
    as_folder: bool, model: ESVAE, file: Path, images: Tensor
) -> None:
    loaded = load_model(file.parent if as_folder else file)
    assert loaded.config == model.config
    assert not any(module.training for module in loaded.modules())
    assert {name: tensor.dtype for name, tensor in loaded.state_dict().items()} == {
        name: tensor.dtype for name, tensor in model.state_dict().items()
    }
    model.eval()
    found, expected = (m(images, torch.Generator().manual_seed(0)) for m in (loaded, model))
    assert torch.equal(found.reconstruction, expected.reconstruction)
    assert torch.equal(found.posterior_rate, expected.posterior_rate)
    assert torch.equal(found.prior_rate, expected.prior_rate)


def test_metadata_tells_the_models_and_the_runs_configuration(model: ESVAE, file: Path) -> None:
    metadata = read_metadata(file)
    assert metadata["model"] == json.loads(json.dumps(model.config.to_dict()))
    assert metadata["run"] == {"epoch": 3, "dataset": "digits"}


def test_saving_leaves_the_old_file_where_writing_fails(
    model: ESVAE, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr("os.fsync", fail)
    assert "No space left" in refusal(lambda: save_model(model, file))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    assert "no checkpoint at" in refusal(lambda: load_model(tmp_path / "none.safetensors"))
    assert MODEL_FILE in refusal(lambda: load_model(tmp_path))


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_truncated_file_is_refused(keep: float, file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else keep])
    assert "damaged" in refusal(lambda: load_model(file))


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(3)}, file, metadata)
        assert "not written by this project" in refusal(lambda: load_model(file))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "Expecting property name"), ("null", "no dictionaries"), ("[]", "no dictionaries"), ('"esvae"', "no dict")],
)
def test_damaged_metadata_is_refused(text: str, reason: str, file: Path) -> None:
    rewrite(file, model=text)
    assert f"has damaged metadata: {reason}" in refusal(lambda: load_model(file))


@pytest.mark.parametrize("change", [{"latent_dim": "many"}, {"widths": 3}, {"decay": None}, {"latent_dim": -1}])
def test_metadata_with_impossible_values_is_refused(change: dict[str, object], file: Path) -> None:
    rewrite(file, model=json.dumps(read_metadata(file)["model"] | change))
    assert next(iter(change)) in refusal(lambda: load_model(file))


def test_weights_of_another_architecture_are_refused_with_their_names(file: Path, make_esvae, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_model(make_esvae(latent_dim=7), other)
    rewrite(file, lambda tensors: tensors.update(load_file(other)))
    assert "bottleneck.bias is [7], not [12]" in refusal(lambda: load_model(file))


def test_missing_and_unexpected_tensors_are_named(file: Path) -> None:
    rewrite(file, lambda tensors: (tensors.pop("bottleneck.bias"), tensors.update(stranger=torch.zeros(2))))
    message = refusal(lambda: load_model(file))
    assert "missing bottleneck.bias" in message
    assert "unexpected stranger" in message


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.pth", "checkpoint.pt", "weights.bin"])
@pytest.mark.parametrize("dump", [partial(pickle.dump, protocol=2), torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_without_running_it(name: str, dump: Callable, tmp_path: Path) -> None:
    target, file = tmp_path / "executed", tmp_path / name
    with file.open("wb") as opened:
        dump({"net": _Bomb(target)}, opened)
    refusal(lambda: load_model(file))
    refusal(lambda: read_metadata(file))
    assert not target.exists()
    with file.open("rb") as opened:  # the bomb is a live one
        torch.load(opened, weights_only=False) if dump is torch.save else pickle.load(opened)
    assert target.exists()


def test_half_precision_is_for_weights_and_leaves_counters_whole(tmp_path: Path) -> None:
    model = build_model(ModelConfig(model="ann_vae", image_channels=1, latent_dim=4))
    for buffer in model.buffers():
        if not buffer.is_floating_point():
            buffer.fill_(100_003)  # a half has no such number
    save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    loaded = load_model(tmp_path / "half.safetensors").state_dict()
    counters = {name: tensor for name, tensor in loaded.items() if name.endswith("num_batches_tracked")}
    assert counters and all(tensor.dtype == torch.int64 and tensor == 100_003 for tensor in counters.values())
