"""The attribute world: classes of procedural images, some of which are seen, and what is said of each class."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.attributes.zero_shot import PARTS, ZeroShotSet
from reuselib.data.image_set import HALVES, ImageSet
from reuselib.worlds.attributes.classes import QFSL_PLAN, Classes, WorldPlan, annotate, draw_classes, stream
from reuselib.worlds.attributes.drawing import Scenes, render, sample
from reuselib.worlds.attributes.factors import ATTRIBUTES, REGIMES, columns, words
from reuselib.worlds.rooms.draws import keys
from reuselib.worlds.rooms.scene import joined

SPLITS = ("train", "test_seen", "unseen", "auxiliary")
MOST_IMAGES = 1 << 20  # of one class


class AttributeWorld:
    """Classes of images that follow from nine factors, six of which annotators know.

    An image has the tuple of its class, but each factor is drawn anew with probability 0.08; position, radius, colour
    and pixels have noise. A class's attributes are how often its images have each annotated value, with the noise of
    annotators. All follow from the seed; image `j` of a class depends on seed, split, class and `j` alone, on every
    device.

    Args:
        seed: Of all randomness.
        plan: Sizes, probabilities and which factors are annotated.
        device: Where images and attributes go; None for the CPU.

    Attributes:
        classes: The tuples of all classes, and which are seen.

    Raises:
        ReuseError: If no world fits the plan.
    """

    def __init__(self, seed: int = 0, plan: WorldPlan = QFSL_PLAN, device: torch.device | str | None = None) -> None:
        self.seed, self.plan, self.device = seed, plan, torch.device(device or "cpu")
        self.classes: Classes = draw_classes(plan, seed)
        self._images: dict[str, ImageSet] = {}

    def __repr__(self) -> str:
        """Name the seed, the numbers of classes and the attributes."""
        plan = self.plan
        counts = f"{plan.seen} seen, {plan.classes - plan.seen} unseen and {plan.auxiliary_classes} auxiliary classes"
        return f"AttributeWorld(seed {self.seed}, {counts}, {len(self.attribute_names())} attributes, {self.device})"

    @property
    def seen(self) -> Tensor:
        """The seen classes, int64, ascending."""
        return self.classes.seen.to(self.device)

    @property
    def unseen(self) -> Tensor:
        """The unseen classes, int64, ascending."""
        return self.classes.unseen.to(self.device)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class looks like, by its annotated factors."""
        return tuple(words(row) for row in self.classes.tuples)

    def attribute_names(self, annotated: str | None = None) -> tuple[str, ...]:
        """Return the names of the attributes, "shape disc" and so on.

        Args:
            annotated: One of `REGIMES`; None for that of the plan.

        Raises:
            UnknownName: If there is no such regime.
        """
        return tuple(ATTRIBUTES[column] for column in self._columns(annotated))

    def attributes(self, annotated: str | None = None) -> Tensor:
        """Return the attributes of all classes with the noise of annotators, float32 (classes, m) in [0, 1].

        The columns of a regime are those of "full" that it covers: the same numbers.

        Args:
            annotated: As in `attribute_names`.
        """
        return annotate(self.classes.tuples, self.seed)[:, self._columns(annotated)].to(self.device)

    def _columns(self, annotated: str | None) -> list[int]:
        annotated = annotated or self.plan.annotated
        checks.known("regime of annotation", REGIMES, annotated)
        return columns(annotated)

    def scenes(self, split: str) -> Scenes:
        """Return what the images of a split show, their exact tuples among it: class after class.

        Args:
            split: "train" and "test_seen" of seen classes, "unseen", or "auxiliary".

        Raises:
            UnknownName: If there is no such split.
        """
        labels, count, tuples = self._part(split)
        number = torch.arange(len(labels), device=self.device) % count
        return sample(tuples.to(self.device)[labels], keys(stream(split, self.seed), MOST_IMAGES * labels + number))

    def images(self, split: str) -> ImageSet:
        """Return the images of a split, rendered once; normalised to [-1, 1].

        Labels of "train", "test_seen" and "unseen" are positions among all classes, those of "auxiliary" among the
        auxiliary classes.

        Args:
            split: As in `scenes`.

        Raises:
            UnknownName: If there is no such split.
        """
        if split not in self._images:
            labels, _, tuples = self._part(split)
            images, names = render(self.scenes(split)), tuple(words(row) for row in tuples)
            self._images[split] = ImageSet(f"attribute_world_{split}", images, labels, names, *HALVES)
        return self._images[split]

    def zero_shot(self) -> ZeroShotSet:
        """Return the images of all classes with attributes and split: training, test of seen and of unseen ones."""
        parts = [self.images(split) for split in SPLITS[:3]]
        index = torch.arange(sum(map(len, parts)), device=self.device).split([len(part) for part in parts])
        images = replace(joined(parts), name="attribute_world")
        return ZeroShotSet(
            name=f"attribute_world_{self.seed}",
            labels=images.labels,
            attributes=self.attributes(),
            seen=self.seen,
            unseen=self.unseen,
            **dict(zip(PARTS, index, strict=True)),
            classes=self.class_names,
            attribute_names=self.attribute_names(),
            images=images,
        )

    def _part(self, split: str) -> tuple[Tensor, int, Tensor]:
        """Return the class of each image of a split, their number in a class, and the tuples of all classes."""
        checks.known("split of the attribute world", SPLITS, split)
        plan, found = self.plan, self.classes
        kinds = {
            "train": (found.seen, plan.train_images),
            "test_seen": (found.seen, plan.test_images),
            "unseen": (found.unseen, plan.unseen_images),
            "auxiliary": (torch.arange(plan.auxiliary_classes), plan.auxiliary_images),
        }
        classes, count = kinds[split]
        tuples = found.auxiliary if split == "auxiliary" else found.tuples
        return classes.repeat_interleave(count).to(self.device), count, tuples
