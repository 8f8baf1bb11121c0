"""Networks for other tasks than one label an image: several heads, rooms, a class for every pixel."""

from __future__ import annotations

from functools import partial

import players
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from zeroshot_toys import assert_refused

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch, UnknownName

# --- several heads ----------------------------------------------------------------------------------------------------

TASKS = {"a": 3, "b": 2}
SMALL = {
    "multi_head_conv": {"channels": 1},
    "multi_head_residual": {"widths": (4, 6, 8), "channels": 1},
    "multi_head_resnet18": {"widths": (4, 4, 6, 8, 8), "channels": 1},
}


def millions(tasks: dict[str, int], widths: tuple[int, ...] = (64, 64, 128, 256, 512)) -> float:
    with torch.device("meta"):
        return nets.parameter_count(nets.multi_head_resnet18(tasks, widths)) / 1e6


def test_counts_and_maps_of_resnet18_are_the_published_ones() -> None:
    assert millions(dict.fromkeys("abcd", 2), (90, 90, 180, 360, 720)) == pytest.approx(22.10, abs=0.005)
    assert millions({"a": 50, "b": 50}, (72, 72, 144, 288, 576)) == pytest.approx(14.20, abs=0.005)
    # The hair experiment: four components, and nine sources by the attributes that they learn beside the task.
    assert 4 * millions({"a": 2}) == pytest.approx(44.7, abs=0.05)
    sources = [millions(dict.fromkeys(map(str, range(1 + n)), 2)) for n in (3, 2, 2, 1, 1, 2, 2, 3, 2)]
    assert sum(sources) == pytest.approx(100.6, abs=0.05)
    with torch.device("meta"):
        maps, _ = nets.multi_head_resnet18({"a": 2}).both(torch.zeros(1, 3, 224, 224))
    assert [each.shape[1:3] for each in maps] == [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)]


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_before_the_activation_and_the_next_stage_sees_them_after_it(name: str) -> None:
    net, images = nets.build(name, tasks=TASKS, **SMALL[name]), torch.randn(4, 1, 32, 32)
    logits = net(images)
    assert {task: value.shape for task, value in logits.items()} == {"a": (4, 3), "b": (4, 2)}
    torch.stack([value.square().sum() for value in logits.values()]).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    maps, logits = net.eval().both(images)
    assert [each.shape[1] for each in maps] == list(net.widths) and all((each < 0).any() for each in maps)
    for index, (stage, activation) in enumerate(zip(net.stages[1:], net.activations, strict=False)):
        assert torch.equal(stage(activation(maps[index])), maps[index + 1])
        assert isinstance(activation, nn.ReLU) or (name, index) == ("multi_head_resnet18", 0)
    assert torch.equal(net.heads["a"](torch.relu(maps[-1]).mean((2, 3))), logits["a"])
    assert torch.equal(net(images)["b"], logits["b"]) and players.hooks(net) == 0
    if name != "multi_head_resnet18":  # plain and residual alike
        assert [each.shape[2] for each in maps] == [32, 16, 8]


def test_the_first_classes_of_a_head_keep_their_logits() -> None:
    net, images = nets.multi_head_conv(TASKS), torch.randn(3, 1, 16, 16)
    cut = nets.first_classes(net, "a", 2, "part 1")
    assert cut.tasks == {"part 1": 2} and net.tasks == TASKS and cut.stages[0] is net.stages[0] and cut.training
    torch.testing.assert_close(cut.eval()(images)["part 1"], net.eval()(images)["a"][:, :2])
    assert not nets.first_classes(net, "a", 3, "a").training
    with torch.no_grad():  # the rows are copies
        cut.heads["part 1"].weight.add_(1)
    assert not torch.equal(cut.heads["part 1"].weight, net.heads["a"].weight[:2])


