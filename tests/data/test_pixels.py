import math

import pytest
import torch

from data import check_range, to_uint8, to_unit_range
from errors import UserError

LEVELS = torch.arange(256, dtype=torch.uint8)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("device", DEVICES)
def test_all_levels_survive_the_round_trip(device: str) -> None:
    assert torch.equal(to_uint8(to_unit_range(LEVELS.to(device))).cpu(), LEVELS)


@pytest.mark.parametrize("device", DEVICES)
def test_unit_range_is_what_totensor_gives_on_every_device(device: str) -> None:
    from torchvision.transforms.functional import to_tensor

    expected = to_tensor(LEVELS.numpy().reshape(16, 16, 1)) * 2 - 1
    assert torch.equal(to_unit_range(LEVELS.reshape(1, 16, 16).to(device)).cpu(), expected)


def test_uint8_rounds_and_clamps() -> None:
    step = 2 / 255
    values = torch.tensor([-5.0, -1 + 0.4 * step, -1 + 0.6 * step, 1 - 0.4 * step, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255]


def test_unit_range_refuses_pixels_already_scaled() -> None:
    with pytest.raises(TypeError, match="uint8"):
        to_unit_range(torch.zeros(1))


def test_images_of_another_scale_are_not_scored() -> None:
    images = torch.linspace(-1, 1, 30).view(1, 1, 5, 6)
    check_range(images)
    with pytest.raises(UserError, match=r"floats in \[-1, 1\], not torch.uint8: data.to_unit_range makes them"):
        check_range(to_uint8(images))
    for scaled, bound in ((images * 255, "255"), (images * 1.01, "1.01"), (images * math.nan, "nan")):
        with pytest.raises(UserError, match=rf"in \[-1, 1\], these go from (-{bound}|nan) to {bound}"):
            check_range(scaled)
