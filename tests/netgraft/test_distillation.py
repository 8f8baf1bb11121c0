"""Knowledge distillation and FitNets on a few images, each step against plain torch."""

from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path
from typing import Any

import little
import players
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reuselib import netgraft, nets, run
from reuselib.data.augment import crop_and_flip
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft import FitNet, KnowledgeDistillation

OPTIONS: dict[str, Any] = {"batch": 6, "precision": "fp32", "lr": 0.01}


def distilling(start: int = 2, **options: Any) -> KnowledgeDistillation:
    return KnowledgeDistillation(little.teacher(), little.student(start), little.images(), **OPTIONS | options)


def fitnet(start: int = 2, **options: Any) -> FitNet:
    first = 4 if options.get("shared") else 3
    student = options.pop("student", None) or little.student(start, first)
    return FitNet(little.teacher(), student, little.images(), **OPTIONS | {"hint_steps": 3} | options)


@pytest.mark.parametrize("loss", [None, netgraft.normalised_logits_distance])
def test_a_step_of_distillation_is_one_of_adam_on_the_loss(loss: Any) -> None:
    method = distilling(**{"loss": loss} if loss else {})
    plain, teacher = copy.deepcopy(method.student), little.teacher()
    optimizer = torch.optim.Adam(plain.parameters(), 0.01)
    for x in islice(little.batches(method.images, 6, 0), 4):
        p, q = (teacher(x) / 4).softmax(1), (plain(x) / 4).log_softmax(1)
        expected = loss(teacher(x), plain(x)) if loss else 16 * F.kl_div(q, p, reduction="batchmean")
        assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)


def test_distillation_learns() -> None:
    method = distilling(batch=10, steps=150)
    method.steps_per_round = 15
    losses = [float(report["loss"]) for report in method.rounds()]
    assert losses[-1] < losses[0] / 4


def test_the_hint_is_compared_through_a_regressor_and_then_the_outputs() -> None:
    method, teacher = fitnet(hint=0, steps=6), little.teacher()
    plain, regressor = copy.deepcopy(method.student), copy.deepcopy(method.regressor)
    assert isinstance(regressor, nn.Conv2d) and regressor.kernel_size == (1, 1) and regressor.bias is not None
    hint = torch.optim.Adam([*plain.blocks[0].parameters(), *regressor.parameters()], 0.01)
    whole = torch.optim.Adam(plain.parameters(), 0.01)
    for turn, x in enumerate(islice(little.batches(method.images, 6, 0), 6)):
        if turn < 3:
            expected = F.mse_loss(regressor(plain.blocks[0](x)), teacher.blocks[0](x))
        else:
            expected = netgraft.soft_targets(teacher(x), plain(x))
        assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-3)
        for optimizer in (hint, whole):
            optimizer.zero_grad()
        expected.backward()
        (hint if turn < 3 else whole).step()
        method.iteration += 1
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(method.regressor.state_dict(), regressor.state_dict(), rtol=1e-3, atol=1e-5)


def test_the_first_stage_moves_the_blocks_up_to_the_hint_and_the_second_all() -> None:
    method = fitnet(hint=1, shared=1)
    before = players.state(method.student), players.state(method.regressor)
    for _ in range(3):
        method.step()
        method.iteration += 1
    moved = set(players.differences(before[0], players.state(method.student)))
    assert moved == {f"/blocks.1.{name}" for name, _ in method.student.blocks[1].named_parameters()}
    assert len(list(players.differences(before[1], players.state(method.regressor)))) == 2
    between = players.state(method.student), players.state(method.regressor)
    method.step()
    moved = {place[1:] for place in players.differences(between[0], players.state(method.student))}
    assert moved == {name for name, p in method.student.named_parameters() if p.requires_grad}
    assert not list(players.differences(between[1], players.state(method.regressor)))


def test_the_hint_passes_a_shared_prefix_once_and_the_teacher_no_further_than_needed() -> None:
    method, calls = fitnet(hint=1, shared=1), []
    for name, network in (("teacher", method.teacher), ("student", method.student)):
        for index, block in enumerate([*network.blocks, network.head]):
            block.register_forward_hook(lambda *_, who=name, index=index: calls.append((who, index)))
    method.step()
    assert calls == [("teacher", 0), ("teacher", 1), ("student", 1)]


@pytest.mark.parametrize(("shared", "hint"), [(0, 1), (1, 1)])
def test_the_hint_is_the_middle_block_of_those_that_learn(shared: int, hint: int) -> None:
    assert fitnet(shared=shared).hint == hint
    wide = [nets.conv4(width, classes=4) for width in (4, 2)]
    assert FitNet(*wide, little.images(), hint_steps=1).hint == 2  # five blocks, the classifier among them


@pytest.mark.parametrize("hint", [-1, 2, 3])
def test_a_hint_that_is_no_block_is_refused(hint: int) -> None:
    with pytest.raises(ReuseError, match=f"no hint behind block {hint}. Choose one of 0 to 1"):
        fitnet(hint=hint)


def test_a_hint_in_a_shared_block_is_refused() -> None:
    with pytest.raises(ReuseError, match="no hint behind block 0. Choose one of 1 to 1"):
        fitnet(hint=0, shared=1)


@pytest.mark.parametrize("hint_steps", [-1, 8])
def test_a_first_stage_longer_than_all_is_refused(hint_steps: int) -> None:
    with pytest.raises(ReuseError, match=f"hint cannot take {hint_steps} of 7 updates. Lower hint_steps"):
        fitnet(hint_steps=hint_steps, steps=7)


def test_maps_of_other_sizes_are_refused() -> None:
    student = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(4), nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    )
    with pytest.raises(ShapeMismatch, match=r"Behind block 0 the teacher's maps have \(4, 4\) pixels, .*\(8, 8\)"):
        fitnet(student=student, hint=0)
    assert fitnet(student=student, hint=1).step()["loss"].isfinite()


def test_all_updates_can_be_hints_or_none() -> None:
    for hint_steps in (0, 4):
        method = fitnet(hint_steps=hint_steps, steps=4)
        method.steps_per_round = 1
        before = players.state(method.student.head)
        assert len(list(method.rounds())) == 4
        assert bool(list(players.differences(before, players.state(method.student.head)))) == (hint_steps == 0)


@pytest.mark.parametrize("make", [distilling, fitnet])
@pytest.mark.parametrize("at", [2, 5])
def test_a_run_killed_in_either_stage_goes_on_bit_for_bit(tmp_path: Path, at: int, make: Any) -> None:
    def method(start: int = 2) -> KnowledgeDistillation:
        made = make(start, steps=7, draw="epochs", augment=crop_and_flip, seed=start - 2)
        made.steps_per_round = 1
        return made

    whole, killed, resumed = method(), method(), method(start=8)
    history = run.run(whole, 7, progress=False)
    killed.step = players.rigged(killed.step, at=at)
    with pytest.raises(players.Explosion):
        run.run(killed, 7, checkpoint=tmp_path / "run.pt", progress=False)
    found = run.run(resumed, 7, checkpoint=tmp_path / "run.pt", progress=False)
    assert found.rounds == history.rounds
    without = {"seed": None}
    assert not list(players.differences(players.state(whole) | without, players.state(resumed) | without))


def test_a_seed_decides_the_regressor() -> None:
    states = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        method = fitnet(seed=seed)
        method.steps_per_round = 2
        next(islice(method.rounds(), 1))
        states.append(players.state(method.regressor))
    assert not list(players.differences(*states[:2])) and list(players.differences(*states[1:]))
