"""Pruning, least squares, and the two methods that mend a pruned student layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import little
import numpy as np
import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft import (
    FSKD,
    CrossDistillation,
    Hybrid,
    cross_distance,
    least_squares,
    make_scions,
    prune,
    start_pruned,
)
from reuselib.netgraft.rivals import affine_least_squares, layer_count, units

X = little.images().normalised(little.images().images)
OPTIONS: dict[str, Any] = {"batch": 4, "precision": "fp32"}


def spoilt(network: nn.Module, seed: int = 7) -> nn.Module:
    """A network with batch norms, biases and weights as after training."""
    with run.seeded(seed), torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-1.5, 1.5)
    return network.eval()


def conv3_teacher() -> nets.Classifier:
    return spoilt(nets.conv3(4, 4, batch_norm=True))


def fskd(**options: Any) -> FSKD:
    first = 4 if options.get("shared") else 3
    return FSKD(little.teacher(), little.student(first=first), little.images(), **OPTIONS | options)


def crossing(start: int = 2, **options: Any) -> CrossDistillation:
    first = 4 if options.get("shared") else 3
    options = OPTIONS | {"steps": 5} | options
    return CrossDistillation(little.teacher(), little.student(start, first), little.images(), **options)


# --- units


def test_a_network_is_the_row_of_its_units() -> None:
    teacher = little.teacher()
    found = units(teacher)
    assert [type(unit.layer) for unit in found] == [nn.Conv2d] * 3 + [nn.Linear] * 2
    assert [unit.width for unit in found] == [4, 6, 6, 5, 4]
    assert [unit.norm is None for unit in found] == [True, True, True, False, True]
    assert [[type(m) for m in unit.before] for unit in found] == [
        [],
        [nn.ReLU, nn.MaxPool2d],
        [nn.ReLU],
        [nn.ReLU, nn.MaxPool2d, nn.Flatten],
        [],
    ]
    maps = X
    for unit in found:
        maps = unit(maps)
    assert torch.equal(maps, teacher(X)) and layer_count(teacher) == 5


@pytest.mark.parametrize("network", [conv3_teacher(), little.teacher()])
def test_a_batch_norm_folded_into_its_layer_gives_the_same_map(network: nn.Module) -> None:
    maps = X
    for unit in units(network):
        weight, bias = unit.folded()
        seen = maps
        for module in unit.before:
            seen = module(seen)
        plain = F.linear(seen, weight, bias) if weight.ndim == 2 else F.conv2d(seen, weight, bias, padding=1)
        maps = unit(maps)
        torch.testing.assert_close(plain, maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nets.small_resnet(width=4, classes=4), "a BasicBlock is not plain. They are rows of convolutions"),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten()), "a Conv2d is not plain"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)), "a BatchNorm2d is not plain"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)), "a BatchNorm2d is not plain"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid()), "a Sigmoid is not plain"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "must end in a layer with weights. Remove what"),
        (lambda: nn.Sequential(nn.Flatten()), "must end in a layer with weights"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)),
            "BatchNorm2d.* cannot be folded into a layer. Use batch norm with weights and running statistics",
        ),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)), "cannot be folded into a layer"),
    ],
)
def test_a_network_that_is_not_plain_is_refused(network: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        units(network())


# --- pruning


def slow_prune(teacher: nn.Module, widths: list[int]) -> tuple[list[list[int]], list[Tensor], list[Tensor]]:
    """The filters that stay, filter by filter, and the weights and biases that are left."""
    kept, weights, biases = [], [], []
    layers = [unit.folded() for unit in units(teacher)]
    for index, ((weight, bias), width) in enumerate(zip(layers, widths, strict=True)):
        norms = {o: sum(abs(value) for value in row.flatten().tolist()) for o, row in enumerate(weight.detach())}
        chosen = sorted(sorted(norms, key=norms.__getitem__, reverse=True)[:width])
        inputs = kept[-1] if kept else range(1)
        of_each = weight.shape[1] // (len(layers[index - 1][0]) if kept else 1)
        columns = [channel * of_each + position for channel in inputs for position in range(of_each)]
        kept.append(chosen)
        weights.append(weight.detach()[chosen][:, columns])
        biases.append(bias.detach()[chosen])
    return kept, weights, biases


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_strongest_filters_stay_in_their_order(batch_norm: bool) -> None:
    pairs = [(little.teacher(), little.student(), [3, 4, 4, 3, 4])]
    if batch_norm:
        pairs = [(conv3_teacher(), nets.conv3(2, 4), [2, 4, 8, 4])]
    for teacher, student, widths in pairs:
        before = players.state(teacher)
        kept, weights, biases = slow_prune(teacher, widths)
        found = prune(teacher, student)
        assert [each.tolist() for each in found] == kept and kept[-1] == [0, 1, 2, 3]
        for unit, weight, bias in zip(units(student), weights, biases, strict=True):
            torch.testing.assert_close(unit.layer.weight.data, weight)
            torch.testing.assert_close(unit.layer.bias.data, bias)
        assert not list(players.differences(before, players.state(teacher)))


def test_a_student_as_wide_as_the_teacher_becomes_the_teacher() -> None:
    with_norms = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    pairs = [
        (conv3_teacher(), nets.conv3(4, 4)),
        (little.teacher(), nets.plain_vgg(((4,), (6, 6)), 5, 4, size=8)),
        (spoilt(with_norms), copy.deepcopy(with_norms)),
    ]
    for teacher, student in pairs:
        spoilt(student, seed=1)
        prune(teacher, student)
        torch.testing.assert_close(student.eval()(X), teacher(X), rtol=1e-4, atol=1e-4)


def test_dead_channels_cost_nothing_when_pruned() -> None:
    teacher = spoilt(nets.conv3(4, 4))
    with torch.no_grad():
        for unit, dead in zip(units(teacher), ([1, 3], [0, 1, 2, 7], [*range(8)], []), strict=True):
            unit.layer.weight[dead], unit.layer.bias[dead] = 0, 0
    student = nets.conv3(2, 4)
    assert [each.tolist() for each in prune(teacher, student)][0] == [0, 2]
    torch.testing.assert_close(student.eval()(X), teacher(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("student", "error", "message"),
    [
        (lambda: nets.conv3(2, 4), ShapeMismatch, "teacher has 5 layers with weights, the student 4. Prune"),
        (
            lambda: nets.plain_vgg(((3,), (4, 7)), 3, 4, size=8, head_norm=False),
            ShapeMismatch,
            "Layer 2 has 6 filters in the teacher, 7 in the student",
        ),
        (lambda: little.student(classes=3), ShapeMismatch, "Layer 4 has 4 filters in the teacher, 3 in .*as many"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 3, 5, padding=2), *[nn.Linear(2, 2)] * 4),
            ShapeMismatch,
            r"Layer 0 is Conv2d\(1, 4.* in the teacher, Conv2d\(1, 3.* in the student",
        ),
        (lambda: nn.Sequential(nn.Linear(1, 3), *[nn.Linear(2, 2)] * 4), ShapeMismatch, "Layer 0 is Conv2d.*Linear"),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 3, 3, padding=1, bias=False),
                *list(little.student().blocks)[1:],
                little.student().pool,
                little.student().head,
            ),
            ReuseError,
            "Layer 0 of the student, Conv2d.*bias=False.*, has no bias.*bias=True",
        ),
    ],
)
def test_students_that_cannot_be_pruned_to_are_refused(student: Any, error: type, message: str) -> None:
    network = student()
    before = players.state(network)
    with pytest.raises(error, match=message):
        prune(little.teacher(), network)
    assert not list(players.differences(before, players.state(network)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"size": 16}, "Layer 3 has 4 weights for each channel in the teacher, 16 in"),
        ({"channels": 3}, "Layer 0 has 9 weights .* 27 in"),
    ],
)
def test_students_for_other_images_are_refused(images: dict[str, int], message: str) -> None:
    student = nets.plain_vgg(((3,), (4, 4)), 3, 4, **{"size": 8} | images, head_norm=False)
    with pytest.raises(ShapeMismatch, match=f"{message} the student. Build both for images of one shape"):
        prune(little.teacher(), student)


@pytest.mark.parametrize("shared", [0, 1])
def test_scions_of_a_pruned_student_begin_as_parts_of_the_teachers_blocks(shared: int) -> None:
    teacher, student = little.teacher(), little.student(first=4 if shared else 3)
    scions = make_scions(teacher, student, X, shared=shared)
    kept = prune(teacher, student)
    start_pruned(teacher, scions, kept, shared)
    for block, ends in ((0, 0), (1, 2)):
        if block < shared:
            continue
        scion, chosen = scions[block - shared], kept[ends].tolist()
        maps = teacher.blocks[0](X) if block else X
        out = scion(maps)
        others = sorted(set(range(teacher.blocks[block](maps).shape[1])) - set(chosen))
        assert not out[:, others].any() and out[:, chosen].any()
        if block == 0:
            torch.testing.assert_close(out[:, chosen], teacher.blocks[0](X)[:, chosen])
    whole = Hybrid(teacher, {shared + index: scion for index, scion in enumerate(scions)})
    torch.testing.assert_close(whole(X), student.eval()(X), rtol=1e-4, atol=1e-5)


# --- least squares


def slow_least_squares(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """The same as one tall ordinary least-squares problem, row by row of M, in double precision."""
    channels = x.shape[1]
    weight = ridge * np.mean(np.sum(x**2, 0))
    tall = np.vstack([x, np.sqrt(weight) * np.eye(channels)])
    wanted = np.vstack([y, np.sqrt(weight) * np.eye(channels)])
    return np.linalg.lstsq(tall, wanted, rcond=None)[0].T


@pytest.mark.parametrize("shape", [(4, 5, 3, 3), (40, 5), (3, 5), (1, 5, 1, 2)])
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_the_matrix_is_that_of_the_augmented_problem(shape: tuple[int, ...], ridge: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    rows = [maps.movedim(1, -1).reshape(-1, 5).numpy() for maps in (x, y)]
    found = least_squares(x, y, ridge)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.from_numpy(slow_least_squares(*rows, ridge)))


def test_maps_that_agree_give_the_identity_and_a_mixture_is_found_again() -> None:
    x = torch.randn(50, 4, 6, 6)
    assert torch.equal(least_squares(x, x), torch.eye(4))
    mixture = torch.randn(4, 4)
    y = torch.einsum("ij,bjhw->bihw", mixture, x)
    torch.testing.assert_close(least_squares(x, y, ridge=1e-7), mixture, rtol=1e-3, atol=1e-3)


def test_where_nothing_is_known_the_matrix_is_the_identity() -> None:
    assert torch.equal(least_squares(torch.zeros(3, 4, 2, 2), torch.randn(3, 4, 2, 2)), torch.eye(4))
    one = torch.zeros(6, 4)
    one[:, 2] = torch.randn(6)
    found = least_squares(one, 3 * one, ridge=1e-6)
    torch.testing.assert_close(found, torch.diag(torch.tensor([1.0, 1, 3, 1])), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(least_squares(one, 3 * one, ridge=1e6), torch.eye(4), rtol=1e-3, atol=1e-3)


def test_half_precision_is_lifted() -> None:
    assert least_squares(torch.randn(9, 3).bfloat16(), torch.randn(9, 3).bfloat16()).dtype == torch.float32


def test_maps_of_other_shapes_and_ridges_that_are_none_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(2, 3, 4, 4\) and \(2, 4, 4, 4\) cannot be matched. Choose the"):
        least_squares(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))
    for ridge in (0, -1.0):
        with pytest.raises(ReuseError, match=f"ridge of {ridge} leaves the matrix undetermined. Give a number above 0"):
            least_squares(X, X, ridge)


@pytest.mark.parametrize("shape", [(30, 4, 3, 3), (200, 4)])
def test_a_bias_costs_nothing(shape: tuple[int, ...]) -> None:
    x, mixture, bias = torch.randn(shape) + 5, torch.randn(4, 4), torch.randn(4)
    y = torch.einsum("ij,bj...->bi...", mixture, x) + bias.view(1, 4, *[1] * (len(shape) - 2))
    found = affine_least_squares(x, y, 1e-7)
    torch.testing.assert_close(found, (mixture, bias), rtol=1e-2, atol=2e-2)
    matrix, shift = affine_least_squares(x, x + 7, ridge=1e3)
    torch.testing.assert_close(matrix, torch.eye(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shift, torch.full((4,), 7.0), rtol=1e-2, atol=1e-2)


# --- FSKD


def distance(method: FSKD | CrossDistillation, index: int) -> float:
    """Of the map of a layer from the teacher's kept channels, on all images."""
    maps = [X, X]
    for s, t in list(zip(units(method.student), units(method.teacher), strict=True))[: index + 1]:
        maps = [s(maps[0]), t(maps[1])]
    return F.mse_loss(maps[0], maps[1][:, method.kept[index]]).item()


