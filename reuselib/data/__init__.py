"""Image sets: the papers' benchmarks, what the repository ships, and procedural ones."""

from __future__ import annotations

from collections.abc import Callable

from reuselib.data import attributes, augment, digits, files, multi_label, photographs, procedural, segmentation, vision
from reuselib.data.attributes import ZeroShotSet
from reuselib.data.image_set import ImageSet
from reuselib.data.multi_label import MultiLabelSet
from reuselib.data.rendered import rendered
from reuselib.data.segmentation import SegmentationSet
from reuselib.errors import unknown

__all__ = ["SETS", "ImageSet", "MultiLabelSet", "SegmentationSet", "ZeroShotSet", "load", "load_few"]
__all__ += ["attributes", "augment", "digits", "multi_label", "photographs", "procedural", "segmentation", "vision"]

Loader = Callable[[str, int | None, int | None, bool], ImageSet]


def _from_files(loader: Callable[[str, bool], ImageSet]) -> Loader:
    return lambda split, size, channels, download: loader(split, download)


def _drawn(draw: Callable[[int, tuple[int, int, int], int], ImageSet], usual: int = 16) -> Loader:
    def load(split: str, size: int | None, channels: int | None, download: bool) -> ImageSet:
        count, seed = files.count_and_seed(split, 10_000, 2_000)
        side = usual if size is None else size
        return draw(count, (channels or 1, side, side), seed)

    return load


def _rendered(name: str, *options: str) -> Loader:
    return lambda split, size, channels, download: rendered(name)(split, 16 if size is None else size, *options)


SETS: dict[str, Loader] = {
    **{loader.__name__: _from_files(loader) for loader in vision.LOADERS + photographs.LOADERS},
    "cifar10-jpeg": _from_files(vision.cifar10_jpeg),
    "digits": lambda split, *_: digits.digits(split),
    "printed_digits": _drawn(lambda count, image, seed: digits.printed_digits(count, image[1], seed), 8),
    "textures": _drawn(procedural.textures),
    "noise": _drawn(procedural.noise),
    "shapes": _rendered("shapes:load"),
    "shape_cells": _rendered("shapes:load", "cell"),
    "symbols": _rendered("symbols:load"),
    "room_collage": lambda split, *_: rendered("rooms:room_collage")(split),
}


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

    Returns:
        The images on the CPU, 8 bits a pixel, with their labels and the statistics that normalise them.

    Raises:
        UnknownName: If there is no such set or split; the message names the nearest.
        MissingFile: If its files are not there; the message holds the command that fetches them.
        DamagedFile: If a file has another hash than it should.

    Example:
        >>> from reuselib import data
        >>> data.load("digits", "test", size=16).shape
        (1, 16, 16)
    """
    if name not in SETS:
        raise unknown("image set", name, SETS)
    return SETS[name](split, size, channels, download).resized(size).with_channels(channels)


def load_few(name: str, per_class: int, seed: int, size: int | None = None) -> ImageSet:
    """Load a few training images of each class, as `ImageSet.per_class` draws them.

    Of "imagenet", which is too large to be held, only the files of the drawn images are read.

    Args:
        name: One of `SETS`.
        per_class: Images of each class.
        seed: Of the draw; a smaller draw of one seed is the beginning of a larger one.
        size: As in `load`.

    Raises:
        ReuseError: If a class has fewer images; also every error of `load`.
    """
    if name == "imagenet":
        return photographs.imagenet_few(per_class, seed).resized(size)
    return load(name, "train", size).per_class(per_class, seed)
