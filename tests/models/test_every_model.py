"""What holds for every model."""

import copy

import pytest
import torch

from models import MODELS, ModelConfig, build_model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_can_be_copied_after_a_training_step(name: str) -> None:
    model = build_model(ModelConfig(model=name, widths=(8, 16), latent_dim=6, n_steps=7)).train()
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    model.loss(model(images), images)["loss"].backward()
    again = copy.deepcopy(model).eval()
    rng = torch.Generator()
    first, second = (m.eval()(images, generator=rng.manual_seed(0)).reconstruction for m in (model, again))
    assert first.equal(second)


@pytest.mark.parametrize("name", MODELS)
def test_calls_in_any_order_need_no_reset(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=name, widths=(8, 16), latent_dim=6, n_steps=7)).train()
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    first = model.loss(model(images), images)["loss"]
    model.sample(2)
    second = model.loss(model(images), images)["loss"]
    second.backward()
    first.backward()
    model.sample(2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
