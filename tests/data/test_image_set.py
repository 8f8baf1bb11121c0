from itertools import pairwise

import pytest
import torch

from reuselib import data
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip
from reuselib.data.image_set import STATISTICS, statistics
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName


def numbered(count: int = 23, shape: tuple[int, int, int] = (1, 8, 8)) -> ImageSet:
    """Make images whose pixels and labels all equal the image's number."""
    labels = torch.arange(count)
    images = labels.byte().view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
    channels = shape[0]
    return ImageSet("numbered", images, labels, tuple(map(str, range(count))), (0.0,) * channels, (1.0,) * channels)


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def test_sample_repeats_by_generator_and_pairs_labels() -> None:
    images = numbered()
    first, second, other = (images.sample(200, seed(s)) for s in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])
    x, y = first
    assert x.shape == (200, 1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.equal((x[:, 0, 3, 3] * 255).round().long(), y)
    assert y.unique().numel() > 15


def test_sampling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    images = numbered()
    images.sample(5, seed(), crop_and_flip)
    list(images.epoch(5, seed(), crop_and_flip))
    images.take(3, seed=0)
    for name in ("printed_digits", "textures", "noise", "digits"):
        data.load(name, "test")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("batch", [1, 5, 10, 23])
def test_epoch_covers_each_image_at_most_once(batch: int) -> None:
    labels = torch.cat([y for _, y in numbered().epoch(batch, seed(3))])
    assert len(labels) == 23 // batch * batch
    assert labels.unique().numel() == len(labels)
    again = torch.cat([y for _, y in numbered().epoch(batch, seed(3))])
    assert torch.equal(labels, again)


def test_epoch_refuses_a_batch_larger_than_the_set() -> None:
    with pytest.raises(ReuseError, match="24 cannot be drawn from the 23"):
        numbered().epoch(24, seed())


def test_batches_keep_order_and_the_last_short_one() -> None:
    parts = list(numbered().batches(10))
    assert [len(y) for _, y in parts] == [10, 10, 3]
    assert torch.equal(torch.cat([y for _, y in parts]), torch.arange(23))


def test_subset_and_take() -> None:
    images = numbered()
    assert images.subset([5, 2]).labels.tolist() == [5, 2]
    assert images.subset(slice(3)).labels.tolist() == [0, 1, 2]
    assert images.subset(images.labels > 20).labels.tolist() == [21, 22]
    some = images.take(10, seed=4)
    assert torch.equal(some.labels, images.take(10, seed=4).labels)
    assert some.labels.unique().numel() == 10
    with pytest.raises(ReuseError, match="ask for 1 to 23"):
        images.take(24, seed=0)


def classes(*counts: int) -> ImageSet:
    """Make a set with so many images of each class, in random order; every pixel is the image's own number."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seed(9))]
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return ImageSet("uneven", pixels, labels, tuple("abcdef"[: len(counts)]), (0.5,), (0.5,))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_per_class_draws_so_many_of_each(count: int) -> None:
    whole = classes(30, 7, 12)
    few = whole.per_class(count, seed=3)
    assert len(few) == 3 * count and few.labels.bincount().tolist() == [count] * 3
    numbers = few.images[:, 0, 0, 0].long()
    assert numbers.unique().numel() == len(few)  # none twice
    assert torch.equal(whole.labels[numbers], few.labels)  # and each with its own label
    assert (few.classes, few.mean, few.std, few.name) == (whole.classes, whole.mean, whole.std, "uneven")


def test_per_class_is_nested_and_only_the_seed_decides() -> None:
    whole = classes(30, 30, 30)
    draws = [whole.per_class(count, seed=3).images for count in range(1, 11)]
    for smaller, larger in pairwise(draws):
        assert torch.equal(larger[: len(smaller)], smaller)
    assert torch.equal(whole.per_class(10, seed=3).images, draws[-1])
    assert not torch.equal(whole.per_class(10, seed=4).images, draws[-1])
    before = torch.get_rng_state()
    whole.per_class(2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_per_class_takes_every_image_as_often() -> None:
    whole = classes(5, 5)
    drawn = torch.cat([whole.per_class(2, seed=s).images[:, 0, 0, 0].long() for s in range(300)])
    assert (drawn.bincount(minlength=10) / 300 - 2 / 5).abs().max() < 0.12


@pytest.mark.parametrize("count", [0, -1, 8])
def test_per_class_names_the_rarest_class(count: int) -> None:
    with pytest.raises(ReuseError, match=rf"cannot draw {count} images of each class: ask for 1 to 7.*'b'"):
        classes(30, 7, 12).per_class(count, seed=0)


def test_per_class_names_a_class_without_images() -> None:
    whole = classes(5, 0, 5)
    with pytest.raises(ReuseError, match="'b' has none"):
        whole.per_class(1, seed=0)


def test_unlabelled_hides_the_labels_alone() -> None:
    whole = classes(3, 2)
    hidden = whole.unlabelled()
    assert hidden.labels.tolist() == [0] * 5 and hidden.labels.dtype == torch.int64
    assert hidden.classes == ("unlabelled",) and torch.equal(hidden.images, whole.images)
    assert (hidden.mean, hidden.std) == (whole.mean, whole.std) and whole.labels.bincount().tolist() == [3, 2]
    assert hidden.to("meta").labels.is_meta


@pytest.mark.parametrize("name", ["fashion_mnist", "symbols"])
def test_load_few_draws_from_the_training_images(name: str) -> None:
    few = data.load_few(name, 3, seed=1, size=16)
    assert torch.equal(few.images, data.load(name, "train", size=16).per_class(3, seed=1).images)
    assert few.shape == (1, 16, 16) and few.labels.tolist() == [*range(10)] * 3
    assert few.mean == data.load(name, "test", size=16).mean
    assert data.load_few(name, 1, seed=1, channels=3).shape[0] == 3


def test_load_few_names_the_nearest_set() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'symbols'"):
        data.load_few("symbol", 1, seed=0)


def test_normalised_by_hand() -> None:
    images = ImageSet(
        "tiny",
        torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(1, 2, 1, 2),
        torch.zeros(1, dtype=torch.int64),
        ("a",),
        (0.5, 0.2),
        (0.25, 0.5),
    )
    expected = torch.tensor([-2.0, -1.2, 1.6, 0.4]).view(1, 2, 1, 2)
    torch.testing.assert_close(images.normalised(images.images), expected)


@pytest.mark.parametrize(("name", "size"), list(STATISTICS))
def test_stored_statistics_are_those_of_the_training_pixels(name: str, size: int) -> None:
    train = data.load(name, "train", size=size)
    mean, std = statistics(train.images)
    assert train.mean == pytest.approx(mean, abs=5e-5) and train.std == pytest.approx(std, abs=6e-5)
    assert data.load(name, "test", size=size).mean == train.mean
    x = train.normalised(train.images)
    assert abs(x.mean()) < 1e-3 and abs(x.std() - 1) < 1e-3


def test_statistics_by_hand() -> None:
    images = torch.randint(256, (7, 3, 5, 5), generator=seed(), dtype=torch.uint8)
    pixels = images.double().div(255).transpose(0, 1).flatten(1)
    mean, std = statistics(images)
    assert mean == pytest.approx(pixels.mean(1).tolist())
    assert std == pytest.approx(pixels.std(1, correction=0).tolist())


def test_shrinking_28_pads_and_averages() -> None:
    images = data.load("fashion_mnist", "test").subset(slice(4))
    small = images.resized(16).images
    padded = torch.zeros(4, 1, 32, 32)
    padded[:, :, 2:30, 2:30] = images.images.float()
    for row, column in ((0, 0), (7, 8), (15, 3)):
        block = padded[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(small[:, :, row, column], block.mean((2, 3)).round().byte())
    assert images.resized(28) is images


def test_enlarging_is_bilinear_and_stays_in_range() -> None:
    images = data.load("fashion_mnist", "test").subset(slice(4))
    assert images.resized(32).shape == (1, 32, 32)
    flat = numbered(3).resized(32).images
    assert torch.equal(flat.amax((1, 2, 3)), flat.amin((1, 2, 3)))


def test_statistics_of_another_set_survive_resizing() -> None:
    fashion = data.load("fashion_mnist", "test", size=16)
    digits = data.load("digits", "test").with_statistics_of(fashion)
    assert digits.resized(16).mean == fashion.mean
    assert data.load("fashion_mnist", "test").with_channels(3).resized(16).mean == fashion.mean * 3


def test_grey_and_colour() -> None:
    grey = numbered(5).with_channels(3)
    assert grey.shape == (3, 8, 8) and len(grey.mean) == 3
    assert torch.equal(grey.with_channels(1).images, numbered(5).images)
    red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    red[:, 0] = 200
    single = ImageSet("red", red, torch.zeros(1, dtype=torch.int64), ("red",), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ShapeMismatch, match="std must be above 0"):
        single.with_channels(1)  # one value everywhere has no spread
    red[0, 0, 0, 0] = 100
    assert single.with_channels(1).images.flatten().tolist() == [30, 60, 60, 60]
    with pytest.raises(ShapeMismatch, match="1 channels into 2"):
        numbered().with_channels(2)


def test_moves_between_devices() -> None:
    moved = numbered().to("meta")
    assert moved.images.is_meta and moved.labels.is_meta and moved.device.type == "meta"
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        images = numbered().to(device)
        x, y = images.sample(9, torch.Generator(device).manual_seed(0), crop_and_flip)
        assert x.device.type == y.device.type == device.type
        assert torch.equal(images.take(5, 1).labels.cpu(), numbered().take(5, 1).labels)


def test_drawing_runs_on_meta() -> None:
    images = numbered().to("meta")
    x, y = images.sample(9, seed(), crop_and_flip)
    assert x.is_meta and y.is_meta and x.shape == (9, 1, 8, 8)
    parts = list(images.epoch(10, seed(), crop_and_flip))
    assert len(parts) == 2 and all(x.is_meta and y.is_meta for x, y in parts)
    assert all(x.is_meta for x, _ in images.resized(4).batches(10))


def test_repr_names_the_set() -> None:
    assert repr(numbered()) == "ImageSet('numbered', 23 x (1, 8, 8), 23 classes, cpu)"


def test_parts_that_do_not_fit_are_refused() -> None:
    pixels, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ShapeMismatch, match="uint8"):
        ImageSet("x", pixels.float(), labels, ("a",), (0.0,), (1.0,))
    with pytest.raises(ShapeMismatch, match="labels must be int64"):
        ImageSet("x", pixels, labels[:1], ("a",), (0.0,), (1.0,))
    with pytest.raises(ShapeMismatch, match="as many means"):
        ImageSet("x", pixels, labels, ("a",), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ShapeMismatch, match="labels are on meta"):
        ImageSet("x", pixels, labels.to("meta"), ("a",), (0.0,), (1.0,))
    images = numbered()
    with pytest.raises(ShapeMismatch, match="normalised images already"):
        images.normalised(images.sample(2, seed())[0])
