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
from reuselib.data.image_set import one_class
from reuselib.errors import DamagedFile, MissingFile, ReuseError, ShapeMismatch

CLASSES = {"camvid": 11, "nyuv2": 13}


@pytest.mark.parametrize("name", CLASSES)
def test_true_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = tiny.bring(name, monkeypatch, tmp_path, train=12, test=2)
    for split, (images, masks) in contents.items():
        read = segmentation.load(name, split)
        assert np.array_equal(read.images.images.numpy(), images) and np.array_equal(read.masks.numpy(), masks)
        assert (read.mean, read.std, read.ignore) == ((0.5,) * 3, (0.5,) * 3, 255)
        assert read.name == name and read.shape == (3, 32, 42)
    assert len(set(read.classes)) == CLASSES[name]
    assert torch.from_numpy(contents["train"][1]).unique().tolist() == [*range(CLASSES[name]), 255]


def test_what_is_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    for name in CLASSES:
        with pytest.raises(MissingFile, match=r"downloads.* is missing. Fix: bring .* to "):
            segmentation.load(name)
    tiny.bring("camvid", monkeypatch, tmp_path, train=3)
    mask = sorted((tmp_path / "data/downloads/CamVid/trainannot").iterdir())[2]
    for reason, wrong in {
        "it holds a value that is none of": tiny.regions((480, 360), 2, 0).point(lambda value: value + 40),
        "it cannot be decoded .a mask has one channel of 8 bits, not the mode RGB": Image.new("RGB", (480, 360)),
        r"its size becomes \(32, 32\), not \(32, 42\) as that of": Image.new("L", (360, 360)),
    }.items():
        wrong.save(mask)
        with pytest.raises(DamagedFile, match=f"{mask.name} is damaged: {reason}.*Fix: bring"):
            segmentation.load("camvid")
    monkeypatch.setattr(segmentation, "CAMVID_IMAGES", {"train": 6})
    with pytest.raises(DamagedFile, match="expected 6 images, found 3"):
        segmentation.load("camvid")


def test_unknown_names_show_the_nearest() -> None:
    for names, message in (
        (("camvit",), "set with masks 'camvit'. Did you mean 'camvid'"),
        *(((name, "tests"), "Did you mean 'test'") for name in segmentation.SETS),
    ):
        with pytest.raises(ReuseError, match=message):
            segmentation.load(*names)


def numbered(ignore: int = 255) -> SegmentationSet:
    """Images of 4x6 pixels that are all different, and masks that follow from them."""
    pixels = torch.arange(23 * 24).view(23, 1, 4, 6) % 251
    masks = (pixels[:, 0] % 3).masked_fill(pixels[:, 0] % 7 == 0, ignore)
    return SegmentationSet(one_class("numbered", pixels.byte(), "image", ((0.0,), (1.0,))), masks, tuple("abc"), ignore)


def test_windows_of_images_and_masks_belong_together_and_large_images_come_a_few_at_a_time() -> None:
    x, masks = numbered(7).sample(50, torch.Generator().manual_seed(0), partial(window_and_flip, size=3))
    pixels = (x[:, 0] * 255).round().long()
    assert x.shape == (50, 1, 3, 3) and masks.dtype == torch.int64 and (masks == 7).any()
    assert torch.equal(masks, (pixels % 3).masked_fill(pixels % 7 == 0, 7))
    pixels = torch.zeros(30, 3, 256, 341, dtype=torch.uint8, device="meta")
    images = SegmentationSet(
        one_class("large", pixels, "image"), torch.zeros(30, 256, 341, device="meta").long(), ("a",)
    )

    assert [len(x) for x, _ in images.batches()] == [12, 12, 6]


def test_parts_that_do_not_fit() -> None:
    images = numbered()
    for masks, message in (
        (images.masks.byte(), r"masks must be int64 \(23, 4, 6\), not torch.uint8"),
        (images.masks[:, :, :5], r"masks must be int64 \(23, 4, 6\), not torch.int64 \(23, 4, 5\)"),
        (images.masks.masked_fill(images.masks == 1, 3), "masks of numbered must be 0 to 2, or 255, not 3"),
    ):
        with pytest.raises(ShapeMismatch, match=message):
            SegmentationSet(images.images, masks, images.classes)
    for ignore in (2, 256):
        with pytest.raises(ShapeMismatch, match=f"ignore={ignore} must lie above 3 classes"):
            SegmentationSet(images.images, images.masks, images.classes, ignore)
