"""Networks with several heads: counts, maps before their activation, torchvision's weights, clear errors."""

from __future__ import annotations

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName

TASKS = {"a": 3, "b": 2}
SMALL = {
    "multi_head_conv": {},
    "multi_head_conv of two convolutions": {"depth": 2, "widths": (4, 6, 8)},
    "multi_head_residual": {},
    "multi_head_residual of two blocks": {"depth": 2, "widths": (4, 6, 8)},
}


def network(case: str, **more: object) -> nets.MultiHead:
    return nets.build(case.split()[0], tasks=TASKS, **SMALL.get(case, {}), **more)


def resnet(tasks: dict[str, int], widths: tuple[int, ...] = (64, 64, 128, 256, 512)) -> nets.MultiHead:
    with torch.device("meta"):
        return nets.multi_head_resnet18(tasks, widths)


@pytest.mark.parametrize(
    ("tasks", "widths", "millions"),
    [
        ({"a": 2}, (64, 64, 128, 256, 512), 11.18),
        ({"a": 50}, (64, 64, 128, 256, 512), 11.20),
        (dict.fromkeys("abcd", 2), (90, 90, 180, 360, 720), 22.10),
        ({"a": 50, "b": 50}, (72, 72, 144, 288, 576), 14.20),
    ],
)
def test_parameter_counts_are_the_published_ones(tasks: dict[str, int], widths: tuple, millions: float) -> None:
    assert nets.parameter_count(resnet(tasks, widths)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_four_components_and_nine_sources_of_the_hair_experiment() -> None:
    component = nets.parameter_count(resnet({"a": 2}))
    sources = [3, 2, 2, 1, 1, 2, 2, 3, 2]  # attributes learned beside the task
    pool = sum(nets.parameter_count(resnet(dict.fromkeys(map(str, range(1 + n)), 2))) for n in sources)
    assert 4 * component / 1e6 == pytest.approx(44.7, abs=0.05)
    assert pool / 1e6 == pytest.approx(100.6, abs=0.05)


def test_the_docstrings_count_of_parameters() -> None:
    assert nets.parameter_count(nets.multi_head_conv({"a": 2, "b": 2})) == 14_260


def test_resnet18s_maps_have_the_published_sizes() -> None:
    maps = resnet({"a": 2}).features(torch.zeros(1, 3, 224, 224, device="meta"))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (64, 112, 112),
        (64, 56, 56),
        (128, 28, 28),
        (256, 14, 14),
        (512, 7, 7),
    ]


@pytest.mark.parametrize("case", SMALL)
def test_shapes_heads_and_gradients(case: str) -> None:
    net = network(case)
    logits = net(torch.randn(4, 1, 16, 16))
    assert {task: value.shape for task, value in logits.items()} == {"a": (4, 3), "b": (4, 2)}
    assert net.tasks == TASKS and net.channels == 1
    torch.stack([value.square().sum() for value in logits.values()]).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", SMALL)
def test_maps_are_before_the_activation_and_the_next_stage_sees_them_after_it(case: str) -> None:
    net = network(case).eval()
    images = torch.randn(5, 1, 16, 16)
    maps, logits = net.both(images)
    assert [each.shape[1] for each in maps] == list(net.widths)
    assert all((each < 0).any() for each in maps)
    for index, stage in enumerate(net.stages[1:]):
        assert torch.equal(stage(torch.relu(maps[index])), maps[index + 1])
    assert torch.equal(net.heads["a"](torch.relu(maps[-1]).mean((2, 3))), logits["a"])
    assert torch.equal(net(images)["b"], logits["b"])
    assert all(torch.equal(a, b) for a, b in zip(net.features(images), maps, strict=True))
    assert players.hooks(net) == 0


