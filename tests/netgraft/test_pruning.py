"""Plain networks taken apart into units, pruned to their strongest filters, and scions that begin there."""

from __future__ import annotations

import little
import players
import pytest
import torch
from torch import nn

from reuselib import nets, run
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft import Hybrid, make_scions, prune, start_pruned
from reuselib.netgraft.hybrid import through
from reuselib.netgraft.pruning import layer_count, units

X = little.images().normalised(little.images().images)


def spoilt(network: nn.Module, seed: int = 7) -> nn.Module:
    """A network with batch norms, biases and weights as after training."""
    with run.seeded(seed), torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for value, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2)):
                    value.uniform_(low, high)
    return network.eval()


def conv3_teacher() -> nets.Classifier:
    return spoilt(nets.conv3(4, 4, batch_norm=True))


def test_a_network_is_the_row_of_its_units() -> None:
    for network in (little.teacher(), conv3_teacher()):
        assert torch.equal(through(units(network), X), network(X)) and layer_count(network) == len(units(network))
    assert [type(m) for m in units(little.teacher())[3].before] == [nn.ReLU, nn.MaxPool2d, nn.Flatten]


def test_a_network_that_is_not_plain_is_refused() -> None:
    conv = nn.Conv2d(1, 2, 3)
    for network, message in (
        (nets.small_resnet(width=4, classes=4), "(?s)BasicBlock.* is not plain. They are rows of convolutions"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten()), "Conv2d.*groups=2.* is not plain"),
        (nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(2)), "BatchNorm2d.* is not plain"),
        (nn.Sequential(conv, nn.BatchNorm2d(2, track_running_stats=False)), "weights and running statistics"),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "must end in a layer with weights. Remove what"),
    ):
        with pytest.raises(ReuseError, match=message):
            units(network)


@torch.no_grad()
def half_dead(teacher: nn.Module) -> list[list[int]]:
    """Let every second channel of every layer but the last give zero, and return the others."""
    kept = [list(range(1, unit.width, 2)) for unit in units(teacher)[:-1]]
    for unit, alive in zip(units(teacher), kept, strict=False):
        dead = sorted(set(range(unit.width)) - set(alive))
        for part in (unit.layer, unit.norm):
            if part is not None and part.bias is not None:
                part.bias[dead] = 0
        (unit.norm or unit.layer).weight[dead] = 0
    return [*kept, list(range(units(teacher)[-1].width))]


def test_the_strongest_filters_stay_in_their_order_and_dead_channels_cost_nothing() -> None:
    for teacher, student in (
        (spoilt(nets.plain_vgg(((4,), (6, 6)), 6, 4, size=8)), nets.plain_vgg(((2,), (3, 3)), 3, 4, size=8)),
        (conv3_teacher(), nets.conv3(2, 4)),
    ):
        kept, before = half_dead(teacher), players.state(teacher)
        assert [each.tolist() for each in prune(teacher, spoilt(student, seed=1))] == kept
        torch.testing.assert_close(student.eval()(X), teacher(X), rtol=1e-4, atol=1e-4)
        assert not list(players.differences(before, players.state(teacher)))
    teacher = little.teacher()
    for unit, chosen in zip(units(teacher), prune(teacher, little.student()), strict=True):
        norms = unit.folded()[0].detach().flatten(1).abs().sum(1)
        assert chosen.tolist() == sorted(norms.argsort(descending=True)[: len(chosen)].tolist())


def test_students_that_cannot_be_pruned_to_are_refused() -> None:
    first, *others = [*little.student().blocks, little.student().pool, little.student().head]
    no_bias = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), *list(first)[1:], *others)
    for student, message in (
        (nets.conv3(2, 4), "teacher has 5 layers with weights, the student 4. Prune"),
        (nets.plain_vgg(((3,), (4, 7)), 3, 4, size=8, head_norm=False), "Layer 2 is Conv2d.*no more filters"),
        (little.student(classes=3), "Layer 4 is Linear.*in the last layer as many"),
        (no_bias, "Layer 0 .*bias=False.*the student a bias"),
        (nets.plain_vgg(((3,), (4, 4)), 3, 4, size=16, head_norm=False), "Layer 3 .*images of one shape"),
    ):
        with pytest.raises(ShapeMismatch, match=message):
            prune(little.teacher(), student)


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
