"""Networks that segment: cost, shapes, dilations, padding, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from reuselib import nets, run
from reuselib.errors import ShapeMismatch

DEEPLABS = {"deeplabv3_resnet50": (2048, 40.9e9), "deeplabv3_mobilenet": (320, 5.45e9)}


def test_deeplabs_cost_shapes_dilations_and_dropout() -> None:
    for name, (width, macs) in DEEPLABS.items():
        with torch.device("meta"):
            network = nets.build(name, classes=11)
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(2, 3, 256, 256))
            assert counter.get_total_flops() / 2 / 2 == pytest.approx(macs, rel=0.002)
            for size in ((128, 128), (256, 341)):  # output stride 8, and a decision for every pixel
                images, coarse = torch.empty(2, 3, *size), tuple(-(-side // 8) for side in size)
                assert network.encoder(images).shape == (2, width, *coarse)
                assert network.features(images).shape == (2, 256, *coarse)
                assert network(images).shape == (2, 11, *size)
            for dropout in (0.0, 0.5):
                pyramid = nets.build(name, classes=3, dropout=dropout).decoder[0]
                assert [branch[0].dilation for branch in list(pyramid.convs)[1:4]] == [(12, 12), (24, 24), (32, 32)]
                assert [module.p for module in pyramid.modules() if isinstance(module, nn.Dropout)] == [dropout]
        with pytest.raises(ShapeMismatch, match="3 channels, not 1"):
            nets.build(name, channels=1)


def test_the_strides_of_mobilenet_become_dilations_and_a_block_pads_what_it_is_given() -> None:
    with run.seeded(0):
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
    for size in ((32, 32), (8, 8), (10, 14), (9, 7)):
        logits = network(images := torch.randn(2, 1, *size))
        assert logits.shape == (2, 5, *size)
        logits.square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        coarse = network.head(network.features(images))
        torch.testing.assert_close(logits, functional.interpolate(coarse, size, mode="bilinear"), rtol=1e-4, atol=1e-5)


def test_images_of_other_channels_are_refused() -> None:
    for name in (*DEEPLABS, "small_segmenter"):
        with torch.device("meta"), pytest.raises(ShapeMismatch, match="Load the images with channels=3"):
            nets.build(name)(torch.empty(2, 1, 32, 32))
