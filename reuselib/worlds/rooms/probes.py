"""Images beside the rooms: collages of rectangles, noise, and close-ups of one solid in two domains."""

from __future__ import annotations

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.files import check_split, count_and_seed
from reuselib.data.image_set import HALVES, ImageSet, one_class
from reuselib.worlds.rooms.draws import GOLDEN, Draws, keys, mixed, normal
from reuselib.worlds.rooms.render import NOISE, render
from reuselib.worlds.rooms.room_set import CHUNK, CLOSEUP_SPLITS, DOMAINS, SIZE, stream
from reuselib.worlds.rooms.scene import SHAPES, Scenes, joined

RECTANGLES = 16  # of a collage
SIDES = (4.0, 20.0)  # of a rectangle, in pixels


def collage(count: int = 256, seed: int = 0, device: torch.device | str | None = None) -> ImageSet:
    """Draw rectangles of any colour over each other: edges without a third dimension. There are no labels.

    Sixteen rectangles of 4 to 20 pixels a side, whose middles are uniform on the image, on a ground of one colour, with
    the noise of rooms. Image `i` depends on seed and `i` alone.

    Args:
        count: Number of images.
        seed: Of all randomness.
        device: Where the set goes; None for the CPU.
    """
    parts = [_collage(part, seed) for part in _positions(count).split(CHUNK)]
    return one_class("collage", torch.cat(parts).to(device or "cpu"), "unlabelled")


def room_collage(split: str = "train") -> ImageSet:
    """Draw the set "room_collage", 4,000 images: related to rooms, but none; UnknownName if there is no such split."""
    return collage(*count_and_seed(split, 4_000, 4_000))


def _collage(index: Tensor, seed: int) -> Tensor:
    draw = Draws(keys(stream("collage", seed), index))
    sides, middles = draw.uniform(*SIDES, 2, RECTANGLES) / 2, draw.uniform(0, SIZE, 2, RECTANGLES)
    colours = draw.uniform(0, 1, RECTANGLES + 1, 3, 1, 1).float()
    pixels = torch.arange(SIZE) + 0.5
    inside = (pixels - middles.unsqueeze(3)).abs() < sides.unsqueeze(3)
    images = colours[:, 0].expand(-1, -1, SIZE, SIZE)
    for number in range(RECTANGLES):
        rows, columns = inside[:, :, number].unbind(1)
        there = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
        images = torch.where(there, colours[:, number + 1], images)
    images = images + NOISE * normal(draw.keys, 3 * SIZE**2).view(-1, 3, SIZE, SIZE)
    return images.clamp(0, 1).mul(255).round().byte()


def noise(count: int = 256, seed: int = 0, device: torch.device | str | None = None) -> ImageSet:
    """Draw images whose values are independent and uniform on 0..255. There are no labels.

    Args:
        count: Number of images.
        seed: Of all randomness; image `i` depends on seed and `i` alone.
        device: Where the set goes; None for the CPU.
    """
    numbers = torch.arange(3 * SIZE**2) * GOLDEN
    parts = [keys(stream("noise", seed), part).unsqueeze(1) + numbers for part in _positions(count).split(CHUNK)]
    images = torch.cat([(mixed(part) & 255).byte() for part in parts]).view(-1, 3, SIZE, SIZE)
    return one_class("noise", images.to(device or "cpu"), "unlabelled")


def closeups(domain: str, split: str, count: int, seed: int = 0, device: torch.device | str | None = None) -> ImageSet:
    """Render single solids, 1.7 to 2.8 m from the camera; the class is the shape, in equal shares of every four images.

    "synthetic": every surface has one grey, without texture, shadow and noise. "real": textured surfaces of any hue,
    hard shadows, noise. Image `i` depends on domain, split, seed and `i` alone.

    Args:
        domain: One of `DOMAINS`.
        split: One of `CLOSEUP_SPLITS`.
        count: Number of images.
        seed: Of all randomness.
        device: Where it is rendered and stays; None for the CPU.

    Returns:
        Images in colour, normalised to [-1, 1], with the labels of `SHAPES`.

    Raises:
        UnknownName: If there is no such domain or split.
        BadValue: If the count is below 1, or the seed is none.
    """
    checks.known("domain", DOMAINS, domain)
    check_split(split, "close-ups", CLOSEUP_SPLITS)
    checks.whole(count=count)
    real, start = domain == "real", stream(f"{domain} {split}", seed)
    parts = []
    for first in range(0, count, CHUNK):
        scenes = Scenes.closeups(min(CHUNK, count - first), start, device, first, textured=real)
        images = render(scenes, SIZE, shadows=real, noise=NOISE if real else 0).images
        parts.append(ImageSet(f"closeups_{domain}_{split}", images, scenes.shape[:, 0], SHAPES, *HALVES))
    return joined(parts)


def _positions(count: int) -> Tensor:
    checks.whole(count=count)
    return torch.arange(count)
