"""Where a student's training images come from: a data set, noise, or a generator.

A source is called with a count and a random generator and gives normalised images (count, C, H, W) on its device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.data.image_set import Augment
from reuselib.nets import latent_of

Source = Callable[[int, torch.Generator | None], Tensor]


def from_images(images: ImageSet, augment: Augment | None = None) -> Source:
    """Random images of a set, with replacement, their labels thrown away (KD-ORI, KD-REL, KD-UNR).

    Args:
        images: normalised as the teacher takes them.
        augment: of the uint8 images, for example windows cut out of them.

    Returns:
        A function of a count and a random generator that gives normalised images (count, C, H, W).

    Example:
        >>> import torch
        >>> from reuselib import data, dfad
        >>> source = dfad.sources.from_images(data.load("digits"))
        >>> source(4, torch.Generator()).shape
        torch.Size([4, 1, 8, 8])
    """
    checks.some(ImageSet, images=images)
    return lambda count, random: images.sample(count, random, augment)[0]


def gaussian_noise(image: tuple[int, int, int], where: torch.device) -> Source:
    """Independent N(0, 1) pixels in normalised space (RANDOM)."""
    checks.sizes(image=image)
    return lambda count, random: torch.randn(count, *image, device=where, generator=random)


def from_generator(generator: nn.Module) -> Source:
    """What a generator makes of N(0, 1) noise, in the mode it is in; gradients flow unless switched off."""
    where, latent = run.device_of(generator), latent_of(generator)
    return lambda count, random: generator(torch.randn(count, latent, device=where, generator=random))
