"""Learning rates over a run."""

import pytest
import torch

from training.config import preset
from training.schedule import learning_rate_factor, rates_as_tensors, set_learning_rates


def test_a_constant_rate_without_warm_up_is_the_rate() -> None:
    assert all(learning_rate_factor(progress, "constant", 0.0) == 1 for progress in (0.0, 0.5, 1.0))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_warm_up_rises_in_proportion_and_ends_at_the_rate(schedule: str) -> None:
    factors = [learning_rate_factor(progress, schedule, 0.4) for progress in (0.0, 0.1, 0.2, 0.4)]
    assert factors == pytest.approx([0.0, 0.25, 0.5, 1.0])


def test_a_cosine_falls_to_zero_half_way_at_the_middle_and_never_rises() -> None:
    factors = [learning_rate_factor(0.2 + 0.8 * k / 100, "cosine", 0.2) for k in range(101)]
    assert factors[0] == 1 and factors[50] == pytest.approx(0.5) and factors[100] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)


def test_each_group_gets_its_rate_and_a_tensor_keeps_its_place() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": weight} for weight in weights], fused=True)
    set_learning_rates(optimizer, (0.1, 0.2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    rates_as_tensors(optimizer, torch.device("cpu"))
    kept = [group["lr"] for group in optimizer.param_groups]
    set_learning_rates(optimizer, (0.3, 0.4))
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, kept, strict=True))
    assert [tensor.item() for tensor in kept] == pytest.approx([0.3, 0.4])


def test_the_fast_recipe_changes_how_a_model_is_trained_and_not_what_it_is() -> None:
    for model in ("esvae", "fsvae", "taid", "ann_vae"):
        paper, fast = (preset("mnist", model, recipe=recipe) for recipe in ("paper", "fast"))
        assert paper.model_config() == fast.model_config() and paper.run_dir != fast.run_dir
        assert fast.schedule_needs_epochs
