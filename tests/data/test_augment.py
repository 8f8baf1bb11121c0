import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from reuselib.data.augment import crop_and_flip, resized_crop, roll_and_flip, window_and_flip
from reuselib.errors import BadValue


def plain(images: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    """Crop and mirror one image after the other, with the same draws."""
    count, channels, height, width = images.shape
    down, right = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator) if flip else torch.zeros(count, 1)
    result = []
    for index, image in enumerate(images):
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=images.dtype)
        canvas[:, padding : padding + height, padding : padding + width] = image
        top, left = int(down[index]), int(right[index])
        crop = canvas[:, top : top + height, left : left + width]
        result.append(crop.flip(2) if mirrored[index] else crop)
    return torch.stack(result)


def test_equals_the_plain_version() -> None:
    for padding, flip, dtype in product((0, 1, 4), (False, True), (torch.uint8, torch.float32)):
        images = torch.randint(256, (60, 3, 9, 7)).to(dtype)
        fast = crop_and_flip(images, torch.Generator().manual_seed(5), padding, flip)
        slow = plain(images, torch.Generator().manual_seed(5), padding, flip)
        assert fast.dtype == dtype and torch.equal(fast, slow)


# ---- windows


@pytest.mark.parametrize("size", [None, 4, 7])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_windows_equal_the_plain_version(size: int | None, flip: bool, dtype: torch.dtype) -> None:
    images, random = torch.randint(256, (50, 2, 9, 7)).to(dtype), torch.Generator().manual_seed(5)
    fast = window_and_flip(images, torch.Generator().manual_seed(5), size, flip)
    mirrored = torch.randint(2, (50, 1), generator=random) if flip else torch.zeros(50, 1)
    tall, wide = size or 9, size or 7
    down, right = torch.zeros(2, 50, 1, dtype=torch.int64)
    if size:
        down = torch.randint(9 - tall + 1, (50, 1), generator=random)
        right = torch.randint(7 - wide + 1, (50, 1), generator=random)
    assert fast.dtype == dtype and fast.shape == (50, 2, tall, wide)
    for index, image in enumerate(images):
        top, left = int(down[index]), int(right[index])
        window = image[:, top : top + tall, left : left + wide]
        assert torch.equal(fast[index], window.flip(2) if mirrored[index] else window)


# ---- resized crops


def boxes(count: int, generator: torch.Generator, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Width, height, left and top of each box as shares of the image, and whether it is mirrored."""
    area, aspect, x, y, side = torch.rand(5, count, generator=generator).double()
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    return torch.stack([width, height, (1 - width) * x, (1 - height) * y, (side < 0.5).double()], 1)


def between(plane: Tensor, y: float, x: float) -> float:
    """The bilinear value at a place in pixels, 0 being the middle of the first; the border goes on outside."""
    height, width = plane.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    v, u = y - top, x - left
    upper = plane[top, left] * (1 - u) + plane[top, left + 1] * u
    lower = plane[top + 1, left] * (1 - u) + plane[top + 1, left + 1] * u
    return float(upper * (1 - v) + lower * v)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [(0.25, 1.0), (0.1, 0.2)])
def test_resized_crop_equals_a_loop_over_pixels(flip: bool, scale: tuple[float, float]) -> None:
    images = torch.rand(6, 2, 5, 7)
    found = resized_crop(images, torch.Generator().manual_seed(3), scale, flip=flip)
    drawn = boxes(6, torch.Generator().manual_seed(3), scale, (3 / 4, 4 / 3)).tolist()
    expected = torch.zeros(6, 2, 5, 7)
    for b, (width, height, left, top, mirrored) in enumerate(drawn):
        for c in range(2):
            for row in range(5):
                for column in range(7):
                    across = (column + 0.5) / 7
                    across = 1 - across if flip and mirrored else across
                    x, y = (left + across * width) * 7 - 0.5, (top + (row + 0.5) / 5 * height) * 5 - 0.5
                    expected[b, c, row, column] = between(images[b, c], y, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_flow_through_resized_crops() -> None:
    """A crop is linear in the pixels, so that its gradient gives its value back."""
    images, weights = torch.rand(5, 2, 6, 6).requires_grad_(), torch.randn(5, 2, 6, 6)
    value = (resized_crop(images, torch.Generator().manual_seed(0)) * weights).sum()
    value.backward()
    torch.testing.assert_close((images * images.grad).sum(), value)
    assert (images.grad != 0).float().mean() > 0.3


# ---- rolls


@pytest.mark.parametrize("flip", [False, True])
def test_rolling_moves_the_whole_batch_around_the_edges(flip: bool) -> None:
    images, seen = torch.rand(4, 2, 5, 6), set()
    for seed in range(60):
        found = roll_and_flip(images, torch.Generator().manual_seed(seed), 2, flip)
        matches = [
            (down, right, mirrored)
            for down in range(-2, 3)
            for right in range(-2, 3)
            for mirrored in {False, flip}
            if torch.equal(found, rolled(images, down, right, mirrored))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(-2, 3))
    assert {mirrored for _, _, mirrored in seen} == {False, flip}


def rolled(images: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    moved = images.roll((down, right), (2, 3))
    return moved.flip(3) if mirrored else moved


@pytest.mark.parametrize("augment", [crop_and_flip, window_and_flip, resized_crop, roll_and_flip])
def test_a_seed_decides_the_view_and_it_exists_on_meta(augment: Callable[..., Tensor]) -> None:
    images = torch.rand(8, 3, 8, 8)
    views = [augment(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 2)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    nowhere = augment(images.to("meta"), None)
    assert nowhere.is_meta and nowhere.shape == images.shape


@pytest.mark.parametrize(
    ("augment", "options"),
    [
        (crop_and_flip, {"padding": -1}),
        (crop_and_flip, {"padding": 1.5}),
        (window_and_flip, {"size": 9}),
        (window_and_flip, {"size": -4}),
        (resized_crop, {"scale": (0, 1)}),
        (resized_crop, {"scale": (0.5, 0.2)}),
        (resized_crop, {"scale": (0.5, 1.2)}),
        (resized_crop, {"ratio": (1, math.nan)}),
        (roll_and_flip, {"shift": -2}),
    ],
)
def test_numbers_that_cannot_be_meant(augment: Callable[..., Tensor], options: dict) -> None:
    with pytest.raises(BadValue, match="must be a (whole|finite) number"):
        augment(torch.rand(2, 3, 8, 8), None, **options)
