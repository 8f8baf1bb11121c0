"""Shapes and symbols: every class is there in equal shares, is what its name says, and only the seed decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reuselib import data
from reuselib.data import ImageSet
from reuselib.errors import UnknownName
from reuselib.worlds import symbols
from reuselib.worlds.shapes import ATTRIBUTES, CELLS, SHAPES, shape_attributes, shapes
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


def pixels(images: ImageSet, *words: str) -> Tensor:
    """The images in [0, 1] whose cell has all these words in its name: float (N, H, W)."""
    chosen = torch.tensor([set(words) <= set(name.split()) for name in images.classes])
    return images.images[chosen[images.labels], 0].float() / 255


def ink(images: Tensor) -> Tensor:
    """How far each image's pixels are from its corners' light, (N, H, W)."""
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    return (images - corners.view(-1, 1, 1)).abs()


def test_shapes_have_their_outlines_and_modes(cells: ImageSet) -> None:
    """Of a large solid shape: the corners of its box, the middles of its sides, top against bottom."""
    mean = {shape: ink(pixels(cells, shape, "solid", "large")).mean(0) for shape in SHAPES}
    corner = {shape: image[3:5, 3:5].mean() / image[7:9, 7:9].mean() for shape, image in mean.items()}
    assert corner["square"] > 0.8 > 0.7 > corner["disc"] > 0.3 > corner["cross"] > corner["triangle"] - 0.1
    top_and_bottom = {shape: image[2:5].sum() / image[11:14].sum() for shape, image in mean.items()}
    assert top_and_bottom["triangle"] < 0.5 and all(0.8 < top_and_bottom[shape] < 1.25 for shape in SHAPES[:3])
    for shape in SHAPES:
        solid, striped, small = (
            ink(pixels(cells, shape, *words)).sum((1, 2)).mean()
            for words in (("solid", "large"), ("striped", "large"), ("solid", "small"))
        )
        assert solid > 1.25 * striped and solid > 1.5 * small
    for word, sign in (("light", 1), ("dark", -1)):
        images = pixels(cells, word, "solid")
        contrast = sign * (images[:, 6:10, 6:10].mean((1, 2)) - images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1))
        assert contrast.min() > 0.2
    images = ink(pixels(cells, "disc", "solid", "small"))
    images = images * (images > 0.25)
    centre = (images.sum(1) * torch.arange(16)).sum(1) / images.sum((1, 2))
    assert 0.5 < centre.std() < 1.5 and abs(centre.mean() - 7.5) < 0.4, "the place varies"


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


def centred(coverage: Tensor) -> Tensor:
    """The mean of the images after each was moved to its own centre by whole pixels."""
    grid, total = torch.arange(16.0), coverage.sum((1, 2))
    down = ((coverage.sum(2) * grid).sum(1) / total - 8).round().int().tolist()
    right = ((coverage.sum(1) * grid).sum(1) / total - 8).round().int().tolist()
    moved = [image.roll((-d, -r), (0, 1)) for image, d, r in zip(coverage, down, right, strict=True)]
    return torch.stack(moved).mean(0)


def test_symbols_have_their_outlines(clear: dict[str, Tensor]) -> None:
    mean = {name: centred(coverage) for name, coverage in clear.items()}
    middle = {name: image[7:10, 7:10].mean() for name, image in mean.items()}
    assert all(middle[full] > 0.9 for full in ("disc", "square", "plus", "cross"))
    assert all(middle[hollow] < 0.3 for hollow in ("ring", "frame"))
    sides = {name: image[[8, 8, 4, 12], [4, 12, 8, 8]].mean() for name, image in mean.items()}
    corners = {name: image[[5, 5, 11, 11], [5, 11, 5, 11]].mean() for name, image in mean.items()}
    assert sides["plus"] > 2 * corners["plus"] and corners["cross"] > 2 * sides["cross"]
    assert corners["square"] > corners["disc"] and corners["frame"] > corners["ring"]
    assert mean["triangle"][4:8].sum() < 0.6 * mean["triangle"][8:13].sum()
    area = {name: coverage.sum((1, 2)).mean() for name, coverage in clear.items()}
    for name, share in {"checkerboard": 1 / 2, "rows": 3 / 5, "columns": 3 / 5}.items():
        assert area[name] / area["square"] == pytest.approx(share, abs=0.06)
    waves = {
        (name, axis): clear[name].mean(3 - axis).diff(dim=1).abs().sum(1).mean()
        for name in ("rows", "columns")
        for axis in (1, 2)
    }
    assert waves["rows", 1] > 1.5 * waves["rows", 2] and waves["columns", 2] > 1.5 * waves["columns", 1]
