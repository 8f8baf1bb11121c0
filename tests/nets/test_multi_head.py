"""Networks with several heads: counts, maps before their activation, cut heads, clear errors."""

from __future__ import annotations

import players
import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName

TASKS = {"a": 3, "b": 2}
SMALL = {
    "multi_head_conv": {},
    "multi_head_conv of two convolutions": {"depth": 2, "widths": (4, 6, 8)},
    "multi_head_residual": {},
    "multi_head_residual of two blocks": {"depth": 2, "widths": (4, 6, 8)},
}


def network(case: str = "multi_head_conv", **more: object) -> nets.MultiHead:
    return nets.build(case.split()[0], tasks=TASKS, **SMALL[case], **more)


def millions(tasks: dict[str, int], widths: tuple[int, ...] = (64, 64, 128, 256, 512)) -> float:
    with torch.device("meta"):
        return nets.parameter_count(nets.multi_head_resnet18(tasks, widths)) / 1e6


def test_counts_and_maps_of_resnet18_are_the_published_ones() -> None:
    assert millions({"a": 2}) == pytest.approx(11.18, abs=0.005)
    assert millions({"a": 50}) == pytest.approx(11.20, abs=0.005)
    assert millions(dict.fromkeys("abcd", 2), (90, 90, 180, 360, 720)) == pytest.approx(22.10, abs=0.005)
    assert millions({"a": 50, "b": 50}, (72, 72, 144, 288, 576)) == pytest.approx(14.20, abs=0.005)
    # The hair experiment: four components, and nine sources by the attributes that they learn beside the task.
    assert 4 * millions({"a": 2}) == pytest.approx(44.7, abs=0.05)
    sources = [millions(dict.fromkeys(map(str, range(1 + n)), 2)) for n in (3, 2, 2, 1, 1, 2, 2, 3, 2)]
    assert sum(sources) == pytest.approx(100.6, abs=0.05)
    with torch.device("meta"):
        maps, _ = nets.multi_head_resnet18({"a": 2}).both(torch.zeros(1, 3, 224, 224))
    assert [each.shape[1] for each in maps] == [64, 64, 128, 256, 512]
    assert [each.shape[2] for each in maps] == [112, 56, 28, 14, 7]


@pytest.mark.parametrize("case", SMALL)
def test_maps_are_before_the_activation_and_the_next_stage_sees_them_after_it(case: str) -> None:
    net, images = network(case), torch.randn(4, 1, 16, 16)
    logits = net(images)
    assert {task: value.shape for task, value in logits.items()} == {"a": (4, 3), "b": (4, 2)}
    assert net.tasks == TASKS and net.channels == 1
    torch.stack([value.square().sum() for value in logits.values()]).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    maps, logits = net.eval().both(images)
    assert [each.shape[1] for each in maps] == list(net.widths) and all((each < 0).any() for each in maps)
    assert [each.shape[2] for each in maps] == [16, 8, 4]  # plain and residual alike
    for index, stage in enumerate(net.stages[1:]):
        assert torch.equal(stage(torch.relu(maps[index])), maps[index + 1])
    assert torch.equal(net.heads["a"](torch.relu(maps[-1]).mean((2, 3))), logits["a"])
    assert torch.equal(net(images)["b"], logits["b"]) and players.hooks(net) == 0
    with torch.device("meta"):
        maps, logits = network(case, channels=3).both(torch.randn(2, 3, 16, 16))
    assert all(value.is_meta for value in [*maps, *logits.values()])


def test_resnet18s_layers_are_watched_before_their_relu() -> None:
    net = nets.multi_head_resnet18({"a": 2}, (4, 4, 6, 8, 8)).eval()
    maps, _ = net.both(torch.randn(2, 3, 64, 64))
    assert all((each < 0).any() for each in maps)
    assert torch.equal(net.stages[1](net.activations[0](maps[0])), maps[1])
    for index in (1, 2, 3):
        assert torch.equal(net.stages[index + 1](torch.relu(maps[index])), maps[index + 1])


def test_the_first_classes_of_a_head_keep_their_logits() -> None:
    net, images = network(), torch.randn(3, 1, 16, 16)
    cut = nets.first_classes(net, "a", 2, "part 1")
    assert cut.tasks == {"part 1": 2} and net.tasks == TASKS and cut.stages[0] is net.stages[0] and cut.training
    torch.testing.assert_close(cut.eval()(images)["part 1"], net.eval()(images)["a"][:, :2])
    assert not nets.first_classes(net, "a", 3, "a").training
    with torch.no_grad():  # the rows are copies
        cut.heads["part 1"].weight.add_(1)
    assert not torch.equal(cut.heads["part 1"].weight, net.heads["a"].weight[:2])
    with pytest.raises(UnknownName, match="task 'c'"):
        nets.first_classes(net, "c", 1, "d")
    for count, words in (
        (0, "count must be a whole number"),
        (1.5, "count must"),
        (4, "'a' has 3 classes: keep 1 to 3"),
    ):
        with pytest.raises(ReuseError, match=words):
            nets.first_classes(net, "a", count, "d")


def test_what_does_not_fit() -> None:
    for shape in ((2, 3, 16, 16), (1, 16, 16)):
        with pytest.raises(ShapeMismatch, match=r"images of shape \(batch, 1, any, any\).*channels=1"):
            network()(torch.randn(shape))
    for name in ("a.b", "", "forward", "half", 3):
        with pytest.raises(ReuseError, match="cannot be the name of a task"):
            nets.multi_head_conv({name: 2})
    with pytest.raises(ReuseError, match="at least one task"):
        nets.multi_head_conv({})
    with pytest.raises(ReuseError, match="1 stages need as many widths"):
        nets.MultiHead([nn.Conv2d(1, 2, 1)], (2, 3), TASKS)
