"""Altered latents: what a shuffle, noise and flips leave alone, and the losses they are scored by."""

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from analysis.perturbation import add_noise, altered_images, altered_losses, flip, shuffle_length, shuffle_time
from analysis.subjects import Subject, load_subjects
from data import load_split, to_unit_range
from metrics import evaluate_reconstruction

T, N, D = 16, 5, 12
HIT_CHANGES = 0.3085375387  # P(N(0, 1) > 0.5)


@pytest.fixture
def z(rng: Generator) -> Tensor:
    return (torch.rand(T, N, D, generator=rng) < 0.4).float()


@pytest.fixture(scope="module", params=["esvae", "fsvae", "taid"])
def subject(request: pytest.FixtureRequest, small_models: dict[str, Path]) -> Subject:
    return load_subjects([small_models[request.param]], device="cpu")[0]


@pytest.mark.parametrize("shared", [False, True])
def test_shuffling_time_leaves_every_rate_and_changes_the_order(z: Tensor, rng: Generator, shared: bool) -> None:
    shuffled = shuffle_time(z, rng, shared)
    assert shuffled.sum(0).equal(z.sum(0))
    assert not shuffled.equal(z)


@pytest.mark.parametrize("shared", [False, True])
def test_shuffling_length_leaves_every_step_and_changes_the_rates(z: Tensor, rng: Generator, shared: bool) -> None:
    shuffled = shuffle_length(z, rng, shared)
    assert shuffled.sum(2).equal(z.sum(2))
    assert not shuffled.sum(0).equal(z.sum(0))


def test_time_is_shuffled_for_each_unit_or_for_all_units_of_an_image(rng: Generator) -> None:
    step = torch.arange(T).view(T, 1, 1).expand(T, N, D)
    own, shared = shuffle_time(step, rng), shuffle_time(step, rng, shared=True)
    assert len({tuple(order) for order in own.flatten(1).T.tolist()}) == N * D
    assert shared.equal(shared[:, :, :1].expand_as(shared))
    assert len({tuple(order) for order in shared[:, :, 0].T.tolist()}) == N


def test_length_is_shuffled_at_each_step_or_by_whole_spike_trains(rng: Generator) -> None:
    unit = torch.arange(D).expand(T, N, D)
    own, shared = shuffle_length(unit, rng), shuffle_length(unit, rng, shared=True)
    assert len({tuple(order) for order in own.flatten(0, 1).tolist()}) == T * N
    assert shared.equal(shared[:1].expand_as(shared))
    assert len({tuple(order) for order in shared[0].tolist()}) == N


def test_a_step_comes_out_at_every_place_alike(rng: Generator) -> None:
    n = 8_000
    first = torch.zeros(4, n, 1)
    first[0] = 1
    shares = shuffle_time(first, rng).mean((1, 2))
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=5 * (0.25 * 0.75 / n) ** 0.5)


@pytest.mark.parametrize("alter", [add_noise, flip])
def test_with_probability_zero_nothing_changes(z: Tensor, rng: Generator, alter: Callable) -> None:
    assert alter(z, 0.0, rng).equal(z)


def test_flips_with_probability_one_invert(z: Tensor, rng: Generator) -> None:
    assert flip(z, 1.0, rng).equal(1 - z)


@pytest.mark.parametrize(("alter", "changes"), [(add_noise, HIT_CHANGES), (flip, 1.0)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_silence_and_spikes_change_with_the_same_probability(
    alter: Callable, changes: float, value: float, rng: Generator
) -> None:
    before, a = torch.full((T, 100, 128), value), 0.3
    after = alter(before, a, rng)
    assert set(after.unique().tolist()) == {0.0, 1.0}
    expected, n = a * changes, before.numel()
    assert (after != before).double().mean().item() == pytest.approx(expected, abs=5 * (expected / n) ** 0.5)


def first_images(n: int) -> Tensor:
    return load_split("digits", "test", limit=n).images


def decode_with(alter: Callable[[Tensor, Generator], Tensor], name: str = "altered"):
    return lambda model, x, z, noise: [(name, model.decode(alter(z, noise)))]


def test_noise_of_probability_zero_scores_exactly_as_vanilla(subject: Subject) -> None:
    images = first_images(70)
    no_noise = decode_with(lambda z, noise: add_noise(z, 0.0, noise))
    vanilla, altered = altered_losses(subject, images, no_noise, seed=3).itertuples(index=False)
    assert altered.loss_vs_original == vanilla.loss_vs_original > 0
    assert altered.loss_vs_vanilla == vanilla.loss_vs_vanilla == 0


def test_the_vanilla_loss_is_the_reconstruction_loss(subject: Subject) -> None:
    images = first_images(70)  # a last batch of 6
    table = altered_losses(subject, images, decode_with(lambda z, noise: 1 - z), seed=3)
    assert table["loss_vs_original"][0] == pytest.approx(evaluate_reconstruction(subject.model, images, seed=3))
    assert table["loss_vs_vanilla"][1] > 0


def test_images_weigh_the_same_in_a_loss_against_vanilla(subject: Subject) -> None:
    images, constant = first_images(70), partial(torch.full_like, fill_value=1.0)
    table = altered_losses(subject, images, lambda model, x, z, noise: [("white", constant(x))], seed=3)
    with torch.no_grad():
        x, generator = to_unit_range(images), subject.generator(3)
        parts = [subject.model(part, generator=generator).reconstruction for part in x.split(64)]
    assert table["loss_vs_vanilla"][1] == pytest.approx(((torch.cat(parts) - 1) ** 2).mean().item())
    assert table["loss_vs_original"][1] == pytest.approx(((x - 1) ** 2).mean().item())


def test_a_latent_that_is_constant_in_time_survives_a_time_shuffle(subject: Subject, rng: Generator) -> None:
    rates = (torch.rand(1, 6, 8, generator=rng) < 0.5).float().expand(4, 6, 8)
    assert subject.model.decode(shuffle_time(rates, rng)).equal(subject.model.decode(rates))


def test_a_seed_fixes_the_losses(subject: Subject) -> None:
    images, shuffle = first_images(20), decode_with(shuffle_time)
    first, again, other = (altered_losses(subject, images, shuffle, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_pictures_are_of_the_images_and_of_the_same_latent(subject: Subject) -> None:
    images = first_images(3)
    rows = altered_images(subject, images, decode_with(lambda z, noise: z, "unaltered"), seed=0)
    assert list(rows) == ["original", "vanilla", "unaltered"]
    assert rows["original"].equal(to_unit_range(images))
    assert rows["unaltered"].equal(rows["vanilla"])


def test_memory_is_that_of_one_batch(subject: Subject) -> None:
    """Of 3 batches with 4 reconstructions each, no more than two reconstructions are alive at a time."""
    alive: list[weakref.ref] = []
    most = 0

    def alterations(model, x, z, noise):
        nonlocal most
        for k in range(4):
            reconstruction = torch.zeros_like(x)
            alive.append(weakref.ref(reconstruction))
            most = max(most, sum(ref() is not None for ref in alive))
            yield str(k), reconstruction

    altered_losses(subject, first_images(150), alterations, seed=0)
    assert len(alive) == 12
    assert most <= 2
