"""The domains between which layers are transferred: close-ups of solids, drawn objects and photographs, digits."""

import random
from dataclasses import replace

import torch
from torch import Tensor

from reuselib import checks, data, home
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.errors import MissingFile
from reuselib.worlds import rooms

VARIED, OTHERS = "real-varied", 1000
"""The domain of recoloured close-ups, and what its seeds begin with: no image is another one's in other colours."""
POOL = 5
"""Sets of probes that fit into the images from which they are drawn."""
SYN2REAL_FIX = "bring train.tar and validation.tar of VisDA-2017's classification track and unpack both in {folder}"


def recoloured(images: Tensor) -> Tensor:
    """Every colour image in one of six other styles, by its place: negative, channels exchanged, grey, or pale."""
    x = images.float()
    grey = x.mean(1, keepdim=True).expand_as(x)
    styles = torch.stack([255 - x, x.roll(1, 1), x.roll(2, 1), 255 - x.roll(1, 1), grey, 64 + x / 2]).round().byte()
    place = torch.arange(len(images), device=images.device)
    return styles[place % len(styles), place]


def domain_images(domain: str, split: str, count: int, size: int, seed: int = 0) -> ImageSet:
    """Images of a domain with labels.

    Args:
        domain: "synthetic" or "real" close-ups of solids, or "real-varied", other ones in other colours;
            "syn2real-synthetic" or "syn2real-real"; or an image set's name.
        split: "train", "test" or "probes"; probes are training images that "train" has not.
        count: how many.
        size: pixels a side.
        seed: of what is drawn.

    Raises:
        UnknownName: there is no such domain or split.
        BadValue: a number cannot be meant.
    """
    checks.whole(count=count, size=size)
    checks.whole(0, checks.SEEDS - OTHERS, seed=seed)
    checks.known("split", rooms.CLOSEUP_SPLITS, split)
    if domain in rooms.DOMAINS:
        return rooms.closeups(domain, split, count, seed).resized(size)
    if domain == VARIED:
        others = rooms.closeups("real", split, count, OTHERS + seed).resized(size)
        return replace(others, name=f"closeups_{VARIED}_{split}", images=recoloured(others.images))
    if domain.startswith("syn2real-"):
        return syn2real(domain.removeprefix("syn2real-"), split, count, size, seed)
    whole = data.load(domain, "test" if split == "test" else "train", size=size, channels=3)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    if split == "probes":
        chosen = whole.subset(order[-POOL * count :]).take(count, seed)
    else:
        chosen = whole.subset(order[:count])
    mean, std = IMAGENET_STATISTICS
    return replace(chosen.resized(size), mean=mean, std=std)


def syn2real(domain: str, split: str, count: int, size: int = 224, seed: int = 0) -> ImageSet:
    """VisDA-2017 for classification (Syn2Real-C): drawn objects and photographs of twelve classes.

    Args:
        domain: "synthetic" or "real".
        split: of each class, 70 % "train", 20 % "test" (the paper's validation), 10 % "probes", cut in the order of the
            file names; how the paper's split was drawn is not known.
        count: as many at most, an equal share of each class; all where there are no more.
        size: pixels a side, after a resize to 8/7 of it and a cut of the centre.
        seed: of the draw of probes.

    Raises:
        MissingFile: the archives are not there.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    folder = home.path("downloads", "visda2017", {"synthetic": "train", "real": "validation"}[domain])
    if not folder.is_dir():
        raise MissingFile(f"{folder} is missing. Fix: {SYN2REAL_FIX.format(folder=folder.parent)}")
    listed = ImageFolder(str(folder))
    labels = torch.tensor(listed.targets)
    parts: list[list[int]] = []
    for label in range(len(listed.classes)):
        index = (labels == label).nonzero().flatten().tolist()
        first, second = int(0.7 * len(index)), int(0.9 * len(index))
        part = {"train": index[:first], "test": index[first:second], "probes": index[second:]}[split]
        if split == "probes":
            random.Random(seed).shuffle(part)
        parts.append(part)
    if sum(map(len, parts)) > count:
        parts = [part[: max(1, count // len(parts))] for part in parts]
    chosen = [place for part in parts for place in part]
    cutting = v2.Compose([v2.PILToTensor(), v2.Resize(size * 8 // 7), v2.CenterCrop(size)])
    pixels = torch.stack([cutting(listed[i][0]) for i in chosen])
    return ImageSet(f"syn2real_{domain}", pixels, labels[chosen], tuple(listed.classes), *IMAGENET_STATISTICS)


def blank_images(domain: str, count: int, size: int) -> ImageSet:
    """Images of a domain on ``meta``, where nothing is computed: as many, as large, of as many classes."""
    classes = 4 if domain in (*rooms.DOMAINS, VARIED) else 12 if domain.startswith("syn2real-") else 10
    with torch.device("meta"):
        pixels, labels = torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64)
    return ImageSet(domain, pixels, labels, tuple(map(str, range(classes))), *IMAGENET_STATISTICS)
