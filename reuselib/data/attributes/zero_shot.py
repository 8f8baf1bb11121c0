"""A set for zero-shot learning: images or features of classes that attributes describe, some of them never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reuselib.data.image_set import ImageSet, OnDevice, form
from reuselib.errors import ReuseError, ShapeMismatch, unknown

PARTS = ("train", "test_seen", "test_unseen")


@dataclass(frozen=True, eq=False)
class ZeroShotSet(OnDevice):
    """Images or features with labels, the attributes of their classes, and who is seen. All tensors are on one device.

    Attributes:
        name: Name of the set.
        labels: Rows of `attributes`, int64, (N,).
        attributes: float32, (C, m), as they are published: a negative entry or NaN is undefined.
        seen: Classes with training images, int64, (S,).
        unseen: Classes without, int64, (T,); classes of neither kind are left aside.
        train: Positions of the training images, int64, all of seen classes.
        test_seen: Positions of other images of seen classes, int64; may be empty.
        test_unseen: Positions of images of unseen classes, int64.
        classes: C names.
        attribute_names: m names.
        features: float32, (N, d), or None.
        images: N images, or None.

    Raises:
        ShapeMismatch: If the parts do not fit together.
        ReuseError: If the split is none: an image of an unseen class is to be trained on, and the like.
    """

    name: str
    labels: Tensor
    attributes: Tensor
    seen: Tensor
    unseen: Tensor
    train: Tensor
    test_seen: Tensor
    test_unseen: Tensor
    classes: tuple[str, ...]
    attribute_names: tuple[str, ...]
    features: Tensor | None = None
    images: ImageSet | None = None

    def __post_init__(self) -> None:
        """Check shapes, types and the split."""
        shape = (len(self.classes), len(self.attribute_names))
        if self.attributes.shape != shape or not self.attributes.is_floating_point():
            raise ShapeMismatch(f"attributes must be float {shape}, one row a class, not {form(self.attributes)}")
        for name in ("labels", "seen", "unseen", *PARTS):
            index = getattr(self, name)
            if index.dtype != torch.int64 or index.ndim != 1:
                raise ShapeMismatch(f"{name} must be int64 with one dimension, not {form(index)}")
            if index.device != self.device:
                raise ShapeMismatch(f"{name} is on {index.device}, labels on {self.device}: use .to(device)")
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != len(self)):
            raise ShapeMismatch(f"features must be ({len(self)}, d), one row a label, not {form(self.features)}")
        if self.images is not None and len(self.images) != len(self):
            raise ShapeMismatch(f"{len(self)} labels need as many images, not {len(self.images)}")
        if not self.labels.is_meta:
            self._check_split()

    def _check_split(self) -> None:
        """Check that everything exists once, and is where it belongs."""
        for name, end in (("seen", len(self.classes)), ("unseen", len(self.classes)), *((p, len(self)) for p in PARTS)):
            index = getattr(self, name)
            if len(index) and not 0 <= index.min() <= index.max() < end:
                raise ReuseError(f"{name} of {self.name} must hold 0 to {end - 1}, not {index.min()} to {index.max()}")
            if len(index.unique()) < len(index):
                raise ReuseError(f"{name} of {self.name} holds a number twice")
            if not len(index) and name != "test_seen":
                raise ReuseError(f"{name} of {self.name} is empty")
        for first, second in (("seen", "unseen"), ("train", "test_seen")):
            both = torch.isin(getattr(self, first), getattr(self, second)).sum()
            if both:
                raise ReuseError(f"{first} and {second} of {self.name} have {both} in common: a split has none")
        for part, kind in zip(PARTS, ("seen", "seen", "unseen"), strict=True):
            others = (~torch.isin(self.labels[getattr(self, part)], getattr(self, kind))).sum()
            if others:
                raise ReuseError(f"{others} images in {part} of {self.name} are of classes that are not {kind}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Name the set, its size, what it holds, classes, attributes and device."""
        held = [f"features of {self.features.shape[1]}"] if self.features is not None else []
        held += [f"images of {self.images.shape}"] if self.images is not None else []
        counts = f"{len(self.seen)} seen and {len(self.unseen)} unseen classes, {len(self.attribute_names)} attributes"
        return f"ZeroShotSet({self.name!r}, {len(self)} {' and '.join(held) or 'labels'}, {counts}, {self.device})"

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the features, float32 (n, d), and labels, int64 (n,), of one of `PARTS`.

        A method that learns from unlabelled images of unseen classes takes the first of `part("test_unseen")` alone.

        Raises:
            UnknownName: If there is no such part.
            ReuseError: If there are no features.
        """
        index = self._index(name)
        if self.features is None:
            raise ReuseError(f"{self.name} has images but no features: give it those of a network, with_features(...)")
        return self.features[index], self.labels[index]

    def part_images(self, name: str) -> ImageSet:
        """Return the images of one of `PARTS`, labelled by class.

        Raises:
            UnknownName: If there is no such part.
            ReuseError: If there are no images.
        """
        index = self._index(name)
        if self.images is None:
            raise ReuseError(f"{self.name} has features but no images")
        return self.images.subset(index)

    def _index(self, part: str) -> Tensor:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
        return getattr(self, part)

    def with_features(self, features: Tensor) -> ZeroShotSet:
        """Return the set with other features, (N, d), of all its images in their order."""
        return replace(self, features=features)

    def standardised(self) -> ZeroShotSet:
        """Return the set with features of mean 0 and standard deviation 1 over the training images.

        A feature that never varies there becomes 0. Images of unseen classes have no part in the numbers.

        Raises:
            ReuseError: If there are no features.
        """
        train, _ = self.part("train")
        return self if self.features is None else self.with_features(standardised(self.features, train))

    def only(self, columns: Sequence[int]) -> ZeroShotSet:
        """Return the set with some of its attributes, as positions, in that order."""
        names = tuple(self.attribute_names[column] for column in columns)
        return replace(self, attributes=self.attributes[:, list(columns)], attribute_names=names)


def standardised(features: Tensor, train: Tensor) -> Tensor:
    """Return features with mean 0 and standard deviation 1 over the rows of `train`, 0 where those do not vary.

    Args:
        features: float, (N, d).
        train: float, (n, d).
    """
    deviation = train.std(0, correction=0)
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    return (features - train.mean(0)) * scale
