"""The family that CMI belongs to: every method by its terms and its canvas, and what all are given alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.cmi import losses
from reuselib.cmi.canvas import Canvas, FreshGenerator, LastingGenerator, Pixels
from reuselib.cmi.memory import Pool
from reuselib.cmi.method import Inversion, Terms, Views
from reuselib.data.augment import crop_and_flip
from reuselib.dfad import Discrepancy
from reuselib.dfad.losses import kl_divergence, mean_absolute_error
from reuselib.errors import unknown
from reuselib.nets import inversion_generator


@dataclass(frozen=True)
class Member:
    """A method of the family: what its images must please, what they are made with, what its student lowers.

    Attributes:
        terms: weights of the official scripts for CIFAR-10.
        canvas: ``"pixels"``, ``"fresh"`` or ``"lasting"``.
        discrepancy: between teacher's and student's logits.
    """

    terms: Terms
    canvas: str
    discrepancy: Discrepancy = kl_divergence


_CMI = Terms(batch_norm=1, one_hot=0.5, adversarial=0.5, contrastive=0.8)
_DEEP_INVERSION = Terms(batch_norm=10, one_hot=1, variation=1e-3)
FAMILY: dict[str, Member] = {
    "dafl": Member(Terms(one_hot=1, own_decision=True, balance=20, activation=1e-3), "lasting"),
    "zskt": Member(Terms(adversarial=1, disagreement=kl_divergence), "lasting"),
    "dfad": Member(Terms(adversarial=1, disagreement=mean_absolute_error), "lasting", mean_absolute_error),
    "dfq": Member(
        Terms(batch_norm=1, one_hot=1, own_decision=True, balance=20, adversarial=1, disagreement=kl_divergence),
        "lasting",
    ),
    "deepinversion": Member(_DEEP_INVERSION, "pixels", losses.softened_kl),
    "adi": Member(
        replace(_DEEP_INVERSION, adversarial=1, disagreement=losses.jensen_shannon), "pixels", losses.softened_kl
    ),
    "inversion": Member(replace(_CMI, adversarial=0, contrastive=0), "fresh", losses.softened_kl),
    "cmi": Member(_CMI, "fresh", losses.softened_kl),
}
"""The methods by name, as CMI's official code runs them. DAFL, ZSKT and DFAD as their own papers define them are
classes of :mod:`reuselib.dfad`. ``"inversion"`` is CMI without contrast and without adversary."""


@dataclass(frozen=True)
class Studio:
    """What every method of the family is given alike for one teacher: its image space and the sizes of things.

    Attributes:
        image: shape (C, H, W) of one image.
        mean: per channel, in [0, 1] units, of the teacher's normalisation.
        std: likewise.
        latent: length of a generator's noise.
        width: channels before a generator's last convolution.
        lr: of what is changed; 0.1 for pixels and 0.001 for generators if left out.
        padding: of random crops, and the greatest roll of DeepInversion; an eighth of the height if left out.
        flip: whether images may be mirrored.
    """

    image: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    latent: int = 256
    width: int = 64
    lr: float | None = None
    padding: int | None = None
    flip: bool = True

    @property
    def shift(self) -> int:
        """Pixels by which views move."""
        return self.image[1] // 8 if self.padding is None else self.padding

    def canvas(self, kind: str, where: torch.device, seed: int = 0) -> Canvas:
        """A canvas of one of the three kinds; a lasting generator is twice as wide at its start."""
        if kind == "pixels":
            return Pixels(self.image, self.mean, self.std, where, self.lr or 0.1)
        with run.seeded(seed):
            generator = inversion_generator(self.image, self.latent, self.width, large=kind == "lasting")
        generator = run.on_device(generator, where)
        return (FreshGenerator if kind == "fresh" else LastingGenerator)(generator, self.lr or 1e-3)

    def views(self, kind: str) -> Views:
        """How images are shown: pixels rolled, those of new generators cropped, those of lasting ones as they are."""
        if kind == "pixels":
            return Views(roll=self.shift, flip=self.flip)
        return Views(self.shift, self.flip) if kind == "fresh" else Views()

    def pool(self, capacity: int, where: torch.device) -> Pool:
        """A pool whose images the student sees cropped and mirrored."""

        def augment(images: Tensor, random: torch.Generator | None) -> Tensor:
            return crop_and_flip(images, random, self.shift, self.flip)

        return Pool(capacity, self.image, self.mean, self.std, where, augment)

    def inversion(
        self, method: str, teacher: nn.Module, pool: Pool, changes: Mapping[str, Any] | None = None, **options: Any
    ) -> Inversion:
        """A method of ``FAMILY`` for a teacher.

        Args:
            method: its name.
            teacher: the classifier to invert.
            pool: takes the images; it may hold some.
            changes: weights other than the method's own.
            options: of :class:`Inversion`.

        Raises:
            UnknownName: there is no such method.
        """
        if method not in FAMILY:
            raise unknown("inversion method", method, FAMILY)
        member, where = FAMILY[method], next(teacher.parameters()).device
        options = {"discrepancy": member.discrepancy, "views": self.views(member.canvas), "seed": 0, **options}
        canvas = self.canvas(member.canvas, where, options["seed"])
        return Inversion(teacher, canvas, replace(member.terms, **(changes or {})), pool, **options)
