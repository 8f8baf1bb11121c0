"""Tiny segmentation sets in their true layout, put where they must be brought (VOC 2012: where torchvision fetches it).

contents = masks.bring("camvid", monkeypatch, tmp_path)     # and REUSELIB_DATA is tmp_path / "data"
images = segmentation.load("camvid", "train")
"""

from __future__ import annotations

from pathlib import Path

import archives
import numpy as np
import pytest
from PIL import Image

from reuselib.data import files, photographs, segmentation

SHORTER = 32
"""Of the tests' images, in place of 256: the networks of the paper are slow."""
Contents = archives.Contents
PHOTOGRAPHS = ("cityscapes", "sunrgbd", "voc2012")


def bring(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, train: int = 5, test: int = 3) -> Contents:
    """Write one set below `folder`.

    Args:
        name: camvid, nyuv2, cityscapes, sunrgbd or voc2012.
        monkeypatch: Of the test; it undoes everything.
        folder: An empty folder, usually `tmp_path`.
        train: Number of training images.
        test: Number of test images, where there is such a split.

    Returns:
        For each split of CamVid and NYUv2, what should be read: images uint8 (N, 3, H, W) and masks int64 (N, H, W).
    """
    (folder / "data").mkdir(exist_ok=True)
    monkeypatch.setenv("REUSELIB_DATA", str(folder / "data"))
    monkeypatch.setattr(segmentation, "SHORTER", SHORTER)
    monkeypatch.setattr(photographs, "SHORTER", SHORTER)
    counts = {"train": train, "test": test}
    if name in PHOTOGRAPHS:
        archives.publish(name, monkeypatch, folder, train, test)
        return {}
    monkeypatch.setattr(segmentation, f"{name.upper()}_IMAGES", counts)
    writer = {"camvid": _camvid, "nyuv2": _nyuv2}[name]
    return {split: writer(split, counts) for split in counts}


def regions(size: tuple[int, int], values: int, seed: int) -> Image.Image:
    """A random mask of (width, height) pixels whose values are below `values`; all of them occur in 16 masks."""
    coarse = np.random.default_rng(1000 + seed).integers(0, values, (4, 6)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def _pair(size: tuple[int, int], values: int, seed: int, image: Path, mask: Path) -> archives.Part:
    """Write a smooth random picture and a mask; return what they are when the shorter side has its length."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    picture, kinds = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), regions(size, values, seed)
    for path, content in ((image, picture), (mask, kinds)):
        path.parent.mkdir(parents=True, exist_ok=True)
        content.save(path, compress_level=1)
    small = (int(SHORTER * size[0] / size[1]), SHORTER)
    pixels = np.asarray(picture.resize(small, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return pixels, np.asarray(kinds.resize(small, Image.Resampling.NEAREST)).astype(np.int64)


def _camvid(split: str, counts: dict[str, int]) -> archives.Part:
    """Pictures of 480x360 pixels; in the masks 11 means void."""
    found, folder = [], files.downloads("CamVid")
    for number in range(counts[split]):
        name = f"{'0016E5' if split == 'test' else '0001TP'}_{8000 + 30 * number:06d}.png"
        seed = 100 * (split == "test") + number
        found.append(_pair((480, 360), 12, seed, folder / split / name, folder / f"{split}annot" / name))
    archives.write(folder, {"val/other.png": b"", "test.txt": b"/SegNet/CamVid/test/0001TP_008550.png ...\n"})
    images, masks = (np.stack(each) for each in zip(*found, strict=True))
    return images, np.where(masks == 11, 255, masks)


def _nyuv2(split: str, counts: dict[str, int]) -> archives.Part:
    """Pictures of 640x480 pixels, numbered from 1, the two splits in turn; in the masks 0 means no class."""
    order = np.random.default_rng(3).permutation(sum(counts.values())) + 1
    numbers = {"train": np.sort(order[: counts["train"]]), "test": np.sort(order[counts["train"] :])}
    folder, found = files.downloads("NYUv2"), []
    splits = {f"{part}Ndxs": each.reshape(-1, 1).astype(np.uint16) for part, each in numbers.items()}
    archives.write(folder, {"splits.mat": archives.mat(**splits)})
    for number in numbers[split].tolist():
        image = folder / f"nyu_{split}_rgb" / f"nyu_rgb_{number:04d}.png"
        mask = folder / f"{split}_labels_13" / f"new_nyu_class13_{number:04d}.png"
        found.append(_pair((640, 480), 14, number, image, mask))
    images, masks = (np.stack(each) for each in zip(*found, strict=True))
    return images, np.where(masks == 0, 255, masks - 1)
