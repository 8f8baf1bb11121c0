"""Symbols in heavy noise: a task that a few images do not teach a network from scratch, made on the spot."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from reuselib.data.files import count_and_seed
from reuselib.data.image_set import ImageSet, statistics

SYMBOLS = ("disc", "ring", "square", "frame", "triangle", "plus", "cross", "rows", "columns", "checkerboard")

# Half the image is one unit. At 16 pixels: radii of 3.6 to 5.6 pixels, shifts of up to 2.
RADII = (0.45, 0.7)
SHIFT = 0.25
TURN = 0.3  # largest angle, in radians
# Of light: black is -1, grey 0, white 1.
CONTRAST = (0.45, 1.0)
NOISE = 0.25  # standard deviation
SAMPLES = 4  # a side, in each pixel


def symbols(count: int, size: int = 16, seed: int = 0) -> ImageSet:
    """Draw ten symbols on grey ground, each at a random place, size, angle and contrast, and add Gaussian noise.

    A symbol is as often lighter as darker than the ground. Classes come in equal shares, in random order.

    Args:
        count: Number of images.
        size: Height and width, in pixels.
        seed: Of all randomness; the same seed gives the same images.

    Returns:
        Grey images, named "symbols", with the labels of `SYMBOLS`.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(SYMBOLS))[torch.randperm(count, generator=generator)]
    images = torch.cat([_draw(part, size, generator) for part in labels.split(1000)])
    return ImageSet("symbols", images, labels, SYMBOLS, *statistics(images))


def load(split: str, size: int = 16) -> ImageSet:
    """Draw the set "symbols": 6,000 / 1,500 images, normalised as the training images."""
    count, seed = count_and_seed(split, 6_000, 1_500)
    images = symbols(count, size, seed)
    return images if split == "train" else images.with_statistics_of(load("train", size))


def _draw(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one symbol of each given class: uint8 (B, 1, size, size)."""
    right, down, turn, radius, contrast, sign = torch.rand(6, len(labels), 1, 1, generator=generator)
    places = (torch.arange(SAMPLES * size) + 0.5) * (2 / (SAMPLES * size)) - 1
    x = places.view(1, 1, -1) - SHIFT * (2 * right - 1)
    y = places.view(1, -1, 1) - SHIFT * (2 * down - 1)
    angle = TURN * (2 * turn - 1)
    radius = RADII[0] + (RADII[1] - RADII[0]) * radius
    # From here on, the radius is 1 and the symbol upright.
    x, y = (x * angle.cos() + y * angle.sin()) / radius, (y * angle.cos() - x * angle.sin()) / radius
    inside = torch.empty_like(x)
    for label, symbol in enumerate(DRAWN):
        inside[labels == label] = symbol(x[labels == label], y[labels == label]).float()
    coverage = functional.avg_pool2d(inside.unsqueeze(1), SAMPLES)
    contrast = (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * contrast) * torch.where(sign < 0.5, -1, 1)
    light = contrast.unsqueeze(1) * coverage + NOISE * torch.randn(coverage.shape, generator=generator)
    return light.add(1).mul(127.5).round().clamp(0, 255).byte()


def _disc(x: Tensor, y: Tensor) -> Tensor:
    """Return where a disc is, bool (B, H, W), as do all that follow."""
    return torch.hypot(x, y) < 1


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return _disc(x, y) & (torch.hypot(x, y) > 0.55)


def _square(x: Tensor, y: Tensor) -> Tensor:
    """Return where a square is, a little smaller than the disc, for a like area."""
    return torch.maximum(x.abs(), y.abs()) < 0.9


def _frame(x: Tensor, y: Tensor) -> Tensor:
    return _square(x, y) & (torch.maximum(x.abs(), y.abs()) > 0.5)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Return where a triangle with its tip up is."""
    return (2 * x.abs() < y + 1) & (y < 1)


def _plus(x: Tensor, y: Tensor) -> Tensor:
    """Return where a plus is; its arms are a third as wide as the whole."""
    return (torch.maximum(x.abs(), y.abs()) < 1) & (torch.minimum(x.abs(), y.abs()) < 1 / 3)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    """Return where a plus is that was turned by an eighth."""
    return _plus((x + y) * 0.5**0.5, (x - y) * 0.5**0.5)


def _rows(x: Tensor, y: Tensor) -> Tensor:
    """Return where three bars are, one above the other, that make a square with the two gaps between."""
    return _square(x, y) & (torch.floor((y / 0.9 + 1) * 2.5) % 2 == 0)


def _columns(x: Tensor, y: Tensor) -> Tensor:
    return _rows(y, x)


def _checkerboard(x: Tensor, y: Tensor) -> Tensor:
    """Return where the black fields of a board of 4x4 are."""
    return _square(x, y) & ((torch.floor(x / 0.45) + torch.floor(y / 0.45)) % 2 == 0)


DRAWN = (_disc, _ring, _square, _frame, _triangle, _plus, _cross, _rows, _columns, _checkerboard)
