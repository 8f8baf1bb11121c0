"""Image sets: what every set can do, what those with other labels add, normalisation and sizes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from reuselib import data
from reuselib.data import ImageSet, MultiLabelSet, SegmentationSet
from reuselib.data.augment import crop_and_flip, window_and_flip
from reuselib.data.image_set import STATISTICS, statistics
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName
from reuselib.worlds import rooms, shapes, symbols


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def numbered(count: int = 23, shape: tuple[int, int, int] = (1, 8, 8)) -> ImageSet:
    """Images whose pixels and labels all equal the image's number."""
    labels = torch.arange(count)
    images = labels.byte().view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
    channels = shape[0]
    return ImageSet("numbered", images, labels, tuple(map(str, range(count))), (0.0,) * channels, (1.0,) * channels)


def several() -> MultiLabelSet:
    images = numbered()
    targets = torch.stack([images.labels, images.labels % 2], 1)
    return MultiLabelSet(images, targets, {"a": images.classes, "b": ("no", "yes")})


def masked() -> SegmentationSet:
    """The mask of an image holds its number everywhere."""
    images = numbered()
    return SegmentationSet(images, images.images[:, 0].long(), images.classes)


SETS = {"ImageSet": numbered, "MultiLabelSet": several, "SegmentationSet": masked}


def numbers(labels: torch.Tensor) -> torch.Tensor:
    """The images' numbers, by labels of any kind."""
    return labels.flatten(1)[:, 0] if labels.ndim > 1 else labels


# ---- what every set can do


