"""Networks and images on the ``meta`` device, where nothing is computed: what a run would cost is asked there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reuselib import checks
from reuselib.data import ImageSet, SegmentationSet


@dataclass(frozen=True)
class Space:
    """What images of a set look like.

    Attributes:
        classes: how many.
        channels: 1 or 3.
        side: pixels a side.
        training: images to learn from.
    """

    classes: int
    channels: int
    side: int
    training: int = 50_000


SPACES = {
    "digits": Space(10, 1, 8, 1297),
    "fashion_mnist": Space(10, 1, 28, 60_000),
    "mnist": Space(10, 1, 28, 60_000),
    "shapes": Space(4, 1, 16, 4000),
    "shape_cells": Space(32, 1, 16, 4000),
    "symbols": Space(10, 1, 16, 6000),
    "cifar10": Space(10, 3, 32),
    "cifar10-jpeg": Space(10, 3, 32),
    "cifar_kinds": Space(10, 3, 32),
    **dict.fromkeys(("cifar100", "cifar100_dfad"), Space(100, 3, 32)),
    "tiny_imagenet": Space(200, 3, 64, 100_000),
    "caltech101": Space(101, 3, 128, 6982),
    "imagenet": Space(1000, 3, 224, 1_281_167),
    "celeba": Space(1, 3, 64, 202_599),
    "lsun_church": Space(1, 3, 64, 126_227),
    "ffhq": Space(1, 3, 64, 70_000),
    "rooms": Space(7, 3, 32, 4096),
    "camvid": Space(11, 3, 256, 367),
    "nyuv2": Space(13, 3, 256, 795),
    "celeba_attributes": Space(2, 3, 224, 162_770),
    "fgvc_aircraft": Space(100, 3, 224, 6667),
    "stanford_dogs": Space(120, 3, 224, 12_000),
    "cub200": Space(200, 3, 224, 5994),
    "stanford_cars": Space(196, 3, 224, 8144),
}


def images(dataset: str, size: int | None = None, count: int | None = None) -> ImageSet:
    """An image set on ``meta`` in the shape of a real one; ``count`` images, or as many as there are to learn from."""
    checks.known("image set whose cost can be asked", SPACES, dataset)
    space = SPACES[dataset]
    side, half = size or space.side, (0.5,) * space.channels
    with torch.device("meta"):
        pixels = torch.zeros(count or space.training, space.channels, side, side, dtype=torch.uint8)
        labels = torch.zeros(len(pixels), dtype=torch.int64)
    return ImageSet(dataset, pixels, labels, tuple(map(str, range(space.classes))), half, half)


def masked_images(dataset: str, size: int | None = None) -> SegmentationSet:
    """Images with masks on ``meta``, in the shape of a real set."""
    plain = images(dataset, size)
    masks = torch.zeros(len(plain), *plain.shape[1:], dtype=torch.int64, device="meta")
    return SegmentationSet(plain, masks, plain.classes)
