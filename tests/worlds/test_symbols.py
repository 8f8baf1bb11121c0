"""Symbols in noise: ten classes in equal shares, each what its name says, and only the seed decides."""

import pytest
import torch
from torch import Tensor

from reuselib import data
from reuselib.worlds import symbols
from reuselib.worlds.symbols import SYMBOLS


@pytest.fixture(scope="module")
def images() -> data.ImageSet:
    """Two hundred images of every symbol."""
    return symbols.symbols(2000)


@pytest.fixture
def clear(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Eighty clear images of each symbol, white on grey without noise: coverage in [0, 1], (80, 16, 16)."""
    for name, value in {"NOISE": 0.0, "CONTRAST": (1.0, 1.0)}.items():
        monkeypatch.setattr(symbols, name, value)
    drawn = symbols.symbols(800)
    coverage = (drawn.images[:, 0].float() / 127.5 - 1).abs()
    return {name: coverage[drawn.labels == label] for label, name in enumerate(SYMBOLS)}


@pytest.mark.parametrize("size", [8, 16, 20, 32])
def test_repeats_by_seed(size: int) -> None:
    first = symbols.symbols(70, size, seed=1)
    assert first.shape == (1, size, size) and len(first) == 70 and first.images.dtype == torch.uint8
    assert torch.equal(first.images, symbols.symbols(70, size, seed=1).images)
    assert torch.equal(first.labels, symbols.symbols(70, size, seed=1).labels)
    assert not torch.equal(first.images, symbols.symbols(70, size, seed=2).images)


def test_ten_classes_in_equal_shares_and_random_order(images: data.ImageSet) -> None:
    assert len(SYMBOLS) == 10 == len(symbols.DRAWN) and images.classes == SYMBOLS
    assert images.labels.bincount().tolist() == [200] * 10
    assert not torch.equal(images.labels, images.labels.sort().values)
    assert len(images.images.flatten(1).unique(dim=0)) == len(images)
    counts = symbols.symbols(73).labels.bincount(minlength=10)
    assert counts.max() - counts.min() == 1


def test_noise_and_sign_of_the_contrast(images: data.ImageSet) -> None:
    light = images.images[:, 0].float() / 127.5 - 1
    corners = light[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # far from nearly every symbol
    assert abs(corners.mean()) < 0.02 and corners.std() == pytest.approx(symbols.NOISE, abs=0.03)
    for label in range(10):
        middle = light[images.labels == label].mean((1, 2))
        assert 0.35 < (middle > 0).float().mean() < 0.65


def test_place_size_and_angle_vary(clear: dict[str, Tensor]) -> None:
    disc = clear["disc"]
    place = (disc.sum(1) * torch.arange(16)).sum(1) / disc.sum((1, 2))
    assert place.std() == pytest.approx(4 / 12**0.5, rel=0.2) and abs(place.mean() - 7.5) < 0.4  # uniform on +-2
    radius = (disc.sum((1, 2)) / torch.pi).sqrt() / 8
    assert 0.43 < radius.min() < 0.5 and 0.65 < radius.max() < 0.72
    assert len(clear["columns"].sum(1).round(decimals=2).unique(dim=0)) == 80


def test_edges_are_smooth_and_insides_full(clear: dict[str, Tensor]) -> None:
    for name, coverage in clear.items():
        between = ((coverage > 0.05) & (coverage < 0.95)).float().mean()
        assert 0.02 < between < 0.35, name
        assert coverage.amax((1, 2)).min() > (0.5 if name in ("rows", "columns", "checkerboard") else 0.9), name


def centred(coverage: Tensor) -> Tensor:
    """Give the mean of the images after each was moved to its own centre by whole pixels."""
    grid = torch.arange(16.0)
    total = coverage.sum((1, 2))
    down = ((coverage.sum(2) * grid).sum(1) / total - 8).round().long()
    right = ((coverage.sum(1) * grid).sum(1) / total - 8).round().long()
    moved = [image.roll((-int(d), -int(r)), (0, 1)) for image, d, r in zip(coverage, down, right, strict=True)]
    return torch.stack(moved).mean(0)


def test_symbols_have_their_outlines(clear: dict[str, Tensor]) -> None:
    mean = {name: centred(coverage) for name, coverage in clear.items()}
    middle = {name: image[7:10, 7:10].mean() for name, image in mean.items()}
    assert all(middle[full] > 0.9 for full in ("disc", "square", "plus", "cross"))
    assert all(middle[hollow] < 0.3 for hollow in ("ring", "frame"))
    sides = {
        name: torch.stack([image[8, 4], image[8, 12], image[4, 8], image[12, 8]]).mean() for name, image in mean.items()
    }
    corners = {
        name: torch.stack([image[i, j] for i in (5, 11) for j in (5, 11)]).mean() for name, image in mean.items()
    }
    assert sides["plus"] > 2 * corners["plus"] and corners["cross"] > 2 * sides["cross"]
    assert corners["square"] > corners["disc"] and corners["frame"] > corners["ring"]
    triangle = mean["triangle"]
    assert triangle[4:8].sum() < 0.6 * triangle[8:13].sum()


def test_rows_columns_and_fields(clear: dict[str, Tensor]) -> None:
    def waves(name: str, dimension: int) -> float:
        """Give how much an image's middle varies along one direction."""
        profile = clear[name].mean(3 - dimension)
        return (profile[:, 1:] - profile[:, :-1]).abs().sum(1).mean().item()

    assert waves("rows", 1) > 1.5 * waves("rows", 2) and waves("columns", 2) > 1.5 * waves("columns", 1)
    area = {name: coverage.sum((1, 2)).mean() for name, coverage in clear.items()}
    assert area["checkerboard"] / area["square"] == pytest.approx(1 / 2, abs=0.06)
    assert area["rows"] / area["square"] == pytest.approx(3 / 5, abs=0.06)
    assert area["rows"] == pytest.approx(area["columns"].item(), rel=0.06)


def test_load_gives_train_and_test_with_one_normalisation() -> None:
    train, test = data.load("symbols", "train", size=16), data.load("symbols", "test", size=16)
    assert (len(train), len(test), train.name, train.shape) == (6000, 1500, "symbols", (1, 16, 16))
    assert (test.mean, test.std) == (train.mean, train.std)
    x = torch.cat([images for images, _ in train.batches()])
    assert abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-3
    assert not set(map(bytes, train.images.numpy())) & set(map(bytes, test.images.numpy()))