@torch.no_grad()
def test_each_step_solves_one_layer_and_absorbs_the_solution() -> None:
    method = fskd(ridge=0.01)
    assert (method.total, method.steps_per_round) == (5, 1)
    for index, _ in enumerate(units(method.student)):
        before, state = distance(method, index), players.state(method.student)
        maps, target = [X, X], None
        for s, t in list(zip(units(method.student), units(method.teacher), strict=True))[: index + 1]:
            maps = [s(maps[0]), t(maps[1])]
        target = maps[1][:, method.kept[index]]
        matrix, bias = affine_least_squares(maps[0], target, 0.01)
        expected = torch.einsum("ij,bj...->bi...", matrix, maps[0]) + bias.view(1, -1, *[1] * (maps[0].ndim - 2))
        assert method.step()["loss"].item() == pytest.approx(before, rel=1e-4, abs=1e-12)
        method.iteration += 1
        found = X
        for unit in units(method.student)[: index + 1]:
            found = unit(found)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        layer = units(method.student)[index].layer
        names = {name for name, p in method.student.named_parameters() if p is layer.weight or p is layer.bias}
        assert {place[1:] for place in players.differences(state, players.state(method.student))} <= names
        assert distance(method, index) <= before + 1e-6
    with pytest.raises(ReuseError, match="All 5 updates are done"):
        method.step()


