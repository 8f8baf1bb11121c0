"""Image sets: the papers' benchmarks, what the repository ships, and procedural ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from reuselib.data import attributes, augment, digits, multi_label, procedural, segmentation, vision
from reuselib.data.attributes import ZeroShotSet
from reuselib.data.image_set import ImageSet
from reuselib.data.multi_label import MultiLabelSet
from reuselib.data.segmentation import SegmentationSet
from reuselib.errors import unknown
from reuselib.worlds import attributes as attribute_world
from reuselib.worlds import shapes, symbols
from reuselib.worlds.attributes import AttributeWorld, WorldPlan

__all__ = [
    "SETS",
    "AttributeWorld",
    "ImageSet",
    "MultiLabelSet",
    "SegmentationSet",
    "WorldPlan",
    "ZeroShotSet",
    "attribute_world",
    "attributes",
    "augment",
    "digits",
    "load",
    "load_few",
    "multi_label",
    "procedural",
    "segmentation",
    "shapes",
    "symbols",
    "vision",
]

PROCEDURAL_COUNT = {"train": 10_000, "test": 2_000}
SHAPES_COUNT = {"train": 4_000, "test": 1_000}
SYMBOLS_COUNT = {"train": 6_000, "test": 1_500}
PROCEDURAL_SEED = {"train": 0, "test": 1}


def _handwritten(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
    return digits.digits(split)


def _printed(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
    return digits.printed_digits(_of(PROCEDURAL_COUNT, split), size or 8, _of(PROCEDURAL_SEED, split))


def _textures(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
    image = (channels or 1, size or 16, size or 16)
    return procedural.textures(_of(PROCEDURAL_COUNT, split), image, _of(PROCEDURAL_SEED, split))


def _noise(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
    image = (channels or 1, size or 16, size or 16)
    return procedural.noise(_of(PROCEDURAL_COUNT, split), image, _of(PROCEDURAL_SEED, split))


def _shapes(split: str, size: int | None, channels: int | None, download: bool, label: str = "shape") -> ImageSet:
    images = shapes.shapes(_of(SHAPES_COUNT, split), size or 16, _of(PROCEDURAL_SEED, split), label)
    return images if split == "train" else images.with_statistics_of(_shapes("train", size, channels, download))


def _symbols(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
    images = symbols.symbols(_of(SYMBOLS_COUNT, split), size or 16, _of(PROCEDURAL_SEED, split))
    return images if split == "train" else images.with_statistics_of(_symbols("train", size, channels, download))


def _collage(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
    return segmentation.room_collage(split)


def _of(values: dict[str, int], split: str) -> int:
    if split not in values:
        raise unknown("split", split, values)
    return values[split]


def _from_files(loader: Callable[..., ImageSet]) -> Callable[..., ImageSet]:
    return lambda split, size, channels, download: loader(split, download)


SETS: dict[str, Callable[..., ImageSet]] = {
    **{loader.__name__: _from_files(loader) for loader in vision.LOADERS},
    "digits": _handwritten,
    "printed_digits": _printed,
    "textures": _textures,
    "noise": _noise,
    "shapes": _shapes,
    "shape_cells": partial(_shapes, label="cell"),
    "symbols": _symbols,
    "room_collage": _collage,
    "cityscapes": _from_files(segmentation.cityscapes),
    "sunrgbd": _from_files(segmentation.sunrgbd),
    "voc2012": _from_files(segmentation.voc2012),
}
FEW: dict[str, Callable[[int, int], ImageSet]] = {"imagenet": vision.imagenet_few}
"""Sets whose training images are only read in part."""


def load(
    name: str, split: str = "train", size: int | None = None, channels: int | None = None, download: bool = False
) -> ImageSet:
    """Load an image set by name.

    Args:
        name: One of `SETS`.
        split: "train" or "test".
        size: Height and width wanted; None keeps the images as they are.
        channels: 1 for grey, 3 for colour; None keeps the images as they are.
        download: Whether files that are missing may be fetched.

    Raises:
        UnknownName: If there is no such set or split; the message names the nearest.
        MissingFile: If its files are not there; the message holds the command that fetches them.
        DamagedFile: If a file has another hash than it should.
    """
    if name not in SETS:
        raise unknown("image set", name, SETS)
    return _shaped(SETS[name](split, size, channels, download), size, channels)


def load_few(
    name: str, per_class: int, seed: int, size: int | None = None, channels: int | None = None, download: bool = False
) -> ImageSet:
    """Load a few training images of each class, as `ImageSet.per_class` draws them.

    Of sets that are too large to be held, only the files of the drawn images are read.

    Args:
        name: One of `SETS`.
        per_class: Images of each class.
        seed: Of the draw; a smaller draw of one seed is the beginning of a larger one.
        size: As in `load`.
        channels: As in `load`.
        download: As in `load`.

    Raises:
        ReuseError: If a class has fewer images; also every error of `load`.
    """
    if name in FEW:
        return _shaped(FEW[name](per_class, seed), size, channels)
    return load(name, "train", size, channels, download).per_class(per_class, seed)


def _shaped(images: ImageSet, size: int | None, channels: int | None) -> ImageSet:
    """Return the images in the size and with the channels wanted."""
    if size is not None:
        images = images.resized(size)
    return images if channels is None else images.with_channels(channels)
