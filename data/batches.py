"""Float batches of a uint8 tensor of images, for training (shuffled) and for evaluation (in order)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.pixels import to_unit_range
from errors import UserError


def n_batches(n_images: int, batch_size: int, drop_last: bool) -> int:
    """Number of batches in one pass over `n_images`; UserError for a batch size below 1."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be at least 1")
    return n_images // batch_size if drop_last else -(-n_images // batch_size)


def training_batches(
    images: Tensor,
    batch_size: int,
    *,
    generator: torch.Generator,
    drop_last: bool,
    horizontal_flip: bool,
    start: int = 0,
) -> Iterator[Tensor]:
    """One epoch of `images` (uint8 [N, C, H, W]) in random order, from batch `start` on.

    Yields float32 [batch, C, H, W] in [-1, 1] on the images' device; with `horizontal_flip` each image is
    mirrored with probability 1/2. The whole epoch's order and flips are drawn from `generator` in this call,
    before the first batch: batch k depends on the generator's state here and on k alone, whatever `start` is.
    The generator may live on the images' device or on the CPU.

    Raises UserError where the epoch would have no batch, ValueError for a `start` outside the epoch.
    """
    count = n_batches(len(images), batch_size, drop_last)
    if count == 0:
        raise UserError(f"batch size {batch_size} is too large for {len(images)} images")
    if not 0 <= start <= count:
        raise ValueError(f"start={start} is outside an epoch of {count} batches")
    drawn_on = generator.device
    order = torch.randperm(len(images), generator=generator, device=drawn_on).to(images.device)
    flips = None
    if horizontal_flip:
        flips = (torch.rand(len(images), generator=generator, device=drawn_on) < 0.5).to(images.device)
    return _epoch(images, batch_size, order, flips, range(start, count))


def _epoch(images: Tensor, batch_size: int, order: Tensor, flips: Tensor | None, indices: range) -> Iterator[Tensor]:
    """Yield the batches named by `indices`; `order` and `flips` belong to positions in the epoch."""
    for index in indices:
        here = slice(index * batch_size, (index + 1) * batch_size)
        batch = images[order[here]]
        if flips is not None:
            batch = torch.where(flips[here, None, None, None], batch.flip(-1), batch)
        yield to_unit_range(batch)


def batches(images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """`images` (uint8 [N, C, H, W]) in order as float32 batches in [-1, 1]; the last one may be smaller.

    Raises UserError for a batch size below 1.
    """
    count = n_batches(len(images), batch_size, drop_last=False)
    return (to_unit_range(images[k * batch_size : (k + 1) * batch_size]) for k in range(count))
