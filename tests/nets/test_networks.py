"""Every classifier: published sizes, shapes, gradients, the meta device, and errors for images that do not fit."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision

from reuselib import nets
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName
from reuselib.nets.resnet import PreActivationBlock, wide_resnet

SMALL = {
    **dict.fromkeys(("conv3", "conv4", "small_resnet", "plain_vgg"), (1, 16, 16)),
    **dict.fromkeys(("lenet5", "lenet5_half"), (1, 32, 32)),
    **dict.fromkeys(("wrn16_1", "conv3 with norm", "small_resnet of two stages", "plain_vgg without norm"), (3, 8, 8)),
}
LARGE = {
    **dict.fromkeys(("resnet34_8x", "resnet18_8x", "wrn16_2", "wrn40_1", "wrn40_2", "vgg11_bn"), (3, 32, 32)),
    **dict.fromkeys(("vgg16_plain", "vgg16_plain_half"), (3, 32, 32)),
    **dict.fromkeys(("vgg11_bn with four pools", "alexnet"), (3, 64, 64)),
    **{"resnet34_imagenet": (3, 128, 128), "resnet18_imagenet of grey": (1, 128, 128)},
}
VARIANTS = {
    "conv3 with norm": {"width": 8, "channels": 3, "batch_norm": True},
    "small_resnet of two stages": {"depth_blocks": (2, 1), "width": 4, "channels": 3},
    "plain_vgg without norm": {"widths": ((4, 4), (8,)), "channels": 3, "size": 8, "head_norm": False},
    "vgg11_bn with four pools": {"pools": 4},
    "resnet18_imagenet of grey": {"channels": 1},
}
STUDENT = {"widths": (72, 210, 420, 320, 320), "hidden": (4200, 4200), "classes": 120}
LARGER = {"large": True}
COUNTS = {
    "lenet5": [({}, 61_706)],
    "lenet5_half": [({}, 15_738)],
    "resnet34_8x": [({}, 21_282_122)],
    "resnet18_8x": [({}, 11_173_962)],
    "conv3": [({}, 23_946), ({"width": 8}, 6_218)],
    "conv4": [({}, 26_394)],
    "wrn16_1": [({}, 175_066)],
    "wrn16_2": [({}, 691_674)],
    "wrn40_1": [({}, 563_930)],
    "wrn40_2": [({}, 2_243_546)],
    "vgg11_bn": [({}, 9_231_114), ({"pools": 4}, 9_231_114)],
    "vgg16_plain": [({}, 14_983_498), ({"classes": 100}, 15_029_668)],
    "vgg16_plain_half": [({}, 5_412_682), ({"classes": 100}, 5_458_852)],
    "plain_vgg": [({}, 148_122)],
    "alexnet": [({}, 61_100_840), ({"classes": 60}, 57_249_660), (STUDENT, 69_866_998)],
    "upsampling_generator": [({}, 1_049_985), ({"image": (3, 32, 32), "latent": 256}, 2_329_091)],
    "dcgan_generator": [({}, 11_243_203)],
    "inversion_generator": [({}, 2_328_899), (LARGER, 4_581_955), (LARGER | {"latent": 512}, 8_776_259)],
    "deconvolution_generator": [({}, 12_660_355)],
    "dcgan_discriminator": [({}, 11_038_081)],
    "multi_head_conv": [({"tasks": {"a": 2, "b": 2}}, 14_260)],
    "multi_head_resnet18": [({"tasks": {"a": 2}}, 11_177_538)],
    "room_encoder": [({}, 66_728)],
    "residual_room_encoder": [({}, 66_214)],
    "dense_decoder": [({"outputs": 3}, 12_071)],
    "vector_head": [({"outputs": 9}, 67_081)],
    "task_network": [({"outputs": 3}, 78_799), ({"outputs": 9, "encoder": "residual", "dense": False}, 133_295)],
    "readout": [({"outputs": 1}, 19_997), ({"outputs": 6, "dense": False}, 135_766)],
    "small_segmenter": [({}, 197_751), ({"width": 16}, 49_919)],
    "deeplabv3_resnet50": [({"classes": 11}, 39_636_299), ({"classes": 13}, 39_636_813)],
    "deeplabv3_mobilenet": [({"classes": 11}, 5_111_307), ({"classes": 13}, 5_111_821)],
}


def network(case: str) -> nets.Classifier:
    return nets.build(case.split()[0], classes=7, **VARIANTS.get(case, {}))


def sides(classifier: nets.Classifier, *image: int) -> list[tuple[int, ...]]:
    """The shapes of the maps behind the blocks."""
    maps, found = torch.zeros(2, *image, device=classifier.head.weight.device), []
    for block in classifier.blocks:
        maps = block(maps)
        found.append(tuple(maps.shape[1:]))
    return found


def kinds(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


def test_parameter_counts_are_the_published_ones() -> None:
    for name, cases in COUNTS.items():
        for arguments, count in cases:
            with torch.device("meta"):
                assert nets.parameter_count(nets.build(name, **arguments)) == count, (name, arguments)


@pytest.mark.parametrize("case", SMALL)
def test_shapes_gradients_and_parts(case: str) -> None:
    classifier = network(case)
    logits = classifier(images := torch.randn(4, *SMALL[case]))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    classifier.eval()
    features = classifier.features(images)
    assert torch.equal(features, classifier.pool(classifier.blocks(images)))
    assert torch.equal(classifier.head(features), classifier(images))


def test_all_work_on_meta_and_say_which_images_fit() -> None:
    for case, image in (SMALL | LARGE).items():
        with torch.device("meta"):
            classifier, images = network(case), torch.randn(2, *image, requires_grad=True)
        logits = classifier(images)
        logits.sum().backward()
        assert logits.shape == (2, 7) and logits.is_meta, case
        assert all(parameter.grad is not None for parameter in classifier.parameters())
        assert classifier.features(images).shape == (2, classifier.head.in_features)
        for use in (classifier, classifier.features):
            with pytest.raises(ShapeMismatch, match=rf"\(batch, {classifier.channels}, .*not \(2, 2, 32, 32\)"):
                use(torch.empty(2, 2, 32, 32, device="meta"))
    for model, shape, words in (
        (nets.conv3(), (1, 16, 16), r"not \(1, 16, 16\)"),
        (nets.lenet5(), (2, 1, 28, 28), "size=32"),
        (nets.plain_vgg(), (2, 1, 28, 28), "size=16"),
    ):
        with pytest.raises(ShapeMismatch, match=words):
            model(torch.randn(shape))
    with pytest.raises(UnknownName, match="lenet5"):
        nets.build("lenet_5")
    for model, kind in ((nets.conv3(), torch.uint8), (nets.conv3(), torch.float64), (nets.conv3().double(), None)):
        images = torch.zeros(2, 1, 16, 16, dtype=kind)
        with pytest.raises(
            BadValue, match=f"images, not {images.dtype}. Give normalised images, and networks in single"
        ):
            model(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert nets.conv3().bfloat16()(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_batch_norms_and_their_channels() -> None:
    published = {"vgg11_bn": (8, 2752), "wrn40_2": (37, 2704), "wrn40_1": (37, 1360), "wrn16_2": (13, 912)}
    plain = dict.fromkeys(("lenet5", "lenet5_half", "conv3", "vgg16_plain"), (0, 0))
    for name, (layers, width) in (published | plain | {"wrn16_1": (13, 464), "conv4": (4, 128)}).items():
        with torch.device("meta"):
            norms = kinds(nets.build(name), nn.BatchNorm2d)
        assert (len(norms), sum(norm.num_features for norm in norms)) == (layers, width), name
    model, seen = nets.wrn16_1(), []  # hooks in the order of `modules()` read shallow layers first
    for index, norm in enumerate(kinds(model, nn.BatchNorm2d)):
        norm.register_forward_pre_hook(lambda module, inputs, index=index: seen.append(index))
    model(torch.randn(2, 3, 8, 8))
    assert seen == list(range(13))


def test_maps_shrink_as_published() -> None:
    with torch.device("meta"):
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
    shapes = [[p.shape for p in each.blocks[:3].parameters()] for each in (teacher, student)]
    assert shapes[0] == shapes[1]
    assert [type(layer) for layer in teacher.pool] == [nn.Flatten, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in student.pool] == [nn.Flatten, nn.Linear]


def test_convolutions_are_torchvisions() -> None:
    with torch.device("meta"):
        for name in ("resnet18", "resnet34"):
            original = torchvision.get_model(name, num_classes=101)
            assert nets.parameter_count(nets.build(f"{name}_imagenet")) == nets.parameter_count(original)
        pairs = (torchvision.vgg11_bn(), nets.vgg11_bn()), (torchvision.vgg16(), nets.vgg16_plain())
    for original, ours in pairs:
        assert [p.shape for p in ours.blocks.parameters()] == [p.shape for p in original.features.parameters()]
    assert [type(m) for m in ours.blocks.modules() if not list(m.children())] == [type(m) for m in original.features]
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
        assert (block.shortcut is None) == (outputs == 4) and torch.equal(block(maps), expected)
        assert block(maps).shape == (2, outputs, 8 // stride, 8 // stride)
    assert nets.wrn16_2().features(torch.randn(2, 3, 32, 32)).min() >= 0


def test_plain_vgg_starts_as_the_papers_and_sees_each_image_alone() -> None:
    model = nets.plain_vgg(widths=((64,), (128,)), hidden=256)
    first, second = (block[0].weight for block in model.blocks)
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    assert second.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    linear = model.pool[1]
    assert linear.in_features == 128 * 4 * 4 and linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    biases = [m.bias for m in kinds(model, nn.Conv2d | nn.Linear)]
    assert len(biases) == 4 and not any(bias.any() for bias in biases)
    images = torch.randn(6, 1, 16, 16)
    model(images)  # the running statistics have moved
    torch.testing.assert_close(model.eval()(images[:1]), model(images)[:1])


def test_alexnet_has_no_relu_that_works_in_place_and_drops_in_training_alone() -> None:
    small = {"widths": (4, 6, 8, 6, 5), "hidden": (12, 10), "classes": 3}
    for side in (63, 224):
        model, seen = nets.alexnet(**small).eval(), []
        for layer in kinds(model, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append((output, output.clone())))
        images = torch.randn(2, 3, side, side)
        logits = model(images)
        assert len(seen) == 8 and all(torch.equal(now, then) and now.min() < 0 for now, then in seen)
        assert torch.equal(model(images), logits)
    torch.manual_seed(0)
    assert not torch.equal(model.train()(images), model(images))
    still = nets.alexnet(**small, dropout=0.0).train()
    assert torch.equal(still(images), still(images))


def test_forms_that_do_not_exist_are_refused() -> None:
    for depth in (4, 9, 17, 41):
        with pytest.raises(ReuseError, match=f"6n \\+ 4 layers, not {depth}"):
            wide_resnet(depth, 1)
    for pools in (6, 7):
        with pytest.raises(ReuseError, match=f"0 to 5.*not {pools}"):
            nets.vgg11_bn(pools=pools)
    for widths, size in ((((4,), (), (4,)), 16), (((4,),) * 5, 16), (((4,),) * 3, 7)):
        with pytest.raises(ReuseError, match=rf"{len(widths)} blocks .* {size}x{size} pixels.*larger images"):
            nets.plain_vgg(widths=widths, size=size)
    for arguments in ({"widths": (64, 192)}, {"hidden": (4096,)}):
        with pytest.raises(ReuseError, match="5 widths of convolutions and 2 of hidden linear layers, not"):
            nets.alexnet(**arguments)


@pytest.mark.parametrize("name", nets.MODELS)
def test_what_cannot_be_meant_is_refused_by_its_name_before_anything_is_built(name: str) -> None:
    parameters = inspect.signature(nets.MODELS[name]).parameters
    needed = {"tasks": {"a": 2}, "outputs": 3}
    given = {key: value for key, value in needed.items() if key in parameters}
    wrong: dict[str, tuple] = dict.fromkeys(("width", "classes", "channels", "latent", "groups", "depth"), (0, -1, 8.5))
    wrong |= {"image": ((16, 16), (3, 0, 8)), "widths": ((), (4, 0, 8)), "tasks": ({"a": 0},), "dropout": (-0.1, 2)}
    wrong |= dict.fromkeys(("hidden", "outputs", "side"), (0,))
    cases = [(key, value) for key, values in wrong.items() if key in parameters for value in values]
    assert cases
    cases += [
        (key, 3) for key in ("widths", "hidden") if "Sequence" in str(getattr(parameters.get(key), "annotation", ""))
    ]
    for key, value in cases:
        with pytest.raises(BadValue, match=f"{key} must "):
            nets.build(name, **given | {key: value})
    with pytest.raises(UnknownName, match=f"option of {name} '{cases[0][0]}s'. Did you mean '{cases[0][0]}'"):
        nets.build(name, **given | {f"{cases[0][0]}s": 1})
