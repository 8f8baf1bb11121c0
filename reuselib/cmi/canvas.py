"""What is changed until the images please the loss: pixels, a new generator for each batch, or a lasting one.

A canvas makes images in [0, 1] with their graph. The inversion asks it for images, computes a loss, and steps its
optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from reuselib import run
from reuselib.data import ImageSet
from reuselib.dfad import sources
from reuselib.nets import Generator, reinitialise


class Canvas(ABC):
    """The three below share this face.

    Attributes:
        optimizer: of what :meth:`begin` made ready.
        generator: that makes the images, if one does.
        kept: whether a finished batch is the best one seen (else a new one from the generator at the end).
    """

    optimizer: torch.optim.Optimizer
    generator: Generator | None = None
    kept: bool = True

    @abstractmethod
    def begin(self, count: int, random: torch.Generator | None) -> None:
        """Make ready for a batch of ``count`` images."""

    @abstractmethod
    def draw(self, random: torch.Generator | None) -> Tensor:
        """Images (count, C, H, W) in [0, 1], with their graph."""

    def settle(self) -> None:  # noqa: B027
        """Put right what an optimizer's step left out of range."""


class Pixels(Canvas):
    """The pixels themselves, N(0, 1) at first in the teacher's normalised space and kept within the valid range.

    Args:
        space: images as the teacher takes them: their shape, mean, std and device count.
        lr: of Adam with betas 0.5 and 0.99.

    Source: Yin et al. 2020 (DeepInversion), in the form of CMI's official code.
    """

    def __init__(self, space: ImageSet, lr: float) -> None:
        self.image, self.where, self.lr = space.shape, space.device, lr
        self.mean, self.std = (torch.tensor(v, device=self.where).view(1, -1, 1, 1) for v in (space.mean, space.std))

    def begin(self, count: int, random: torch.Generator | None) -> None:
        """Start from noise."""
        noise = torch.randn(count, *self.image, device=self.where, generator=random)
        self.pixels = noise.contiguous(memory_format=torch.channels_last).requires_grad_()
        self.optimizer = run.adam([self.pixels], self.where, lr=self.lr, betas=(0.5, 0.99))

    def draw(self, random: torch.Generator | None) -> Tensor:
        """The pixels, in [0, 1] after the first update."""
        return self.pixels * self.std + self.mean

    @torch.no_grad()
    def settle(self) -> None:
        """Clamp to what pixels between 0 and 1 become when normalised."""
        self.pixels.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)


class FreshGenerator(Canvas):
    """A generator started anew for each batch and trained together with its noise.

    Args:
        generator: ends in values in [0, 1]; its weights are overwritten.
        lr: of Adam with betas 0.5 and 0.999 on weights and noise.

    Source: Fang et al. 2021 (CMI), official code.
    """

    generator: Generator

    def __init__(self, generator: Generator, lr: float) -> None:
        self.generator, self.lr = generator.train(), lr

    def begin(self, count: int, random: torch.Generator | None) -> None:
        """Draw new weights and new noise."""
        where = next(self.generator.parameters()).device
        self.noise = torch.randn(count, self.generator.latent, device=where, generator=random).requires_grad_()
        reinitialise(self.generator, random)
        self.optimizer = run.adam([*self.generator.parameters(), self.noise], where, lr=self.lr, betas=(0.5, 0.999))

    def draw(self, random: torch.Generator | None) -> Tensor:
        """What the generator makes of the one noise of this batch."""
        return self.generator(self.noise)


class LastingGenerator(Canvas):
    """One generator for all batches, with new noise for every image: DAFL, ZSKT, DFAD, DFQ.

    Args:
        generator: ends in values in [0, 1].
        lr: of Adam with betas 0.5 and 0.999.
    """

    kept = False

    def __init__(self, generator: Generator, lr: float) -> None:
        self.generator, self.count = generator.train(), 1
        where = next(generator.parameters()).device
        self.optimizer = run.adam(generator.parameters(), where, lr=lr, betas=(0.5, 0.999))

    def begin(self, count: int, random: torch.Generator | None) -> None:
        """Remember the size of the batch."""
        self.count = count

    def draw(self, random: torch.Generator | None) -> Tensor:
        """What the generator makes of new noise, in the mode it is in."""
        return sources.from_generator(self.generator)(self.count, random)  # type: ignore[arg-type]
