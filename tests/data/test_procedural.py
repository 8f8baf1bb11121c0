"""Digits by hand and in print, textures and noise: exact by seed, in equal shares, and what they say they are."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits

from reuselib import data
from reuselib.data.digits import digits, printed_digits
from reuselib.data.procedural import TEXTURES, noise, textures
from reuselib.errors import BadValue, UnknownName


def test_handwritten_digits_split_once_and_for_all() -> None:
    train, test = digits("train"), digits("test")
    assert len(train) == 1297 and len(test) == 500 and train.shape == (1, 8, 8)
    source = torch.from_numpy(load_digits().data).mul(255 / 16).round().byte()
    together = torch.cat([train.images, test.images]).flatten(1)
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, source.numpy()))
    assert torch.equal(test.images, digits("test").images) and test.labels.bincount(minlength=10).min() > 30


@pytest.mark.parametrize("draw", [partial(printed_digits, size=16), textures, noise])
def test_a_seed_decides_the_images(draw: partial) -> None:
    first, again, other = (draw(60, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (1, 16, 16) and torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images) and first.images.flatten(1).unique(dim=0).shape[0] > 57
    for options in ({"count": 0}, {"count": 2, "seed": -1}):
        with pytest.raises(BadValue, match="must be a whole number"):
            draw(**options)
    counts = first.labels.bincount()
    assert counts.min() == counts.max() and (len(counts) == 1 or not first.labels.equal(first.labels.sort().values))


def test_printed_digits_stay_in_the_picture_and_look_like_their_class() -> None:
    (train, labels), (test, truth) = ((s.images, s.labels) for s in (printed_digits(1000, 16, seed) for seed in (0, 1)))
    assert train[:, :, 1:-1, 1:-1].sum() > 0.95 * train.sum() and train.amax((1, 2, 3)).min() > 60
    means = torch.stack([train[labels == digit].float().mean(0).flatten() for digit in range(10)])
    assert (torch.cdist(test.float().flatten(1), means).argmin(1) == truth).float().mean() > 0.6, "nearest means"


def test_textures_are_what_they_are_called() -> None:
    images = textures(400, (1, 32, 32))
    by_kind = {name: images.images[images.labels == label, 0] for label, name in enumerate(TEXTURES)}
    values = {name: torch.tensor([image.unique().numel() for image in found]) for name, found in by_kind.items()}
    assert values["checkerboard"].max() <= 2 and values["grating"].float().mean() > 20
    clouds = by_kind["cloud"].float()
    power = torch.fft.rfft2(clouds - clouds.mean((1, 2), keepdim=True)).abs().square().mean(0)
    assert power[0, 2] > 10 * power[0, 10], "clouds fall with frequency"
    counts = noise(200).images.flatten().long().bincount(minlength=256)
    assert counts.min() > 100 and counts.max() < 320


@pytest.mark.parametrize("name", ["printed_digits", "textures", "noise"])
def test_load_draws_at_the_size_asked_for(name: str) -> None:
    images = data.load(name, "test", 12, 3)
    assert images.shape == (3, 12, 12) and len(images) == 2_000 and len(images.mean) == 3
    with pytest.raises(UnknownName, match="split 'tset'. Did you mean 'test'"):
        data.load(name, "tset")
