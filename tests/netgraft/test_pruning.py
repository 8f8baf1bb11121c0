"""Plain networks taken apart into units, pruned to their strongest filters, and scions that begin there."""

from __future__ import annotations

import copy

import little
import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft import Hybrid, make_scions, prune, start_pruned
from reuselib.netgraft.pruning import layer_count, units

X = little.images().normalised(little.images().images)


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


def test_a_network_is_the_row_of_its_units_and_batch_norm_folds_into_them() -> None:
    found = units(little.teacher())
    assert [type(unit.layer) for unit in found] == [nn.Conv2d] * 3 + [nn.Linear] * 2
    assert [unit.width for unit in found] == [4, 6, 6, 5, 4]
    assert [unit.norm is None for unit in found] == [True, True, True, False, True]
    assert [type(m) for m in found[3].before] == [nn.ReLU, nn.MaxPool2d, nn.Flatten]
    for network in (little.teacher(), conv3_teacher()):
        maps = X
        for unit in units(network):
            weight, bias = unit.folded()
            seen = nn.Sequential(*unit.before)(maps)
            plain = F.linear(seen, weight, bias) if weight.ndim == 2 else F.conv2d(seen, weight, bias, padding=1)
            maps = unit(maps)
            torch.testing.assert_close(plain, maps, rtol=1e-4, atol=1e-4)
        assert torch.equal(maps, network(X)) and layer_count(network) == len(units(network))


def test_a_network_that_is_not_plain_is_refused() -> None:
    conv = nn.Conv2d(1, 2, 3)
    for network, message in (
        (nets.small_resnet(width=4, classes=4), "(?s)BasicBlock.* is not plain. They are rows of convolutions"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten()), "Conv2d.*groups=2.* is not plain"),
        (nn.Sequential(nn.BatchNorm2d(1), conv), "BatchNorm2d.* is not plain"),
        (nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(2)), "BatchNorm2d.* is not plain"),
        (nn.Sequential(conv, nn.BatchNorm2d(2, track_running_stats=False)), "weights and running statistics"),
        (nn.Sequential(conv, nn.BatchNorm2d(2, affine=False)), "weights and running statistics"),
        (nn.Sequential(conv, nn.Sigmoid()), "Sigmoid.* is not plain"),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "must end in a layer with weights. Remove what"),
        (nn.Sequential(nn.Flatten()), "must end in a layer with weights"),
    ):
        with pytest.raises(ReuseError, match=message):
            units(network)


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


def test_the_strongest_filters_stay_in_their_order() -> None:
    for teacher, student, widths in (
        (little.teacher(), little.student(), [3, 4, 4, 3, 4]),
        (conv3_teacher(), nets.conv3(2, 4), [2, 4, 8, 4]),
    ):
        before = players.state(teacher)
        kept, weights, biases = slow_prune(teacher, widths)
        found = prune(teacher, student)
        assert [each.tolist() for each in found] == kept and kept[-1] == [0, 1, 2, 3]
        for unit, weight, bias in zip(units(student), weights, biases, strict=True):
            torch.testing.assert_close((unit.layer.weight.data, unit.layer.bias.data), (weight, bias))
        assert not list(players.differences(before, players.state(teacher)))


def test_a_student_as_wide_as_the_teacher_becomes_the_teacher_and_dead_channels_cost_nothing() -> None:
    with_norms = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    half_dead = spoilt(nets.conv3(4, 4))
    with torch.no_grad():
        for unit, dead in zip(units(half_dead), ([1, 3], [0, 1, 2, 7], [*range(8)], []), strict=True):
            unit.layer.weight[dead], unit.layer.bias[dead] = 0, 0
    for teacher, student in (
        (conv3_teacher(), nets.conv3(4, 4)),
        (little.teacher(), nets.plain_vgg(((4,), (6, 6)), 5, 4, size=8)),
        (spoilt(with_norms), copy.deepcopy(with_norms)),
        (half_dead, nets.conv3(2, 4)),
    ):
        spoilt(student, seed=1)
        prune(teacher, student)
        torch.testing.assert_close(student.eval()(X), teacher(X), rtol=1e-4, atol=1e-4)


def test_students_that_cannot_be_pruned_to_are_refused_and_stay() -> None:
    def vgg(**changes: int) -> nn.Module:
        return nets.plain_vgg(((3,), (4, 4)), 3, 4, **{"size": 8} | changes, head_norm=False)

    first, *others = [*little.student().blocks, little.student().pool, little.student().head]
    no_bias = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), *list(first)[1:], *others)
    for student, message in (
        (nets.conv3(2, 4), "teacher has 5 layers with weights, the student 4. Prune"),
        (nets.plain_vgg(((3,), (4, 7)), 3, 4, size=8, head_norm=False), "Layer 2 is Conv2d.*no more filters"),
        (little.student(classes=3), "Layer 4 is Linear.*in the last layer as many"),
        (nn.Sequential(nn.Conv2d(1, 3, 5, padding=2), *[nn.Linear(2, 2)] * 4), "Layer 0 is Conv2d.*one kind and"),
        (nn.Sequential(nn.Linear(1, 3), *[nn.Linear(2, 2)] * 4), "Layer 0 is Conv2d.*Linear"),
        (no_bias, "Layer 0 .*bias=False.*the student a bias"),
        (vgg(size=16), "Layer 3 .*images of one shape"),
        (vgg(channels=3), "Layer 0 .*images of one shape"),
    ):
        before = players.state(student)
        with pytest.raises(ShapeMismatch, match=message):
            prune(little.teacher(), student)
        assert not list(players.differences(before, players.state(student)))


@pytest.mark.parametrize("shared", [0, 1])
def test_scions_of_a_pruned_student_begin_as_parts_of_the_teachers_blocks(shared: int) -> None:
    teacher, student = little.teacher(), little.student(first=4 if shared else 3)
    scions = make_scions(teacher, student, X, shared=shared)
    kept = prune(teacher, student)
    start_pruned(teacher, scions, kept, shared)
    for block, ends in ((0, 0), (1, 2))[shared:]:
        maps = teacher.blocks[0](X) if block else X
        out, chosen = scions[block - shared](maps), kept[ends].tolist()
        others = sorted(set(range(out.shape[1])) - set(chosen))
        assert not out[:, others].any() and out[:, chosen].any()
        if not block:
            torch.testing.assert_close(out[:, chosen], teacher.blocks[0](X)[:, chosen])
    whole = Hybrid(teacher, {shared + index: scion for index, scion in enumerate(scions)})
    torch.testing.assert_close(whole(X), student.eval()(X), rtol=1e-4, atol=1e-5)
