"""NetGraft: its plan, what learns when, and the whole against a slow reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import little
import players
import pytest
import torch
from torch import nn

from reuselib import netgraft, nets
from reuselib import run as engine
from reuselib.data.augment import crop_and_flip
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft import Graft, NetGraft, block_grafting, fold, network_grafting


def both_stages(steps: int = 3, lr: float = 1e-2, shared: int = 0) -> list[Graft]:
    stages = (block_grafting, network_grafting)
    return [graft for stage in stages for graft in stage(little.COUNT, steps, lr, 2 * lr, shared=shared)]


def grafting_method(plan: list[Graft] | None = None, seed: int = 0, start: int = 2, **options: Any) -> NetGraft:
    first = 4 if options.get("shared") else 3
    plan = both_stages(shared=options.get("shared", 0)) if plan is None else plan
    options = {"batch": 6, "precision": "fp32"} | options
    return NetGraft(little.teacher(), little.student(start, first), little.images(), plan, seed=seed, **options)


# --- the plan


def test_block_grafting_is_one_graft_for_each_block() -> None:
    assert block_grafting(3, 10, 0.1) == [Graft((0,), 10, 0.1), Graft((1,), 10, 0.1), Graft((2,), 10, 0.1)]
    assert block_grafting(5, (1, 2), (0.1, 0.2), 0.3, shared=3) == [Graft((3,), 1, 0.1, 0.3), Graft((4,), 2, 0.2, 0.3)]


def test_network_grafting_grows_from_two_scions_to_the_whole_network() -> None:
    assert network_grafting(4, 7, 0.1) == [Graft((0, 1), 7, 0.1), Graft((0, 1, 2), 7, 0.1), Graft((0, 1, 2, 3), 7, 0.1)]
    assert network_grafting(5, (1, 2), 0.1, (0.2, 0.3), shared=2) == [
        Graft((2, 3), 1, 0.1, 0.2),
        Graft((2, 3, 4), 2, 0.1, 0.3),
    ]
    assert network_grafting(1, (), 0.1) == []


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        (block_grafting, ((1, 2), 0.1), "2 values where 3 are needed"),
        (block_grafting, (1, (0.1,) * 4), "4 values where 3 are needed"),
        (network_grafting, ((1, 2, 3), 0.1), "3 values where 2 are needed. Give one value, or 2"),
        (network_grafting, (1, 0.1, (0.1, 0.2, 0.3)), "3 values where 2 are needed"),
    ],
)
def test_values_that_do_not_fit_the_plan_are_refused(stage: Callable[..., Any], values: tuple, message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        stage(3, *values)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([Graft((), 1, 0.1)], "grafts nothing. Name at least one block"),
        ([Graft((0,), -1, 0.1)], "grafts nothing.*0 updates or more"),
        ([Graft((0, 3), 1, 0.1)], "no scion of block 3: blocks 0 to 2 can be grafted.*count=3, shared=0"),
        ([Graft((-1,), 1, 0.1)], "no scion of block -1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: list[Graft], message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        grafting_method(plan)


def test_a_shared_block_cannot_be_grafted() -> None:
    with pytest.raises(ReuseError, match="no scion of block 0: blocks 1 to 2 can be grafted.*count=3, shared=1"):
        grafting_method(both_stages(), shared=1)


def test_networks_that_do_not_fit_are_refused() -> None:
    student = nets.plain_vgg(((3,),), 3, 4, size=8, head_norm=False)
    with pytest.raises(ShapeMismatch, match="teacher has 3 blocks, the student 2"):
        NetGraft(little.teacher(), student, little.images(), both_stages())


def test_the_turn_follows_the_plan_and_ends_with_it() -> None:
    method = grafting_method(both_stages(2))
    assert (method.total, method.count, len(method.scions)) == (10, 3, 3)
    blocks = [method.graft_of(iteration).blocks for iteration in range(10)]
    assert blocks == [each for each in [(0,), (1,), (2,), (0, 1), (0, 1, 2)] for _ in range(2)]
    assert [method.turn(iteration) for iteration in (0, 1, 2, 9)] == [0, 0, 1, 4]
    list(method.rounds())
    assert method.iteration == 10
    with pytest.raises(ReuseError, match="All 10 updates are done"):
        method.step()


# --- what it computes


@pytest.mark.parametrize("bias", [False, True])
def test_both_stages_are_those_of_the_slow_reference(bias: bool) -> None:
    method, model = grafting_method(bias=bias), grafting_method(bias=bias)
    expected = little.slow_netgraft(model.teacher, model.scions, both_stages(), little.batches(little.images(), 6, 0))
    found = [float(next(method.rounds())["loss"]) for method.steps_per_round in [1] * method.total]
    assert found == pytest.approx(expected, rel=1e-3)
    states = [players.state(each.scions) for each in (method, model)]
    torch.testing.assert_close(*states, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("loss", [None, netgraft.feature_distance, lambda t, s: 3 * netgraft.logits_distance(t, s)])
def test_local_targets_are_the_teachers_maps_behind_the_last_scion(loss: Any) -> None:
    method = grafting_method(
        [Graft((1,), 1, 0.01), Graft((0, 1), 1, 0.01), Graft((0, 2), 1, 0.01)], local=True, loss=loss
    )
    first, second, third = little.blocks(method.teacher)
    one, two, three = method.scions
    data = iter(little.batches(method.images, 6, 0))
    distance = loss or netgraft.feature_distance
    for target, output in (
        (lambda x: second(first(x)), lambda x: two(first(x))),
        (lambda x: second(first(x)), lambda x: two(one(x))),
        (method.teacher, lambda x: three(second(one(x)))),
    ):
        x = next(data)
        expected = distance(target(x), output(x)).item()
        assert method.step()["loss"].item() == pytest.approx(expected, rel=1e-4)
        method.iteration += 1


def test_the_loss_is_the_sum_of_the_normalised_distance_unless_told_otherwise() -> None:
    x = next(iter(little.batches(little.images(), 6, 0)))
    plan = [Graft((0, 1, 2), 1, 0.01)]
    for loss in (None, netgraft.logits_distance):
        method = grafting_method(plan, loss=loss)
        u, v = method.teacher(x), method.hybrid((0, 1, 2))(x)
        expected = loss(u, v) if loss else little.slow_distance(u, v)
        assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


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


def parts(method: NetGraft) -> dict[str, Any]:
    return {
        "teacher": players.state(method.teacher),
        "student": players.state(method.student),
        **{f"scion {index}": players.state(scion) for index, scion in enumerate(method.scions)},
    }


def changed(before: dict[str, Any], method: NetGraft) -> set[str]:
    after = parts(method)
    return {name for name in before if list(players.differences(before[name], after[name]))}


def advance(method: NetGraft, steps: int) -> None:
    for _ in range(steps):
        method.step()
        method.iteration += 1


def test_each_graft_moves_its_scions_whole_and_nothing_else() -> None:
    method = grafting_method(both_stages(2))
    for graft in method.plan:
        before = parts(method)
        advance(method, graft.steps)
        assert changed(before, method) == {"student", *(f"scion {index}" for index in graft.blocks)}
        for index in graft.blocks:
            scion = method.scions[index]
            moved = {place[1:] for place in players.differences(before[f"scion {index}"], players.state(scion))}
            assert moved == {name for name, _ in scion.named_parameters()}


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
        method = grafting_method([graft])
        calls: list[int] = []
        for place, block in enumerate(little.blocks(method.teacher)):
            leaf = next(module for module in block.modules() if isinstance(module, nn.Conv2d | nn.Linear))
            leaf.register_forward_hook(lambda *_, calls=calls, place=place: calls.append(place))
        method.step()
        # once each for the target; in the hybrid those behind the last scion, at the end none
        assert sorted(calls) == sorted([0, 1, 2, *range(index + 2, 3)])
        calls.clear()
        method.hybrid(graft.blocks)(method.probe())
        assert calls == list(range(index + 2, 3)) and method.hybrid(graft.blocks).remaining == tuple(calls)


def test_a_shared_prefix_is_the_teachers_and_stays() -> None:
    method = grafting_method(shared=1)
    calls: list[bool] = []
    for block in (method.teacher.blocks[0], method.student.blocks[0]):
        block.register_forward_hook(lambda block, _, maps: calls.append(block is method.teacher.blocks[0]))
    before = parts(method)
    list(method.rounds())
    assert calls == [True] * method.total, "once in a step, the teacher's"
    assert changed(before, method) == {"student", "scion 0", "scion 1"}
    own = players.state(method.student.blocks[0])
    assert not list(players.differences(own, players.state(method.teacher.blocks[0])))
    assert [id(scion.block) for scion in method.scions][0] == id(method.student.blocks[1])
    whole = method.hybrid((1, 2))
    assert whole.remaining == (0,)


def test_the_part_before_the_first_scion_takes_no_gradient() -> None:
    method, seen = grafting_method([Graft((1,), 1, 0.01)]), []
    for block in method.teacher.blocks:
        block.register_forward_hook(lambda _, __, maps: seen.append(maps.requires_grad))
    method.scions[1].register_forward_hook(lambda _, __, maps: seen.append(maps.requires_grad))
    method.step()
    assert seen == [False, False, True]
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_every_graft_has_an_adam_of_its_own_with_its_rates() -> None:
    plan = [Graft((0,), 2, 0.01, 0.02), Graft((0, 1), 2, 0.03), Graft((0, 1, 2), 2, 0.04, 0.05)]
    method = grafting_method(plan)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in method.optimizers]
    assert rates == [[0.01, 0.02], [0.03, 0.03], [0.04, 0.05]]
    for graft, optimizer in zip(plan, method.optimizers, strict=True):
        blocks, adapters = (group["params"] for group in optimizer.param_groups)
        chosen = [method.scions[index] for index in graft.blocks]
        assert {id(p) for p in adapters} == {id(p) for scion in chosen for p in scion.adapters()}
        assert {id(p) for p in blocks} == {id(p) for scion in chosen for p in scion.block.parameters()}
    advance(method, 3)
    counts = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in method.optimizers]
    assert counts == [{2}, {1}, set()]


def test_scions_learn_in_training_mode_and_the_teacher_works_in_evaluation_mode() -> None:
    teacher, student = (nets.conv3(width, 4, batch_norm=True) for width in (6, 3))
    method = NetGraft(teacher, student, little.images(), [Graft((1,), 1, 0.01)], batch=6, precision="fp32")
    before = players.state(teacher), players.state(student)
    assert teacher.training
    method.step()
    assert not list(players.differences(before[0], players.state(teacher))) and teacher.training
    moved = set(players.differences(before[1], players.state(student)))
    assert "/blocks.1.1.running_mean" in moved and not any(place.startswith("/blocks.0") for place in moved)


# --- what comes out


def test_folding_gives_the_plain_student_that_the_scions_make() -> None:
    method = grafting_method()
    list(method.rounds())
    images = method.images.normalised(method.images.images)
    folded, whole = method.folded().eval(), method.hybrid((0, 1, 2))
    torch.testing.assert_close(folded(images), whole(images), rtol=1e-4, atol=1e-5)
    assert folded.state_dict().keys() == little.student().state_dict().keys()
    assert nets.parameter_count(folded) == nets.parameter_count(little.student())
    again = fold(method.student, list(method.scions))
    assert not list(players.differences(players.state(folded), players.state(again)))


def test_the_folded_student_of_a_shared_prefix_begins_with_the_teachers_blocks() -> None:
    method = grafting_method(shared=1)
    list(method.rounds())
    images = method.images.normalised(method.images.images)
    folded = method.folded().eval()
    torch.testing.assert_close(folded(images), method.hybrid((1, 2))(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(folded.blocks[0][0].weight, method.teacher.blocks[0][0].weight)


def test_what_was_folded_stays_when_training_goes_on() -> None:
    """A state dict names the living weights; what is kept must be a copy."""
    method = grafting_method(both_stages(2))
    advance(method, 5)
    alias, folded = method.student.state_dict(), method.folded()
    before, old = players.state(folded), players.state(alias)
    advance(method, 5)
    assert list(players.differences(old, players.state(alias)))
    assert not list(players.differences(before, players.state(folded)))
    living = {p.data_ptr() for network in (method.student, method.teacher) for p in network.state_dict().values()}
    assert not living & {p.data_ptr() for p in folded.state_dict().values()}


def test_a_hybrid_shows_the_scions_as_they_are_now() -> None:
    method = grafting_method([Graft((0,), 5, 0.05)])
    hybrid, images = method.hybrid((0,)), method.probe()
    before = hybrid(images).detach()
    advance(method, 2)
    assert not torch.equal(hybrid(images), before)


def test_a_grafted_block_learns_to_stand_in() -> None:
    method = grafting_method([Graft((2,), 200, 0.01), Graft((1,), 200, 0.01)], batch=10)
    method.steps_per_round = 10
    losses = [float(report["loss"]) for report in method.rounds()]
    assert losses[19] < losses[0] / 5 and losses[39] < losses[20] / 5


# --- going on


@pytest.mark.parametrize("draw", ["replacement", "epochs"])
@pytest.mark.parametrize("at", [1, 4, 7, 10, 13])
def test_a_run_killed_inside_any_graft_goes_on_bit_for_bit(tmp_path: Path, at: int, draw: str) -> None:
    def method(start: int = 2) -> NetGraft:
        made = grafting_method(draw=draw, augment=crop_and_flip, start=start, seed=start - 2)
        made.steps_per_round = 1
        return made

    whole = method()
    history = engine.run(whole, whole.total, progress=False)
    killed = method()
    killed.step = players.rigged(killed.step, at=at)  # type: ignore[method-assign]
    with pytest.raises(players.Explosion):
        engine.run(killed, killed.total, checkpoint=tmp_path / "run.pt", progress=False)
    assert killed.iteration == at and killed.graft_of(at) == killed.plan[at // 3]
    resumed = method(start=8)  # other weights and another seed: all must come from the file
    resumed_history = engine.run(resumed, resumed.total, checkpoint=tmp_path / "run.pt", progress=False)
    assert resumed_history.rounds == history.rounds
    without = {"seed": None, "steps_per_round": None}
    assert not list(players.differences(players.state(whole) | without, players.state(resumed) | without))
    assert not list(players.differences(players.state(whole.folded()), players.state(resumed.folded())))


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    engine.run(grafting_method(), 1, checkpoint=tmp_path / "run.pt", progress=False)
    with pytest.raises(ReuseError, match="(?s)does not fit this method's optimizers .*Delete .*run.pt"):
        engine.run(grafting_method(both_stages()[1:]), 2, checkpoint=tmp_path / "run.pt", progress=False)


def test_a_seed_decides_adapters_and_batches() -> None:
    def run(seed: int) -> list[Any]:
        torch.manual_seed(seed * 7)  # the global state must not matter
        method = grafting_method(seed=seed)
        start = players.state(method.scions)
        return [start, [report["loss"] for report in islice(method.rounds(), 1)], players.state(method.scions)]

    assert not list(players.differences(run(1), run(1)))
    first, second = run(1), run(2)
    assert not torch.equal(first[0][0]["out_of.weight"], second[0][0]["out_of.weight"])
    assert torch.equal(first[0][0]["block.0.weight"], second[0][0]["block.0.weight"])


def test_a_graft_of_no_updates_is_passed_over() -> None:
    plan = both_stages(2)
    method = grafting_method([replace(plan[0], steps=0), *plan[1:]])
    before = players.state(method.scions[0])
    assert method.graft_of(0).blocks == (1,) and method.total == 8
    advance(method, 2)
    assert not list(players.differences(before, players.state(method.scions[0])))
