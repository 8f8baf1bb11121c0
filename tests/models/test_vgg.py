"""VGG: its batch norms, its pools, its convolutions beside torchvision's."""

import pytest
import torch
from torch import nn

from reuselib import models
from reuselib.errors import ReuseError


def test_batch_norms_and_their_channels() -> None:
    with torch.device("meta"):
        network = models.vgg11_bn()
    widths = [module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(widths) == 8 and sum(widths) == 2752


def test_vgg_pools_as_often_as_asked() -> None:
    images = torch.empty(2, 3, 64, 64, device="meta")
    for pools, sides in ((3, [32, 16, 8, 8, 8]), (4, [32, 16, 8, 4, 4])):
        with torch.device("meta"):
            outputs = models.vgg11_bn(pools=pools).activations(images)
        assert [maps.shape[-1] for maps in outputs] == sides


def test_vgg_has_torchvisions_convolutions() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        original, ours = torchvision.models.vgg11_bn().features, models.vgg11_bn().blocks
    assert [p.shape for p in ours.parameters()] == [p.shape for p in original.parameters()]


@pytest.mark.parametrize("pools", [-1, 6])
def test_too_many_pools_are_refused(pools: int) -> None:
    with pytest.raises(ReuseError, match=f"0 to 5.*not {pools}"):
        models.vgg11_bn(pools=pools)