def test_it_mends_what_pruning_broke() -> None:
    method = fskd(ridge=1e-4)
    broken = distance(method, 4)
    assert len(list(method.rounds())) == 5
    assert distance(method, 4) < broken / 2
    assert not any(module.training for module in method.student.modules())


def test_the_batch_does_not_matter_and_nothing_is_drawn() -> None:
    states = []
    for batch, seed in ((1, 0), (4, 1), (100, 2)):
        method = fskd(batch=batch, seed=seed, augment=players.rigged(None, at=0))
        random = method.random.get_state()
        list(method.rounds())
        assert torch.equal(random, method.random.get_state())
        states.append(method.student.state_dict())
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [fskd, crossing])
def test_the_layers_of_shared_blocks_are_the_teachers_and_stay(make: Callable[..., Any]) -> None:
    method = make(shared=1)
    assert (method.first, method.layers) == (1, 4) and method.kept[0].tolist() == [0, 1, 2, 3]
    before = players.state(method.student)
    while method.iteration < method.total:
        method.step()
        method.iteration += 1
    changed = set(players.differences(before, players.state(method.student)))
    assert changed and not any(place.startswith("/blocks.0") for place in changed)
    own, model = method.student.blocks[0][0], method.teacher.blocks[0][0]
    assert torch.equal(own.weight, model.weight) and torch.equal(own.bias, model.bias)


