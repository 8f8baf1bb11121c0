"""Random augmentation of whole batches on their device: no loop over images, no host sync."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
    count, channels, height, width = images.shape
    device = images.device
    down, right = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=device)
    rows = torch.arange(height, device=device) + down
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.randint(2, (count, 1), generator=generator, device=device).bool()
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + right
    padded = functional.pad(images, (padding,) * 4)
    image = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return padded[image, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]
