import pytest
import torch
from torch import Tensor

from data import batches, n_batches, to_uint8, to_unit_range, training_batches
from errors import UserError


def numbered(count: int) -> Tensor:
    """Images [count, 1, 2, 3] that differ from each other and from their mirror images."""
    first = torch.arange(count, dtype=torch.uint8)
    return torch.stack([first, 255 - first, first] * 2, dim=1).reshape(count, 1, 2, 3)


def epoch(images: Tensor, batch_size: int = 4, seed: int = 0, **options: object) -> list[Tensor]:
    defaults = {"drop_last": False, "horizontal_flip": False}
    generator = torch.Generator().manual_seed(seed)
    return list(training_batches(images, batch_size, generator=generator, **(defaults | options)))


def test_each_image_comes_exactly_once() -> None:
    images = numbered(10)
    seen = torch.cat(epoch(images))
    order = to_uint8(seen)[:, 0, 0, 0].argsort()
    assert torch.equal(seen[order], to_unit_range(images))
    assert not torch.equal(seen, to_unit_range(images))


def test_drop_last_leaves_only_full_batches() -> None:
    assert [len(batch) for batch in epoch(numbered(10))] == [4, 4, 2]
    assert [len(batch) for batch in epoch(numbered(10), drop_last=True)] == [4, 4]


@pytest.mark.parametrize(
    ("n_images", "drop_last", "expected"), [(8, False, 2), (9, False, 3), (9, True, 2), (3, True, 0)]
)
def test_n_batches(n_images: int, drop_last: bool, expected: int) -> None:
    assert n_batches(n_images, 4, drop_last) == expected


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_epoch_can_be_resumed_at_any_batch(start: int) -> None:
    whole = epoch(numbered(10), horizontal_flip=True)
    rest = epoch(numbered(10), horizontal_flip=True, start=start)
    assert len(rest) == len(whole) - start
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


@pytest.mark.parametrize("start", [-1, 4])
def test_start_outside_the_epoch_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="start"):
        epoch(numbered(10), start=start)


def test_all_draws_are_made_before_the_first_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "drop_last": True, "horizontal_flip": True}
    iterator = training_batches(numbered(10), 4, **options)
    state = generator.get_state()
    list(iterator)
    assert torch.equal(generator.get_state(), state)


def test_the_seed_decides_order_and_flips() -> None:
    first, again, other = (torch.cat(epoch(numbered(100), seed=s, horizontal_flip=True)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flips_mirror_about_half_of_the_images_exactly() -> None:
    images = torch.randint(0, 256, (2000, 3, 2, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    plain, flipped = torch.cat(epoch(images)), torch.cat(epoch(images, horizontal_flip=True))
    is_plain = (flipped == plain).flatten(1).all(1)
    is_mirror = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(is_plain, ~is_mirror)
    # 1,000 expected with a standard deviation of 22
    assert 900 < is_mirror.sum() < 1100


def test_an_epoch_without_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="batch size 4 is too large for 3 images"):
        epoch(numbered(3), drop_last=True)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        epoch(numbered(3), batch_size)
    with pytest.raises(UserError, match="at least 1"):
        batches(numbered(3), batch_size)


def test_evaluation_batches_keep_order_and_remainder() -> None:
    images = numbered(10)
    found = list(batches(images, 4))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert torch.equal(torch.cat(found), to_unit_range(images))


@pytest.mark.gpu
def test_a_cpu_generator_gives_the_same_epoch_on_a_gpu() -> None:
    on_cpu = epoch(numbered(10), horizontal_flip=True)
    on_gpu = epoch(numbered(10).cuda(), horizontal_flip=True)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(on_cpu, on_gpu, strict=True))
