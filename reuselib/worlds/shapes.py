"""Shapes with hidden modes: images whose every mode is known, to count what a generated set has missed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from reuselib import checks
from reuselib.data.files import count_and_seed
from reuselib.data.image_set import ImageSet, statistics
from reuselib.data.multi_label import MultiLabelSet, from_classes

Draw = Callable[[Tensor, int, torch.Generator], Tensor]
"""Classes (B,), size and generator → uint8 (B, 1, size, size)."""

SHAPES = ("square", "disc", "cross", "triangle")
ATTRIBUTES = {"shape": SHAPES, "polarity": ("light", "dark"), "filling": ("solid", "striped")}
ATTRIBUTES |= {"size": ("small", "large")}
CELLS = tuple(" ".join(cell) for cell in product(*ATTRIBUTES.values()))
MODES = len(CELLS) // len(SHAPES)

# Half the image is one unit. At 16 pixels: radii of 3.8 and 6.1 pixels, stripes of 2, shifts of up to 1.6.
RADII = (0.48, 0.76)
STRIPE = 0.25
SHIFT = 0.2
CONTRAST = (0.5, 1.0)  # between shape and ground, in [0, 1] units
GAP = 0.3  # what is left of the contrast between two stripes
NOISE = 0.06  # standard deviation, in [0, 1] units
SAMPLES = 4  # a side, in each pixel


def drawn(draw: Draw, classes: int, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images of classes in equal shares, in random order: uint8 (count, 1, size, size), and labels (count,).

    Raises:
        BadValue: If count or size is below 1, or the seed is none.
    """
    checks.whole(count=count, size=size)
    checks.whole(0, checks.SEEDS, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % classes)[torch.randperm(count, generator=generator)]
    return torch.cat([draw(part, size, generator) for part in labels.split(1000)]), labels


def of_split(draw: Callable[..., ImageSet], split: str, train: int, test: int, seed: int = 0) -> ImageSet:
    """Draw a split by count and seed, normalised as the training images; UnknownName if there is no such split."""
    count, own = count_and_seed(split, train, test, seed)
    images = draw(count, seed=own)
    return images if split == "train" else images.with_statistics_of(draw(train, seed=seed))


def places(size: int, right: Tensor, down: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Return x (B, 1, W) and y (B, H, 1) of samples on an image [-1, 1]², from a middle that was shifted.

    Args:
        size: Pixels a side.
        right: Shares of the shift, uniform on [0, 1], (B, 1, 1).
        down: The same.
        shift: The largest one to either side.
    """
    middles = (torch.arange(SAMPLES * size) + 0.5) * (2 / (SAMPLES * size)) - 1
    return middles.view(1, 1, -1) - shift * (2 * right - 1), middles.view(1, -1, 1) - shift * (2 * down - 1)


def shapes(count: int, size: int = 16, seed: int = 0, label: str = "shape") -> ImageSet:
    """Draw squares, discs, crosses and triangles, each in eight modes that the shape's label does not tell.

    A mode is a polarity (light on dark or dark on light) x a filling (solid or striped) x a size (small or large).
    Shape and mode make a cell: ``cell = 8 * shape + mode``, so that the label of an image's shape is ``cell // 8``.
    Cells come in equal shares, in random order; position, contrast, brightness and noise vary from image to image.

    Args:
        count: Number of images.
        size: Height and width, in pixels.
        seed: Of all randomness; the same seed gives the same images, whatever the labels.
        label: "shape" for the four labels of `SHAPES`, "cell" for the 32 of `CELLS`.

    Returns:
        Grey images, named "shapes" or "shape_cells".

    Raises:
        UnknownName: If there is no such kind of label.
        BadValue: If count or size is below 1, or the seed is none.
    """
    checks.known("label", ("shape", "cell"), label)
    images, cells = drawn(_draw, len(CELLS), count, size, seed)
    if label == "cell":
        return ImageSet("shape_cells", images, cells, CELLS, *statistics(images))
    return ImageSet("shapes", images, cells // MODES, SHAPES, *statistics(images))


def load(split: str, size: int = 16, label: str = "shape") -> ImageSet:
    """Draw the sets "shapes" and "shape_cells": 4,000 / 1,000 images, normalised as the training images."""
    return of_split(partial(shapes, size=size, label=label), split, 4_000, 1_000)


def shape_attributes(split: str = "train", size: int = 16) -> MultiLabelSet:
    """Draw shapes with four attributes: shape, polarity, filling and size, each in equal shares.

    The 32 cells stay as the labels of the images: 6,000 / 2,000 grey images, other ones than those of the set "shapes".

    Args:
        split: "train" or "test".
        size: Height and width.

    Raises:
        UnknownName: If the split is neither.
    """
    images = of_split(partial(shapes, size=size, label="cell"), split, 6_000, 2_000, seed=2)
    words = [cell.split() for cell in CELLS]
    table = {task: [names.index(word[k]) for word in words] for k, (task, names) in enumerate(ATTRIBUTES.items())}
    return from_classes(images, ATTRIBUTES, table)


def _draw(cells: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one image of each given cell: uint8 (B, 1, size, size)."""
    shape, mode = cells // MODES, cells % MODES
    dark, striped, large = ((mode // place % 2).view(-1, 1, 1) for place in (4, 2, 1))
    right, down, contrast, level = torch.rand(4, len(cells), 1, 1, generator=generator)
    x, y = places(size, right, down, SHIFT)
    radius = torch.tensor(RADII)[large]
    side = 0.92 * radius  # a little smaller than the disc, for a like area
    inside = torch.stack([square(x, y, side), *(kind(x, y, radius) for kind in (disc, cross, triangle))])
    coverage = inside[shape, torch.arange(len(cells))].float()
    between = (torch.floor(y / STRIPE + 0.5) % 2 == 0) & (striped == 1)
    coverage = functional.avg_pool2d(torch.where(between, GAP * coverage, coverage).unsqueeze(1), SAMPLES)
    contrast, level = (value.unsqueeze(1) for value in (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * contrast, level))
    light = level * (1 - contrast) + contrast * torch.where(dark.unsqueeze(1) == 1, 1 - coverage, coverage)
    light = light + NOISE * torch.randn(light.shape, generator=generator)
    return light.mul(255).round().clamp(0, 255).byte()


def square(x: Tensor, y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    """Return where an upright square is, bool (B, H, W), as do all that follow."""
    return torch.maximum(x.abs(), y.abs()) < radius


def disc(x: Tensor, y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    """Return where a disc is."""
    return torch.hypot(x, y) < radius


def cross(x: Tensor, y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    """Return where an upright cross is; its arms are a third as wide as the whole."""
    return square(x, y, radius) & (torch.minimum(x.abs(), y.abs()) < radius / 3)


def triangle(x: Tensor, y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    """Return where a triangle with its tip up is."""
    return (2 * x.abs() < y + radius) & (y < radius)