@pytest.mark.parametrize("make", [fskd, crossing])
def test_students_that_are_not_plain_are_refused(make: Callable[..., Any]) -> None:
    method = FSKD if make is fskd else CrossDistillation
    with pytest.raises(ReuseError, match="Only plain networks can be pruned"):
        method(nets.small_resnet((1, 1), 4, 4), nets.small_resnet((1, 1), 2, 4), little.images())


# --- cross distillation


def test_the_cross_distance_weighs_imitation_and_correction() -> None:
    layer = nn.Linear(3, 4)
    h_t, h_s, target = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 4)
    parts = F.mse_loss(layer(h_t), target), F.mse_loss(layer(h_s), target)
    for mu in (0, 0.25, 1):
        torch.testing.assert_close(cross_distance(layer, h_t, h_s, target, mu), mu * parts[0] + (1 - mu) * parts[1])
    torch.testing.assert_close(cross_distance(layer, h_t, h_s, target), 0.6 * parts[0] + 0.4 * parts[1])


def test_each_step_is_one_of_adam_on_the_cross_distance_of_its_layer() -> None:
    method = crossing(steps=(1, 2, 1, 2, 1), lr=0.01, mu=0.3)
    assert (method.total, method.layers) == (7, 5)
    plain, kept = copy.deepcopy(method.student), method.kept
    optimizers = [torch.optim.Adam(unit.layer.parameters(), 0.01) for unit in units(plain)]
    data = iter(little.batches(method.images, 4, 0))
    for index in (0, 1, 1, 2, 3, 3, 4):
        x = next(data)
        own, model = units(plain)[index], units(method.teacher)[index]
        h_s = h_t = x
        for s, t in list(zip(units(plain), units(method.teacher), strict=True))[:index]:
            h_s, h_t = s(h_s), t(h_t)
        target = model(h_t)[:, kept[index]].detach()
        h_t = h_t[:, kept[index - 1]] if index else h_t
        loss = 0.3 * F.mse_loss(own(h_t.detach()), target) + 0.7 * F.mse_loss(own(h_s.detach()), target)
        assert method.step()["loss"].item() == pytest.approx(loss.item(), rel=1e-3, abs=1e-9)
        method.iteration += 1
        optimizers[index].zero_grad()
        loss.backward()
        if index:  # the first layer is exact already: its gradient is rounding, which Adam would blow up
            optimizers[index].step()
        else:
            plain.load_state_dict(method.student.state_dict())
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