def test_resnet18s_layers_are_watched_before_their_relu() -> None:
    net = nets.multi_head_resnet18({"a": 2}, (4, 4, 6, 8, 8)).eval()
    maps, _ = net.both(torch.randn(2, 3, 64, 64))
    assert all((each < 0).any() for each in maps)
    assert torch.equal(net.stages[1](net.activations[0](maps[0])), maps[1])
    for index in (1, 2, 3):
        assert torch.equal(net.stages[index + 1](torch.relu(maps[index])), maps[index + 1])


def test_plain_and_residual_networks_have_maps_of_the_same_sizes() -> None:
    images = torch.randn(2, 1, 16, 16)
    sizes = [[each.shape[2:] for each in network(case).features(images)] for case in SMALL]
    assert all(each == sizes[0] for each in sizes)


def test_torchvisions_weights_fit_and_give_the_same_outputs() -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18(num_classes=4).eval()
    ours = nets.multi_head_resnet18({"a": 4}).eval()
    nets.take_torchvision_resnet18(ours, theirs.state_dict())
    ours.heads["a"].load_state_dict(theirs.fc.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(images)["a"], theirs(images))


def test_torchvisions_weights_leave_the_heads_alone_and_are_refused_elsewhere() -> None:
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnet18(num_classes=4).state_dict()
    net = nets.multi_head_resnet18({"a": 2})
    before = players.state(net.heads)
    nets.take_torchvision_resnet18(net, state)
    assert not list(players.differences(before, players.state(net.heads)))
    with pytest.raises(ShapeMismatch, match=r"widths \(32, 32, 64, 128, 256\) on 3 channels. Build it with widths="):
        nets.take_torchvision_resnet18(nets.multi_head_resnet18({"a": 2}, (32, 32, 64, 128, 256)), state)


def test_meta_device() -> None:
    with torch.device("meta"):
        for case in SMALL:
            net = network(case, channels=3)
            maps, logits = net.both(torch.randn(2, 3, 16, 16))
            assert all(value.is_meta for value in [*maps, *logits.values()])


# ---- cutting a softmax


def test_the_first_classes_of_a_head_keep_their_logits() -> None:
    net = network("multi_head_conv").eval()
    images = torch.randn(3, 1, 16, 16)
    cut = nets.first_classes(net, "a", 2, "part 1")
    assert cut.tasks == {"part 1": 2} and not cut.training
    torch.testing.assert_close(cut(images)["part 1"], net(images)["a"][:, :2])
    assert net.tasks == TASKS


def test_cutting_copies_the_head_and_shares_the_stages() -> None:
    net = network("multi_head_conv")
    cut = nets.first_classes(net, "a", 3, "a")
    assert cut.stages[0] is net.stages[0] and cut.training
    with torch.no_grad():
        cut.heads["a"].weight.add_(1)
    assert not torch.equal(cut.heads["a"].weight, net.heads["a"].weight)


def test_what_cannot_be_cut() -> None:
    net = network("multi_head_conv")
    with pytest.raises(UnknownName, match="task 'c'"):
        nets.first_classes(net, "c", 1, "d")
    for count in (0, 4):
        with pytest.raises(ReuseError, match=f"'a' has 3 classes: keep 1 to 3, not {count}"):
            nets.first_classes(net, "a", count, "d")


# ---- wrong input


@pytest.mark.parametrize("images", [torch.randn(2, 3, 16, 16), torch.randn(1, 16, 16)])
def test_images_that_do_not_fit(images: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match=r"images of shape \(batch, 1, any, any\).*channels=1"):
        network("multi_head_conv")(images)


@pytest.mark.parametrize("name", ["a.b", "", "forward", "half"])
def test_names_that_no_head_can_have(name: str) -> None:
    with pytest.raises(ReuseError, match="cannot be the name of a task"):
        nets.multi_head_conv({name: 2})


def test_a_network_needs_a_task_and_fitting_parts() -> None:
    with pytest.raises(ReuseError, match="at least one task"):
        nets.multi_head_conv({})
    with pytest.raises(ReuseError, match="1 stages need as many widths"):
        nets.MultiHead([nn.Conv2d(1, 2, 1)], (2, 3), TASKS)
