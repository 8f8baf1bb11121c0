"""Wide ResNets: batch norms that a model inversion reads, order of operations, errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets
from reuselib.errors import ReuseError
from reuselib.nets.wide_resnet import PreActivationBlock, wide_resnet


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("wrn40_2", 37, 2704), ("wrn40_1", 37, 1360), ("wrn16_2", 13, 912), ("wrn16_1", 13, 464)],
)
def test_batch_norms_and_their_channels(name: str, layers: int, width: int) -> None:
    with torch.device("meta"):
        network = nets.build(name)
    assert len(batch_norms(network)) == layers
    assert sum(norm.num_features for norm in batch_norms(network)) == width


def test_a_batch_norm_sees_the_batch_in_the_order_of_the_modules() -> None:
    """Hooks in the order of ``modules()`` read shallow layers first."""
    network, seen = nets.wrn16_1(), []
    for index, norm in enumerate(batch_norms(network)):
        norm.register_forward_pre_hook(lambda module, inputs, index=index: seen.append(index))
    network(torch.randn(2, 3, 8, 8))
    assert seen == list(range(13))


def reference(block: PreActivationBlock, maps: Tensor) -> Tensor:
    """The block as the paper writes it."""
    norm, (first, second, _, last) = block.activate[0], block.residual
    active = F.relu(norm(maps))
    out = last(F.relu(second(first(active))))
    return out + (maps if block.shortcut is None else block.shortcut(active))


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (8, 1), (8, 2)])
def test_a_block_computes_what_the_paper_writes(outputs: int, stride: int) -> None:
    block, maps = PreActivationBlock(4, outputs, stride).eval(), torch.randn(2, 4, 8, 8)
    assert (block.shortcut is None) == (outputs == 4)
    assert torch.equal(block(maps), reference(block, maps))
    assert block(maps).shape == (2, outputs, 8 // stride, 8 // stride)


def test_features_are_positive_and_maps_shrink_twice() -> None:
    network = nets.wrn16_2()
    shapes = [tuple(maps.shape[1:]) for maps in network.activations(torch.randn(2, 3, 32, 32))]
    assert shapes == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
    assert network.features(torch.randn(2, 3, 32, 32)).min() >= 0


@pytest.mark.parametrize("depth", [4, 9, 17, 41])
def test_a_depth_that_does_not_exist_is_refused(depth: int) -> None:
    with pytest.raises(ReuseError, match=f"6n \\+ 4 layers, not {depth}"):
        wide_resnet(depth, 1)
