"""Random augmentation of whole batches on their device: no loop over images, no host sync."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from reuselib import checks


def crop_and_flip(images: Tensor, generator: torch.Generator | None, padding: int = 4, flip: bool = True) -> Tensor:
    """Pad with zeros, crop each image back at a random place and mirror half of the images.

    One gather does both, for every image at once. The usual training augmentation of CIFAR.

    Args:
        images: (B, C, H, W) of any type; zero is black in uint8 images.
        generator: On the device of the images.
        padding: Border on every side, in pixels; 0 means no cropping.
        flip: Whether to mirror left and right with probability 1/2.

    Returns:
        The augmented images, of the same shape and type.
    """
    checks.whole(0, padding=padding)
    count, _, height, width = images.shape
    device = images.device
    down, right = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=device)
    rows = torch.arange(height, device=device) + down
    columns = _mirrored(torch.arange(width, device=device).expand(count, width), generator, flip) + right
    return _picked(functional.pad(images, (padding,) * 4), rows, columns)


def window_and_flip(
    images: Tensor, generator: torch.Generator | None, size: int | None = None, flip: bool = True
) -> Tensor:
    """Cut a square window out of each image at a random place and mirror half of the windows.

    Nothing is padded, so that it also suits masks. The training augmentation of segmentation.

    Args:
        images: (B, C, H, W) of any type, H and W at least ``size``.
        generator: On the device of the images.
        size: Height and width of the windows; None keeps the whole images.
        flip: Whether to mirror left and right with probability 1/2.

    Returns:
        The windows, (B, C, size, size), of the same type.
    """
    count, _, height, width = images.shape
    checks.whole(1, min(height, width), size=1 if size is None else size)
    device, tall, wide = images.device, size or height, size or width
    rows, columns = (torch.arange(side, device=device).expand(count, side) for side in (tall, wide))
    columns = _mirrored(columns, generator, flip)
    if size:
        rows = rows + torch.randint(height - tall + 1, (count, 1), generator=generator, device=device)
        columns = columns + torch.randint(width - wide + 1, (count, 1), generator=generator, device=device)
    return _picked(images, rows, columns)


def _mirrored(columns: Tensor, generator: torch.Generator | None, flip: bool) -> Tensor:
    """Columns (B, W) that are 0 to W - 1: half of the rows, drawn at random, from the last to the first."""
    if not flip:
        return columns
    mirrored = torch.randint(2, (len(columns), 1), generator=generator, device=columns.device).bool()
    return torch.where(mirrored, columns.shape[1] - 1 - columns, columns)


def _picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of each image at its rows (B, h) and columns (B, w), (B, C, h, w)."""
    image, channel = (torch.arange(size, device=images.device) for size in images.shape[:2])
    place = image.view(-1, 1, 1, 1), channel.view(1, -1, 1, 1)
    return images[*place, rows[:, None, :, None], columns[:, None, None, :]]


def resized_crop(
    images: Tensor, generator: torch.Generator | None, scale: tuple[float, float] = (0.25, 1.0), flip: bool = True
) -> Tensor:
    """Cut a random box out of each image and stretch it, bilinearly, to the whole; mirror half of them.

    The boxes have real-valued corners. The logarithm of their width over their height is uniform between those of 3/4
    and 4/3. A box that would stick out is narrowed to the image.

    Args:
        images: float32, (B, C, H, W); gradients flow back to them.
        generator: On the device of the images.
        scale: Least and greatest share of the area.
        flip: Whether to mirror left and right with probability 1/2.

    Returns:
        Images of the same shape.
    """
    checks.number(0, 1, above=True, least=scale[0])
    checks.number(scale[0], 1, greatest=scale[1])
    count, device = len(images), images.device
    area, aspect, x, y, side = torch.rand(5, count, generator=generator, device=device)
    area = scale[0] + (scale[1] - scale[0]) * area
    low, high = math.log(3 / 4), math.log(4 / 3)
    aspect = (low + (high - low) * aspect).exp()
    width, height = ((area * factor).sqrt().clamp(max=1) for factor in (aspect, 1 / aspect))
    mirror = torch.where(side < 0.5, -1.0, 1.0) if flip else torch.ones_like(side)
    zero = torch.zeros_like(x)
    # In [-1, 1]: the box is centred anywhere that keeps it inside.
    rows = [width * mirror, zero, (1 - width) * (2 * x - 1), zero, height, (1 - height) * (2 * y - 1)]
    grid = functional.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def roll_and_flip(images: Tensor, generator: torch.Generator | None, shift: int = 4, flip: bool = True) -> Tensor:
    """Roll the whole batch by up to ``shift`` pixels each way, what leaves on one side entering on the other.

    Args:
        images: (B, C, H, W); gradients flow back to them.
        generator: On the device of the images.
        shift: Greatest shift, in pixels.
        flip: Whether to mirror the whole batch with probability 1/2.

    Returns:
        Images of the same shape.

    Source: Yin et al. 2020 (DeepInversion), the jitter.
    """
    checks.whole(0, shift=shift)
    height, width = images.shape[2:]
    device = images.device
    down, right = torch.randint(-shift, shift + 1, (2, 1), generator=generator, device=device)
    rows = (torch.arange(height, device=device) - down) % height
    columns = ((torch.arange(width, device=device) - right) % width).unsqueeze(0)
    columns = _mirrored(columns, generator, flip).squeeze(0)
    return images.index_select(2, rows).index_select(3, columns)
