"""Checkpoints in the layout of the released programs."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from errors import UserError
from models import WIDTHS, ModelConfig, load_model, read_metadata

D, T = 6, 4
ANN_HEADS = {"ann_vae": ("fc_mu", "fc_var"), "autoencoder": ("latent_layer",)}
CODE = {"lif_surrogate": "code", "strict_threshold": True, "sampler_surrogate": "code"}


def norm(prefix: str, n: int) -> dict[str, Tensor]:
    values = {name: torch.rand(n) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    return {f"{prefix}.{name}": value for name, value in values.items()} | {
        f"{prefix}.num_batches_tracked": torch.tensor(7)
    }


def layer(prefix: str, out: int, *shape: int, bn: bool = True) -> dict[str, Tensor]:
    tensors = {f"{prefix}.weight": torch.randn(shape) * 0.2, f"{prefix}.bias": torch.randn(out) * 0.1}
    return tensors | (norm(f"{prefix}.bn", out) if bn else {})


def latent_network(prefix: str, n_in: int, k: int) -> dict[str, Tensor]:
    sizes = (n_in, 2 * D, 4 * D, k * D)
    tensors = {f"{prefix}.initial_input": torch.zeros(1, D, 1)} if prefix == "prior" else {}
    for i in range(3):
        tensors |= layer(f"{prefix}.layers.{i}", sizes[i + 1], sizes[i + 1], sizes[i])
    return tensors


def published(model: str, size: int, channels: int = 3, k: int = 20) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of the released programs."""
    torch.manual_seed(0)
    widths = WIDTHS[size]
    if model in ANN_HEADS:
        return published_ann(widths, channels, ANN_HEADS[model])
    tensors, n_in = {}, channels
    for i, width in enumerate(widths):
        tensors |= layer(f"encoder.{i}", width, width, n_in, 3, 3, 1)
        n_in = width
    tensors |= layer("before_latent_layer", D, D, widths[-1] * 4)
    tensors |= layer("decoder_input", widths[-1] * 4, widths[-1] * 4, D)
    for i, (a, b) in enumerate(zip(widths[::-1], widths[-2::-1], strict=False)):
        tensors |= layer(f"decoder.{i}", b, a, b, 3, 3, 1)
    tensors |= layer("final_layer.0", widths[0], widths[0], widths[0], 3, 3, 1)
    tensors |= layer("final_layer.1", channels, widths[0], channels, 3, 3, 1, bn=False)
    if model == "taid":
        tensors |= {"membrane_output_layer.conv.weight": torch.randn(T, T, 1)}
        tensors |= {"membrane_output_layer.conv_c.weight": torch.randn(channels, channels, 1)}
    else:
        tensors |= {"membrane_output_layer.coef": 0.8 ** torch.arange(T - 1, -1, -1).view(1, 1, 1, 1, T)}
    if model == "esvae":
        tensors |= {"sample_layer.0.weight": torch.randn(D, D), "sample_layer.0.bias": torch.randn(D)}
    return tensors | latent_network("prior", D, k) | latent_network("posterior", 2 * D, k)


def published_ann(widths: tuple[int, ...], channels: int, heads: tuple[str, ...]) -> dict[str, Tensor]:
    def unit(prefix: str, out: int, *shape: int) -> dict[str, Tensor]:
        return layer(f"{prefix}.0", out, *shape, bn=False) | norm(f"{prefix}.1", out)

    tensors, n_in = {}, channels
    for i, width in enumerate(widths):
        tensors |= unit(f"encoder.{i}", width, width, n_in, 3, 3)
        n_in = width
    for head in heads:
        tensors |= layer(head, D, D, n_in * 4, bn=False)
    tensors |= layer("decoder_input", n_in * 4, n_in * 4, D, bn=False)
    for i, (a, b) in enumerate(zip(widths[::-1], widths[-2::-1], strict=False)):
        tensors |= unit(f"decoder.{i}", b, a, b, 3, 3)
    tensors |= unit("final_layer", widths[0], widths[0], widths[0], 3, 3)
    return tensors | layer("final_layer.3", channels, widths[0], channels, 3, 3, bn=False)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("model", ["esvae", "fsvae", "taid", "ann_vae", "autoencoder"])
