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
from reuselib.netgraft import Hybrid, Scion, blocks_of, losses, make_scions

X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def scions_of(bias: bool = False, shared: int = 0, **options: int) -> list[Scion]:
    with run.seeded(5):
        return make_scions(little.teacher(), little.student(**options), X[:2], shared=shared, bias=bias)


# --- blocks


def test_networks_fall_into_their_blocks() -> None:
    for name, options in {"conv4": {}, "lenet5": {}, "small_resnet": {"width": 4}, "wrn16_1": {"channels": 1}}.items():
        network, images = nets.build(name, **options).eval(), torch.randn(2, 1, 32, 32)
        *blocks, last = blocks_of(network)
        assert blocks == list(network.blocks) and list(last) == [network.pool, network.head]
        assert torch.equal(nn.Sequential(*blocks_of(network))(images), network(images)), name
    members = [nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4)]
    for kind in (nn.ModuleList, list, lambda members: nn.Sequential(*members)):
        assert blocks_of(kind(members)) == members
    with pytest.raises(ReuseError, match="Bilinear cannot be taken apart into blocks. Wrap its parts in an nn.Seq"):
        blocks_of(nn.Bilinear(2, 2, 2))


# --- scions


def test_a_scion_is_adapter_block_adapter_and_the_block_is_no_copy() -> None:
    into, block, out_of = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 6, 1)
    scion = Scion(block, into, out_of)
    assert torch.equal(scion(maps := torch.randn(2, 4, 8, 8)), out_of(block(into(maps))))
    assert torch.equal(Scion(block)(maps[:, :3]), block(maps[:, :3])) and Scion(block).adapters() == []
    assert [id(p) for p in scion.adapters()] == [id(p) for p in (*into.parameters(), *out_of.parameters())]
    teacher, student = little.teacher().train(), little.student()
    before = players.state([teacher, student])
    scions = make_scions(teacher, student, X)
    assert [scion.block for scion in scions[:2]] == list(student.blocks)
    assert list(scions[2].block) == [student.pool, student.head]
    assert not list(players.differences(before, players.state([teacher, student])))
    assert all(module.training for network in (teacher, student) for module in network.modules())


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


def test_adapters_start_kaiming_normal_by_their_fan_out_and_are_linear_where_maps_have_no_space() -> None:
    teacher, student = (nets.conv3(width=width, classes=4) for width in (128, 96))
    with run.seeded(0):
        first, second, *_ = make_scions(teacher, student, X)
    assert first.out_of.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert second.into.weight.std().item() == pytest.approx((2 / 96) ** 0.5, rel=0.03)
    assert abs(first.out_of.weight.mean().item()) < 0.005
    flat = [nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 4)) for width in (9, 5)]
    first, second, third = make_scions(*flat, X)
    assert isinstance(second.out_of, nn.Linear) and isinstance(third.into, nn.Linear)
    assert (second.out_of.in_features, second.out_of.out_features, first.out_of.in_features) == (5, 9, 64)


def test_networks_fit_if_their_maps_do() -> None:
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    for student, message in (
        (nets.plain_vgg(((3,),), 3, 4, size=8), "teacher has 3 blocks, the student 2. Group the layers"),
        (
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 5), last),
            r"Maps of \(6, 6\) and of \(4, 4\) pixels meet behind a block.*Choose a student that",
        ),
    ):
        with pytest.raises(ShapeMismatch, match=message):
            make_scions(little.teacher(), student, X)
    teacher = nets.conv3(width=4, classes=4)
    first = nn.Sequential(nn.Conv2d(1, 3, 5, stride=2, padding=2), nn.ReLU())  # another architecture
    student = nn.Sequential(first, nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 5, 1)), nn.Conv2d(5, 4, 3, 1, 1), last)
    for index, scion in enumerate(make_scions(teacher, student, X)):
        assert Hybrid(teacher, {index: scion})(X).shape == (5, 4)


# --- hybrids


def test_a_hybrid_is_the_chain_of_scions_and_remaining_blocks() -> None:
    teacher, scions = little.teacher(), scions_of()
    own = little.blocks(teacher)
    for chosen in (each for size in range(4) for each in itertools.combinations(range(little.COUNT), size)):
        hybrid = Hybrid(teacher, {index: scions[index] for index in chosen})
        blocks = [scions[index] if index in chosen else block for index, block in enumerate(own)]
        assert torch.equal(hybrid(X), nn.Sequential(*blocks)(X))
        assert hybrid.remaining == tuple(index for index in range(3) if index not in chosen)
        assert (hybrid.first, hybrid.last) == ((chosen[0], chosen[-1]) if chosen else (3, -1))
        # the teacher's own blocks as scions give its logits bit for bit
        same, logits = Hybrid(teacher, {index: Scion(own[index]) for index in chosen})(X), teacher(X)
        assert torch.equal(same, logits) and losses.normalised_logits_distance(logits, same) == 0


def test_prefix_rest_and_target_are_parts_of_the_way() -> None:
    teacher, scions = little.teacher(), scions_of()
    first, second, third = little.blocks(teacher)
    hybrid = Hybrid(teacher, {1: scions[1]})
    maps = hybrid.prefix(X)
    assert torch.equal(maps, first(X))
    assert torch.equal(hybrid.rest(maps), third(scions[1](maps)))
    assert torch.equal(hybrid.rest(maps, 2), scions[1](maps))
    assert torch.equal(hybrid.target(maps), teacher(X)) and torch.equal(hybrid.target(maps, 2), second(maps))


def test_a_hybrid_owns_the_scions_alone() -> None:
    teacher, scions = little.teacher().train(), scions_of()
    keys = list(teacher.state_dict())
    hybrid = Hybrid(teacher, {2: scions[2], 1: scions[1]})
    assert {id(p) for p in hybrid.parameters()} == {id(p) for scion in scions[1:] for p in scion.parameters()}
    hybrid.eval()
    assert all(module.training for module in teacher.modules()) and not scions[1].training
    assert list(teacher.state_dict()) == keys and players.hooks(teacher) == 0


def modes(teacher: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in teacher.modules()], [p.requires_grad for p in teacher.parameters()]


def test_a_teacher_of_odd_modes_runs_in_evaluation_and_comes_back_also_after_an_exception() -> None:
    teacher, scions = little.teacher(), scions_of()
    expected = Hybrid(teacher, {0: scions[0]})(X)
    teacher.train().blocks[1].eval()
    teacher.head.weight.requires_grad_(False)
    before, values = modes(teacher), players.state(teacher)
    hybrid = Hybrid(teacher, {0: scions[0]})
    assert torch.equal(hybrid(X), expected)
    torch.testing.assert_close(hybrid(torch.cat([X[:1], 100 * X]))[:1], hybrid(X[:1]))  # each image alone
    assert modes(teacher) == before and not list(players.differences(values, players.state(teacher)))
    hybrid(X).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in scions[0].parameters())
    for broken in (teacher.head, scions[0].block):
        broken.forward = players.rigged(broken.forward, at=0)
        with pytest.raises(players.Explosion):
            hybrid(X)
        assert modes(teacher) == before
