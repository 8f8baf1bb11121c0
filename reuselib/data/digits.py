"""Handwritten digits of 8x8 pixels, and printed digits as their procedural relatives."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reuselib import checks
from reuselib.data.files import check_split
from reuselib.data.image_set import STATISTICS, ImageSet, drawing, statistics

CLASSES = tuple("0123456789")
TEST_IMAGES = 500
SPLIT_SEED = 0

FACES = "Sans Sans-Bold Sans-Oblique SansMono SansMono-Bold Serif Serif-Bold Serif-Italic".split()  # of DejaVu
CANVAS = 64  # pixels of a glyph before it is warped
STROKES = (0, 1, 2)  # extra stroke width, in pixels of the canvas


def digits(split: str = "train") -> ImageSet:
    """Load scikit-learn's handwritten digits: 1,297 training and 500 test images of 8x8 pixels.

    The test images are drawn once, with a fixed seed. Source: UCI Optical Recognition of Handwritten Digits,
    which scikit-learn ships; its 17 grey levels become uint8.

    Args:
        split: "train" or "test".
    """
    check_split(split)
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images).mul(255 / 16).round().byte().unsqueeze(1)
    labels = torch.from_numpy(source.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    index = order[:TEST_IMAGES] if split == "test" else order[TEST_IMAGES:]
    return ImageSet("digits", images[index], labels[index], CLASSES, *STATISTICS["digits", 8])


def printed_digits(count: int, size: int = 8, seed: int = 0) -> ImageSet:
    """Draw printed digits in several fonts, each turned, scaled, shifted and thickened at random.

    A procedural relative of handwritten digits: the same ten classes from another source. White on black; the
    classes are in equal shares, in random order. The fonts are the DejaVu faces that matplotlib ships.

    Args:
        count: Number of images.
        size: Height and width, in pixels.
        seed: Of all randomness; the same seed gives the same images.
    """
    checks.whole(count=count, size=size)
    generator = drawing(seed)
    glyphs = _glyphs()
    labels = (torch.arange(count) % 10)[torch.randperm(count, generator=generator)]
    style = torch.randint(glyphs.shape[1], (count,), generator=generator)
    matrices = _random_affine(count, generator)
    chunks = zip(labels.split(500), style.split(500), matrices.split(500), strict=True)
    images = torch.cat([_warp(glyphs[label, kind], matrix, size) for label, kind, matrix in chunks])
    return ImageSet("printed_digits", images, labels, CLASSES, *statistics(images))


def _random_affine(count: int, generator: torch.Generator) -> Tensor:
    """Return (count, 2, 3) maps from output to input coordinates: turn ±15°, scale ±15 %, shift ±5 %."""
    turn, wide, high, right, down = torch.rand(5, count, generator=generator) * 2 - 1
    angle = turn * math.radians(15)
    x_scale, y_scale = 1 / (1 + 0.15 * wide), 1 / (1 + 0.15 * high)
    rows = (
        torch.stack([angle.cos() * x_scale, angle.sin() * x_scale, 0.1 * right], 1),
        torch.stack([-angle.sin() * y_scale, angle.cos() * y_scale, 0.1 * down], 1),
    )
    return torch.stack(rows, 1)


def _warp(glyphs: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Warp float (B, CANVAS, CANVAS) in [0, 1] to uint8 (B, 1, size, size), from 4x4 samples a pixel."""
    grid = functional.affine_grid(matrices, [len(glyphs), 1, 4 * size, 4 * size], align_corners=False)
    fine = functional.grid_sample(glyphs.unsqueeze(1), grid, align_corners=False)
    return functional.avg_pool2d(fine, 4).mul(255).round().byte()


@cache
def _glyphs() -> Tensor:
    """Render every digit in every font and stroke: float (10, styles, CANVAS, CANVAS) in [0, 1]."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(folder / f"DejaVu{name}.ttf", round(1.1 * CANVAS)) for name in FACES]
    middle = (CANVAS / 2, CANVAS / 2)
    glyphs = np.empty((10, len(fonts), len(STROKES), CANVAS, CANVAS), np.uint8)
    for place in np.ndindex(glyphs.shape[:3]):
        digit, font, stroke = place
        image = Image.new("L", (CANVAS, CANVAS))
        pen = ImageDraw.Draw(image)
        left, top, right, bottom = pen.textbbox(middle, CLASSES[digit], font=fonts[font], anchor="mm")
        centred = (CANVAS - (left + right) / 2, CANVAS - (top + bottom) / 2)
        pen.text(centred, CLASSES[digit], 255, fonts[font], anchor="mm", stroke_width=STROKES[stroke])
        glyphs[place] = np.asarray(image)
    return torch.from_numpy(glyphs).flatten(1, 2).float() / 255
