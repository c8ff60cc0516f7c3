"""What must hold for every configuration, shape and value: extreme rates, T = 1, N = 1, D = 1, half precision."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import train
from data import DATASETS, to_unit_range
from data.image_sets import read_image_set
from losses import bernoulli_kl, gaussian_kl, mmd2, postsynaptic_potential, psp_mmd, reconstruction_loss
from metrics import frechet_distance, statistics
from models import ModelConfig, build_model, load_model, save_model
from models.registry import model_type
from neurons import LIF, PoissonSampler, Rectangular, ThresholdDependentBatchNorm, lif_surrogate
from neurons.library import native_obstacle
from training.config import Config, Dataset, Model, Variant, preset
from training.folder import previous_starts, start_run
from training.log import rate_histogram

# The same examples in every run, so that the suite is; no files in the checkout.
bounded = settings(max_examples=40, deadline=None, derandomize=True, database=None)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
sizes = st.integers(1, 5)
positive = st.floats(1e-6, 1e5, allow_nan=False)
EXTREMES = (0.0, -0.0, 0.2, 1.0, -1.0, 6e-8, 6e4, -6e4)  # the threshold, and float16's smallest and largest numbers


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], low: float, high: float, *special: float) -> Tensor:
    """float64 in [low, high], at its ends more often than not, or one of the special values."""
    value = st.one_of(st.sampled_from((low, high, *special)), st.floats(low, high))
    values = draw(st.lists(value, min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def rates(*shape: int) -> st.SearchStrategy[Tensor]:
    return tensors(shape, 0.0, 1.0, 0.5, 1e-30)


configs = st.builds(
    lambda names, changes: dataclasses.replace(preset(*names), **changes),
    st.tuples(*(st.sampled_from(get_args(kind)) for kind in (Dataset, Model, Variant))),
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**32 - 1),
            "epochs": st.integers(1, 10**9),
            "batch_size": st.integers(2, 1000),
            "lr": positive,
            "bottleneck_lr_factor": positive,
            "weight_decay": st.floats(0, 1e6),
            "mmd_weight": st.floats(0, 1e6),
            "latent_dim": st.integers(1, 4096),
            "n_steps": st.integers(1, 4096),
            "strict_threshold": st.booleans(),
            "horizontal_flip": st.booleans(),
            "lif_surrogate": st.sampled_from(("paper", "code")),
            "distance": st.sampled_from(("mmd", "kl")),
            "train_images": st.one_of(st.none(), st.integers(1000, 1500)),
            "checkpoint_every": st.floats(0, 1e9),
            "name": st.one_of(st.none(), st.text("abc äß'\"\\", min_size=1)),
        },
    ),
)
model_configs = st.builds(
    ModelConfig,
    model=st.sampled_from(("esvae", "fsvae", "taid", "ann_vae", "autoencoder")),
    image_channels=st.integers(1, 3),
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    latent_dim=sizes,
    n_steps=sizes,
    v_threshold=st.floats(1e-3, 10),
    decay=st.floats(0.01, 0.99),
    strict_threshold=st.booleans(),
    mmd_weight=st.floats(0, 1e6),
    n_candidates=sizes,
)


@bounded
@given(config=configs)
def test_a_configuration_survives_its_file(config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = dataclasses.replace(config, runs_dir=tmp_path_factory.mktemp("runs"), name="run")
    start_run(config, [{"epoch": 0}], fresh=False)
    assert previous_starts(config, fresh=False) == [{"epoch": 0}]  # it is the same run
    record = json.loads((config.run_dir / "config.json").read_text())["config"]
    assert dataclasses.replace(Config(**record), runs_dir=config.runs_dir) == config


@settings(bounded, max_examples=15)  # building the command line takes 0.1 s
@given(config=configs)
def test_a_configuration_survives_the_command_line(config: Config) -> None:
    arguments, standard = [], preset(config.dataset, config.model, config.variant)
    unused = model_type(config.model).unused(config.model_config())
    config = dataclasses.replace(config, **{name: getattr(standard, name) for name in unused})
    for name, value in config.to_dict().items():
        flag = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        arguments += [flag] if isinstance(value, bool) else [] if value is None else [f"{flag}={value}"]
    assert train.parse(arguments).config == config


@bounded
@given(config=model_configs)
def test_a_model_survives_its_file(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = build_model(config)
    save_model(model, file)
    loaded = load_model(file)
    assert loaded.config == config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


@bounded
@given(data=st.data(), t=sizes, n=sizes, d=sizes, dtype=st.sampled_from(FLOATS), strict=st.booleans())
@pytest.mark.parametrize("backend", ["scan", "native"])
def test_lif_is_the_literal_loop(
    backend: str, data: st.DataObject, t: int, n: int, d: int, dtype: torch.dtype, strict: bool
) -> None:
    if backend == "native" and native_obstacle():
        pytest.skip("no compiler")
    current = data.draw(tensors((t, n, d), -1.0, 1.0, *EXTREMES)).to(dtype).requires_grad_()
    spikes = LIF(lif_surrogate("paper", 0.2, strict), backend=backend)(current)
    assert (spikes.shape, spikes.dtype) == (current.shape, dtype)
    # Membranes are kept in float32 at least; 0.25 v + x rounds there as it does here.
    exact = current.detach().to(torch.promote_types(dtype, torch.float32))
    v = torch.zeros_like(exact[0])
    threshold = torch.tensor(0.2, dtype=exact.dtype)
    for x, found in zip(exact, spikes, strict=True):
        m = 0.25 * v + x
        fires = m > threshold if strict else m >= threshold
        assert torch.equal(found.bool(), fires) and torch.equal(found, fires.to(dtype))
        v = m.masked_fill(fires, 0)
    spikes.sum().backward()
    assert current.grad.isfinite().all() and current.grad.dtype == dtype


@bounded
@given(data=st.data(), t=sizes, n=sizes, d=sizes, dtype=st.sampled_from(FLOATS))
def test_the_sampler_fires_below_the_rate(data: st.DataObject, t: int, n: int, d: int, dtype: torch.dtype) -> None:
    rate = data.draw(rates(n, d)).to(dtype).requires_grad_()
    sampler = PoissonSampler(t, Rectangular(0.5, strict=True))
    uniform = torch.rand((t, n, d), generator=torch.Generator().manual_seed(0)).to(dtype).clamp(max=0.99)
    z = sampler(rate, uniform=uniform)
    assert torch.equal(z, (uniform < rate).to(dtype))
    z.sum().backward()
    assert torch.equal(rate.grad, ((rate.detach() - uniform).abs() < 0.25).to(dtype).sum(0) * 2)
    drawn = sampler(rate.detach(), torch.Generator().manual_seed(1))
    assert drawn.shape == (t, n, d) and drawn.dtype == dtype
    assert not drawn[:, rate.detach() == 0].any() and drawn[:, rate.detach() == 1].all()
    assert sum(rate_histogram(drawn)) == n * d and len(rate_histogram(drawn)) == t + 1


@bounded
@given(data=st.data(), t=sizes, n=sizes, c=sizes)
def test_tdbn_normalises_or_gives_its_bias(data: st.DataObject, t: int, n: int, c: int) -> None:
    x = data.draw(tensors((t, n, c), -100.0, 100.0, 0.0)).float().requires_grad_()
    norm = ThresholdDependentBatchNorm(c, v_threshold=0.2)
    y = norm(x)
    assert y.shape == x.shape
    variance = x.detach().double().var((0, 1), correction=0)
    # Where all values nearly agree the slope is 63: a float of 100 is then rounded by 1e-3 before its mean goes off.
    rounding = 2**-22 * x.detach().abs().amax((0, 1)) * 0.2 / (variance + 1e-5).sqrt()
    assert (y.detach().mean((0, 1)).abs() <= 1e-4 + rounding).all()
    expected = 0.04 * variance / (variance + 1e-5)
    torch.testing.assert_close(y.detach().double().var((0, 1), correction=0), expected, atol=1e-4, rtol=1e-3)
    y.square().sum().backward()
    for tensor in (x.grad, norm.weight.grad, norm.running_mean, norm.running_var):
        assert tensor.isfinite().all()
    assert (norm.running_var >= 0).all() and norm.eval()(x).isfinite().all()


@bounded
@given(data=st.data(), n=sizes, m=sizes, d=sizes)
@example(data=None, n=1, m=1, d=1)
def test_mmd_is_a_distance(data: st.DataObject | None, n: int, m: int, d: int) -> None:
    x, y = (torch.zeros(n, d), torch.ones(m, d)) if data is None else (data.draw(rates(k, d)).float() for k in (n, m))
    x.requires_grad_()
    distance = mmd2(x, y)
    assert -1e-5 <= distance <= 10 and mmd2(y, x).item() == pytest.approx(distance.item(), abs=1e-5)
    assert abs(mmd2(x, x.detach())) <= 1e-5
    distance.backward()
    assert x.grad.isfinite().all()


@bounded
@given(data=st.data(), n=sizes, d=sizes, dtype=st.sampled_from((torch.float16, torch.bfloat16)))
def test_mmd_of_half_precision_is_that_of_the_same_numbers(
    data: st.DataObject, n: int, d: int, dtype: torch.dtype
) -> None:
    x, y = (data.draw(rates(n, d)).to(dtype) for _ in range(2))
    assert mmd2(x, y) == mmd2(x.float(), y.float())


def test_mmd_of_many_images_in_half_precision_does_not_overflow() -> None:
    x, y = torch.zeros(256, 128, dtype=torch.float16), torch.ones(256, 128, dtype=torch.float16)
    assert mmd2(x, y) == mmd2(x.float(), y.float()) > 1


@bounded
@given(data=st.data(), t=sizes, n=sizes, d=sizes)
def test_divergences_are_finite_and_0_between_equals(data: st.DataObject, t: int, n: int, d: int) -> None:
    q, p = (data.draw(rates(t, n, d)).float().requires_grad_() for _ in range(2))
    for distance in (bernoulli_kl, psp_mmd):
        value = distance(q, p)
        value.backward()
        assert value.isfinite() and q.grad.isfinite().all() and p.grad.isfinite().all()
        assert distance(q, q).abs() <= 1e-6
    assert psp_mmd(q, p) >= 0
    filtered = postsynaptic_potential(q)
    assert filtered.shape == q.shape and filtered.min() >= 0 and filtered.max() < 1
    assert torch.equal(filtered[0], q[0] / 2)


@bounded
@given(data=st.data(), n=sizes, d=sizes)
def test_gaussian_kl_is_a_divergence(data: st.DataObject, n: int, d: int) -> None:
    mean, log_variance = (data.draw(tensors((n, d), -20.0, 20.0, 0.0)) for _ in range(2))
    assert gaussian_kl(mean, log_variance) >= -1e-12
    assert gaussian_kl(torch.zeros(n, d), torch.zeros(n, d)) == 0


@bounded
@given(data=st.data(), n=sizes, size=sizes, dtype=st.sampled_from(FLOATS))
def test_the_reconstruction_loss_is_0_to_4(data: st.DataObject, n: int, size: int, dtype: torch.dtype) -> None:
    a, b = (data.draw(tensors((n, 1, size, size), -1.0, 1.0)).to(dtype) for _ in range(2))
    assert reconstruction_loss(a, a) == 0
    assert 0 <= reconstruction_loss(a, b) <= 4


@bounded
@given(data=st.data(), d=sizes)
def test_the_frechet_distance_is_one(data: st.DataObject, d: int) -> None:
    a, b = (statistics(data.draw(tensors((d + 1, d), -10.0, 10.0, 0.0))) for _ in range(2))
    assert frechet_distance(*a, *a) <= 1e-4
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), abs=1e-4)
    shift = torch.ones(d, dtype=torch.float64)
    assert frechet_distance(a[0] + shift, a[1], *a) == pytest.approx(d, abs=1e-4)
    if d == 1:
        deviations = [covariance.sqrt().item() for _, covariance in (a, b)]
        expected = (a[0] - b[0]).square().item() + (deviations[0] - deviations[1]) ** 2
        assert frechet_distance(*a, *b) == pytest.approx(expected, abs=1e-4)


@bounded
@given(n=sizes, dataset=st.sampled_from(sorted(DATASETS)), seed=st.integers(0, 99), floats=st.booleans())
def test_images_survive_their_file(
    n: int, dataset: str, seed: int, floats: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = DATASETS[dataset]
    shape = (n, spec.image_size, spec.image_size, *([spec.channels] if spec.channels > 1 else []))
    pixels: Any = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    expected = to_unit_range(torch.from_numpy(pixels.reshape(n, *shape[1:3], -1)).permute(0, 3, 1, 2))
    file: Path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(file, to_unit_range(torch.from_numpy(pixels)).numpy() if floats else pixels)
    assert torch.equal(read_image_set(file, dataset), expected)
