"""Taking networks apart, wrapping blocks, and standing them in a teacher that does not notice."""

from __future__ import annotations

import itertools

import little
import players
import pytest
import torch
from torch import nn

from reuselib import nets, run
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft import Hybrid, Scion, blocks_of, make_scions

X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def scions_of(bias: bool = False, shared: int = 0, **options: int) -> list[Scion]:
    with run.seeded(5):
        return make_scions(little.teacher(), little.student(**options), X[:2], shared=shared, bias=bias)


# --- blocks and scions


def test_networks_fall_into_their_blocks() -> None:
    network, images = nets.small_resnet(width=4).eval(), torch.randn(2, 1, 32, 32)
    *blocks, last = blocks_of(network)
    assert blocks == list(network.blocks) and list(last) == [network.pool, network.head]
    assert torch.equal(nn.Sequential(*blocks_of(network))(images), network(images))
    members = [nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4)]
    for kind in (nn.ModuleList, list, lambda members: nn.Sequential(*members)):
        assert blocks_of(kind(members)) == members
    with pytest.raises(ReuseError, match="Bilinear cannot be taken apart into blocks. Wrap its parts in an nn.Seq"):
        blocks_of(nn.Bilinear(2, 2, 2))


def test_a_scion_is_adapter_block_adapter_and_the_block_is_no_copy() -> None:
    into, block, out_of = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 6, 1)
    scion = Scion(block, into, out_of)
    assert torch.equal(scion(maps := torch.randn(2, 4, 8, 8)), out_of(block(into(maps))))
    assert torch.equal(Scion(block)(maps[:, :3]), block(maps[:, :3])) and Scion(block).adapters() == []
    assert [id(p) for p in scion.adapters()] == [id(p) for p in (*into.parameters(), *out_of.parameters())]
    student = little.student()
    assert [scion.block for scion in make_scions(little.teacher(), student, X)[:2]] == list(student.blocks)


@pytest.mark.parametrize("bias", [False, True])
def test_adapters_stand_at_the_interior_boundaries_only(bias: bool) -> None:
    first, second, third = scions_of(bias)
    adapters = first.out_of, second.into, second.out_of, third.into
    assert [(layer.in_channels, layer.out_channels) for layer in adapters] == [(3, 4), (4, 3), (4, 6), (6, 4)]
    assert isinstance(first.into, nn.Identity) and isinstance(third.out_of, nn.Identity)
    for layer in adapters:
        assert layer.kernel_size == (1, 1) and (layer.bias is not None) == bias
        assert not bias or not layer.bias.any()
    second, third = scions_of(bias, shared=1, first=4)
    assert isinstance(second.into, nn.Identity) and second.out_of.out_channels == third.into.in_channels == 6


def test_adapters_start_kaiming_normal_by_their_fan_out() -> None:
    teacher, student = (nets.conv3(width=width, classes=4) for width in (128, 96))
    with run.seeded(0):
        first, second, *_ = make_scions(teacher, student, X)
    assert first.out_of.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert second.into.weight.std().item() == pytest.approx((2 / 96) ** 0.5, rel=0.03)


def test_networks_fit_if_their_maps_do() -> None:
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    smaller = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 5), last)
    for student, message in (
        (nets.plain_vgg(((3,),), 3, 4, size=8), "teacher has 3 blocks, the student 2. Group the layers"),
        (smaller, r"Maps of \(6, 6\) and of \(4, 4\) pixels meet behind a block.*Choose a student that"),
    ):
        with pytest.raises(ShapeMismatch, match=message):
            make_scions(little.teacher(), student, X)


# --- hybrids


def test_a_hybrid_is_the_chain_of_scions_and_remaining_blocks() -> None:
    teacher, scions = little.teacher(), scions_of()
    own = little.blocks(teacher)
    for chosen in (each for size in range(4) for each in itertools.combinations(range(little.COUNT), size)):
        hybrid = Hybrid(teacher, {index: scions[index] for index in chosen})
        blocks = nn.Sequential(*(scions[index] if index in chosen else block for index, block in enumerate(own)))
        assert torch.equal(hybrid(X), blocks(X))
        assert hybrid.remaining == tuple(index for index in range(3) if index not in chosen)
        assert (hybrid.first, hybrid.last) == ((chosen[0], chosen[-1]) if chosen else (3, -1))
        maps, target = hybrid.prefix(X), nn.Sequential(*own)
        assert torch.equal(maps, target[: hybrid.first](X)) and torch.equal(hybrid.target(maps), teacher(X))
        if chosen:
            assert torch.equal(hybrid.target(maps, hybrid.last + 1), target[: hybrid.last + 1](X))
            assert torch.equal(hybrid.rest(maps, hybrid.last + 1), blocks[: hybrid.last + 1](X))


def test_a_hybrid_owns_the_scions_alone_and_the_teacher_comes_back() -> None:
    teacher, scions = little.teacher(), scions_of()
    expected = Hybrid(teacher, {0: scions[0]})(X)
    teacher.train().blocks[1].eval()
    before, modes = players.state(teacher), [module.training for module in teacher.modules()]
    hybrid = Hybrid(teacher, {0: scions[0]})
    assert {id(p) for p in hybrid.parameters()} == {id(p) for p in scions[0].parameters()}
    assert torch.equal(hybrid(X), expected), "in evaluation mode"
    hybrid(X).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in scions[0].parameters())
    assert not list(players.differences(before, players.state(teacher)))
    assert [module.training for module in teacher.modules()] == modes
