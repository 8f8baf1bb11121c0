"""Networks that segment: parameters, cost, shapes, dilations, weights of torchvision, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from reuselib import nets, run
from reuselib.errors import ShapeMismatch
from reuselib.nets.segmentation import take_torchvision_encoder

DEEPLABS = ["deeplabv3_resnet50", "deeplabv3_mobilenet"]


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("deeplabv3_resnet50", 11, 39_636_299),  # 39.6 M
        ("deeplabv3_resnet50", 13, 39_636_813),
        ("deeplabv3_mobilenet", 11, 5_111_307),  # 5.11 M
        ("deeplabv3_mobilenet", 13, 5_111_821),
        ("small_segmenter", 7, 197_751),
    ],
)
def test_parameter_count_is_the_published_one(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        assert nets.parameter_count(nets.build(name, classes=classes)) == count


def test_the_student_of_the_laptop_has_a_quarter_of_its_teachers_parameters() -> None:
    teacher, student = (nets.parameter_count(nets.small_segmenter(width)) for width in (32, 16))
    assert student == 49_919 and 3.9 < teacher / student < 4


@pytest.mark.parametrize(("name", "macs"), [("deeplabv3_resnet50", 40.9e9), ("deeplabv3_mobilenet", 5.45e9)])
def test_the_cost_of_a_256x256_image_is_that_of_the_papers_networks(name: str, macs: float) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        nets.build(name, classes=11)(torch.empty(2, 3, 256, 256))
    assert counter.get_total_flops() / 2 / 2 == pytest.approx(macs, rel=0.002)


@pytest.mark.parametrize(("name", "width"), [("deeplabv3_resnet50", 2048), ("deeplabv3_mobilenet", 320)])
@pytest.mark.parametrize("size", [(128, 128), (256, 341)])
def test_deeplab_has_output_stride_8_and_gives_a_decision_for_every_pixel(
    name: str, width: int, size: tuple[int, int]
) -> None:
    with torch.device("meta"):
        network, images = nets.build(name, classes=11), torch.empty(2, 3, *size)
        coarse = tuple(-(-side // 8) for side in size)
        assert network.encoder(images).shape == (2, width, *coarse)
        assert network.features(images).shape == (2, 256, *coarse)
        assert network(images).shape == (2, 11, *size)


@pytest.mark.parametrize("name", DEEPLABS)
def test_the_pyramid_has_dfads_dilations_and_the_dropout_asked_for(name: str) -> None:
    with torch.device("meta"):
        for dropout in (0.0, 0.5):
            pyramid = nets.build(name, classes=3, dropout=dropout).decoder[0]
            assert [branch[0].dilation for branch in list(pyramid.convs)[1:4]] == [(12, 12), (24, 24), (32, 32)]
            assert [module.p for module in pyramid.modules() if isinstance(module, nn.Dropout)] == [dropout]


def test_the_strides_of_mobilenet_become_dilations() -> None:
    with torch.device("meta"):
        encoder = nets.deeplabv3_mobilenet(classes=3).encoder
    depthwise = [module for module in encoder.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    # t, c, n, s of the official table: 16x1, 24x2, 32x3, 64x4, 96x3, 160x3, 320x1.
    assert [layer.stride[0] for layer in depthwise] == [1, 2, 1, 2, 1, 1] + [1] * 11
    assert [layer.dilation[0] for layer in depthwise] == [1] * 10 + [2] * 6 + [4]


def test_a_block_of_mobilenet_pads_what_it_is_given() -> None:
    with run.seeded(0):
        block = nets.deeplabv3_mobilenet(classes=3).encoder[9].eval()  # 64 to 64 channels, with its shortcut
    x = torch.randn(2, 64, 6, 6)
    _, widen, depth, narrow, last = block.conv
    padded = widen(functional.pad(x, (1, 1, 1, 1)))
    plain = functional.conv2d(padded, depth[0].weight, groups=384)
    expected = x + last(narrow(depth[2](depth[1](plain))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (10, 14), (9, 7)])
def test_the_small_network_takes_any_size(size: tuple[int, int], batch_norm: bool) -> None:
    network = nets.small_segmenter(4, classes=5, channels=1, batch_norm=batch_norm)
    images = torch.randn(2, 1, *size)
    logits = network(images)
    assert logits.shape == (2, 5, *size)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == batch_norm
    torch.testing.assert_close(
        logits,
        functional.interpolate(network.head(network.features(images)), size, mode="bilinear"),
        rtol=1e-4,
        atol=1e-5,
    )


def test_what_the_encoder_takes_from_torchvision_is_used() -> None:
    torchvision = pytest.importorskip("torchvision")
    with run.seeded(1):
        published = torchvision.models.resnet50(num_classes=7, replace_stride_with_dilation=[False, True, True])
    # As in the files of the first years, without the counters of the batch norms.
    state = {key: value for key, value in published.state_dict().items() if "num_batches" not in key}
    network = nets.deeplabv3_resnet50(classes=3)
    head = [parameter.clone() for parameter in (*network.decoder.parameters(), *network.head.parameters())]
    take_torchvision_encoder(network, state)
    for own, before in zip((*network.decoder.parameters(), *network.head.parameters()), head, strict=True):
        assert torch.equal(own, before)
    images = torch.randn(1, 3, 32, 32)
    with nets.tap(published.eval(), "layer4") as seen, torch.no_grad():
        published(images)
        torch.testing.assert_close(network.eval().encoder(images), seen["layer4"])


def test_weights_of_another_network_are_refused() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        for other in ("resnet18", "wide_resnet50_2", "mobilenet_v2"):
            state = torchvision.models.get_model(other).state_dict()
            with pytest.raises(ShapeMismatch, match="not those of the encoder"):
                take_torchvision_encoder(nets.deeplabv3_resnet50(), state)


@pytest.mark.parametrize("name", [*DEEPLABS, "small_segmenter"])
def test_images_of_other_channels_are_refused(name: str) -> None:
    with torch.device("meta"):
        network = nets.build(name)
        assert network.channels == 3
        with pytest.raises(ShapeMismatch, match="Load the images with channels=3"):
            network(torch.empty(2, 1, 32, 32))


@pytest.mark.parametrize("name", DEEPLABS)
def test_grey_photographs_are_refused(name: str) -> None:
    with pytest.raises(ShapeMismatch, match="3 channels, not 1"):
        nets.build(name, channels=1)
