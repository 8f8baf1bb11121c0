"""An image set: every pixel as one uint8 tensor on one device, normalised only when a batch is drawn.

What all sets can do stands in their bases: `Rows` are moved and chosen from, `Batches` give normalised images with
labels, `OfImages` are an `ImageSet` with other labels beside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from reuselib import checks
from reuselib.errors import BadValue, ReuseError, ShapeMismatch

Augment = Callable[[Tensor, torch.Generator | None], Tensor]
Change = Callable[[Tensor], Tensor]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Of the training pixels of each shipped set at each size; a test computes every one again.
STATISTICS: dict[tuple[str, int], Statistics] = {
    ("fashion_mnist", 28): ((0.2860,), (0.3530,)),
    ("fashion_mnist", 32): ((0.2854,), (0.3384,)),
    ("fashion_mnist", 16): ((0.2190,), (0.3132,)),
    ("fashion_mnist", 8): ((0.2190,), (0.2850,)),
    ("digits", 8): ((0.3060,), (0.3762,)),
    ("digits", 16): ((0.3060,), (0.3190,)),
    ("digits", 32): ((0.3060,), (0.3239,)),
}

HALVES: Statistics = (0.5,) * 3, (0.5,) * 3  # pixels in [-1, 1]
IMAGENET_STATISTICS: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def statistics(images: Tensor) -> Statistics:
    """Return mean and standard deviation per channel, in [0, 1] units.

    Args:
        images: uint8, (N, C, H, W).
    """
    counts = [torch.bincount(channel.flatten(), minlength=256).double() for channel in images.unbind(1)]
    values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    means = [(count @ values / count.sum()).item() for count in counts]
    squares = [(count @ values**2 / count.sum()).item() for count in counts]
    return tuple(means), tuple((s - m**2) ** 0.5 for s, m in zip(squares, means, strict=True))


def draw_per_class(labels: Tensor, classes: Sequence[str], count: int, seed: int) -> Tensor:
    """Draw the positions of `count` images of every class, without replacement.

    The draws of one seed are nested: those for a smaller count are the first of those for a larger one, since one
    image of each class, in the order of the classes, is followed by the next of each.

    Args:
        labels: int64, (N,).
        classes: The class names, in the order of the labels.
        count: How many of each class.
        seed: Of the draw.

    Returns:
        Positions in `labels`, int64, (count * classes,), on the CPU.

    Raises:
        ReuseError: If a class has fewer images.
    """
    labels = labels.cpu()
    there = labels.bincount(minlength=len(classes))
    rarest = int(there.argmin())
    if not there[rarest]:
        raise ReuseError(f"cannot draw images of each class: {classes[rarest]!r} has none. Draw from the whole set")
    checks.whole(per_class=count)
    if count > there[rarest]:
        most = f"{there[rarest]}, as many as there are of {classes[rarest]!r}"
        raise ReuseError(f"cannot draw {count} images of each class: ask for 1 to {most}")
    generator = drawing(seed)
    by_class = labels.argsort(stable=True).split(there.tolist())
    drawn = [index[torch.randperm(len(index), generator=generator)[:count]] for index in by_class]
    return torch.stack(drawn, 1).flatten()


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Base of what consists of tensors, and of parts that do, all on one device."""

    def _parts(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor | OnDevice)}

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return next(iter(self._parts().values())).device

    def to(self, device: torch.device | str) -> Self:
        """Return the same on another device."""
        return replace(self, **{name: part.to(device) for name, part in self._parts().items()})


