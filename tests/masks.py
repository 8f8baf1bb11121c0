"""Tiny segmentation sets in their true layout, put where they must be brought (VOC 2012: where torchvision fetches it).

contents = masks.bring("camvid", monkeypatch, tmp_path)     # and REUSELIB_DATA is tmp_path / "data"
images = segmentation.load("camvid", "train")
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from urllib.request import urlretrieve

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import utils, voc

from reuselib.data import segmentation, vision

SHORTER = 32
"""Of the tests' images, in place of 256: the networks of the paper are slow."""
Contents = dict[str, tuple[np.ndarray, np.ndarray]]


def bring(
    name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, train: int = 5, test: int = 3, shorter: int = SHORTER
) -> Contents:
    """Write one set below `folder`.

    Args:
        name: camvid, nyuv2, cityscapes, sunrgbd or voc2012.
        monkeypatch: Of the test; it undoes everything.
        folder: An empty folder, usually `tmp_path`.
        train: Number of training images.
        test: Number of test images, where there is such a split.
        shorter: The shorter side that images get when they are read.

    Returns:
        For each split, what should be read: images uint8 (N, 3, H, W) and masks int64 (N, H, W).
    """
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    monkeypatch.setattr(segmentation, "SHORTER", shorter)
    root = vision._downloads()
    root.mkdir(parents=True, exist_ok=True)
    counts = {"train": train, "test": test}
    if name in ("camvid", "nyuv2"):
        writer = {"camvid": _camvid, "nyuv2": _nyuv2}[name]
        monkeypatch.setattr(segmentation, f"{name.upper()}_IMAGES", counts)
        return {split: writer(root, split, counts, shorter) for split in counts}
    constant, write = PHOTOGRAPHS[name]
    monkeypatch.setattr(segmentation, constant, train)
    write(monkeypatch, root, train)
    return {}


def scene(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth random picture of (width, height) pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def regions(size: tuple[int, int], values: int, seed: int) -> Image.Image:
    """A random mask of (width, height) pixels whose values are below `values`; all of them occur in 16 masks."""
    coarse = np.random.default_rng(1000 + seed).integers(0, values, (4, 6)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def read(image: Image.Image, mask: Image.Image, shorter: int) -> tuple[np.ndarray, np.ndarray]:
    """What a picture and its mask are when the shorter side, their height, has its length."""
    size = (int(shorter * image.width / image.height), shorter)
    small = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return small, np.asarray(mask.resize(size, Image.Resampling.NEAREST)).astype(np.int64)


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)


def _camvid(root: Path, split: str, counts: dict[str, int], shorter: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of 480x360 pixels; in the masks 11 means void."""
    found = []
    for number in range(counts[split]):
        seed = 100 * (split == "test") + number
        image, mask = scene((480, 360), seed), regions((480, 360), 12, seed)
        name = f"{'0016E5' if split == 'test' else '0001TP'}_{8000 + 30 * number:06d}.png"
        _save(root / "CamVid" / split / name, image)
        _save(root / "CamVid" / f"{split}annot" / name, mask)
        found.append(read(image, mask, shorter))
    if split == "test":
        (root / "CamVid" / "val").mkdir()
        (root / "CamVid" / "test.txt").write_text("/SegNet/CamVid/test/0001TP_008550.png ...\n")
    images, masks = (np.stack(each) for each in zip(*found, strict=True))
    return images, np.where(masks == 11, 255, masks)


def _nyuv2(root: Path, split: str, counts: dict[str, int], shorter: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of 640x480 pixels, numbered from 1, the two splits in turn; in the masks 0 means no class."""
    folder, total = root / "NYUv2", sum(counts.values())
    order = np.random.default_rng(3).permutation(total) + 1
    numbers = {"train": np.sort(order[: counts["train"]]), "test": np.sort(order[counts["train"] :])}
    folder.mkdir(exist_ok=True)
    variables = {f"{part}Ndxs": each.reshape(-1, 1).astype(np.uint16) for part, each in numbers.items()}
    scipy.io.savemat(folder / "splits.mat", variables)
    found = []
    for number in numbers[split].tolist():
        image, mask = scene((640, 480), number), regions((640, 480), 14, number)
        _save(folder / f"nyu_{split}_rgb" / f"nyu_rgb_{number:04d}.png", image)
        _save(folder / f"{split}_labels_13" / f"new_nyu_class13_{number:04d}.png", mask)
        found.append(read(image, mask, shorter))
    images, masks = (np.stack(each) for each in zip(*found, strict=True))
    return images, np.where(masks == 0, 255, masks - 1)


def _cityscapes(monkeypatch: pytest.MonkeyPatch, root: Path, count: int) -> None:
    for number in range(count):
        city = ("aachen", "zurich")[number % 2]
        name = f"{city}_{number:06d}_000019_leftImg8bit.png"
        _save(root / "cityscapes" / "leftImg8bit" / "train" / city / name, scene((200, 100), number))


def _sunrgbd(monkeypatch: pytest.MonkeyPatch, root: Path, count: int) -> None:
    for number in range(count):
        size = ((73, 53), (56, 43))[number % 2]
        _save(root / "SUNRGBD" / "SUNRGBD-train_images" / f"img-{number + 1:06d}.jpg", scene(size, number))


def _voc2012(monkeypatch: pytest.MonkeyPatch, root: Path, count: int) -> None:
    """The archive that torchvision fetches; of its photographs only some belong to the segmentation task."""
    server = root.parent.parent / "server"
    server.mkdir()
    base, members, names = "VOCdevkit/VOC2012", {}, []
    for number in range(count + 2):
        name = f"2007_{number:06d}"
        size = ((50, 37), (37, 50))[number % 2]
        members[f"{base}/JPEGImages/{name}.jpg"] = _encoded(scene(size, number), "JPEG")
        if number < count:
            names.append(name)
            members[f"{base}/SegmentationClass/{name}.png"] = _encoded(regions(size, 21, number), "PNG")
    members[f"{base}/ImageSets/Segmentation/train.txt"] = ("\n".join(names) + "\n").encode()
    path = server / "VOCtrainval_11-May-2012.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    entry = voc.DATASET_YEAR_DICT["2012"] | {"url": path.as_uri(), "md5": digest}
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", entry)
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, path, *_: urlretrieve(url, path))


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


PHOTOGRAPHS = {
    "cityscapes": ("CITYSCAPES_IMAGES", _cityscapes),
    "sunrgbd": ("SUNRGBD_IMAGES", _sunrgbd),
    "voc2012": ("VOC_IMAGES", _voc2012),
}
