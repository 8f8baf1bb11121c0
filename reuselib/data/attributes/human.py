"""Handwritten digits, clothes and CIFAR-10 with attributes that a person would give: real images, few classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data import digits as handwritten
from reuselib.data import vision
from reuselib.data.attributes.zero_shot import ZeroShotSet, standardised
from reuselib.data.files import SPLITS
from reuselib.data.image_set import ImageSet, drawing
from reuselib.errors import ReuseError, unknown


def _table(traits: Iterable[Sequence[str]], names: Sequence[str]) -> Tensor:
    """Whether each class has each trait, 0 or 1, a row a class."""
    return torch.tensor([[float(name in each) for name in names] for each in traits])


DIGIT_NAMES = (
    *("top", "up-left", "up-right", "middle", "low-left", "low-right", "bottom"),
    *("upper loop", "lower loop", "one big loop", "diagonal stroke", "all straight"),
    *("open up-left", "open up-right", "open low-left", "open low-right"),
)
SEGMENTS = 7
"""The first attributes of a digit: the bars of a seven-segment display, in reading order."""
DIGIT_SEGMENTS = "1110111 0010010 1011101 1011011 0111010 1101011 0101111 1010010 1111111 1111011".split()
DIGIT_TRAITS: tuple[tuple[str, ...], ...] = (
    ("one big loop",),
    ("all straight",),
    ("diagonal stroke", "open up-left", "open low-right"),
    ("open up-left", "open low-left"),
    ("diagonal stroke", "all straight"),
    ("open up-right", "open low-left"),
    ("lower loop", "open up-right"),
    ("diagonal stroke", "all straight", "open up-left"),
    ("upper loop", "lower loop"),
    ("upper loop", "open low-left"),
)
_BARS = torch.tensor([[float(bit) for bit in bars] for bars in DIGIT_SEGMENTS])
DIGIT_ATTRIBUTES = torch.cat([_BARS, _table(DIGIT_TRAITS, DIGIT_NAMES[SEGMENTS:])], 1)
"""(10, 16): what a person says of each digit."""
UNSEEN_DIGITS = 3
RANDOM_FEATURES = 64

FASHION_NAMES = (
    *("covers torso", "covers legs", "short sleeve", "long sleeve", "sleeveless", "front opening", "collar"),
    *("two tubes", "long vertical", "footwear", "open toe", "high shaft", "handle", "boxy"),
)
FASHION_TRAITS: dict[str, tuple[str, ...]] = {
    "T-shirt/top": ("covers torso", "short sleeve", "boxy"),
    "Trouser": ("covers legs", "two tubes", "long vertical"),
    "Pullover": ("covers torso", "long sleeve", "boxy"),
    "Dress": ("covers torso", "covers legs", "sleeveless", "long vertical"),
    "Coat": ("covers torso", "long sleeve", "front opening", "collar", "long vertical"),
    "Sandal": ("footwear", "open toe"),
    "Shirt": ("covers torso", "long sleeve", "front opening", "collar", "boxy"),
    "Sneaker": ("footwear",),
    "Bag": ("handle", "boxy"),
    "Ankle boot": ("footwear", "high shaft"),
}
FASHION_ATTRIBUTES = _table(FASHION_TRAITS.values(), FASHION_NAMES)
"""(10, 14): conventions about such garments, not what one photograph shows."""

CIFAR_NAMES = (
    *("fur", "feathers", "wet skin", "four legs", "long legs", "long tail", "hooves", "claws", "small body"),
    *("large body", "wings", "flies", "wheels", "metal", "windows", "engine", "cargo", "headlights"),
    *("sky behind", "water around", "road below", "grass or trees around", "indoors", "carries people"),
)
CIFAR_BODY = 9
"""The first attributes of a class of CIFAR-10: of an animal's body, the least that one would write."""
CIFAR_TRAITS: dict[str, tuple[str, ...]] = {
    "airplane": ("large body", "wings", "flies", "metal", "windows", "engine", "sky behind", "carries people"),
    "automobile": ("wheels", "metal", "windows", "engine", "headlights", "road below", "carries people"),
    "bird": ("feathers", "claws", "small body", "wings", "flies", "sky behind", "grass or trees around"),
    "cat": ("fur", "four legs", "long tail", "claws", "small body", "indoors"),
    "deer": ("fur", "four legs", "long legs", "hooves", "large body", "grass or trees around"),
    "dog": ("fur", "four legs", "long tail", "claws", "indoors", "grass or trees around"),
    "frog": ("wet skin", "four legs", "small body", "water around", "grass or trees around"),
    "horse": (
        *("fur", "four legs", "long legs", "long tail", "hooves", "large body"),
        *("grass or trees around", "carries people"),
    ),
    "ship": ("large body", "metal", "windows", "engine", "cargo", "sky behind", "water around", "carries people"),
    "truck": ("large body", "wheels", "metal", "windows", "engine", "cargo", "headlights", "road below"),
}
CIFAR_ATTRIBUTES = _table(CIFAR_TRAITS.values(), CIFAR_NAMES)
"""(10, 24): what such a thing is like, written before any result; not what one photograph shows."""


