import pytest
import torch

from reuselib import data
from reuselib.data.procedural import TEXTURES, noise, textures
from reuselib.errors import UnknownName


@pytest.mark.parametrize("image", [(1, 16, 16), (3, 32, 32), (1, 8, 12)])
@pytest.mark.parametrize("draw", [textures, noise])
def test_repeats_by_seed(draw, image) -> None:
    first = draw(40, image, seed=1)
    assert first.shape == image and len(first) == 40
    assert torch.equal(first.images, draw(40, image, seed=1).images)
    assert not torch.equal(first.images, draw(40, image, seed=2).images)


def test_textures_in_equal_shares_and_all_different() -> None:
    images = textures(400)
    assert images.labels.bincount().tolist() == [100] * 4 and images.classes == TEXTURES
    assert images.images.flatten(1).unique(dim=0).shape[0] > 395


def test_checkerboards_have_two_values_and_gratings_many() -> None:
    images = textures(400)
    values = torch.tensor([image.unique().numel() for image in images.images])
    assert values[images.labels == TEXTURES.index("checkerboard")].max() <= 2
    assert values[images.labels == TEXTURES.index("grating")].float().mean() > 20


def test_clouds_fall_with_frequency() -> None:
    images = textures(400, (1, 32, 32))
    clouds = images.images[images.labels == TEXTURES.index("cloud")].float()
    power = torch.fft.rfft2(clouds - clouds.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    assert power[0, 2] > 10 * power[0, 10]


def test_noise_is_uniform() -> None:
    counts = noise(200).images.flatten().long().bincount(minlength=256)
    assert counts.min() > 100 and counts.max() < 320


def test_load_and_its_errors() -> None:
    assert data.load("textures", "train", size=8, channels=3).shape == (3, 8, 8)
    assert data.load("noise", "test").shape == (1, 16, 16)
    with pytest.raises(UnknownName, match="unknown split"):
        data.load("textures", "validation")
