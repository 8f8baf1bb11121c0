"""Every network by its name: published sizes, shapes, gradients, the meta device, and what is refused at the door."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision
from zeroshot_toys import assert_refused

from reuselib import nets
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName
from reuselib.nets.resnet import PreActivationBlock, wide_resnet

SMALL = {
    **dict.fromkeys(("conv3", "conv4", "small_resnet", "plain_vgg"), (1, 16, 16)),
    **{"lenet5_half": (1, 32, 32), "wrn16_1": (3, 8, 8)},
}
LARGE = {
    **dict.fromkeys(("resnet18_8x", "wrn40_2", "vgg11_bn", "vgg16_plain", "vgg16_plain_half"), (3, 32, 32)),
    **{"lenet5": (1, 32, 32), "alexnet": (3, 64, 64), "resnet34_imagenet": (3, 128, 128)},
}
STUDENT = {"widths": (72, 210, 420, 320, 320), "hidden": (4200, 4200), "classes": 120}
NEEDED = {
    **dict.fromkeys(("deeplabv3_resnet50", "deeplabv3_mobilenet"), {"classes": 11}),
    **{"multi_head_conv": {"tasks": {"a": 2, "b": 2}}, "multi_head_resnet18": {"tasks": {"a": 2}}},
    **{"dense_decoder": {"outputs": 3}, "vector_head": {"outputs": 9}},
}
"""Arguments for which docstrings give the number of parameters, where those are not the defaults."""
COUNTS = (
    ("alexnet", STUDENT, 69_866_998),
    ("upsampling_generator", {"image": (3, 32, 32), "latent": 256}, 2_329_091),
    ("inversion_generator", {"large": True, "latent": 512}, 8_776_259),
    ("task_network", {"outputs": 3}, 78_799),
    ("task_network", {"outputs": 9, "encoder": "residual", "dense": False}, 133_295),
    ("readout", {"outputs": 1}, 19_997),
    ("readout", {"outputs": 6, "dense": False}, 135_766),
    ("small_segmenter", {"width": 16}, 49_919),
)


def sides(classifier: nets.Classifier, *image: int) -> list[tuple[int, ...]]:
    """The shapes of the maps behind the blocks."""
    maps, found = torch.zeros(2, *image, device=classifier.head.weight.device), []
    for block in classifier.blocks:
        maps = block(maps)
        found.append(tuple(maps.shape[1:]))
    return found


def kinds(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def test_parameter_counts_are_the_published_ones_and_those_of_the_docstrings() -> None:
    said = {name: re.search(r"\(([\d,]+)\s+parameters", build.__doc__ or "") for name, build in nets.MODELS.items()}
    documented = [(name, NEEDED.get(name, {}), int(found[1].replace(",", ""))) for name, found in said.items() if found]
    assert len(documented) >= 26
    for name, arguments, count in (*documented, *COUNTS):
        with torch.device("meta"):
            assert nets.parameter_count(nets.build(name, **arguments)) == count, name


@pytest.mark.parametrize("name", SMALL)
def test_shapes_gradients_and_parts(name: str) -> None:
    classifier = nets.build(name, classes=7)
    logits = classifier(images := torch.randn(4, *SMALL[name]))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    for part, parameter in classifier.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, part
    features = classifier.eval().features(images)
    assert torch.equal(features, classifier.pool(classifier.blocks(images)))
    assert torch.equal(classifier.head(features), classifier(images))


def test_large_ones_work_where_nothing_is_computed() -> None:
    with torch.device("meta"):
        for name, image in LARGE.items():
            classifier = nets.build(name, classes=7)
            features = classifier.features(torch.randn(2, *image))
            assert features.shape == (2, classifier.head.in_features) and classifier.head(features).shape == (2, 7)
        assert nets.resnet18_imagenet(channels=1)(torch.randn(2, 1, 64, 64)).shape == (2, 101)
        assert nets.room_encoder((4, 6), (2, 2), channels=1)(torch.randn(2, 1, 16, 16)).shape == (2, 6, 4, 4)


def test_images_that_do_not_fit_are_refused() -> None:
    """The check is that of every network for images: classifiers, several heads, encoders with decoders."""
    multi_head, rooms = nets.multi_head_conv({"a": 2}), nets.task_network(1)
    for model, shape, words in (
        (nets.conv3(), (1, 16, 16), r"\(batch, 1, any, any\), not \(1, 16, 16\)"),
        (nets.conv3().features, (2, 2, 32, 32), r"\(batch, 1, .*not \(2, 2, 32, 32\).*channels=1.*channels=2"),
        (nets.lenet5(), (2, 1, 28, 28), "size=32"),
        (nets.plain_vgg(), (2, 1, 28, 28), "size=16"),
        (multi_head, (2, 3, 16, 16), r"images of shape \(batch, 1, any, any\).*channels=1"),
        (rooms, (2, 1, 32, 32), r"\(batch, 3, any, any\), not \(2, 1, 32, 32\).*channels=3"),
        (nets.small_segmenter(4), (2, 1, 32, 32), "Load the images with channels=3"),
    ):
        with pytest.raises(ShapeMismatch, match=words):
            model(torch.randn(shape))
    for model, kind in ((nets.conv3(), torch.uint8), (nets.conv3(), torch.float64), (nets.conv3().double(), None)):
        images = torch.zeros(2, 1, 16, 16, dtype=kind)
        message = f"images, not {images.dtype}. Give normalised images, and networks in single"
        with pytest.raises(BadValue, match=message):
            model(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert nets.conv3().bfloat16()(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_batch_norms_and_maps_are_as_published() -> None:
    published = {"vgg11_bn": (8, 2752), "wrn40_2": (37, 2704), "wrn40_1": (37, 1360), "wrn16_2": (13, 912)}
    with torch.device("meta"):
        for name, (layers, width) in published.items():
            norms = kinds(nets.build(name), nn.BatchNorm2d)
            assert (len(norms), sum(norm.num_features for norm in norms)) == (layers, width), name
        assert [side for *_, side in sides(nets.conv4(), 1, 16, 16)] == [8, 8, 4, 2]
        assert sides(nets.wrn16_2(), 3, 32, 32) == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
        for pools, expected in ((3, [32, 16, 8, 8, 8]), (4, [32, 16, 8, 4, 4])):
            assert [side for *_, side in sides(nets.vgg11_bn(pools=pools), 3, 64, 64)] == expected
        teacher, student = nets.vgg16_plain(), nets.vgg16_plain_half()
        first = [(64, 16, 16), (128, 8, 8), (256, 4, 4)]
        assert sides(teacher, 3, 32, 32) == [*first, (512, 2, 2), (512, 1, 1)]
        assert sides(student, 3, 32, 32) == [*first, (256, 2, 2), (256, 1, 1)]
        alexnet = sides(nets.alexnet(**STUDENT), 3, 224, 224)
    assert alexnet == [(72, 27, 27), (210, 13, 13), (420, 13, 13), (320, 13, 13), (320, 6, 6)]
    assert not kinds(teacher, nn.BatchNorm2d) and not kinds(student, nn.BatchNorm1d)
    assert [type(layer) for layer in teacher.pool] == [nn.Flatten, nn.Linear, nn.BatchNorm1d]


def test_convolutions_are_torchvisions() -> None:
    with torch.device("meta"):
        original, ours = torchvision.resnet34(num_classes=101), nets.resnet34_imagenet()
        assert nets.parameter_count(ours) == nets.parameter_count(original)
        for original, ours in ((torchvision.vgg11_bn(), nets.vgg11_bn()), (torchvision.vgg16(), nets.vgg16_plain())):
            assert [p.shape for p in ours.blocks.parameters()] == [p.shape for p in original.features.parameters()]
    original, ours = torchvision.resnet18(num_classes=7).eval(), nets.resnet18_imagenet(classes=7).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), original.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(images), original(images))


def test_a_pre_activation_block_computes_what_the_paper_writes() -> None:
    for outputs, stride in ((4, 1), (8, 1), (8, 2)):
        block, maps = PreActivationBlock(4, outputs, stride).eval(), torch.randn(2, 4, 8, 8)
        (norm, _), (first, second, _, last) = block.activate, block.residual
        active = F.relu(norm(maps))
        expected = last(F.relu(second(first(active)))) + (maps if outputs == 4 else block.shortcut(active))
        assert torch.equal(block(maps), expected) and expected.shape == (2, outputs, 8 // stride, 8 // stride)
    assert nets.wrn16_1().features(torch.randn(2, 3, 8, 8)).min() >= 0


def test_plain_vgg_starts_as_the_papers() -> None:
    model = nets.plain_vgg(widths=((64,), (128,)), hidden=256)
    first, second = (block[0].weight for block in model.blocks)
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert second.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    linear = model.pool[1]
    assert linear.in_features == 128 * 4 * 4 and linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    biases = [layer.bias for layer in kinds(model, nn.Conv2d | nn.Linear)]
    assert len(biases) == 4 and not any(bias.any() for bias in biases)


def test_alexnet_has_no_relu_that_works_in_place_and_drops_in_training_alone() -> None:
    model, images = nets.alexnet((4, 6, 8, 6, 5), (12, 10), classes=3), torch.randn(2, 3, 63, 63)
    assert not nets.works_in_place(model) and not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_forms_that_do_not_exist_are_refused() -> None:
    shapes = "5 widths of convolutions and 2 of hidden linear layers, not"
    assert_refused(
        (ReuseError, "0 to 5.*not 6", partial(nets.vgg11_bn, pools=6)),
        (ReuseError, "3 blocks .* 16x16 pixels.*larger images", partial(nets.plain_vgg, ((4,), (), (4,)))),
        (ReuseError, "3 blocks .* 7x7 pixels.*larger images", partial(nets.plain_vgg, ((4,),) * 3, size=7)),
        (ReuseError, shapes, partial(nets.alexnet, widths=(64, 192))),
        (ReuseError, shapes, partial(nets.alexnet, hidden=(4096,))),
        *((ReuseError, r"6n \+ 4", partial(wide_resnet, depth, 1)) for depth in (4, 12, 18)),
    )


def test_what_cannot_be_meant_is_refused_by_its_name_before_anything_is_built() -> None:
    """Whole numbers of every network are tried in `test_doors`; here all other kinds of arguments."""
    assert_refused(
        *((BadValue, "widths must ", partial(nets.alexnet, widths=value)) for value in ((), (4, 0, 8), 3)),
        *((BadValue, "dropout must ", partial(nets.alexnet, dropout=value)) for value in (-0.1, 2)),
        *((BadValue, "image must ", partial(nets.dcgan_generator, image=value)) for value in ((16, 16), (3, 0, 8))),
        (BadValue, "tasks must ", partial(nets.multi_head_conv, tasks={"a": 0})),
        (BadValue, "strides must ", partial(nets.room_encoder, strides=3)),
        (UnknownName, "option of conv3 'widths'. Did you mean 'width'", partial(nets.conv3, widths=1)),
        (UnknownName, "lenet5", partial(nets.build, "lenet_5")),
    )
