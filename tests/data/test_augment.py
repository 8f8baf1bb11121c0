import pytest
import torch
from torch import Tensor

from reuselib.data.augment import crop_and_flip


def plain(images: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    """Crop and mirror one image after the other, with the same draws."""
    count, channels, height, width = images.shape
    down, right = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator) if flip else torch.zeros(count, 1)
    result = []
    for index, image in enumerate(images):
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=images.dtype)
        canvas[:, padding : padding + height, padding : padding + width] = image
        top, left = int(down[index]), int(right[index])
        crop = canvas[:, top : top + height, left : left + width]
        result.append(crop.flip(2) if mirrored[index] else crop)
    return torch.stack(result)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_equals_the_plain_version(padding: int, flip: bool, dtype: torch.dtype) -> None:
    images = torch.randint(256, (60, 3, 9, 7)).to(dtype)
    fast = crop_and_flip(images, torch.Generator().manual_seed(5), padding, flip)
    slow = plain(images, torch.Generator().manual_seed(5), padding, flip)
    assert fast.dtype == dtype and torch.equal(fast, slow)


def test_without_padding_and_mirror_nothing_changes() -> None:
    images = torch.randint(256, (5, 1, 6, 6), dtype=torch.uint8)
    assert torch.equal(crop_and_flip(images, torch.Generator(), 0, False), images)


def test_every_place_and_both_sides_occur() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 1] = 1
    moved = crop_and_flip(image.expand(4000, 1, 5, 5), torch.Generator().manual_seed(0), padding=1)
    share = moved.mean((0, 1))
    assert (share[1:4] > 0.03).all() and torch.allclose(share.sum(), torch.tensor(1.0))
    assert (moved[:, :, :, 3:].sum((1, 2, 3)) > 0).float().mean() == pytest.approx(1 / 3, abs=0.05)


def test_runs_on_meta() -> None:
    images = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="meta")
    result = crop_and_flip(images, torch.Generator())
    assert result.is_meta and result.shape == images.shape and result.dtype == torch.uint8