def test_model_sizes_and_variant_follow_from_the_tensors(tmp_path: Path, model: str, size: int) -> None:
    torch.save(published(model, size), tmp_path / "checkpoint.pth")
    loaded = load_model(tmp_path / "checkpoint.pth")
    spiking = {"n_steps": T, **CODE} if model not in ANN_HEADS else {}
    more = {"mmd_weight": 1.0} if model in ("fsvae", "taid") else {}
    assert loaded.config == ModelConfig(model, 3, WIDTHS[size], D, **spiking, **more)
    assert not loaded.training
    assert loaded(torch.zeros(2, 3, size, size)).reconstruction.shape == (2, 3, size, size)


@pytest.mark.parametrize("model", ["esvae", "fsvae", "taid", "ann_vae", "autoencoder"])
def test_every_published_weight_arrives_once(tmp_path: Path, model: str) -> None:
    tensors = published(model, 32)
    torch.save(tensors, tmp_path / "checkpoint.pth")
    arrived = [t for n, t in load_model(tmp_path / "checkpoint.pth").state_dict().items() if "num_batches" not in n]
    unused = ("coef", "initial_input", "num_batches_tracked", "conv_c.weight")
    used = [t for name, t in tensors.items() if not name.endswith(unused)]
    if model == "esvae":
        used = [t for name, t in tensors.items() if not name.startswith(("prior", "posterior")) and "coef" not in name]
        used = [t for t in used if t.dim()]
    assert sorted(t.double().sum().item() for t in arrived) == pytest.approx(
        sorted(t.double().sum().item() for t in used)
    )


def test_the_heads_of_an_ann_vae_are_not_mixed_up(tmp_path: Path) -> None:
    """They have the same shape: exchanged, they would load."""
    tensors = published("ann_vae", 32)
    torch.save(tensors, tmp_path / "checkpoint.pth")
    model = load_model(tmp_path / "checkpoint.pth")
    for ours, theirs in ((model.to_mean, "fc_mu"), (model.to_log_variance, "fc_var")):
        assert torch.equal(ours.weight, tensors[f"{theirs}.weight"])
        assert torch.equal(ours.bias, tensors[f"{theirs}.bias"])


def lif(current: Tensor) -> Tensor:
    """The released neuron: fires above 0.2, keeps a quarter of an unfired membrane."""
    v, spikes = torch.zeros_like(current[0]), []
    for x in current:
        v = 0.25 * v + x
        spikes.append((v > 0.2).to(v))
        v = v * (1 - spikes[-1])
    return torch.stack(spikes)


