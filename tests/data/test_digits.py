import time

import pytest
import torch

from reuselib import data
from reuselib.data.digits import digits, printed_digits
from reuselib.errors import UnknownName


def test_digits_split_once_and_for_all() -> None:
    train, test = digits("train"), digits("test")
    assert len(train) == 1297 and len(test) == 500 and train.shape == (1, 8, 8)
    assert torch.equal(test.images, digits("test").images)
    together = torch.cat([train.images, test.images]).flatten(1)
    from sklearn.datasets import load_digits

    source = torch.from_numpy(load_digits().data).mul(255 / 16).round().byte()
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, source.numpy()))
    assert test.labels.bincount(minlength=10).min() > 30
    assert train.images.max() == 255 and train.classes == tuple("0123456789")


def test_unknown_split() -> None:
    with pytest.raises(UnknownName, match="'test'"):
        digits("tset")


@pytest.mark.parametrize("size", [8, 16])
def test_printed_digits_repeat_by_seed(size: int) -> None:
    first = printed_digits(60, size, seed=3)
    assert first.shape == (1, size, size) and len(first) == 60
    assert torch.equal(first.images, printed_digits(60, size, seed=3).images)
    assert not torch.equal(first.images, printed_digits(60, size, seed=4).images)
    assert first.labels.bincount().tolist() == [6] * 10
    assert first.images.amax((1, 2, 3)).min() > 60 and first.images.flatten(1).unique(dim=0).shape[0] == 60


def test_printed_digits_stay_in_the_picture() -> None:
    images = printed_digits(500, 16, seed=0).images.float()
    inside = images[:, :, 1:-1, 1:-1]
    assert inside.sum() > 0.95 * images.sum()


def test_printed_digits_look_like_their_class() -> None:
    """A nearest-mean rule learned on one seed reads another."""
    train, test = (printed_digits(1000, 16, seed).images.float().flatten(1) for seed in (0, 1))
    labels = [printed_digits(1000, 16, seed).labels for seed in (0, 1)]
    means = torch.stack([train[labels[0] == digit].mean(0) for digit in range(10)])
    assert (torch.cdist(test, means).argmin(1) == labels[1]).float().mean() > 0.6


def test_printed_digits_are_fast() -> None:
    printed_digits(10, 16)
    start = time.process_time()
    printed_digits(6000, 16)
    assert time.process_time() - start < 5


def test_load_draws_at_the_size_asked_for() -> None:
    images = data.load("printed_digits", "test", size=16, channels=3)
    assert images.shape == (3, 16, 16) and len(images.mean) == 3
    assert not torch.equal(images.images[:10], data.load("printed_digits", "train", 16, 3).images[:10])