def test_only_the_layer_whose_turn_it_is_moves() -> None:
    method = crossing(steps=2)
    for index in range(5):
        before = players.state(method.student)
        for _ in range(2):
            method.step()
            method.iteration += 1
        layer = units(method.student)[index].layer
        names = {name for name, p in method.student.named_parameters() if p is layer.weight or p is layer.bias}
        moved = {place[1:] for place in players.differences(before, players.state(method.student))}
        assert moved <= names and (moved == names or index == 0)
    assert not any(module.training for module in method.student.modules())
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_cross_distillation_mends_what_pruning_broke() -> None:
    method = crossing(steps=60, lr=0.01, batch=10)
    broken = distance(method, 4)
    list(method.rounds())
    assert distance(method, 4) < broken / 2


def test_steps_are_one_number_or_one_for_each_layer() -> None:
    assert crossing(steps=3).total == 15 and crossing(steps=3, shared=1).total == 12
    with pytest.raises(ReuseError, match="4 values where 5 are needed"):
        crossing(steps=(1, 2, 3, 4))


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_run_killed_at_any_layer_goes_on_bit_for_bit(tmp_path: Path, at: int) -> None:
    for number, make in enumerate((fskd, lambda **options: crossing(**options, steps=1, draw="epochs"))):
        whole, killed, resumed = make(), make(), make(seed=5)
        for method in (whole, killed, resumed):
            method.steps_per_round = 1
        with torch.no_grad():
            for parameter in resumed.student.parameters():
                parameter.add_(1)  # the weights must come from the file
        history = run.run(whole, 5, progress=False)
        killed.step = players.rigged(killed.step, at=at)
        path = tmp_path / f"{number}.pt"
        with pytest.raises(players.Explosion):
            run.run(killed, 5, checkpoint=path, progress=False)
        assert run.run(resumed, 5, checkpoint=path, progress=False).rounds == history.rounds
        without = {"seed": None}
        assert not list(players.differences(players.state(whole) | without, players.state(resumed) | without))
