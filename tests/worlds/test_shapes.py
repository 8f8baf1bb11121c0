"""Shapes with hidden modes: every cell is there, is what its name says, and only the seed decides."""

import pytest
import torch

from reuselib import data
from reuselib.errors import UnknownName
from reuselib.worlds.shapes import CELLS, MODES, SHAPES, shapes


@pytest.fixture(scope="module")
def cells() -> data.ImageSet:
    """Fifty images of every cell."""
    return shapes(1600, label="cell")


def pixels(images: data.ImageSet, *words: str) -> torch.Tensor:
    """Return the images in [0, 1] whose cell has all these words in its name: float (N, H, W)."""
    chosen = torch.tensor([set(words) <= set(name.split()) for name in images.classes])
    return images.images[chosen[images.labels], 0].float() / 255


def ink(images: torch.Tensor) -> torch.Tensor:
    """Return how far each image's pixels are from its corners' light, (N, H, W)."""
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    return (images - corners.view(-1, 1, 1)).abs()


@pytest.mark.parametrize("size", [8, 16, 20, 32])
def test_repeats_by_seed(size: int) -> None:
    first = shapes(70, size, seed=1)
    assert first.shape == (1, size, size) and len(first) == 70 and first.images.dtype == torch.uint8
    assert torch.equal(first.images, shapes(70, size, seed=1).images)
    assert not torch.equal(first.images, shapes(70, size, seed=2).images)


def test_32_cells_in_equal_shares_and_random_order(cells: data.ImageSet) -> None:
    assert len(CELLS) == 32 == len(SHAPES) * MODES and CELLS[31] == "triangle dark striped large"
    assert cells.classes == CELLS and cells.labels.bincount().tolist() == [50] * 32
    assert not torch.equal(cells.labels, cells.labels.sort().values)
    assert len(cells.images.flatten(1).unique(dim=0)) == len(cells)


def test_both_kinds_of_label_tell_of_the_same_images(cells: data.ImageSet) -> None:
    four = shapes(1600)
    assert torch.equal(four.images, cells.images) and torch.equal(four.labels, cells.labels // 8)
    assert four.classes == SHAPES and (four.mean, four.std) == (cells.mean, cells.std)
    assert all(name.startswith(SHAPES[index // 8]) for index, name in enumerate(CELLS))


def test_polarity(cells: data.ImageSet) -> None:
    for word, sign in (("light", 1), ("dark", -1)):
        images = pixels(cells, word, "solid")
        contrast = sign * (images[:, 6:10, 6:10].mean((1, 2)) - images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1))
        assert contrast.min() > 0.2


def test_stripes_and_sizes_change_the_ink(cells: data.ImageSet) -> None:
    for shape in SHAPES:
        solid, striped = (ink(pixels(cells, shape, word, "large")).sum((1, 2)).mean() for word in ("solid", "striped"))
        assert solid > 1.25 * striped
        large, small = (ink(pixels(cells, shape, "solid", word)).sum((1, 2)).mean() for word in ("large", "small"))
        assert large > 1.5 * small


def test_shapes_have_their_outlines(cells: data.ImageSet) -> None:
    """Of a large solid shape: the corners of its box, the middles of its sides, top against bottom."""
    mean = {shape: ink(pixels(cells, shape, "solid", "large")).mean(0) for shape in SHAPES}
    corner = {shape: image[3:5, 3:5].mean() / image[7:9, 7:9].mean() for shape, image in mean.items()}
    assert corner["square"] > 0.8 > 0.7 > corner["disc"] > 0.3 > corner["cross"] > corner["triangle"] - 0.1
    top_and_bottom = {shape: image[2:5].sum() / image[11:14].sum() for shape, image in mean.items()}
    assert top_and_bottom["triangle"] < 0.5
    assert all(0.8 < top_and_bottom[shape] < 1.25 for shape in SHAPES[:3])


def test_position_varies(cells: data.ImageSet) -> None:
    images = ink(pixels(cells, "disc", "solid", "small"))
    images = images * (images > 0.25)
    centre = (images.sum(1) * torch.arange(16)).sum(1) / images.sum((1, 2))
    assert 0.5 < centre.std() < 1.5 and abs(centre.mean() - 7.5) < 0.4


def test_load_gives_train_and_test_with_one_normalisation() -> None:
    train, test = data.load("shapes", "train", size=16), data.load("shapes", "test", size=16)
    assert (len(train), len(test), train.name) == (4000, 1000, "shapes")
    assert (test.mean, test.std) == (train.mean, train.std)
    x = torch.cat([images for images, _ in train.batches()])
    assert abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-3
    assert not set(map(bytes, train.images.numpy())) & set(map(bytes, test.images.numpy()))
    for split, images in (("train", train), ("test", test)):
        cells = data.load("shape_cells", split)
        assert torch.equal(cells.images, images.images) and torch.equal(cells.labels // 8, images.labels)
        assert (cells.name, cells.mean, cells.std) == ("shape_cells", train.mean, train.std)


def test_errors() -> None:
    with pytest.raises(UnknownName, match="unknown label 'cells'. Did you mean 'cell'"):
        shapes(10, label="cells")
    with pytest.raises(UnknownName, match="unknown split"):
        data.load("shapes", "validation")
