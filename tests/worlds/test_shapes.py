"""Shapes and symbols: every class is there in equal shares, is what its name says, and only the seed decides."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from zeroshot_toys import assert_refused

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


@pytest.mark.parametrize("draw", [partial(shapes, label="cell"), symbols.symbols])
def test_a_seed_decides_and_classes_come_in_equal_shares(draw: object) -> None:
    for size in (8, 20):
        first, again, other = (draw(73, size, seed) for seed in (1, 1, 2))
        assert first.shape == (1, size, size) and first.images.dtype == torch.uint8
        assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
        assert not torch.equal(first.images, other.images) and len(first.images.flatten(1).unique(dim=0)) == 73
        counts = first.labels.bincount(minlength=len(first.classes))
        assert counts.max() - counts.min() == 1 and not torch.equal(first.labels, first.labels.sort().values)
    bad = ("count", 0), ("size", 0), ("seed", -1), ("count", 2.5)
    assert_refused(*((BadValue, "whole number", partial(draw, **{"count": 3, name: value})) for name, value in bad))


@pytest.mark.parametrize(("name", "train", "test"), [("shapes", 4000, 1000), ("symbols", 6000, 1500)])
def test_load_gives_splits_with_one_normalisation(name: str, train: int, test: int) -> None:
    first, second = data.load(name, "train", size=16), data.load(name, "test", size=16)
    assert (len(first), len(second), first.name) == (train, test, name)
    assert (second.mean, second.std) == (first.mean, first.std)
    assert not set(map(bytes, first.images.numpy())) & set(map(bytes, second.images.numpy()))


def test_labels_cells_and_attributes_tell_of_the_same_images(cells: ImageSet) -> None:
    four = shapes(1600)
    assert torch.equal(four.images, cells.images) and torch.equal(four.labels, cells.labels // 8)
    assert four.classes == SHAPES and cells.classes == CELLS and CELLS[31] == "triangle dark striped large"
    found, train = shape_attributes("test"), shape_attributes("train").images
    assert (len(train), len(found)) == (6000, 2000) and found.tasks == ATTRIBUTES and found.mean == train.mean
    words = [[names[t] for names, t in zip(ATTRIBUTES.values(), row, strict=True)] for row in found.targets.tolist()]
    assert [" ".join(each) for each in words] == [CELLS[label] for label in found.images.labels]
    others = {bytes(image) for each in (train, data.load("shapes")) for image in each.images.numpy()}
    assert not others & set(map(bytes, found.images.images.numpy()))
    with pytest.raises(UnknownName, match="unknown label 'cells'. Did you mean 'cell'"):
        shapes(10, label="cells")


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
