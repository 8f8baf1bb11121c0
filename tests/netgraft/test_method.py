"""NetGraft: its plan, what learns when, and the whole against a slow reference."""

from __future__ import annotations

from typing import Any

import little
import players
import pytest
import torch
from torch import nn

from reuselib import nets, run
from reuselib.errors import ReuseError
from reuselib.netgraft import Graft, NetGraft, block_grafting, losses, network_grafting


def both_stages(steps: int = 3, lr: float = 1e-2, shared: int = 0) -> list[Graft]:
    stages = (block_grafting, network_grafting)
    return [graft for stage in stages for graft in stage(little.COUNT, steps, lr, 2 * lr, shared=shared)]


def grafting_method(plan: list[Graft] | None = None, **options: Any) -> NetGraft:
    shared = options.get("shared", 0)
    plan = both_stages(shared=shared) if plan is None else plan
    options = {"batch": 6, "precision": "fp32"} | options
    return NetGraft(little.teacher(), little.student(first=4 if shared else 3), little.images(), plan, **options)


# --- the plan


def test_the_stages_graft_each_block_and_then_from_two_scions_to_the_whole_network() -> None:
    assert block_grafting(3, 10, 0.1) == [Graft((index,), 10, 0.1) for index in range(3)]
    assert block_grafting(5, (1, 2), (0.1, 0.2), 0.3, shared=3) == [Graft((3,), 1, 0.1, 0.3), Graft((4,), 2, 0.2, 0.3)]
    assert network_grafting(4, 7, 0.1) == [Graft(tuple(range(end)), 7, 0.1) for end in (2, 3, 4)]
    grafts = network_grafting(5, (1, 2), 0.1, (0.2, 0.3), shared=2)
    assert grafts == [Graft((2, 3), 1, 0.1, 0.2), Graft((2, 3, 4), 2, 0.1, 0.3)] and network_grafting(1, (), 0.1) == []
    for stage, values, message in (
        (block_grafting, ((1, 2), 0.1), "2 values for 3 grafts"),
        (network_grafting, (1, 0.1, (0.1, 0.2, 0.3)), "3 values for 2 grafts. Give one value, or 2"),
        (block_grafting, (-5, 0.1), "steps must be a whole number of at least 0, not -5"),
        (block_grafting, (5, 0), "lr must be a finite number above 0, not 0"),
        (block_grafting, (5, 0.1, float("nan")), "adapter_lr must be"),
    ):
        with pytest.raises(ReuseError, match=message):
            stage(3, *values)


def test_the_turn_follows_the_plan_passes_over_grafts_of_no_updates_and_ends_with_it() -> None:
    method = grafting_method([Graft((0, 2), 0, 0.1), *both_stages(2)])
    assert (method.total, [*method.blocks], len(method.scions)) == (10, [0, 1, 2], 3)
    blocks = [method.graft_of(iteration).blocks for iteration in range(10)]
    assert blocks == [each for each in [(0,), (1,), (2,), (0, 1), (0, 1, 2)] for _ in range(2)]
    with pytest.raises(ReuseError, match="All 10 updates are done; there is no number 11. Plan more"):
        method.graft_of(10)


def test_plans_that_cannot_be_and_students_that_cannot_be_folded_in_the_end_are_refused_at_the_beginning() -> None:
    for plan in ([Graft((), 1, 0.1)], [Graft((0, 3), 1, 0.1)]):
        with pytest.raises(ReuseError, match=r"cannot be grafted. Name at least one of the blocks \[0, 1, 2\]"):
            grafting_method(plan)
    with pytest.raises(ReuseError, match=r"Graft\(blocks=\(0,\).* cannot be grafted.* blocks \[1, 2\]"):
        grafting_method(both_stages(), shared=1)
    networks = [nets.conv3(width, 4, batch_norm=True) for width in (6, 3)]
    with pytest.raises(ReuseError, match=r"which has none\. Use bias=False"):
        NetGraft(*networks, little.images(), both_stages(), bias=True)


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


def test_a_step_calls_each_block_as_often_as_it_must_and_those_before_the_scions_without_gradient() -> None:
    for blocks, expected in (((1,), [0, 1, 2, 2]), ((0, 1), [0, 1, 2, 2]), ((0, 1, 2), [0, 1, 2])):
        method, calls = grafting_method([Graft(blocks, 1, 0.01)]), []
        for place, block in enumerate(little.blocks(method.teacher)):
            leaf = next(module for module in block.modules() if isinstance(module, nn.Conv2d | nn.Linear))
            leaf.register_forward_hook(lambda _, __, maps, calls=calls, place=place: calls.append((place, maps)))
        method.step()
        assert sorted(place for place, _ in calls) == expected  # once each for the target, then those behind
        assert not any(maps.requires_grad for place, maps in calls if place < max(blocks))


@pytest.mark.parametrize("shared", [0, 1])
def test_folding_gives_the_plain_student_that_the_scions_make(shared: int) -> None:
    method = grafting_method(shared=shared)
    run.run(method, updates=method.total, report_every=1, progress=False)
    images, folded = method.images.normalised(method.images.images), method.folded().eval()
    torch.testing.assert_close(folded(images), method.hybrid(method.blocks)(images), rtol=1e-4, atol=1e-5)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (folded, method.student)]
    assert shapes[0] == shapes[1]
    assert torch.equal(folded.blocks[0][0].weight, method.teacher.blocks[0][0].weight) == bool(shared)
