"""Symbols in heavy noise: a task that a few images do not teach a network from scratch, made on the spot."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from reuselib.data.image_set import ImageSet, statistics
from reuselib.worlds.shapes import SAMPLES, cross, disc, drawn, of_split, places, square, triangle

# Half the image is one unit. At 16 pixels: radii of 3.6 to 5.6 pixels, shifts of up to 2.
RADII = (0.45, 0.7)
SHIFT = 0.25
TURN = 0.3  # largest angle, in radians
# Of light: black is -1, grey 0, white 1.
CONTRAST = (0.45, 1.0)
NOISE = 0.25  # standard deviation


def symbols(count: int, size: int = 16, seed: int = 0) -> ImageSet:
    """Draw ten symbols on grey ground, each at a random place, size, angle and contrast, and add Gaussian noise.

    A symbol is as often lighter as darker than the ground. Classes come in equal shares, in random order.

    Args:
        count: Number of images.
        size: Height and width, in pixels.
        seed: Of all randomness; the same seed gives the same images.

    Returns:
        Grey images, named "symbols", with the labels of `SYMBOLS`.

    Raises:
        BadValue: If count or size is below 1, or the seed is none.

    Example:
        >>> from reuselib.worlds.symbols import symbols
        >>> images = symbols(20)
        >>> images.images.shape, len(images.classes), images.labels.bincount().tolist()
        (torch.Size([20, 1, 16, 16]), 10, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    images, labels = drawn(_draw, len(SYMBOLS), count, size, seed)
    return ImageSet("symbols", images, labels, SYMBOLS, *statistics(images))


def load(split: str, size: int = 16) -> ImageSet:
    """Draw the set "symbols": 6,000 / 1,500 images, normalised as the training images."""
    return of_split(partial(symbols, size=size), split, 6_000, 1_500)


def _draw(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one symbol of each given class: uint8 (B, 1, size, size)."""
    right, down, turn, radius, contrast, sign = torch.rand(6, len(labels), 1, 1, generator=generator)
    x, y = places(size, right, down, SHIFT)
    angle = TURN * (2 * turn - 1)
    radius = RADII[0] + (RADII[1] - RADII[0]) * radius
    # From here on, the radius is 1 and the symbol upright.
    x, y = (x * angle.cos() + y * angle.sin()) / radius, (y * angle.cos() - x * angle.sin()) / radius
    inside = torch.empty_like(x)
    for label, symbol in enumerate(DRAWN.values()):
        inside[labels == label] = symbol(x[labels == label], y[labels == label]).float()
    coverage = functional.avg_pool2d(inside.unsqueeze(1), SAMPLES)
    contrast = (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * contrast) * torch.where(sign < 0.5, -1, 1)
    light = contrast.unsqueeze(1) * coverage + NOISE * torch.randn(coverage.shape, generator=generator)
    return light.add(1).mul(127.5).round().clamp(0, 255).byte()


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return disc(x, y) & (torch.hypot(x, y) > 0.55)


def _square(x: Tensor, y: Tensor) -> Tensor:
    """Return where a square is, a little smaller than the disc, for a like area; all is bool (B, H, W)."""
    return square(x, y, 0.9)


def _frame(x: Tensor, y: Tensor) -> Tensor:
    return _square(x, y) & (torch.maximum(x.abs(), y.abs()) > 0.5)


def _turned_plus(x: Tensor, y: Tensor) -> Tensor:
    return cross((x + y) * 0.5**0.5, (x - y) * 0.5**0.5)


def _rows(x: Tensor, y: Tensor) -> Tensor:
    """Return where three bars are, one above the other, that make a square with the two gaps between."""
    return _square(x, y) & (torch.floor((y / 0.9 + 1) * 2.5) % 2 == 0)


def _columns(x: Tensor, y: Tensor) -> Tensor:
    return _rows(y, x)


def _checkerboard(x: Tensor, y: Tensor) -> Tensor:
    """Return where the black fields of a board of 4x4 are."""
    return _square(x, y) & ((torch.floor(x / 0.45) + torch.floor(y / 0.45)) % 2 == 0)


DRAWN = {"disc": disc, "ring": _ring, "square": _square, "frame": _frame, "triangle": triangle, "plus": cross}
DRAWN |= {"cross": _turned_plus, "rows": _rows, "columns": _columns, "checkerboard": _checkerboard}
SYMBOLS = tuple(DRAWN)
