"""Images with masks: the sets in their true layout, what is missing or damaged, and the tools."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import masks as tiny
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from reuselib import data, run
from reuselib.data import ImageSet, SegmentationSet, segmentation, vision
from reuselib.data.augment import window_and_flip
from reuselib.errors import DamagedFile, MissingFile, ReuseError, ShapeMismatch, UnknownName

TRUE_LAYOUTS = ("camvid", "nyuv2")


def numbered(count: int = 23, ignore: int = 255) -> SegmentationSet:
    """Images of 4x6 pixels that are all different, and masks that follow from them."""
    pixels = torch.arange(count * 24).view(count, 1, 4, 6) % 251
    masks = (pixels[:, 0] % 3).masked_fill(pixels[:, 0] % 7 == 0, ignore)
    return segmentation.from_masks("numbered", pixels.byte(), masks, "abc", (0.0,), (1.0,), ignore)


def is_numbered(images: torch.Tensor, masks: torch.Tensor) -> bool:
    """Whether normalised images and masks belong together, pixel by pixel."""
    pixels = (images[:, 0] * 255).round().long()
    return torch.equal(masks, (pixels % 3).masked_fill(pixels % 7 == 0, 255))


# ---- sets in their true layout


@pytest.mark.parametrize("name", TRUE_LAYOUTS)
def test_true_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = tiny.bring(name, monkeypatch, tmp_path, train=16, test=5)
    for split, (images, masks) in contents.items():
        read = segmentation.load(name, split)
        assert np.array_equal(read.images.images.numpy(), images) and np.array_equal(read.masks.numpy(), masks)
        assert (read.mean, read.std, read.ignore) == ((0.5,) * 3, (0.5,) * 3, 255)
        assert read.name == name and read.shape == (3, 32, 42) and read.masks.dtype == torch.int64
    classes = {"camvid": 11, "nyuv2": 13}[name]
    assert len(read.classes) == len(set(read.classes)) == classes
    every = torch.from_numpy(contents["train"][1]).unique().tolist()
    assert every == [*range(classes), 255]


def test_photographs_become_256_pixels_high(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert segmentation.SHORTER == 256
    contents = tiny.bring("camvid", monkeypatch, tmp_path, train=2, test=1, shorter=256)
    read = segmentation.camvid("train")
    assert read.shape == (3, 256, 341) and np.array_equal(read.masks.numpy(), contents["train"][1])


def test_the_published_counts() -> None:
    assert segmentation.CAMVID_IMAGES == {"train": 367, "test": 233}
    assert segmentation.NYUV2_IMAGES == {"train": 795, "test": 654}


@pytest.mark.parametrize(
    ("name", "shape"), [("cityscapes", (3, 32, 64)), ("sunrgbd", (3, 32, 32)), ("voc2012", (3, 32, 32))]
)
def test_photographs_without_masks(
    name: str, shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.bring(name, monkeypatch, tmp_path)
    images = data.load(name, download=True)
    assert isinstance(images, ImageSet) and len(images) == 5 and images.shape == shape
    assert (images.mean, images.std) == vision.HALVES and len(images.classes) == 1
    assert len({image.numpy().tobytes() for image in images.images}) == 5
    with pytest.raises(UnknownName, match=f"split of {name} 'test'"):
        data.load(name, "test")


def test_rooms_are_those_of_the_room_world(monkeypatch: pytest.MonkeyPatch) -> None:
    world = pytest.importorskip("reuselib.worlds.rooms")
    draw = world.rooms
    monkeypatch.setattr(world, "rooms", lambda split: draw(split, count=8))
    found = {split: segmentation.load("rooms", split) for split in ("train", "test")}
    for split, images in found.items():
        part = draw({"train": "zoo"}.get(split, split), count=8)
        assert torch.equal(images.images.images, part.images.images)
        assert torch.equal(images.masks, part.labels("semseg"))
        assert images.shape == (3, 32, 32) and len(images.classes) == 7 and images.mean == (0.5,) * 3
    assert not torch.equal(found["train"].masks, found["test"].masks)
    with pytest.raises(UnknownName, match="split of rooms 'tset'. Did you mean 'test'"):
        segmentation.rooms("tset")


def test_the_collage_of_the_room_world_is_an_image_set() -> None:
    pytest.importorskip("reuselib.worlds.rooms")
    images = data.load("room_collage", size=32, channels=3)
    assert images.shape == (3, 32, 32) and len(images) == 4000


# ---- what is missing or damaged


@pytest.mark.parametrize("name", [*TRUE_LAYOUTS, *tiny.PHOTOGRAPHS])
def test_missing_files_say_how_to_get_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))
    load: Callable[[str], object] = segmentation.load if name in TRUE_LAYOUTS else data.load
    with pytest.raises(MissingFile, match=r"downloads.* is missing. Fix: (bring .* to|bring .* into|python -c)"):
        load(name)


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "sunrgbd", "voc2012"])
def test_a_set_that_is_not_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.bring(name, monkeypatch, tmp_path)
    load = partial(segmentation.load, name) if name == "camvid" else partial(data.load, name, download=True)
    load()
    constant = "CAMVID_IMAGES" if name == "camvid" else tiny.PHOTOGRAPHS[name][0]
    monkeypatch.setattr(segmentation, constant, {"train": 6} if name == "camvid" else 6)
    with pytest.raises(DamagedFile, match="expected 6 images, found 5"):
        load()


def test_splits_of_nyuv2_that_were_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.bring("nyuv2", monkeypatch, tmp_path)
    path = tmp_path / "data" / "downloads" / "NYUv2" / "splits.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:150])
    with pytest.raises(DamagedFile, match="splits.mat is damaged: it has no readable 'trainNdxs'"):
        segmentation.nyuv2("train")
    scipy.io.savemat(path, {"trainNdxs": np.array([[1], [2]])})
    with pytest.raises(DamagedFile, match="expected 5 images, found 2"):
        segmentation.nyuv2("train")


def files_of(name: str, tmp_path: Path, part: str) -> Path:
    """The third training image or mask."""
    folder = tmp_path / "data" / "downloads" / {"camvid": "CamVid", "nyuv2": "NYUv2"}[name]
    return sorted((folder / part).iterdir())[2]


PLACES = {"camvid": ("train", "trainannot"), "nyuv2": ("nyu_train_rgb", "train_labels_13")}


@pytest.mark.parametrize("name", TRUE_LAYOUTS)
@pytest.mark.parametrize("which", [0, 1])
def test_files_that_cannot_be_decoded(name: str, which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.bring(name, monkeypatch, tmp_path)
    path = files_of(name, tmp_path, PLACES[name][which])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DamagedFile, match=rf"{path.name} is damaged: it cannot be decoded .*Fix: bring"):
        segmentation.load(name)


@pytest.mark.parametrize("name", TRUE_LAYOUTS)
def test_a_mask_that_is_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.bring(name, monkeypatch, tmp_path)
    path = files_of(name, tmp_path, PLACES[name][1])
    path.unlink()
    with pytest.raises(MissingFile, match=f"{path.name} is missing. Fix: bring"):
        segmentation.load(name)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (tiny.regions((480, 360), 2, 0).point(lambda value: value + 40), "it holds a value that is none of"),
        (tiny.regions((480, 360), 9, 0).convert("RGB"), "a mask has one channel of 8 bits, not the mode RGB"),
        (tiny.regions((360, 360), 9, 0), r"its size becomes \(32, 32\), not \(32, 42\) as that of"),
    ],
)
@pytest.mark.parametrize("name", TRUE_LAYOUTS)
def test_masks_that_are_none(
    name: str, image: Image.Image, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.bring(name, monkeypatch, tmp_path)
    path = files_of(name, tmp_path, PLACES[name][1])
    image.save(path)
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: {reason}"):
        segmentation.load(name)


def test_voc_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.bring("voc2012", monkeypatch, tmp_path)
    (tmp_path / "server" / "VOCtrainval_11-May-2012.tar").unlink()
    with pytest.raises(ReuseError, match="voc2012 could not be fetched .*connect to the network"):
        data.load("voc2012", download=True)


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(UnknownName, match="set with masks 'camvit'. Did you mean 'camvid'"):
        segmentation.load("camvit")
    for name in TRUE_LAYOUTS:
        with pytest.raises(UnknownName, match="Did you mean 'test'"):
            segmentation.load(name, "tests")


# ---- the tools


def test_a_sample_pairs_images_and_masks_and_repeats_by_generator() -> None:
    images = numbered()
    (x, y), (again, _), (other, _) = (images.sample(50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert x.shape == (50, 1, 4, 6) and x.dtype == torch.float32 and y.dtype == torch.int64 and is_numbered(x, y)
    assert torch.equal(x, again) and not torch.equal(x, other)


def test_windows_of_images_and_masks_belong_together() -> None:
    x, y = numbered().sample(50, torch.Generator().manual_seed(0), partial(window_and_flip, size=3))
    assert x.shape == (50, 1, 3, 3) and y.dtype == torch.int64 and (y == 255).any() and is_numbered(x, y)


def test_batches_are_everything_in_order() -> None:
    images = numbered()
    for batch, sizes in ((10, [10, 10, 3]), (None, [23])):
        parts = list(images.batches(batch))
        assert [len(x) for x, _ in parts] == sizes
        assert torch.equal(torch.cat([y for _, y in parts]), images.masks)
        assert is_numbered(torch.cat([x for x, _ in parts]), images.masks)


def test_large_images_come_a_few_at_a_time() -> None:
    pixels = torch.zeros(30, 3, 256, 341, dtype=torch.uint8, device="meta")
    images = segmentation.from_masks("large", pixels, torch.zeros(30, 256, 341, device="meta").long(), "ab")
    assert [len(x) for x, _ in images.batches()] == [12, 12, 6]


@pytest.mark.parametrize("index", [[3, 1], torch.tensor([3, 1]), slice(1, 4, 2), torch.arange(23) % 2 == 1])
def test_subsets(index: object) -> None:
    part = numbered().subset(index)
    assert torch.equal(part.masks, numbered().masks[index])
    assert torch.equal(part.images.images, numbered().images.images[index])


def test_take_draws_without_replacement_the_same_for_one_seed() -> None:
    first, again, other = (numbered().take(12, seed) for seed in (0, 0, 1))
    assert torch.equal(first.masks, again.masks) and not torch.equal(first.images.images, other.images.images)
    assert len(first.images.images.flatten(1).unique(dim=0)) == 12
    for count in (0, 24):
        with pytest.raises(ReuseError, match="ask for 1 to 23"):
            numbered().take(count, 0)


def test_it_says_what_it_is() -> None:
    images = numbered()
    assert repr(images) == "SegmentationSet('numbered', 23 x (1, 4, 6), 3 classes, cpu)"
    assert len(images) == 23 and images.classes == ("a", "b", "c") and images.device == torch.device("cpu")
    assert numbered(ignore=7).ignore == 7


def test_parts_that_do_not_fit() -> None:
    images = numbered()
    with pytest.raises(ShapeMismatch, match=r"masks must be int64 \(23, 4, 6\), not torch.uint8"):
        SegmentationSet(images.images, images.masks.byte(), images.classes)
    with pytest.raises(ShapeMismatch, match=r"masks must be int64 \(23, 4, 6\), not torch.int64 \(23, 4, 5\)"):
        SegmentationSet(images.images, images.masks[:, :, :5], images.classes)
    with pytest.raises(ShapeMismatch, match="use .to"):
        SegmentationSet(images.images, images.masks.to("meta"), images.classes)
    for wrong in (3, -1, 254):
        masks = images.masks.clone()
        masks[5, 0, 2] = wrong
        with pytest.raises(ShapeMismatch, match=f"masks of numbered must hold 0 to 2, or 255, not {wrong}"):
            SegmentationSet(images.images, masks, images.classes)
    for ignore in (2, 256):
        with pytest.raises(ShapeMismatch, match=f"ignore={ignore} must lie above 3 classes"):
            SegmentationSet(images.images, images.masks, images.classes, ignore)


def test_it_moves_to_another_device() -> None:
    there = numbered().to("meta")
    assert there.device.type == "meta" and there.images.images.is_meta and there.masks.is_meta
    x, y = there.sample(4, run.generator(there.device, 0), partial(window_and_flip, size=3))
    assert x.is_meta and x.shape == (4, 1, 3, 3) and y.shape == (4, 3, 3)
