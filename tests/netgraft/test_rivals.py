"""What grafting is compared with: batches without labels, blocks that are copied, and each step against plain torch."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from typing import Any

import little
import players
import pytest
import torch
import torch.nn.functional as F
from plain import descend
from torch import Tensor

from reuselib import nets
from reuselib.data import ImageSet
from reuselib.errors import BadValue, ReuseError
from reuselib.netgraft import FSKD, CrossDistillation, FitNet, KnowledgeDistillation, losses
from reuselib.netgraft.few_shot import share_prefix
from reuselib.netgraft.pruning import units

X = little.images().normalised(little.images().images)
DEFAULTS: dict[type, dict[str, Any]] = {
    KnowledgeDistillation: {"batch": 4},
    FitNet: {"batch": 6, "lr": 0.01, "hint_steps": 3},
    FSKD: {"batch": 4},
    CrossDistillation: {"batch": 4, "steps": 25},
}


def make(kind: type, **options: Any) -> Any:
    """A method on the little networks and images, unless others are among the options."""
    student = little.student(first=4 if options.get("shared") else 3)
    parts = {"teacher": little.teacher(), "student": student, "images": little.images()}
    parts |= {name: options.pop(name) for name in parts if name in options}
    return kind(*parts.values(), **{"precision": "fp32"} | DEFAULTS[kind] | options)


# --- what they share


def numbered(count: int) -> ImageSet:
    """Images whose every pixel is their own number."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return replace(little.images(count), images=pixels.contiguous())


