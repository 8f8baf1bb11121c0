"""NetGraft: its plan, what learns when, and the whole against a slow reference."""

from __future__ import annotations

from typing import Any

import little
import players
import pytest
import torch
from torch import nn

from reuselib import nets, run
from reuselib.data.augment import crop_and_flip
from reuselib.errors import ReuseError
from reuselib.netgraft import Graft, NetGraft, block_grafting, losses, network_grafting


def both_stages(steps: int = 3, lr: float = 1e-2, shared: int = 0) -> list[Graft]:
    stages = (block_grafting, network_grafting)
    return [graft for stage in stages for graft in stage(little.COUNT, steps, lr, 2 * lr, shared=shared)]


def grafting_method(plan: list[Graft] | None = None, seed: int = 0, start: int = 2, **options: Any) -> NetGraft:
    first = 4 if options.get("shared") else 3
    plan = both_stages(shared=options.get("shared", 0)) if plan is None else plan
    options = {"batch": 6, "precision": "fp32"} | options
    return NetGraft(little.teacher(), little.student(start, first), little.images(), plan, seed=seed, **options)


# --- the plan


def test_the_stages_graft_each_block_and_then_from_two_scions_to_the_whole_network() -> None:
    assert block_grafting(3, 10, 0.1) == [Graft((index,), 10, 0.1) for index in range(3)]
    assert block_grafting(5, (1, 2), (0.1, 0.2), 0.3, shared=3) == [Graft((3,), 1, 0.1, 0.3), Graft((4,), 2, 0.2, 0.3)]
    assert network_grafting(4, 7, 0.1) == [Graft(tuple(range(end)), 7, 0.1) for end in (2, 3, 4)]
    grafts = network_grafting(5, (1, 2), 0.1, (0.2, 0.3), shared=2)
    assert grafts == [Graft((2, 3), 1, 0.1, 0.2), Graft((2, 3, 4), 2, 0.1, 0.3)] and network_grafting(1, (), 0.1) == []


def test_plans_that_cannot_be_are_refused() -> None:
    for stage, values, message in (
        (block_grafting, ((1, 2), 0.1), "2 values for 3 grafts"),
        (network_grafting, ((1, 2, 3), 0.1), "3 values for 2 grafts. Give one value, or 2"),
        (network_grafting, (1, 0.1, (0.1, 0.2, 0.3)), "3 values for 2 grafts"),
        (block_grafting, (-5, 0.1), "steps must be a whole number of at least 0, not -5"),
        (block_grafting, (1.5, 0.1), "steps must be"),
        (block_grafting, (5, 0), "lr must be a finite number above 0, not 0"),
        (block_grafting, (5, 0.1, float("nan")), "adapter_lr must be"),
    ):
        with pytest.raises(ReuseError, match=message):
            stage(3, *values)
    for plan, shared in (([Graft((), 1, 0.1)], 0), ([Graft((0, 3), 1, 0.1)], 0), ([Graft((-1,), 1, 0.1)], 0)):
        with pytest.raises(ReuseError, match=r"cannot be grafted. Name at least one of the blocks \[0, 1, 2\]"):
            grafting_method(plan, shared=shared)
    with pytest.raises(ReuseError, match=r"Graft\(blocks=\(0,\).* cannot be grafted.* blocks \[1, 2\]"):
        grafting_method(both_stages(), shared=1)


def test_students_that_could_not_be_folded_in_the_end_are_refused_at_the_beginning() -> None:
    def norm_first(width: int) -> nn.Module:
        second = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3, padding=1))
        return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), second, nn.Sequential(nn.Flatten(), nn.Linear(256, 4)))

    def residual(width: int) -> nn.Module:
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
        return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nets.resnet.BasicBlock(width, width), last)

    def normed(width: int) -> nn.Module:
        return nets.conv3(width, 4, batch_norm=True)

    for build, bias, message in (
        (norm_first, False, r"begins with BatchNorm2d.*; it must begin with a convolution without groups or a linear"),
        (residual, False, "BasicBlock whose shortcut is an identity. Cut the network into blocks where"),
        (normed, True, r"which has none\. Use bias=False"),
    ):
        with pytest.raises(ReuseError, match=message):
            NetGraft(build(6), build(3), little.images(), both_stages(), bias=bias)


def test_the_turn_follows_the_plan_passes_over_grafts_of_no_updates_and_ends_with_it() -> None:
    method = grafting_method([Graft((0, 2), 0, 0.1), *both_stages(2)])
    assert (method.total, [*method.blocks], len(method.scions)) == (10, [0, 1, 2], 3)
    blocks = [method.graft_of(iteration).blocks for iteration in range(10)]
    assert blocks == [each for each in [(0,), (1,), (2,), (0, 1), (0, 1, 2)] for _ in range(2)]
    advance(method, 10)
    with pytest.raises(ReuseError, match="All 10 updates are done"):
        method.step()


# --- what it computes


