"""What holds for every model."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from errors import UserError
from models import ESVAE, MODELS, ModelConfig, build_model

LATENT_METHODS = ("encode", "firing_rate", "posterior", "prior", "prior_rate", "sample_latent", "sample_posterior")
ABSENT = {
    "esvae": {"posterior", "prior"},
    "fsvae": {"prior_rate"},
    "taid": {"prior_rate"},
    "ann_vae": {"firing_rate", "posterior", "prior", "prior_rate", "sample_latent", "sample_posterior"},
}


def build(name: str) -> nn.Module:
    return build_model(ModelConfig(model=name, widths=(8, 16), latent_dim=6, n_steps=7))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_can_be_copied_after_a_training_step(name: str) -> None:
    model = build(name).train()
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    model.loss(model(images), images)["loss"].backward()
    again = copy.deepcopy(model).eval()
    rng = torch.Generator()
    first, second = (m.eval()(images, generator=rng.manual_seed(0)).reconstruction for m in (model, again))
    assert first.equal(second)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (2, 3, 16, 16), (2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_size_are_refused(name: str, shape: tuple[int, ...]) -> None:
    what_to_do = "resize" if len(shape) == 4 else "stack them to a batch"
    message = rf"takes images \[N, 3, 8, 8\], got {re.escape(str(list(shape)))}: {what_to_do}"
    with pytest.raises(UserError, match=message):
        build(name)(torch.zeros(shape))
    with pytest.raises(UserError, match=message):
        build(name).encode(torch.zeros(shape))


@pytest.mark.parametrize("name", MODELS)
def test_images_in_whole_numbers_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"takes floats in \[-1, 1\], got torch.uint8: data.to_unit_range makes them"):
        build(name)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("name", MODELS)
def test_calls_in_any_order_need_no_reset(name: str) -> None:
    torch.manual_seed(0)
    model = build(name).train()
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    first = model.loss(model(images), images)["loss"]
    model.sample(2)
    second = model.loss(model(images), images)["loss"]
    second.backward()
    first.backward()
    model.sample(2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_a_method_or_says_in_one_line_what_to_use_instead(name: str) -> None:
    model = build(name)
    assert {method for method in LATENT_METHODS if not hasattr(model, method)} == ABSENT[name]
    for method in ABSENT[name]:
        with pytest.raises(UserError, match=f"^{name} has no {method}: [^\n]+$") as caught:
            getattr(model, method)
        instead = re.search(r"use (\w+)\(", str(caught.value))
        assert instead and callable(getattr(model, instead[1]))


@pytest.mark.parametrize("name", MODELS)
def test_a_misspelt_attribute_is_pytorchs_error(name: str) -> None:
    with pytest.raises(AttributeError, match="firing_rates") as caught:
        build(name).firing_rates  # noqa: B018
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("name", [name for name in MODELS if "sample_posterior" not in ABSENT[name]])
def test_the_posterior_drawn_from_the_encoders_spikes_is_the_one_that_a_pass_decodes(name: str) -> None:
    model = build(name).train()
    images, rng = torch.rand(4, 3, 8, 8) * 2 - 1, torch.Generator()
    for _ in range(30):  # statistics of tdBN with which neurons fire
        model(images)
    model.eval()
    given = {"normal": torch.zeros(4, 6)} if issubclass(MODELS[name], ESVAE) else {}
    z = model(images, generator=rng.manual_seed(0), **given).z
    assert z.mean() > 0
    assert z.equal(model.sample_posterior(model.encode(images), rng.manual_seed(0)))


OTHER_VALUES = {
    "latent_dim": 5,
    "n_steps": 8,
    "v_threshold": 0.3,
    "decay": 0.5,
    "lif_surrogate": "code",
    "sampler_surrogate": "code",
    "mmd_weight": 0.5,
    "n_candidates": 3,
    "distance": "kl",
}


def learned(config: ModelConfig) -> list[float]:
    """The loss of a step and the sums of its gradients."""
    torch.manual_seed(0)
    model = build_model(config).train()
    images = torch.rand(6, 3, 8, 8) * 2 - 1
    loss = model.loss(model(images), images)["loss"]
    loss.backward()
    return [loss.item(), *(p.grad.double().abs().sum().item() for p in model.parameters())]


@pytest.mark.parametrize("distance", ["mmd", "kl"])
@pytest.mark.parametrize("name", MODELS)
def test_a_field_changes_what_is_learned_or_is_named_as_unused(name: str, distance: str) -> None:
    config = ModelConfig(model=name, widths=(8, 16), latent_dim=6, n_steps=7, distance=distance)
    before, unused = learned(config), MODELS[name].unused(config)
    for field, value in OTHER_VALUES.items():
        other = replace(config, **{field: value})
        assert (learned(other) == before) == (field in unused or other == config), field


@pytest.mark.parametrize("name", MODELS)
def test_the_bottlenecks_rate_is_used_where_there_is_one(name: str) -> None:
    model = build(name)
    assert ("bottleneck_lr_factor" in model.unused(model.config)) != hasattr(model, "bottleneck")