def drawn(method: KnowledgeDistillation, times: int) -> list[list[int]]:
    """Which images the next batches hold."""
    found = []
    for _ in range(times):
        found.append(((method.draw()[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().int().tolist())
        method.iteration += 1
    return found


def test_an_epoch_shows_every_image_once_and_keeps_its_short_last_batch() -> None:
    method, orders = make(KnowledgeDistillation, images=numbered(10), epochs=True), []
    for _ in range(3):
        epoch = drawn(method, 3)
        assert [len(each) for each in epoch] == [4, 4, 2]
        orders.append(tuple(sum(epoch, [])))
        assert sorted(orders[-1]) == list(range(10))
    assert len(set(orders)) > 1


@pytest.mark.parametrize("epochs", [False, True])
def test_a_seed_decides_what_is_drawn_and_augmentation_sees_uint8_and_the_methods_generator(epochs: bool) -> None:
    rows = [drawn(make(KnowledgeDistillation, images=numbered(9), epochs=epochs, seed=seed), 5) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    seen = []

    def augment(pixels: Tensor, random: torch.Generator | None) -> Tensor:
        seen.append((pixels.dtype, random))
        return 255 - pixels

    method = make(KnowledgeDistillation, images=numbered(6), batch=6, epochs=epochs, augment=augment)
    assert set(drawn(method, 1)[0]) <= set(range(250, 256)) and seen == [(torch.uint8, method.random)]


def test_what_does_not_fit_is_refused_and_the_teacher_comes_back() -> None:
    teacher = little.teacher().train()
    before = players.state(teacher)
    for changed, message in (
        ({"images": little.images().subset([])}, "images must be ImageSet with something in it"),
        ({"student": little.student().to("meta")}, "different devices: .*meta.*with .to"),
        ({"student": little.student(classes=5)}, r"\(2, 4\) and \(2, 5\).*same number of classes"),
        ({"images": little.images(shape=(3, 8, 8))}, r"takes images of shape \(batch, 1"),
        ({"student": little.student(), "shared": 1}, "first 1 blocks are not built like the teacher's"),
        ({"shared": 3}, "Of 3 blocks, 3 cannot be shared. Share 0 to 2"),
    ):
        with pytest.raises(ReuseError, match=message):
            make(KnowledgeDistillation, **{"teacher": teacher} | changed)
    assert not list(players.differences(before, players.state(teacher)))
    assert all(module.training for module in teacher.modules())


@pytest.mark.parametrize("shared", [0, 1])
def test_a_step_of_distillation_is_one_of_adam_and_leaves_shared_blocks(shared: int) -> None:
    method, student = (
        make(KnowledgeDistillation, student=little.student(first=4), shared=k, lr=0.01) for k in (shared, 0)
    )
    student, teacher, calls = student.student, little.teacher(), []
    share_prefix(teacher, student, shared)
    before = players.state(method.student)
    for network in (method.teacher, method.student):
        network.blocks[0].register_forward_hook(lambda block, _, maps: calls.append((block, maps.requires_grad)))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 0.01)
    for x in islice(little.batches(little.images(), 4, 0), 3):
        p, q = (teacher(x) / 4).softmax(1), (student(x) / 4).log_softmax(1)
        loss = 16 * F.kl_div(q, p, reduction="batchmean")
        torch.testing.assert_close(method.step()["loss"], loss.detach(), rtol=1e-3, atol=1e-6)
        descend(loss, optimizer)
    torch.testing.assert_close(method.student.state_dict(), student.state_dict(), rtol=1e-3, atol=1e-5)
    moved = set(players.differences(before, players.state(method.student)))
    names = [name for name, _ in method.student.named_parameters()]
    assert moved == {f"/{name}" for name in names if not (shared and name.startswith("blocks.0."))}
    if shared:
        assert calls == [(method.teacher.blocks[0], False)] * 3, "once in a step, without gradient"
        states = [players.state(network.blocks[0]) for network in (method.student, teacher)]
        assert not list(players.differences(*states))


# --- hints


def test_the_hint_is_compared_through_a_regressor_and_then_the_outputs() -> None:
    method, teacher = make(FitNet, hint=0), little.teacher()
    plain, regressor = copy.deepcopy(method.student), copy.deepcopy(method.regressor)
    hint = torch.optim.Adam([*plain.blocks[0].parameters(), *regressor.parameters()], 0.01)
    whole = torch.optim.Adam(plain.parameters(), 0.01)
    for turn, x in enumerate(islice(little.batches(method.images, 6, 0), 6)):
        method.iteration = turn
        expected = F.mse_loss(regressor(plain.blocks[0](x)), teacher.blocks[0](x))
        if turn >= 3:
            expected = losses.soft_targets(teacher(x), plain(x))
        assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-3)
        descend(expected, hint if turn < 3 else whole)
    for network, model in ((method.student, plain), (method.regressor, regressor)):
        torch.testing.assert_close(network.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-5)


def test_the_hint_is_a_block_that_learns_the_middle_one_unless_told_otherwise() -> None:
    wide = [nets.conv4(width, classes=4) for width in (4, 2)]
    assert FitNet(*wide, little.images()).hint == 2  # five blocks, the classifier among them
    assert make(FitNet).hint == make(FitNet, shared=1).hint == 1
    for hint, shared in ((-1, 0), (2, 0), (0, 1)):
        with pytest.raises(ReuseError, match=f"no hint behind block {hint}. Choose one of {shared} to 1"):
            make(FitNet, hint=hint, shared=shared)


# --- layer by layer


def mapped(method: Any, index: int) -> list[torch.Tensor]:
    """The maps of a layer of student and teacher, on all images."""
    ways = zip(units(method.student), units(method.teacher), strict=True)
    maps = [X, X]
    for s, t in islice(ways, index + 1):
        maps = [s(maps[0]), t(maps[1])]
    return maps


def distance(method: FSKD | CrossDistillation, index: int) -> float:
    """Of the map of a layer from the teacher's kept channels, on all images."""
    maps = mapped(method, index)
    return F.mse_loss(maps[0], maps[1][:, method.kept[index]]).item()


def only_that_layer_moves(method: FSKD | CrossDistillation, index: int) -> float:
    """Make a step, and return its loss."""
    layer, before = units(method.student)[index].layer, players.state(method.student)
    own = {f"/{name}" for name, p in method.student.named_parameters() if p is layer.weight or p is layer.bias}
    loss = method.step()["loss"].item()
    method.iteration += 1
    assert set(players.differences(before, players.state(method.student))) <= own
    return loss


@torch.no_grad()
def test_each_step_of_fskd_solves_one_layer_and_absorbs_the_solution() -> None:
    method = make(FSKD, ridge=0.01)
    assert (method.total, method.steps_per_round) == (5, 1)
    for index in range(5):
        before, maps = distance(method, index), mapped(method, index)
        matrix, bias = losses.affine_least_squares(maps[0], maps[1][:, method.kept[index]], 0.01)
        expected = torch.einsum("ij,bj...->bi...", matrix, maps[0]) + bias.view(1, -1, *[1] * (maps[0].ndim - 2))
        assert only_that_layer_moves(method, index) == pytest.approx(before, rel=1e-4, abs=1e-12)
        torch.testing.assert_close(mapped(method, index)[0], expected, rtol=1e-3, atol=1e-4)
        assert distance(method, index) <= before + 1e-6
    with pytest.raises(ReuseError, match="All 5 updates are done"):
        method.step()


def test_each_step_of_cd_is_one_of_adam_on_the_cross_distance_of_its_layer() -> None:
    method = make(CrossDistillation, steps=7, lr=0.01, mu=0.3)
    assert (method.total, method.layers, method.parts) == (7, 5, [1, 1, 2, 1, 2])
    plain, kept = copy.deepcopy(method.student), method.kept
    optimizers = [torch.optim.Adam(unit.layer.parameters(), 0.01) for unit in units(plain)]
    data = iter(little.batches(method.images, 4, 0))
    for index in (0, 1, 2, 2, 3, 4, 4):
        own, model = units(plain)[index], units(method.teacher)[index]
        h_s = h_t = next(data)
        for s, t in list(zip(units(plain), units(method.teacher), strict=True))[:index]:
            h_s, h_t = s(h_s), t(h_t)
        target = model(h_t)[:, kept[index]].detach()
        h_t = h_t[:, kept[index - 1]] if index else h_t
        loss = 0.3 * F.mse_loss(own(h_t.detach()), target) + 0.7 * F.mse_loss(own(h_s.detach()), target)
        assert only_that_layer_moves(method, index) == pytest.approx(loss.item(), rel=1e-3, abs=1e-9)
        if index:
            descend(loss, optimizers[index])
        else:  # the first layer is exact already: its gradient is rounding, which Adam would blow up
            plain.load_state_dict(method.student.state_dict())
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)
    with pytest.raises(BadValue, match="steps must be"):
        make(CrossDistillation, steps=0)


@pytest.mark.parametrize("kind", [FSKD, CrossDistillation])
def test_layers_are_mended_in_evaluation_mode_but_for_those_of_shared_blocks(kind: type) -> None:
    method = make(kind, shared=1)
    assert (method.first, method.layers) == (1, 4) and method.kept[0].tolist() == [0, 1, 2, 3]
    before = players.state(method.student)
    for turn in range(method.total):
        method.iteration = turn
        method.step()
    assert list(players.differences(before, players.state(method.student)))
    assert not any(module.training for module in method.student.modules())
    states = [players.state(network.blocks[0]) for network in (method.student, method.teacher)]
    assert not list(players.differences(*states))
    with pytest.raises(ReuseError, match="Only plain networks can be pruned"):
        kind(nets.small_resnet((1, 1), 4, 4), nets.small_resnet((1, 1), 2, 4), little.images(), **DEFAULTS[kind])
