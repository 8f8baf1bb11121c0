"""What grafting is compared with: each step against plain torch, and what moves when."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import little
import players
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reuselib import nets, run
from reuselib.errors import BadValue, ReuseError, ShapeMismatch
from reuselib.netgraft import FSKD, CrossDistillation, FitNet, KnowledgeDistillation, losses
from reuselib.netgraft.pruning import units

X = little.images().normalised(little.images().images)
DEFAULTS: dict[type, dict[str, Any]] = {
    KnowledgeDistillation: {"batch": 6, "lr": 0.01},
    FitNet: {"batch": 6, "lr": 0.01, "hint_steps": 3},
    FSKD: {"batch": 4},
    CrossDistillation: {"batch": 4, "steps": 25},
}


def make(kind: type, start: int = 2, student: nn.Module | None = None, **options: Any) -> Any:
    student = student or little.student(start, 4 if options.get("shared") else 3)
    return kind(little.teacher(), student, little.images(), **{"precision": "fp32"} | DEFAULTS[kind] | options)


def advance(method: run.Method, updates: int) -> None:
    for _ in range(updates):
        method.step()
        method.iteration += 1


def mapped(method: Any, index: int) -> list[torch.Tensor]:
    """The maps of a layer of student and teacher, on all images."""
    ways = zip(units(method.student), units(method.teacher), strict=True)
    maps = [X, X]
    for s, t in islice(ways, index + 1):
        maps = [s(maps[0]), t(maps[1])]
    return maps


def moved(before: Any, network: nn.Module) -> set[str]:
    return {place[1:] for place in players.differences(before, players.state(network))}


# --- the whole student at once


def test_a_step_of_distillation_is_one_of_adam_on_the_loss() -> None:
    method, teacher = make(KnowledgeDistillation), little.teacher()
    plain = copy.deepcopy(method.student)
    optimizer = torch.optim.Adam(plain.parameters(), 0.01)
    for x in islice(little.batches(method.images, 6, 0), 4):
        p, q = (teacher(x) / 4).softmax(1), (plain(x) / 4).log_softmax(1)
        expected = 16 * F.kl_div(q, p, reduction="batchmean")
        assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)


def test_the_hint_is_compared_through_a_regressor_and_then_the_outputs() -> None:
    method, teacher = make(FitNet, hint=0), little.teacher()
    plain, regressor = copy.deepcopy(method.student), copy.deepcopy(method.regressor)
    assert isinstance(regressor, nn.Conv2d) and regressor.kernel_size == (1, 1) and regressor.bias is not None
    hint = torch.optim.Adam([*plain.blocks[0].parameters(), *regressor.parameters()], 0.01)
    whole = torch.optim.Adam(plain.parameters(), 0.01)
    for turn, x in enumerate(islice(little.batches(method.images, 6, 0), 6)):
        if turn < 3:
            expected = F.mse_loss(regressor(plain.blocks[0](x)), teacher.blocks[0](x))
        else:
            expected = losses.soft_targets(teacher(x), plain(x))
        assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-3)
        for optimizer in (hint, whole):
            optimizer.zero_grad()
        expected.backward()
        (hint if turn < 3 else whole).step()
        method.iteration += 1
    for network, model in ((method.student, plain), (method.regressor, regressor)):
        torch.testing.assert_close(network.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-5)


def test_the_hint_is_a_block_that_learns_the_middle_one_unless_told_otherwise() -> None:
    wide = [nets.conv4(width, classes=4) for width in (4, 2)]
    assert FitNet(*wide, little.images()).hint == 2  # five blocks, the classifier among them
    assert make(FitNet).hint == make(FitNet, shared=1).hint == 1
    for hint, shared in ((-1, 0), (2, 0), (0, 1)):
        with pytest.raises(ReuseError, match=f"no hint behind block {hint}. Choose one of {shared} to 1"):
            make(FitNet, hint=hint, shared=shared)
    student = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(4), nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    )
    with pytest.raises(ShapeMismatch, match=r"Maps of \(8, 8\) and of \(4, 4\) pixels"):
        make(FitNet, student=student, hint=0)
    assert make(FitNet, student=student, hint=1).step()["loss"].isfinite()
    for kind, options in (
        (FitNet, {"hint_steps": -1}),
        (FSKD, {"ridge": 0}),
        *((CrossDistillation, {name: value}) for name, value in (("mu", 1.5), ("steps", 0), ("lr", -1))),
    ):
        with pytest.raises(BadValue, match=f"{next(iter(options))} must be"):
            make(kind, **options)


# --- layer by layer


def distance(method: FSKD | CrossDistillation, index: int) -> float:
    """Of the map of a layer from the teacher's kept channels, on all images."""
    maps = mapped(method, index)
    return F.mse_loss(maps[0], maps[1][:, method.kept[index]]).item()


