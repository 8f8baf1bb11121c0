"""Images that show nothing in particular: textures and noise, exact by seed, for unrelated data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.image_set import ImageSet, drawing, statistics

TEXTURES = ("grating", "blobs", "checkerboard", "cloud")


def textures(count: int, image: tuple[int, int, int] = (1, 16, 16), seed: int = 0) -> ImageSet:
    """Draw gratings, blobs, checkerboards and 1/f noise in equal shares, in random order.

    The labels are the kind of texture: they have nothing to do with the classes of any task.

    Args:
        count: Number of images.
        image: Channels, height and width.
        seed: Of all randomness; the same seed gives the same images.
    """
    checks.sizes(count=count, image=image)
    generator = drawing(seed)
    labels = (torch.arange(count) % 4)[torch.randperm(count, generator=generator)]
    images = torch.cat([_textures(part, image, generator) for part in labels.split(1000)])
    return ImageSet("textures", images, labels, TEXTURES, *statistics(images))


def noise(count: int, image: tuple[int, int, int] = (1, 16, 16), seed: int = 0) -> ImageSet:
    """Draw images whose pixels are independent and uniform on 0..255; the only class is "noise"."""
    checks.sizes(count=count, image=image)
    generator = drawing(seed)
    images = torch.randint(256, (count, *image), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    return ImageSet("noise", images, labels, ("noise",), *statistics(images))


def _textures(kinds: Tensor, image: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Draw one texture of each given kind: uint8 (B, C, H, W), each image spread over its own colours."""
    count, (channels, height, width) = len(kinds), image
    fields = torch.stack(
        [kind(count, height, width, generator) for kind in (_gratings, _blobs, _checkerboards, _clouds)]
    )
    field = fields[kinds, torch.arange(count)].unsqueeze(1)
    low, high = torch.rand(2, count, channels, 1, 1, generator=generator)
    return ((low + (high - low) * field) * 255).round().clamp(0, 255).byte()


def _waves(count: int, height: int, width: int, generator: torch.Generator, turn: Tensor) -> Tensor:
    """Return sine waves in [-1, 1], (count, H, W), at angles `turn` and 1 to 4 periods across the image."""
    periods, phase = torch.rand(2, count, 1, 1, generator=generator)
    y = torch.linspace(0, 1, height).view(1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, -1)
    along = x * turn.cos() + y * turn.sin()
    return torch.sin(2 * math.pi * ((1 + 3 * periods) * along + phase))


def _gratings(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return smooth stripes in [0, 1], (count, H, W)."""
    turn = math.pi * torch.rand(count, 1, 1, generator=generator)
    return (_waves(count, height, width, generator, turn) + 1) / 2


def _checkerboards(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return hard-edged fields of 0 and 1, (count, H, W): the signs of two crossed waves, multiplied."""
    turn = math.pi * torch.rand(count, 1, 1, generator=generator)
    first = _waves(count, height, width, generator, turn)
    second = _waves(count, height, width, generator, turn + math.pi / 2)
    return (first * second > 0).float()


def _blobs(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return the maximum of five Gaussian bumps in [0, 1], (count, H, W)."""
    y = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    down, right, radius = torch.rand(3, count, 5, 1, 1, generator=generator)
    radius = 0.05 + 0.2 * radius
    return torch.exp(-((y - down) ** 2 + (x - right) ** 2) / (2 * radius**2)).amax(1)


def _clouds(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return noise whose amplitude falls as 1/frequency, scaled to [0, 1] per image, (count, H, W)."""
    white = torch.randn(count, height, width, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(height).view(-1, 1), torch.fft.rfftfreq(width).view(1, -1))
    weight = 1 / frequency.clamp(min=1 / max(height, width))
    field = torch.fft.irfft2(torch.fft.rfft2(white) * weight, s=(height, width))
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return (field - low) / (high - low)
