"""Images with masks: the sets in their true layout, and what is missing or damaged."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import masks as tiny
import numpy as np
import pytest
import torch
from PIL import Image

from reuselib.data import SegmentationSet, segmentation
from reuselib.data.augment import window_and_flip
from reuselib.errors import DamagedFile, MissingFile, ShapeMismatch, UnknownName

TRUE_LAYOUTS = {"camvid": ("CamVid", "train", "trainannot"), "nyuv2": ("NYUv2", "nyu_train_rgb", "train_labels_13")}


def numbered(count: int = 23, ignore: int = 255) -> SegmentationSet:
    """Images of 4x6 pixels that are all different, and masks that follow from them."""
    pixels = torch.arange(count * 24).view(count, 1, 4, 6) % 251
    masks = (pixels[:, 0] % 3).masked_fill(pixels[:, 0] % 7 == 0, ignore)
    return segmentation.from_masks("numbered", pixels.byte(), masks, "abc", (0.0,), (1.0,), ignore)


@pytest.mark.parametrize("name", TRUE_LAYOUTS)
def test_true_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = tiny.bring(name, monkeypatch, tmp_path, train=16, test=5)
    for split, (images, masks) in contents.items():
        read = segmentation.load(name, split)
        assert np.array_equal(read.images.images.numpy(), images) and np.array_equal(read.masks.numpy(), masks)
        assert (read.mean, read.std, read.ignore) == ((0.5,) * 3, (0.5,) * 3, 255)
        assert read.name == name and read.shape == (3, 32, 42)
    classes = {"camvid": 11, "nyuv2": 13}[name]
    assert len(read.classes) == len(set(read.classes)) == classes
    assert torch.from_numpy(contents["train"][1]).unique().tolist() == [*range(classes), 255]


def test_the_published_sizes_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert segmentation.CAMVID_IMAGES == {"train": 367, "test": 233}
    assert segmentation.NYUV2_IMAGES == {"train": 795, "test": 654}
    contents = tiny.bring("camvid", monkeypatch, tmp_path, train=2, test=1, shorter=segmentation.SHORTER)
    read = segmentation.camvid("train")
    assert read.shape == (3, 256, 341) and np.array_equal(read.masks.numpy(), contents["train"][1])


@pytest.mark.parametrize("name", TRUE_LAYOUTS)
def test_what_is_missing_or_damaged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    with pytest.raises(MissingFile, match=r"downloads.* is missing. Fix: bring .* to "):
        segmentation.load(name)
    tiny.bring(name, monkeypatch, tmp_path)
    folder, *parts = TRUE_LAYOUTS[name]
    image, mask = (sorted((tmp_path / "data/downloads" / folder / part).iterdir())[2] for part in parts)
    whole = mask.read_bytes(), image.read_bytes()
    foreign = {
        "it holds a value that is none of": tiny.regions((480, 360), 2, 0).point(lambda value: value + 40),
        "it cannot be decoded .a mask has one channel of 8 bits, not the mode RGB": Image.new("RGB", (480, 360)),
        r"its size becomes \(32, 32\), not \(32, 42\) as that of": Image.new("L", (360, 360)),
    }
    for reason, wrong in foreign.items():
        wrong.save(mask)
        with pytest.raises(DamagedFile, match=f"{mask.name} is damaged: {reason}"):
            segmentation.load(name)
    for path, content in zip((mask, image), whole, strict=True):
        path.write_bytes(content[:60])
        with pytest.raises(DamagedFile, match=rf"{path.name} is damaged: it cannot be decoded .*Fix: bring"):
            segmentation.load(name)
        path.write_bytes(content)
    mask.unlink()
    with pytest.raises(MissingFile, match=f"{mask.name} is missing. Fix: bring"):
        segmentation.load(name)
    monkeypatch.setattr(segmentation, f"{name.upper()}_IMAGES", {"train": 6})
    with pytest.raises(DamagedFile, match="expected 6 images, found 5"):
        segmentation.load(name)
    if name == "nyuv2":
        (image.parents[1] / "splits.mat").write_bytes(b"MATLAB 5.0")
        with pytest.raises(DamagedFile, match="splits.mat is damaged: it cannot be read"):
            segmentation.load(name)


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(UnknownName, match="set with masks 'camvit'. Did you mean 'camvid'"):
        segmentation.load("camvit")
    for name in segmentation.SETS:
        with pytest.raises(UnknownName, match="Did you mean 'test'"):
            segmentation.load(name, "tests")


def test_windows_of_images_and_masks_belong_together() -> None:
    x, masks = numbered().sample(50, torch.Generator().manual_seed(0), partial(window_and_flip, size=3))
    pixels = (x[:, 0] * 255).round().long()
    assert x.shape == (50, 1, 3, 3) and masks.dtype == torch.int64 and (masks == 255).any()
    assert torch.equal(masks, (pixels % 3).masked_fill(pixels % 7 == 0, 255))
    assert numbered(ignore=7).ignore == 7


def test_large_images_come_a_few_at_a_time() -> None:
    pixels = torch.zeros(30, 3, 256, 341, dtype=torch.uint8, device="meta")
    images = segmentation.from_masks("large", pixels, torch.zeros(30, 256, 341, device="meta").long(), "ab")
    assert [len(x) for x, _ in images.batches()] == [12, 12, 6]


def test_parts_that_do_not_fit() -> None:
    images = numbered()
    for masks, message in (
        (images.masks.byte(), r"masks must be int64 \(23, 4, 6\), not torch.uint8"),
        (images.masks[:, :, :5], r"masks must be int64 \(23, 4, 6\), not torch.int64 \(23, 4, 5\)"),
        (images.masks.to("meta"), "use .to"),
        (images.masks.masked_fill(images.masks == 1, 3), "masks of numbered must be 0 to 2, or 255, not 3"),
        (images.masks.masked_fill(images.masks == 1, -1), "masks of numbered must be 0 to 2, or 255, not -1"),
    ):
        with pytest.raises(ShapeMismatch, match=message):
            SegmentationSet(images.images, masks, images.classes)
    for ignore in (2, 256):
        with pytest.raises(ShapeMismatch, match=f"ignore={ignore} must lie above 3 classes"):
            SegmentationSet(images.images, images.masks, images.classes, ignore)
