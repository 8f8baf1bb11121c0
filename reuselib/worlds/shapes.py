"""Shapes with hidden modes: images whose every mode is known, to count what a generated set has missed."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from reuselib.data.files import count_and_seed
from reuselib.data.image_set import ImageSet, statistics
from reuselib.data.multi_label import MultiLabelSet, from_classes
from reuselib.errors import unknown

SHAPES = ("square", "disc", "cross", "triangle")
ATTRIBUTES = {
    "shape": SHAPES,
    "polarity": ("light", "dark"),
    "filling": ("solid", "striped"),
    "size": ("small", "large"),
}
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
    """
    if label not in ("shape", "cell"):
        raise unknown("label", label, ("shape", "cell"))
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.arange(count) % len(CELLS))[torch.randperm(count, generator=generator)]
    images = torch.cat([_draw(part, size, generator) for part in cells.split(1000)])
    if label == "cell":
        return ImageSet("shape_cells", images, cells, CELLS, *statistics(images))
    return ImageSet("shapes", images, cells // MODES, SHAPES, *statistics(images))


def load(split: str, size: int = 16, label: str = "shape") -> ImageSet:
    """Draw the sets "shapes" and "shape_cells": 4,000 / 1,000 images, normalised as the training images."""
    count, seed = count_and_seed(split, 4_000, 1_000)
    images = shapes(count, size, seed, label)
    return images if split == "train" else images.with_statistics_of(load("train", size, label))


def shape_attributes(split: str = "train", size: int = 16) -> MultiLabelSet:
    """Draw shapes with four attributes: shape, polarity, filling and size, each in equal shares.

    The 32 cells stay as the labels of the images: 6,000 / 2,000 grey images, other ones than those of the set "shapes".

    Args:
        split: "train" or "test".
        size: Height and width.

    Raises:
        UnknownName: If the split is neither.
    """
    count, seed = count_and_seed(split, 6_000, 2_000, seed=2)
    images = shapes(count, size, seed, label="cell")
    if split != "train":
        images = images.with_statistics_of(shape_attributes("train", size).images)
    words = [cell.split() for cell in CELLS]
    table = {
        task: [names.index(word[place]) for word in words] for place, (task, names) in enumerate(ATTRIBUTES.items())
    }
    return from_classes(images, ATTRIBUTES, table)


def _draw(cells: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one image of each given cell: uint8 (B, 1, size, size)."""
    shape, mode = cells // MODES, cells % MODES
    dark, striped, large = ((mode // place % 2).view(-1, 1, 1) for place in (4, 2, 1))
    right, down, contrast, level = torch.rand(4, len(cells), 1, 1, generator=generator)
    places = (torch.arange(SAMPLES * size) + 0.5) * (2 / (SAMPLES * size)) - 1
    x = places.view(1, 1, -1) - SHIFT * (2 * right - 1)
    y = places.view(1, -1, 1) - SHIFT * (2 * down - 1)
    radius = torch.tensor(RADII)[large]
    inside = torch.stack([kind(x, y, radius) for kind in (_square, _disc, _cross, _triangle)])
    coverage = inside[shape, torch.arange(len(cells))].float()
    between = (torch.floor(y / STRIPE + 0.5) % 2 == 0) & (striped == 1)
    coverage = functional.avg_pool2d(torch.where(between, GAP * coverage, coverage).unsqueeze(1), SAMPLES)
    contrast, level = (value.unsqueeze(1) for value in (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * contrast, level))
    light = level * (1 - contrast) + contrast * torch.where(dark.unsqueeze(1) == 1, 1 - coverage, coverage)
    light = light + NOISE * torch.randn(light.shape, generator=generator)
    return light.mul(255).round().clamp(0, 255).byte()


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Return where an upright square is, bool (B, H, W); a little smaller than the disc, for a like area."""
    return torch.maximum(x.abs(), y.abs()) < 0.92 * radius


def _disc(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Return where a disc is, bool (B, H, W)."""
    return torch.hypot(x, y) < radius


def _cross(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Return where an upright cross is, bool (B, H, W); its arms are a third as wide as the whole."""
    wide, narrow = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return (wide < radius) & (narrow < radius / 3)


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Return where a triangle with its tip up is, bool (B, H, W)."""
    return (2 * x.abs() < y + radius) & (y < radius)