def test_what_does_not_fit_is_refused() -> None:
    net = nets.multi_head_conv(TASKS)
    deeplabs, odd = (nets.deeplabv3_resnet50, nets.deeplabv3_mobilenet), ("a.b", "", "forward", 3)
    assert_refused(
        (UnknownName, "task 'c'", partial(nets.first_classes, net, "c", 1, "d")),
        (ReuseError, "count must be a whole number", partial(nets.first_classes, net, "a", 0, "d")),
        (ReuseError, "'a' has 3 classes: keep 1 to 3", partial(nets.first_classes, net, "a", 4, "d")),
        *((ReuseError, "cannot be the name of a task", partial(nets.multi_head_conv, {name: 2})) for name in odd),
        (ReuseError, "at least one task", partial(nets.multi_head_conv, {})),
        (ReuseError, "1 stages need as many widths", partial(nets.MultiHead, [nn.Conv2d(1, 2, 1)], (2, 3), TASKS)),
        (UnknownName, "plain", partial(nets.task_network, 1, encoder="plane")),
        (ReuseError, "as many strides", partial(nets.room_encoder, widths=(4, 8))),
        *((ShapeMismatch, "3 channels, not 1", partial(build, channels=1)) for build in deeplabs),
    )


# --- encoders and decoders of the rooms -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_shapes_gradients_and_the_representation(encoder: str) -> None:
    for outputs, dense, shape in ((3, True, (3, 32, 32)), (9, False, (9,))):
        network, images = nets.task_network(outputs, dense, encoder), torch.randn(4, 3, 32, 32)
        answer = network(images)
        assert answer.shape == (4, *shape)
        answer.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        code = network.eval().represent(images)  # after a ReLU and before the decoder
        assert code.shape == (4, 8, 8, 8) and code.min() == 0 and torch.equal(network.encoder(images), code)
        assert torch.equal(network(images), network.decoder(code))
        assert nets.readout(outputs, dense)(code).shape == answer.shape


def test_the_decoder_reads_a_grid_of_the_right_neighbours() -> None:
    """Each quarter of the grid decodes into its quarter of the picture: nothing is transposed."""
    decoder, code = nets.dense_decoder(1).eval(), torch.zeros(1, 8, 8, 8)
    before = decoder(code)
    code[:, :, 0, 7] = 5
    changed = (decoder(code) - before)[0, 0].abs() > 1e-6
    assert changed[:16, 16:].any() and not changed[16:].any() and not changed[:, :16].any()


# --- segmentation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "macs"), [("deeplabv3_resnet50", 2048, 40.9e9), ("deeplabv3_mobilenet", 320, 5.45e9)]
)
def test_deeplabs_cost_shapes_dilations_and_dropout(name: str, width: int, macs: float) -> None:
    with torch.device("meta"):
        network = nets.build(name, classes=11)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(2, 3, 256, 256))
        assert counter.get_total_flops() / 2 / 2 == pytest.approx(macs, rel=0.002)
        images = torch.empty(2, 3, 256, 341)  # output stride 8, and a decision for every pixel
        assert network.encoder(images).shape == (2, width, 32, 43)
        assert network.features(images).shape == (2, 256, 32, 43) and network(images).shape == (2, 11, 256, 341)
        pyramid = network.decoder[0]
        assert [branch[0].dilation for branch in list(pyramid.convs)[1:4]] == [(12, 12), (24, 24), (32, 32)]
        assert [module.p for module in pyramid.modules() if isinstance(module, nn.Dropout)] == [0.5]


def test_the_strides_of_mobilenet_become_dilations_and_a_block_pads_what_it_is_given() -> None:
    encoder = nets.deeplabv3_mobilenet(classes=3).encoder
    depthwise = [module for module in encoder.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    # t, c, n, s of the official table: 16x1, 24x2, 32x3, 64x4, 96x3, 160x3, 320x1.
    assert [layer.stride[0] for layer in depthwise] == [1, 2, 1, 2, 1, 1] + [1] * 11
    assert [layer.dilation[0] for layer in depthwise] == [1] * 10 + [2] * 6 + [4]
    block, x = encoder[9].eval(), torch.randn(2, 64, 6, 6)  # 64 to 64 channels, with its shortcut
    _, widen, depth, narrow, last = block.conv
    padded = widen(functional.pad(x, (1, 1, 1, 1)))
    plain = functional.conv2d(padded, depth[0].weight, groups=384)
    torch.testing.assert_close(block(x), x + last(narrow(depth[2](depth[1](plain)))))


def test_the_small_network_takes_any_size() -> None:
    network = nets.small_segmenter(4, classes=5, channels=1)
    for size in ((8, 8), (9, 7)):
        logits = network(images := torch.randn(2, 1, *size))
        assert logits.shape == (2, 5, *size)
        logits.square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        coarse = network.head(network.features(images))
        torch.testing.assert_close(logits, functional.interpolate(coarse, size, mode="bilinear"), rtol=1e-4, atol=1e-5)
