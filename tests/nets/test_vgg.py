"""VGG: its batch norms, its pools, its convolutions beside torchvision's."""

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch


def test_batch_norms_and_their_channels() -> None:
    with torch.device("meta"):
        network = nets.vgg11_bn()
    widths = [module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(widths) == 8 and sum(widths) == 2752


def test_vgg_pools_as_often_as_asked() -> None:
    images = torch.empty(2, 3, 64, 64, device="meta")
    for pools, sides in ((3, [32, 16, 8, 8, 8]), (4, [32, 16, 8, 4, 4])):
        with torch.device("meta"):
            outputs = nets.vgg11_bn(pools=pools).activations(images)
        assert [maps.shape[-1] for maps in outputs] == sides


def test_vgg_has_torchvisions_convolutions() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        original, ours = torchvision.models.vgg11_bn().features, nets.vgg11_bn().blocks
    assert [p.shape for p in ours.parameters()] == [p.shape for p in original.parameters()]


@pytest.mark.parametrize("pools", [-1, 6])
def test_too_many_pools_are_refused(pools: int) -> None:
    with pytest.raises(ReuseError, match=f"0 to 5.*not {pools}"):
        nets.vgg11_bn(pools=pools)


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("vgg16_plain", 10, 14_983_498),
        ("vgg16_plain", 100, 15_029_668),
        ("vgg16_plain_half", 10, 5_412_682),
        ("vgg16_plain_half", 100, 5_458_852),
        ("plain_vgg", 10, 148_122),
    ],
)
def test_parameter_counts_of_the_grafting_pairs(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        assert nets.parameter_count(nets.build(name, classes=classes)) == count


def test_the_half_shares_three_blocks_with_its_teacher() -> None:
    with torch.device("meta"):
        teacher, student = nets.vgg16_plain(), nets.vgg16_plain_half()
        maps = [network.activations(torch.randn(2, 3, 32, 32)) for network in (teacher, student)]
    assert [map.shape[1:] for map in maps[0]] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    assert [map.shape[1:] for map in maps[1]] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (256, 2, 2), (256, 1, 1)]
    for one, other in zip(teacher.blocks[:3], student.blocks[:3], strict=True):
        assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    assert [[type(layer) for layer in network.pool] for network in (teacher, student)] == [
        [nn.Flatten, nn.Linear, nn.BatchNorm1d],
        [nn.Flatten, nn.Linear],
    ]


def test_plain_vgg_has_torchvisions_convolutions() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        original, ours = torchvision.models.vgg16().features, nets.vgg16_plain().blocks
    assert [p.shape for p in ours.parameters()] == [p.shape for p in original.parameters()]
    assert [type(m) for m in ours.modules() if not list(m.children())] == [type(m) for m in original]


def test_plain_vgg_starts_as_the_papers() -> None:
    network = nets.plain_vgg(widths=((64,), (128,)), hidden=256)
    first, second = (block[0].weight for block in network.blocks)
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert second.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    linear = network.pool[1]
    assert linear.in_features == 128 * 4 * 4 and linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    biases = [m.bias for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(biases) == 4 and not any(bias.any() for bias in biases)


def test_plain_vgg_in_evaluation_sees_each_image_alone() -> None:
    network = nets.plain_vgg()
    images = torch.randn(6, 1, 16, 16)
    network(images)  # the running statistics have moved
    alone, beside = network.eval()(images[:1]), network(images)[:1]
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize(("widths", "size"), [(((4,), (), (4,)), 16), (((4,),) * 5, 16), (((4,),) * 3, 7)])
def test_plain_vgg_refuses_what_leaves_nothing(widths: tuple, size: int) -> None:
    with pytest.raises(ReuseError, match=rf"{len(widths)} blocks .* {size}x{size} pixels.*larger images"):
        nets.plain_vgg(widths=widths, size=size)


def test_plain_vgg_names_the_size_it_needs() -> None:
    with pytest.raises(ShapeMismatch, match="size=16"):
        nets.plain_vgg()(torch.randn(2, 1, 28, 28))
