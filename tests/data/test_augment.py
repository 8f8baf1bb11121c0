"""Augmentation of whole batches, against one image after the other with the same draws."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from reuselib.data.augment import crop_and_flip, resized_crop, roll_and_flip, window_and_flip
from reuselib.errors import BadValue


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mirrors(count: int, flip: bool, random: torch.Generator) -> Tensor:
    return torch.randint(2, (count, 1), generator=random) if flip else torch.zeros(count, 1)


def windows(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, tall: int, wide: int) -> Tensor:
    """Windows of so many pixels, one image after the other."""
    places = zip(images, down.flatten().tolist(), right.flatten().tolist(), mirrored.flatten().tolist(), strict=True)
    found = [(image[:, top : top + tall, left : left + wide], mirror) for image, top, left, mirror in places]
    return torch.stack([window.flip(2) if mirror else window for window, mirror in found])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_equal_the_plain_version(padding: int, flip: bool) -> None:
    images, random = torch.randint(256, (60, 3, 9, 7), dtype=torch.uint8), seeded()
    down, right = torch.randint(2 * padding + 1, (2, 60, 1), generator=random)
    canvas = torch.zeros(60, 3, 9 + 2 * padding, 7 + 2 * padding, dtype=torch.uint8)
    canvas[:, :, padding : padding + 9, padding : padding + 7] = images
    expected = windows(canvas, down, right, mirrors(60, flip, random), 9, 7)
    assert torch.equal(crop_and_flip(images, seeded(), padding, flip), expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [None, 4, 7])
def test_windows_equal_the_plain_version(size: int | None, flip: bool) -> None:
    images, random = torch.randint(256, (50, 2, 9, 7)).float(), seeded()
    mirrored, (tall, wide) = mirrors(50, flip, random), (size or 9, size or 7)
    down, right = torch.zeros(2, 50, 1, dtype=torch.int64)
    if size:
        down, right = (torch.randint(free, (50, 1), generator=random) for free in (10 - tall, 8 - wide))
    expected = windows(images, down, right, mirrored, tall, wide)
    assert torch.equal(window_and_flip(images, seeded(), size, flip), expected)


def between(plane: Tensor, y: float, x: float) -> float:
    """The bilinear value at a place in pixels, 0 being the middle of the first; the border goes on outside."""
    height, width = plane.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    v, u = y - top, x - left
    upper = plane[top, left] * (1 - u) + plane[top, left + 1] * u
    lower = plane[top + 1, left] * (1 - u) + plane[top + 1, left + 1] * u
    return float(upper * (1 - v) + lower * v)


@pytest.mark.parametrize(("flip", "scale"), [(False, (0.25, 1.0)), (True, (0.1, 0.2))])
def test_resized_crop_equals_a_loop_over_pixels(flip: bool, scale: tuple[float, float]) -> None:
    images = torch.rand(6, 2, 5, 7)
    asked = images.clone().requires_grad_()
    found = resized_crop(asked, seeded(), scale, flip)
    area, aspect, x, y, side = torch.rand(5, 6, generator=seeded()).double()
    area, aspect = scale[0] + (scale[1] - scale[0]) * area, (4 / 3) ** (2 * aspect - 1)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = (1 - width) * x, (1 - height) * y
    for b, c, row, column in product(range(6), range(2), range(5), range(7)):
        across, down = (column + 0.5) / 7, (row + 0.5) / 5
        across = 1 - across if flip and side[b] < 0.5 else across
        place = (top[b] + down * height[b]) * 5 - 0.5, (left[b] + across * width[b]) * 7 - 0.5
        assert found[b, c, row, column].item() == pytest.approx(between(images[b, c], *map(float, place)), abs=1e-5)
    found.sum().backward()
    assert (asked.grad != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("flip", [False, True])
def test_rolling_moves_the_whole_batch_around_the_edges(flip: bool) -> None:
    images, seen = torch.rand(4, 2, 5, 6), set()
    for seed in range(60):
        found = roll_and_flip(images, seeded(seed), 2, flip)
        matches = []
        for down, right, mirrored in product(range(-2, 3), range(-2, 3), {False, flip}):
            moved = images.roll((down, right), (2, 3))
            if torch.equal(found, moved.flip(3) if mirrored else moved):
                matches.append((down, right, mirrored))
        seen.update(matches)
        assert len(matches) == 1
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(-2, 3))
    assert {mirrored for _, _, mirrored in seen} == {False, flip}


@pytest.mark.parametrize("augment", [crop_and_flip, window_and_flip, resized_crop, roll_and_flip])
def test_a_seed_decides_the_view_and_it_exists_on_meta(augment: Callable[..., Tensor]) -> None:
    images = torch.rand(8, 3, 8, 8)
    views = [augment(images, seeded(seed)) for seed in (0, 0, 2)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    nowhere = augment(images.to("meta"), None)
    assert nowhere.is_meta and nowhere.shape == images.shape


@pytest.mark.parametrize(
    ("augment", "options"),
    [
        *((crop_and_flip, {"padding": value}) for value in (-1, 1.5)),
        *((window_and_flip, {"size": value}) for value in (9, -4)),
        *((resized_crop, {"scale": value}) for value in ((0, 1), (0.5, 0.2), (0.5, 1.2))),
        (roll_and_flip, {"shift": -2}),
    ],
)
def test_numbers_that_cannot_be_meant(augment: Callable[..., Tensor], options: dict) -> None:
    with pytest.raises(BadValue, match="must be a (whole|finite) number"):
        augment(torch.rand(2, 3, 8, 8), None, **options)
