"""Shapes and symbols: every class is there in equal shares, is what its name says, and only the seed decides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reuselib import data
from reuselib.data import ImageSet
from reuselib.errors import BadValue, UnknownName
from reuselib.worlds import symbols
from reuselib.worlds.shapes import ATTRIBUTES, CELLS, SHAPES, places, shape_attributes, shapes
from reuselib.worlds.symbols import SYMBOLS


@pytest.fixture(scope="module")
def cells() -> ImageSet:
    """Fifty images of every cell."""
    return shapes(1600, label="cell")


@pytest.fixture
def clear(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Eighty clear images of each symbol, white on grey without noise: coverage in [0, 1], (80, 16, 16)."""
    for name, value in {"NOISE": 0.0, "CONTRAST": (1.0, 1.0)}.items():
        monkeypatch.setattr(symbols, name, value)
    drawn = symbols.symbols(800)
    coverage = (drawn.images[:, 0].float() / 127.5 - 1).abs()
    return {name: coverage[drawn.labels == label] for label, name in enumerate(SYMBOLS)}


@pytest.mark.parametrize("draw", [lambda *args: shapes(*args, label="cell"), symbols.symbols])
def test_a_seed_decides_and_classes_come_in_equal_shares(draw: object) -> None:
    for size in (8, 20):
        first, again, other = (draw(73, size, seed) for seed in (1, 1, 2))
        assert first.shape == (1, size, size) and first.images.dtype == torch.uint8
        assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
        assert not torch.equal(first.images, other.images) and len(first.images.flatten(1).unique(dim=0)) == 73
        counts = first.labels.bincount(minlength=len(first.classes))
        assert counts.max() - counts.min() == 1 and not torch.equal(first.labels, first.labels.sort().values)


@pytest.mark.parametrize(("name", "train", "test"), [("shapes", 4000, 1000), ("symbols", 6000, 1500)])
def test_load_gives_splits_with_one_normalisation(name: str, train: int, test: int) -> None:
    first, second = data.load(name, "train", size=16), data.load(name, "test", size=16)
    assert (len(first), len(second), first.name) == (train, test, name)
    assert (second.mean, second.std) == (first.mean, first.std)
    x = torch.cat([images for images, _ in first.batches()])
    assert abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-3
    assert not set(map(bytes, first.images.numpy())) & set(map(bytes, second.images.numpy()))
    with pytest.raises(UnknownName, match="unknown split"):
        data.load(name, "validation")


# ---- shapes


def test_labels_cells_and_attributes_tell_of_the_same_images(cells: ImageSet) -> None:
    four = shapes(1600)
    assert torch.equal(four.images, cells.images) and torch.equal(four.labels, cells.labels // 8)
    assert four.classes == SHAPES and cells.classes == CELLS and CELLS[31] == "triangle dark striped large"
    assert all(name.startswith(SHAPES[index // 8]) for index, name in enumerate(CELLS))
    loaded, whole = data.load("shape_cells", "test"), data.load("shapes", "test")
    assert torch.equal(loaded.images, whole.images) and loaded.mean == whole.mean
    found, train = shape_attributes("test"), shape_attributes("train").images
    assert (len(train), len(found)) == (6000, 2000) and found.tasks == ATTRIBUTES and found.mean == train.mean
    words = [[names[t] for names, t in zip(ATTRIBUTES.values(), row, strict=True)] for row in found.targets.tolist()]
    assert [" ".join(each) for each in words] == [CELLS[label] for label in found.images.labels]
    others = {bytes(image) for each in (train, data.load("shapes"), whole) for image in each.images.numpy()}
    assert not others & set(map(bytes, found.images.images.numpy()))
    with pytest.raises(UnknownName, match="unknown label 'cells'. Did you mean 'cell'"):
        shapes(10, label="cells")
    for draw in (shapes, symbols.symbols):
        for options in ({"count": 0}, {"size": 0}, {"seed": -1}, {"count": 2.5}):
            with pytest.raises(BadValue, match="must be a whole number"):
                draw(**{"count": 3} | options)


AREAS = {"disc": math.pi, "ring": 0.6975 * math.pi, "square": 3.24, "frame": 2.24, "triangle": 2, "plus": 20 / 9}
AREAS |= {"cross": 20 / 9, "rows": 3.24 * 3 / 5, "columns": 3.24 * 3 / 5, "checkerboard": 3.24 / 2}


@pytest.mark.parametrize("name", SYMBOLS)
def test_outlines_have_their_areas_and_symmetries(name: str) -> None:
    x, y = places(200, torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5), 0.0)
    there = symbols.DRAWN[name](1.5 * x, 1.5 * y)[0]
    assert 9 * there.float().mean() == pytest.approx(AREAS[name], abs=0.02)
    turned, mirrored = (there != there.rot90()).float().mean(), (there != there.fliplr()).float().mean()
    assert (turned < 1e-3) == (name not in ("triangle", "rows", "columns", "checkerboard"))
    assert (mirrored < 1e-3) == (name != "checkerboard")
    assert (there[:400].sum() < 0.6 * there[400:].sum()) == (name == "triangle"), "its tip is up"


def test_every_cell_looks_as_its_name_says(cells: ImageSet) -> None:
    """How far pixels are from the light at the corners: shapes by their areas, dark and light, striped and small."""
    light = cells.images[:, 0].float() / 255
    ink = light[:, 6:10, 6:10].mean((1, 2)) - light[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    area = (light - light[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1).view(-1, 1, 1)).abs().mean((1, 2))
    mean = {name: float(area[cells.labels == label].mean()) for label, name in enumerate(CELLS)}
    for label, name in enumerate(CELLS):
        if "solid" in name:
            assert ((ink[cells.labels == label] > 0) == ("light" in name)).all()
            assert mean[name] > 1.2 * mean[name.replace("solid", "striped")]
        if "large" in name:
            assert mean[name] > 1.4 * mean[name.replace("large", "small")]


# ---- symbols


def test_noise_and_sign_of_the_contrast() -> None:
    images = symbols.symbols(2000)
    light = images.images[:, 0].float() / 127.5 - 1
    corners = light[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # far from nearly every symbol
    assert abs(corners.mean()) < 0.02 and corners.std() == pytest.approx(symbols.NOISE, abs=0.03)
    for label in range(10):
        middle = light[images.labels == label].mean((1, 2))
        assert 0.35 < (middle > 0).float().mean() < 0.65


def test_place_size_and_edges(clear: dict[str, Tensor]) -> None:
    disc = clear["disc"]
    place = (disc.sum(1) * torch.arange(16)).sum(1) / disc.sum((1, 2))
    assert place.std() == pytest.approx(4 / 12**0.5, rel=0.2) and abs(place.mean() - 7.5) < 0.4  # uniform on +-2
    radius = (disc.sum((1, 2)) / torch.pi).sqrt() / 8
    assert 0.43 < radius.min() < 0.5 and 0.65 < radius.max() < 0.72
    for name, coverage in clear.items():
        between = ((coverage > 0.05) & (coverage < 0.95)).float().mean()
        assert 0.02 < between < 0.35, "edges are smooth"
        assert coverage.amax((1, 2)).min() > (0.5 if name in ("rows", "columns", "checkerboard") else 0.9), name