@pytest.mark.parametrize("bias", [False, True])
def test_both_stages_are_those_of_the_slow_reference(bias: bool) -> None:
    method, model = grafting_method(bias=bias), grafting_method(bias=bias)
    expected = little.slow_netgraft(model.teacher, model.scions, both_stages(), little.batches(little.images(), 6, 0))
    found = [report["loss"] for report in run.run(method, updates=method.total, report_every=1, progress=False).rounds]
    assert found == pytest.approx(expected, rel=1e-3)
    states = [players.state(each.scions) for each in (method, model)]
    torch.testing.assert_close(*states, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("loss", [None, losses.logits_distance])
def test_local_targets_are_the_teachers_maps_behind_the_last_scion(loss: Any) -> None:
    plan = [Graft((1,), 1, 0.01), Graft((0, 1), 1, 0.01), Graft((0, 2), 1, 0.01)]
    method, distance = grafting_method(plan, local=True, loss=loss), loss or losses.feature_distance
    first, second, third = little.blocks(method.teacher)
    one, two, three = method.scions
    data = iter(little.batches(method.images, 6, 0))
    for target, output in (
        (lambda x: second(first(x)), lambda x: two(first(x))),
        (lambda x: second(first(x)), lambda x: two(one(x))),
        (method.teacher, lambda x: three(second(one(x)))),
    ):
        x = next(data)
        expected = distance(target(x), output(x)).item()
        assert method.step()["loss"].item() == pytest.approx(expected, rel=1e-4)
        method.iteration += 1


def test_both_see_the_same_augmented_images() -> None:
    seen: list[torch.Tensor] = []
    method = grafting_method([Graft((0,), 1, 0.01)], augment=crop_and_flip)
    method.teacher.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.scions[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.step()
    assert len(seen) == 2 and torch.equal(*seen)
    plain = method.images.normalised(method.images.images)
    assert not any(torch.equal(image, other) for image in seen[0] for other in plain)


# --- who learns when


def advance(method: NetGraft, steps: int) -> None:
    for _ in range(steps):
        method.step()
        method.iteration += 1


def test_the_order_of_the_blocks_does_not_matter_in_stage_1() -> None:
    states = []
    for order in ([0, 1, 2], [2, 0, 1]):
        grafts = block_grafting(3, 4, 0.01)
        # The same batches for each block: the generator is set back.
        method = grafting_method([grafts[index] for index in order], batch=6)
        for _ in order:
            method.random.manual_seed(9)
            advance(method, 4)
        states.append(players.state(method.scions))
    assert not list(players.differences(*states))


def test_in_stage_2_only_remaining_blocks_of_the_teacher_stand_in_the_hybrid() -> None:
    for index, graft in enumerate(network_grafting(3, 1, 0.01)):
        method, calls = grafting_method([graft]), []
        for place, block in enumerate(little.blocks(method.teacher)):
            leaf = next(module for module in block.modules() if isinstance(module, nn.Conv2d | nn.Linear))
            leaf.register_forward_hook(lambda *_, calls=calls, place=place: calls.append(place))
        method.step()
        # once each for the target; in the hybrid those behind the last scion, at the end none
        assert sorted(calls) == sorted([0, 1, 2, *range(index + 2, 3)])
        assert method.hybrid(graft.blocks).remaining == tuple(range(index + 2, 3))


def test_a_shared_prefix_is_the_teachers_and_stays() -> None:
    method, calls = grafting_method(shared=1), []
    for block in (method.teacher.blocks[0], method.student.blocks[0]):
        block.register_forward_hook(lambda block, _, maps: calls.append(block is method.teacher.blocks[0]))
    before = players.state(method.teacher)
    advance(method, method.total)
    assert calls == [True] * method.total, "once in a step, the teacher's"
    assert not list(players.differences(before, players.state(method.teacher)))
    own, model = (players.state(network.blocks[0]) for network in (method.student, method.teacher))
    assert not list(players.differences(own, model)) and method.scions[0].block is method.student.blocks[1]


def test_the_part_before_the_first_scion_takes_no_gradient() -> None:
    method, seen = grafting_method([Graft((1,), 1, 0.01)]), []
    for block in method.teacher.blocks:
        block.register_forward_hook(lambda _, __, maps: seen.append(maps.requires_grad))
    method.scions[1].register_forward_hook(lambda _, __, maps: seen.append(maps.requires_grad))
    method.step()
    assert seen == [False, False, True]
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


# --- what comes out


@pytest.mark.parametrize("shared", [0, 1])
def test_folding_gives_the_plain_student_that_the_scions_make(shared: int) -> None:
    method = grafting_method(shared=shared)
    advance(method, method.total)
    images, folded = method.images.normalised(method.images.images), method.folded().eval()
    torch.testing.assert_close(folded(images), method.hybrid(method.blocks)(images), rtol=1e-4, atol=1e-5)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (folded, method.student)]
    assert shapes[0] == shapes[1]
    assert torch.equal(folded.blocks[0][0].weight, method.teacher.blocks[0][0].weight) == bool(shared)


def test_what_was_folded_stays_when_training_goes_on_and_a_hybrid_shows_the_scions_as_they_are() -> None:
    """A state dict names the living weights; what is kept must be a copy."""
    method = grafting_method(both_stages(2))
    advance(method, 5)
    folded, hybrid, images = method.folded(), method.hybrid((0,)), method.probe()
    before, logits = players.state(folded), hybrid(images).detach()
    advance(method, 5)
    assert not torch.equal(hybrid(images), logits)
    assert not list(players.differences(before, players.state(folded)))
    living = {p.data_ptr() for network in (method.student, method.teacher) for p in network.state_dict().values()}
    assert not living & {p.data_ptr() for p in folded.state_dict().values()}


def test_a_grafted_block_learns_to_stand_in() -> None:
    method = grafting_method([Graft((2,), 200, 0.01), Graft((1,), 200, 0.01)], batch=10)
    found = run.run(method, updates=400, report_every=10, progress=False).curve("loss")[1]
    assert found[19] < found[0] / 5 and found[39] < found[20] / 5


def test_a_seed_decides_adapters_and_batches() -> None:
    def start(seed: int) -> list[Any]:
        torch.manual_seed(seed * 7)  # the global state must not matter
        method = grafting_method(seed=seed)
        return [players.state(method.scions), method.step()["loss"], players.state(method.scions)]

    first, again, other = start(1), start(1), start(2)
    assert not list(players.differences(first, again)) and list(players.differences(first[0], other[0]))
