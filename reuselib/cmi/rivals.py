"""The family that CMI belongs to: every method by its terms and its canvas, and what all are given alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from reuselib import checks, run
from reuselib.cmi import losses
from reuselib.cmi.canvas import Canvas, FreshGenerator, LastingGenerator, Pixels
from reuselib.cmi.memory import Pool
from reuselib.cmi.method import Inversion, Terms, Views
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip, resized_crop, roll_and_flip
from reuselib.data.image_set import Augment
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
    discrepancy: Discrepancy = losses.softened_kl


_CMI = Terms(batch_norm=1, one_hot=0.5, adversarial=0.5, contrastive=0.8)
_DEEP_INVERSION = Terms(batch_norm=10, one_hot=1, variation=1e-3)
_DFQ = Terms(batch_norm=1, one_hot=1, own_decision=True, balance=20, adversarial=1, disagreement=kl_divergence)
FAMILY: dict[str, Member] = {
    "dafl": Member(Terms(one_hot=1, own_decision=True, balance=20, activation=1e-3), "lasting", kl_divergence),
    "zskt": Member(Terms(adversarial=1, disagreement=kl_divergence), "lasting", kl_divergence),
    "dfad": Member(Terms(adversarial=1, disagreement=mean_absolute_error), "lasting", mean_absolute_error),
    "dfq": Member(_DFQ, "lasting", kl_divergence),
    "deepinversion": Member(_DEEP_INVERSION, "pixels"),
    "adi": Member(replace(_DEEP_INVERSION, adversarial=1, disagreement=losses.jensen_shannon), "pixels"),
    "inversion": Member(replace(_CMI, adversarial=0, contrastive=0), "fresh"),
    "cmi": Member(_CMI, "fresh"),
}
"""The methods by name, as CMI's official code runs them. DAFL, ZSKT and DFAD as their own papers define them are
classes of :mod:`reuselib.dfad`. ``"inversion"`` is CMI without contrast and without adversary."""


@dataclass(frozen=True)
class Studio:
    """What every method of the family is given alike for one teacher: its image space and the sizes of things.

    Attributes:
        space: images as the teacher takes them: their shape, mean, std, classes and device count.
        latent: length of a generator's noise.
        width: channels before a generator's last convolution.
        lr: of what is changed; 0.1 for pixels and 0.001 for generators if left out.
        flip: whether images may be mirrored.
    """

    space: ImageSet
    latent: int = 256
    width: int = 64
    lr: float | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes and rates that cannot be meant."""
        checks.whole(latent=self.latent, width=self.width)
        checks.number(above=True, lr=1.0 if self.lr is None else self.lr)

    @property
    def shift(self) -> int:
        """Pixels by which views move, an eighth of the height up to 4: random crops, and the rolls of DeepInversion."""
        return min(4, self.space.shape[1] // 8)

    def canvas(self, kind: str, seed: int = 0) -> Canvas:
        """A canvas of one of the three kinds; a lasting generator is twice as wide at its start."""
        if kind == "pixels":
            return Pixels(self.space, self.lr or 0.1)
        with run.seeded(seed):
            generator = inversion_generator(self.space.shape, self.latent, self.width, large=kind == "lasting")
        generator = run.on_device(generator, self.space.device)
        return (FreshGenerator if kind == "fresh" else LastingGenerator)(generator, self.lr or 1e-3)

    def views(self, kind: str) -> Views:
        """How images are shown: pixels rolled, those of new generators cropped, those of lasting ones as they are."""
        broad: dict[str, Augment] = {
            "pixels": partial(roll_and_flip, shift=self.shift, flip=self.flip),
            "fresh": partial(crop_and_flip, padding=self.shift, flip=self.flip),
            "lasting": lambda images, random: images,
        }
        return Views(broad[kind], partial(resized_crop, flip=self.flip and kind != "lasting"))

    def pool(self, capacity: int) -> Pool:
        """A pool whose images the student sees cropped and mirrored."""
        return Pool(self.space, capacity, partial(crop_and_flip, padding=self.shift, flip=self.flip))

    def inversion(
        self, method: str, teacher: nn.Module, pool: Pool, weights: Mapping[str, Any], **options: Any
    ) -> Inversion:
        """A method of ``FAMILY`` for a teacher; a student that learns lowers the method's own discrepancy.

        Args:
            method: its name.
            teacher: the classifier to invert.
            pool: takes the images; it may hold some.
            weights: fields of :class:`Terms` other than the method's own.
            options: of :class:`Inversion`.

        Raises:
            UnknownName: there is no such method, or no such weight.
        """
        if method not in FAMILY:
            raise unknown("inversion method", method, FAMILY)
        for name in weights:
            if name not in vars(Terms()):
                raise unknown("weight", name, vars(Terms()))
        member = FAMILY[method]
        if options.get("learning"):
            options["learning"] = {"discrepancy": member.discrepancy, **options["learning"]}
        canvas = self.canvas(member.canvas, options.get("seed", 0))
        return Inversion(teacher, canvas, replace(member.terms, **weights), pool, self.views(member.canvas), **options)