def digits(seed: int = 0) -> ZeroShotSet:
    """Load the handwritten digits with 16 attributes, seven of them seen and three unseen.

    Training images are those of the set "digits", test images of seen digits its test images; of unseen digits all
    images are tested on. Features are `random_features`.

    Args:
        seed: Of the unseen digits: the first 120 seeds give the 120 choices of three, in random order.
    """
    checks.whole(0, seed=seed)
    parts, unseen = (handwritten.digits("train"), handwritten.digits("test")), unseen_places(seed)
    return _split(f"digits_{seed}", "zero_shot_digits", parts, unseen, DIGIT_ATTRIBUTES, DIGIT_NAMES)


def unseen_places(seed: int) -> Tensor:
    """The unseen ones of ten classes, int64 (3,): the first 120 seeds give the 120 choices, in random order."""
    choices = list(combinations(range(10), UNSEEN_DIGITS))
    order = torch.randperm(len(choices), generator=torch.Generator().manual_seed(0))
    return torch.tensor(choices[order[seed % len(choices)]])


def cifar10(parts: tuple[ImageSet, ImageSet], features: Tensor, seed: int = 0) -> ZeroShotSet:
    """Make a set of photographs of CIFAR-10 with 24 attributes, seven classes of them seen and three unseen.

    Args:
        parts: Training and test images, of all ten classes in their usual order.
        features: Of the training images, then of the test images, (N, d).
        seed: Of the unseen classes, as in `digits`.
    """
    unseen = unseen_places(seed)
    return _split(f"cifar10_{seed}", "zero_shot_cifar10", parts, unseen, CIFAR_ATTRIBUTES, CIFAR_NAMES, features)


def fashion(
    unseen: Sequence[str] = ("Dress", "Shirt", "Ankle boot"), per_class: int = 200, size: int = 16, seed: int = 0
) -> ZeroShotSet:
    """Load Fashion-MNIST with 14 attributes, some of its classes unseen.

    The training images of unseen classes are left out, and so are their attributes' only examples, where there are
    some: a high shaft is had by ankle boots alone, bare shoulders by dresses. Features are `random_features`.

    Args:
        unseen: Names of classes.
        per_class: Images of each class, drawn from the training and from the test images.
        size: Height and width.
        seed: Of the draw.

    Raises:
        UnknownName: If there is no such class.
        ReuseError: If no class or every class is unseen, or a class has fewer images.
    """
    for name in unseen:
        if name not in FASHION_TRAITS:
            raise unknown("class of Fashion-MNIST", name, FASHION_TRAITS)
    if not 0 < len(set(unseen)) < len(FASHION_TRAITS):
        raise ReuseError(f"{len(set(unseen))} of 10 classes cannot be unseen: leave some of each kind")
    train, test = (vision.fashion_mnist(split).per_class(per_class, seed).resized(size) for split in SPLITS)
    hidden = torch.tensor([train.classes.index(name) for name in set(unseen)])
    train = train.subset(~torch.isin(train.labels, hidden))
    return _split("fashion", "zero_shot_fashion", (train, test), hidden, FASHION_ATTRIBUTES, FASHION_NAMES)


def random_features(images: Tensor, train: Tensor) -> Tensor:
    """Return standardised pixels, and `RANDOM_FEATURES` random ReLU features of them: a network that learned nothing.

    The weights are always the same, of N(0, 1/d) where there are d pixels; there are no biases, lest one be always 0.

    Args:
        images: uint8, (N, C, H, W).
        train: Positions of those whose mean and standard deviation are taken.

    Returns:
        float32, (N, C H W + `RANDOM_FEATURES`).
    """
    pixels = images.flatten(1).float() / 255
    pixels = standardised(pixels, pixels[train])
    weight = torch.randn(pixels.shape[1], RANDOM_FEATURES, generator=drawing(0)) / pixels.shape[1] ** 0.5
    return torch.cat([pixels, (pixels @ weight.to(images.device)).relu()], 1)


def _split(
    name: str,
    images: str,
    parts: tuple[ImageSet, ImageSet],
    unseen: Tensor,
    attributes: Tensor,
    attribute_names: tuple[str, ...],
    features: Tensor | None = None,
) -> ZeroShotSet:
    """Put training and test images together, normalised as the first, and split them by the unseen classes."""
    pixels, labels = (torch.cat([getattr(part, field) for part in parts]) for field in ("images", "labels"))
    unseen, classes = unseen.sort().values, parts[0].classes
    hidden, place = torch.isin(labels, unseen), torch.arange(len(labels))
    train = place[~hidden & (place < len(parts[0]))]
    label = torch.arange(len(classes))
    return ZeroShotSet(
        name=name,
        labels=labels,
        attributes=attributes,
        seen=label[~torch.isin(label, unseen)],
        unseen=unseen,
        train=train,
        test_seen=place[~hidden & (place >= len(parts[0]))],
        test_unseen=place[hidden],
        classes=classes,
        attribute_names=attribute_names,
        features=random_features(pixels, train) if features is None else features,
        images=replace(parts[0], name=images, images=pixels, labels=labels),
    )