@pytest.mark.parametrize("name", SETS)
def test_samples_batches_and_subsets_pair_images_and_labels(name: str) -> None:
    images: Any = SETS[name]()
    augment = window_and_flip if name == "SegmentationSet" else crop_and_flip
    (x, y), (again, _), (other, _) = (images.sample(200, seed(s)) for s in (1, 1, 2))
    assert x.shape == (200, 1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.equal((x[:, 0, 3, 3] * 255).round().long(), numbers(y)) and numbers(y).unique().numel() > 15
    assert torch.equal(x, again) and not torch.equal(x, other)
    moved, theirs = images.sample(200, seed(1), augment)
    assert torch.equal(numbers(theirs), numbers(y)) and moved.shape == x.shape
    parts = list(images.batches(10))
    assert [len(y) for _, y in parts] == [10, 10, 3]
    assert torch.equal(numbers(torch.cat([y for _, y in parts])), torch.arange(23))
    for index in ([3, 1], torch.tensor([3, 1]), slice(1, 4, 2), torch.arange(23) % 2 == 1):
        (x, y), *_ = images.subset(index).batches()
        assert torch.equal(numbers(y), torch.arange(23)[index])
        assert torch.equal((x[:, 0, 0, 0] * 255).round(), numbers(y))
    first, again, other = (numbers(next(images.take(12, s).batches())[1]) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and len(first.unique()) == 12
    assert repr(images).startswith(f"{name}('numbered', 23 x (1, 8, 8), ") and repr(images).endswith("cpu)")
    there = images.to("meta")
    assert there.device.type == "meta" and there.take(5, 1).device.type == "meta"
    assert all(part.is_meta for part in (*there.sample(9, None, window_and_flip), *next(there.batches(10))))


def test_numbers_that_cannot_be_meant() -> None:
    images = numbered()
    for call, message in (
        (lambda: images.take(24, 0), "count must be a whole number from 1 to 23, not"),
        (lambda: images.take(1, 2**64), "seed must be a whole number"),
        (lambda: next(images.batches(0)), "batch must be a whole number"),
        (lambda: images.sample(-1, seed()), "count must be a whole number of at least 1"),
        (lambda: images.subset([]).sample(2, seed()), "nothing can be drawn from .*'numbered', 0 x .*it is empty"),
    ):
        with pytest.raises(BadValue, match=message):
            call()


@pytest.mark.gpu
def test_a_gpu_draws_the_same_subset() -> None:
    images = numbered().to("cuda")
    x, y = images.sample(9, torch.Generator("cuda").manual_seed(0), crop_and_flip)
    assert x.is_cuda and y.is_cuda and torch.equal(images.take(5, 1).labels.cpu(), numbered().take(5, 1).labels)


def test_nothing_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    numbered().take(3, 0).sample(5, seed(), crop_and_flip)
    drawn = (data.digits.printed_digits, data.procedural.textures, data.procedural.noise)
    for draw in (*drawn, shapes.shapes, symbols.symbols):
        draw(20, seed=1)
    data.load("digits", "test").per_class(1, 0)
    data.attributes.digits(1)
    rooms.rooms("probes", 3, seed=5)
    rooms.closeups("real", "train", 2)
    assert torch.equal(before, torch.get_rng_state())


def test_parts_that_do_not_fit_are_refused() -> None:
    pixels, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    for message, changes in {
        "images must be uint8 .N, C, H, W., not torch.float32": {"images": pixels.float()},
        "images must be uint8 .N, C, H, W., not list": {"images": [pixels]},
        "labels must be int64 .2,., not list": {"labels": [0, 0]},
        "classes, mean and std must be tuples": {"mean": 0.5},
        "labels must be int64 .2,., not torch.int64 .1,.": {"labels": labels[:1]},
        "as many means": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
        "std must be a finite number above 0, not 0.0": {"std": (0.0,)},
        "mean must be a finite number, not inf": {"mean": (math.inf,)},
        "labels of x must be 0 to 0, not 1": {"labels": labels + 1},
        "labels of x must be 0 to 0, not -1": {"labels": labels - 1},
        "labels are on meta": {"labels": labels.to("meta")},
    }.items():
        parts = {"name": "x", "images": pixels, "labels": labels, "classes": ("a",), "mean": (0.0,), "std": (1.0,)}
        with pytest.raises((ShapeMismatch, BadValue), match=message):
            ImageSet(**(parts | changes))
    images = numbered()
    with pytest.raises(ShapeMismatch, match="normalised images already"):
        images.normalised(images.sample(2, seed())[0])


# ---- a few of each class


def classes(*counts: int) -> ImageSet:
    """A set with so many images of each class, in random order; every pixel is the image's own number."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seed(9))]
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return ImageSet("uneven", pixels, labels, tuple("abcdef"[: len(counts)]), (0.5,), (0.5,))


def test_per_class_draws_nested_sets_with_so_many_of_each() -> None:
    whole = classes(30, 7, 12)
    draws = [whole.per_class(count, seed=3) for count in range(1, 8)]
    for count, few in enumerate(draws, 1):
        found = few.images[:, 0, 0, 0].long()
        assert few.labels.bincount().tolist() == [count] * 3 and found.unique().numel() == 3 * count
        assert torch.equal(whole.labels[found], few.labels) and few.classes == whole.classes
    for smaller, larger in pairwise(draws):
        assert torch.equal(larger.images[: len(smaller)], smaller.images)
    assert not torch.equal(whole.per_class(7, seed=4).images, draws[-1].images)
    drawn = torch.cat([classes(5, 5).per_class(2, seed=s).images[:, 0, 0, 0].long() for s in range(300)])
    assert (drawn.bincount(minlength=10) / 300 - 2 / 5).abs().max() < 0.12, "every image as often"
    for count, message in ((0, "at least 1, not 0"), (8, "cannot draw 8 images of each class: ask for 1 to 7.*'b'")):
        with pytest.raises(ReuseError, match=message):
            whole.per_class(count, seed=0)
    with pytest.raises(ReuseError, match="'b' has none"):
        classes(5, 0, 5).per_class(1, seed=0)


def test_load_few_draws_from_the_training_images() -> None:
    few = data.load_few("digits", 3, seed=1, size=16)
    assert torch.equal(few.images, data.load("digits", "train", 16).per_class(3, seed=1).images)
    with pytest.raises(UnknownName, match="Did you mean 'symbols'"):
        data.load_few("symbol", 1, seed=0)


# ---- normalisation, sizes, colours


def test_normalised_and_statistics_by_hand() -> None:
    pixels = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(1, 2, 1, 2)
    images = ImageSet("tiny", pixels, torch.zeros(1, dtype=torch.int64), ("a",), (0.5, 0.2), (0.25, 0.5))
    expected = torch.tensor([-2.0, -1.2, 1.6, 0.4]).view(1, 2, 1, 2)
    torch.testing.assert_close(images.normalised(images.images), expected)
    drawn = torch.randint(256, (7, 3, 5, 5), generator=seed(), dtype=torch.uint8)
    values = drawn.double().div(255).transpose(0, 1).flatten(1)
    mean, std = statistics(drawn)
    assert mean == pytest.approx(values.mean(1).tolist()) and std == pytest.approx(values.std(1, correction=0).tolist())
    hidden = classes(3, 2).unlabelled()
    assert hidden.labels.tolist() == [0] * 5 and hidden.classes == ("unlabelled",)
    assert torch.equal(hidden.images, classes(3, 2).images)


@pytest.mark.parametrize("name", ["fashion_mnist", "digits"])
def test_stored_statistics_are_those_of_the_training_pixels(name: str) -> None:
    whole, test = (data.load(name, split) for split in ("train", "test"))
    for size in [size for known, size in STATISTICS if known == name]:
        train = whole.resized(size)
        mean, std = statistics(train.images)
        assert train.mean == pytest.approx(mean, abs=5e-5) and train.std == pytest.approx(std, abs=6e-5)
        assert test.subset(slice(4)).resized(size).mean == train.mean


def test_shrinking_28_pads_and_averages_and_enlarging_is_bilinear() -> None:
    images = data.load("fashion_mnist", "test").subset(slice(4))
    small, padded = images.resized(16).images, torch.zeros(4, 1, 32, 32)
    padded[:, :, 2:30, 2:30] = images.images.float()
    for row, column in ((0, 0), (7, 8), (15, 3)):
        block = padded[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(small[:, :, row, column], block.mean((2, 3)).round().byte())
    assert images.resized(28) is images and images.resized(32).shape == (1, 32, 32)
    flat = numbered(3).resized(32).images
    assert torch.equal(flat.amax((1, 2, 3)), flat.amin((1, 2, 3)))
    # Statistics of another set, or of three channels, are kept or follow.
    fashion, digits = images.resized(16), data.load("digits", "test")
    assert digits.with_statistics_of(fashion).resized(16).mean == fashion.mean
    assert images.with_channels(3).resized(16).mean == fashion.mean * 3


def test_grey_and_colour() -> None:
    colour = numbered(5).with_channels(3)
    assert colour.shape == (3, 8, 8) and len(colour.mean) == 3
    assert torch.equal(colour.with_channels(1).images, numbered(5).images)
    red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    red[:, 0], red[0, 0, 0, 0] = 200, 100
    single = ImageSet("red", red, torch.zeros(1, dtype=torch.int64), ("red",), (0.5,) * 3, (0.5,) * 3)
    assert single.with_channels(1).images.flatten().tolist() == [30, 60, 60, 60]
    with pytest.raises(ShapeMismatch, match="1 channels into 2"):
        numbered().with_channels(2)