def names_of(method: FSKD | CrossDistillation, index: int) -> set[str]:
    """The parameters of a layer of the student."""
    layer = units(method.student)[index].layer
    return {name for name, p in method.student.named_parameters() if p is layer.weight or p is layer.bias}


@torch.no_grad()
def test_each_step_of_fskd_solves_one_layer_and_absorbs_the_solution() -> None:
    method = make(FSKD, ridge=0.01)
    assert (method.total, method.steps_per_round) == (5, 1)
    for index in range(5):
        before, state, maps = distance(method, index), players.state(method.student), mapped(method, index)
        matrix, bias = losses.affine_least_squares(maps[0], maps[1][:, method.kept[index]], 0.01)
        expected = torch.einsum("ij,bj...->bi...", matrix, maps[0]) + bias.view(1, -1, *[1] * (maps[0].ndim - 2))
        assert method.step()["loss"].item() == pytest.approx(before, rel=1e-4, abs=1e-12)
        method.iteration += 1
        torch.testing.assert_close(mapped(method, index)[0], expected, rtol=1e-3, atol=1e-4)
        assert moved(state, method.student) <= names_of(method, index)
        assert distance(method, index) <= before + 1e-6
    with pytest.raises(ReuseError, match="All 5 updates are done"):
        method.step()


def test_the_batch_does_not_matter_to_fskd_and_nothing_is_drawn() -> None:
    states = []
    for batch, seed in ((1, 0), (4, 1), (100, 2)):
        method = make(FSKD, batch=batch, seed=seed, augment=players.rigged(None, at=0))
        random = method.random.get_state()
        advance(method, 5)
        assert torch.equal(random, method.random.get_state())
        states.append(method.student.state_dict())
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], rtol=1e-3, atol=1e-4)


def test_each_step_of_cd_is_one_of_adam_on_the_cross_distance_of_its_layer() -> None:
    method = make(CrossDistillation, steps=7, lr=0.01, mu=0.3)
    assert (method.total, method.layers, method.parts) == (7, 5, [1, 1, 2, 1, 2])
    plain, kept = copy.deepcopy(method.student), method.kept
    optimizers = [torch.optim.Adam(unit.layer.parameters(), 0.01) for unit in units(plain)]
    data = iter(little.batches(method.images, 4, 0))
    for index in (0, 1, 2, 2, 3, 4, 4):
        x = next(data)
        own, model = units(plain)[index], units(method.teacher)[index]
        h_s = h_t = x
        for s, t in list(zip(units(plain), units(method.teacher), strict=True))[:index]:
            h_s, h_t = s(h_s), t(h_t)
        target = model(h_t)[:, kept[index]].detach()
        h_t = h_t[:, kept[index - 1]] if index else h_t
        loss = 0.3 * F.mse_loss(own(h_t.detach()), target) + 0.7 * F.mse_loss(own(h_s.detach()), target)
        before = players.state(method.student)
        assert method.step()["loss"].item() == pytest.approx(loss.item(), rel=1e-3, abs=1e-9)
        assert moved(before, method.student) <= names_of(method, index)
        method.iteration += 1
        optimizers[index].zero_grad()
        loss.backward()
        if index:  # the first layer is exact already: its gradient is rounding, which Adam would blow up
            optimizers[index].step()
        else:
            plain.load_state_dict(method.student.state_dict())
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"), [(FSKD, {"ridge": 1e-4}), (CrossDistillation, {"steps": 300, "lr": 0.01})]
)
def test_both_mend_what_pruning_broke_and_leave_shared_blocks(kind: type, options: dict[str, Any]) -> None:
    method = make(kind, **options)
    broken = distance(method, 4)
    run.run(method, updates=method.total, progress=False)
    assert distance(method, 4) < broken / 2
    assert not any(module.training for module in method.student.modules())
    method = make(kind, shared=1)
    assert (method.first, method.layers) == (1, 4) and method.kept[0].tolist() == [0, 1, 2, 3]
    before = players.state(method.student)
    advance(method, method.total)
    found = moved(before, method.student)
    assert found and not any(place.startswith("blocks.0") for place in found)
    own, model = method.student.blocks[0][0], method.teacher.blocks[0][0]
    assert torch.equal(own.weight, model.weight) and torch.equal(own.bias, model.bias)
    with pytest.raises(ReuseError, match="Only plain networks can be pruned"):
        kind(nets.small_resnet((1, 1), 4, 4), nets.small_resnet((1, 1), 2, 4), little.images(), **DEFAULTS[kind])