def block(tensors: dict[str, Tensor], prefix: str, x_seq: Tensor, apply, alpha: float = 1.0) -> Tensor:
    current = torch.stack([apply(x, tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"]) for x in x_seq])
    shape = (-1,) + (1,) * (current.dim() - 3)
    weight, bias, mean, var = (
        tensors[f"{prefix}.bn.{name}"].view(shape) for name in ("weight", "bias", "running_mean", "running_var")
    )
    return lif(weight * (alpha * 0.2 * (current - mean) / (var + 1e-5).sqrt()) + bias)


def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.conv2d(x, weight[..., 0], bias, stride=2, padding=1)


def up(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.conv_transpose2d(x, weight[..., 0], bias, stride=2, padding=1, output_padding=1)


def agree(ours: Tensor, theirs: Tensor) -> bool:
    return ((ours - theirs).abs() < 1e-4).double().mean() >= 0.97


def test_an_esvae_computes_what_the_released_network_does(tmp_path: Path) -> None:
    tensors = published("esvae", 32)
    torch.save(tensors, tmp_path / "best.pth")
    model = load_model(tmp_path / "best.pth")
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    x_seq = images.expand(T, *images.shape)
    for i in range(4):
        x_seq = block(tensors, f"encoder.{i}", x_seq, conv)
    x_seq = block(tensors, "before_latent_layer", x_seq.flatten(2), nn.functional.linear)
    assert 0.01 < x_seq.mean() < 0.99
    assert agree(model.encode(images), x_seq)
    z = (torch.rand(T, 3, D) < 0.5).float()
    x_seq = block(tensors, "decoder_input", z, nn.functional.linear).view(T, 3, 256, 2, 2)
    for name in ("decoder.0", "decoder.1", "decoder.2", "final_layer.0"):
        x_seq = block(tensors, name, x_seq, up)
    weight, bias = tensors["final_layer.1.weight"][..., 0], tensors["final_layer.1.bias"]
    steps = torch.stack([nn.functional.conv_transpose2d(x, weight, bias, padding=1) for x in x_seq])
    theirs = torch.tanh((steps * tensors["membrane_output_layer.coef"].view(T, 1, 1, 1, 1)).sum(0))
    assert agree(model.decode(z), theirs)
    normal = torch.randn(3, D)
    rate = torch.sigmoid(normal @ tensors["sample_layer.0.weight"].T + tensors["sample_layer.0.bias"])
    torch.testing.assert_close(model.prior_rate(normal), rate)


def test_an_fsvaes_posterior_and_prior_are_the_released_ones(tmp_path: Path) -> None:
    tensors = published("fsvae", 32)
    torch.save(tensors, tmp_path / "checkpoint.pth")
    model = load_model(tmp_path / "checkpoint.pth")
    x_spikes, z = (torch.rand(2, T, 3, D) < 0.5).float()
    shifted = torch.cat([torch.zeros(1, 3, D), z[:-1]])
    for name, ours, x_seq in (
        ("posterior", model.posterior(x_spikes, z), torch.cat([x_spikes, shifted], -1)),
        ("prior", model.prior(z), shifted),
    ):
        for i in range(3):
            x_seq = block(tensors, f"{name}.layers.{i}", x_seq, nn.functional.linear, alpha=2.0)
        assert agree(ours, x_seq.view(T, 3, D, 20))


@pytest.mark.parametrize("model", ["esvae", "fsvae", "taid", "ann_vae", "autoencoder"])
def test_a_wrapped_file_is_the_same_model(tmp_path: Path, model: str) -> None:
    torch.save(published(model, 32), tmp_path / "bare.pth")
    torch.save({"net": published(model, 32), "epoch": 12}, tmp_path / "best_fid.pth")
    bare, wrapped = load_model(tmp_path / "bare.pth"), load_model(tmp_path / "best_fid.pth")
    assert all(a.equal(b) for a, b in zip(bare.state_dict().values(), wrapped.state_dict().values(), strict=True))
    assert read_metadata(tmp_path / "best_fid.pth")["run"] == {}


def test_esvaes_leftover_networks_are_ignored_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(published("esvae", 32), tmp_path / "checkpoint.pth")
    load_model(tmp_path / "checkpoint.pth")
    assert "ignoring what esvae does not use: posterior, prior" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.1.bn.bias"), r"missing decoder\.1\.bn\.bias"),
        (lambda t: t.update({"extra.weight": torch.zeros(2)}), r"unknown extra\.weight"),
        (lambda t: t.update({"decoder_input.bias": torch.zeros(3)}), r"decoder_input\.bias is \[3\], not \[1024\]"),
        (lambda t: t.pop("before_latent_layer.weight"), r"no tensor before_latent_layer\.weight"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith(("sample", "post"))], r"no tensor .*sample_layer"),
    ],
)
def test_what_does_not_fit_is_named_as_published(tmp_path: Path, change, message: str) -> None:
    tensors = published("esvae", 32)
    change(tensors)
    torch.save(tensors, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=message) as refusal:
        load_model(tmp_path / "checkpoint.pth")
    assert "\n" not in str(refusal.value)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickle_that_would_act_is_refused_unexecuted(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    torch.save({"net": Hostile(tmp_path / "made")}, tmp_path / "zip.pth")
    for name in ("checkpoint.pth", "zip.pth"):
        with pytest.raises(UserError, match="is damaged"):
            load_model(tmp_path / name)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"text"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pth is damaged") as refusal:
        load_model(tmp_path / "checkpoint.pth")
    assert "\n" not in str(refusal.value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no state_dict"):
        load_model(tmp_path / "list.pth")