@dataclass(frozen=True, eq=False)
class Rows(OnDevice):
    """Base of sets: every tensor has one row for each thing."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._parts().values())))

    def __getitem__(self, index: Tensor | slice) -> Self:
        """Return the rows at `index`, which is on their device."""
        return replace(self, **{name: part[index] for name, part in self._parts().items()})

    def subset(self, index: Tensor | list[int] | slice) -> Self:
        """Return the rows at `index` (positions, a mask or a slice), in that order."""
        if isinstance(index, list):
            index = torch.tensor(index, dtype=torch.int64)
        return self[index.to(self.device) if isinstance(index, Tensor) else index]

    def take(self, count: int, seed: int) -> Self:
        """Return `count` rows drawn without replacement: the same for one seed on every device."""
        checks.whole(1, len(self), count=count)
        return self.subset(torch.randperm(len(self), generator=drawing(seed))[:count])


@dataclass(frozen=True, eq=False)
class Batches(Rows, ABC):
    """Base of image sets that give batches of normalised images with labels."""

    @abstractmethod
    def _batch(self, index: Tensor | slice, change: Change | None = None) -> tuple[Tensor, Tensor]:
        """Give the rows of an index, normalised, with their labels."""

    def sample(
        self, count: int, generator: torch.Generator | None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw images at random, with replacement.

        Args:
            count: How many.
            generator: On the device of the images.
            augment: Applied to the uint8 images, for example `augment.crop_and_flip`.

        Returns:
            Normalised images, float32 (count, C, H, W), and their labels, int64 with `count` rows.
        """
        checks.whole(count=count)
        if not len(self):
            raise BadValue(f"nothing can be drawn from {self!r}: it is empty")
        index = torch.randint(len(self), (count,), generator=generator, device=self.device)
        return self._batch(index, None if augment is None else lambda images: augment(images, generator))

    def batches(self, batch: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images and labels in order, for evaluation; a last short batch is kept."""
        checks.whole(batch=batch)
        for start in range(0, len(self), batch):
            yield self._batch(slice(start, start + batch))


@dataclass(frozen=True, eq=False)
class ImageSet(Batches):
    """Images and labels, resident on one device.

    Attributes:
        name: Name of the set, for example "fashion_mnist".
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
        classes: The class names, in the order of the labels.
        mean: Per channel, in [0, 1] units; batches are normalised with it.
        std: Per channel, in [0, 1] units.

    Raises:
        ShapeMismatch: If the parts do not fit together, or a label is none of the classes.
        BadValue: If a mean or a std is no number, or a std is not above 0.

    Example:
        >>> import torch
        >>> from reuselib.data import ImageSet
        >>> pixels, labels = torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
        >>> images = ImageSet("mine", pixels, labels, ("cat", "dog"), mean=(0.5,), std=(0.5,))
        >>> images.sample(2, torch.Generator())[0].shape
        torch.Size([2, 1, 16, 16])
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check types and shapes."""
        images, labels = self.images, self.labels
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            raise ShapeMismatch(f"images must be uint8 (N, C, H, W), not {form(images)}")
        channels = images.shape[1]
        check_form("labels", labels, (len(images),), images.device)
        if not all(isinstance(each, tuple) for each in (self.classes, self.mean, self.std)):
            raise BadValue(f"classes, mean and std must be tuples, not {self.classes!r}, {self.mean!r}, {self.std!r}.")
        if len(self.mean) != channels or len(self.std) != channels:
            raise ShapeMismatch(f"{channels} channels need as many means and stds: {self.mean}, {self.std}")
        for mean, std in zip(self.mean, self.std, strict=True):
            checks.number(-math.inf, mean=mean)
            checks.number(above=True, std=std)
        if self.classes:
            check_range(f"the labels of {self.name}", labels, 0, len(self.classes))

    def __repr__(self) -> str:
        """Name the set, its size, shape, classes and device."""
        contents = f"{len(self)} x {self.shape}, {len(self.classes)} classes"
        return f"ImageSet({self.name!r}, {contents}, {self.device})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def per_class(self, count: int, seed: int) -> ImageSet:
        """Return `count` images of every class, drawn without replacement (see `draw_per_class`).

        Args:
            count: Images of each class.
            seed: Of the draw; the same on every device.

        Raises:
            ReuseError: If a class has fewer images.
        """
        return self.subset(draw_per_class(self.labels, self.classes, count, seed))

    def unlabelled(self) -> ImageSet:
        """Return the same images as one class, "unlabelled", for methods that must not see a label."""
        return replace(self, labels=torch.zeros_like(self.labels), classes=("unlabelled",))

    def resized(self, size: int | None) -> ImageSet:
        """Return the set with square images of `size` pixels, rounded back to uint8; None keeps them as they are.


        28-pixel images that shrink to a divisor of 32 get a border of zeros first and then exact averages, so
        that every pixel weighs the same. Every other case is bilinear with antialiasing. Mean and std become
        those of the resized training pixels where they are known (`STATISTICS`); elsewhere they stay, and so
        do those taken from another set.
        """
        if size is not None:
            checks.whole(size=size)
        if size is None or self.shape[1:] == (size, size):
            return self
        images = torch.cat([_resize(chunk, size) for chunk in self.images.split(4096)])
        mean, std = self.mean, self.std
        if STATISTICS.get((self.name, self.shape[2])) == (mean[:1], std[:1]):
            new = STATISTICS.get((self.name, size), (mean[:1], std[:1]))
            mean, std = new[0] * self.shape[0], new[1] * self.shape[0]
        return replace(self, images=images, mean=mean, std=std)

    def with_channels(self, channels: int | None) -> ImageSet:
        """Return the set in grey (1) or colour (3); grey made from colour is normalised by its own pixels.

        None keeps the images as they are.
        """
        if channels in (None, self.shape[0]):
            return self
        if (self.shape[0], channels) == (1, 3):
            return replace(self, images=self.images.repeat(1, 3, 1, 1), mean=self.mean * 3, std=self.std * 3)
        if (self.shape[0], channels) != (3, 1):
            raise ShapeMismatch(f"cannot turn {self.shape[0]} channels into {channels}, only 1 into 3 or back")
        weights = torch.tensor(GREY_WEIGHTS, device=self.device).view(1, 3, 1, 1)
        grey = [(chunk * weights).sum(1, keepdim=True).round().byte() for chunk in self.images.split(4096)]
        mean, std = statistics(torch.cat(grey))
        return replace(self, images=torch.cat(grey), mean=mean, std=std)

    def with_statistics_of(self, other: ImageSet) -> ImageSet:
        """Return the same pixels, normalised by the mean and std of `other`."""
        return replace(self, mean=other.mean, std=other.std)

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the (1, C, 1, 1) tensors of `normalised`; kept on the device to spare a copy per batch."""
        mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return 1 / (255 * std), mean / std

    def normalised(self, images: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std.

        Args:
            images: uint8, (B, C, H, W), with the channels of this set.

        Returns:
            float32, (B, C, H, W).

        Raises:
            ShapeMismatch: If the images are not uint8, or have other channels.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != self.shape[0]:
            raise ShapeMismatch(
                f"normalised takes uint8 images with {self.shape[0]} channels, not {form(images)}; "
                "sample and batches give normalised images already"
            )
        scale, shift = self._scale_and_shift
        return images * scale.to(images.device) - shift.to(images.device)

    def _drawn(self, index: Tensor | slice, change: Change | None) -> Tensor:
        images = self.images[index]
        return self.normalised(images if change is None else change(images))

    def _batch(self, index: Tensor | slice, change: Change | None = None) -> tuple[Tensor, Tensor]:
        return self._drawn(index, change), self.labels[index]


def one_class(name: str, images: Tensor, word: str, normalisation: Statistics = HALVES) -> ImageSet:
    """Make a set of images that are all of one class, `word`."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return ImageSet(name, images, labels, (word,), *normalisation)


@dataclass(frozen=True, eq=False)
class OfImages(Rows):
    """Base of sets with other labels than those of their images.

    Attributes:
        images: The images, normalised as their set says; their own labels have another use or none.
    """

    images: ImageSet

    @property
    def name(self) -> str:
        """The name of the images."""
        return self.images.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.images.shape

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, in [0, 1] units; batches are normalised with it."""
        return self.images.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, in [0, 1] units."""
        return self.images.std

    def normalised(self, images: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std, as of the images."""
        return self.images.normalised(images)


def check_form(name: str, labels: Tensor, shape: tuple[int, ...], where: torch.device) -> None:
    """Raise ShapeMismatch for labels that are not int64 of a shape, or not where the images are."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != shape:
        raise ShapeMismatch(f"{name} must be int64 {shape}, not {form(labels)}")
    if labels.device != where:
        raise ShapeMismatch(f"{name} are on {labels.device}, images on {where}: use .to(device)")


def check_range(what: str, labels: Tensor, low: int, classes: int, ignore: int | None = None) -> None:
    """Raise ShapeMismatch for a label that is below `low` or none of the classes; `ignore` is allowed too."""
    if labels.is_meta:
        return
    wrong = labels[(labels < low) | (labels >= classes)]
    if len(wrong := wrong if ignore is None else wrong[wrong != ignore]):
        allowed = f"{low} to {classes - 1}" + ("" if ignore is None else f", or {ignore}")
        raise ShapeMismatch(f"{what} must be {allowed}, not {wrong[0].item()}")


def form(tensor: Any) -> str:
    """Return type and shape in words, for messages."""
    return f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__


def drawing(seed: int) -> torch.Generator:
    """Return a generator of this seed, on the CPU; BadValue for a seed that no generator takes."""
    checks.whole(0, checks.SEEDS, seed=seed)
    return torch.Generator().manual_seed(seed)


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (N, C, H, W) to (N, C, size, size)."""
    if images.shape[2:] == (28, 28) and size < 28 and 32 % size == 0:
        padded = functional.pad(images, (2, 2, 2, 2)).float()
        result = functional.avg_pool2d(padded, 32 // size)
    else:
        result = functional.interpolate(
            images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
        )
    return result.round().clamp(0, 255).byte()
