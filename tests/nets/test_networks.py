"""Every classifier: parameter counts, shapes, gradients, the meta device, and errors for wrong images."""

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ShapeMismatch, UnknownName

SMALL = {
    "conv3": ({}, (1, 16, 16)),
    "conv3 with batch norm": ({"width": 8, "classes": 5, "channels": 3, "batch_norm": True}, (3, 8, 8)),
    "conv4": ({"classes": 4}, (1, 16, 16)),
    "lenet5": ({}, (1, 32, 32)),
    "lenet5_half": ({}, (1, 32, 32)),
    "small_resnet": ({"width": 4}, (1, 16, 16)),
    "small_resnet of two stages": ({"depth_blocks": (2, 1), "width": 4, "channels": 3}, (3, 8, 8)),
    "wrn16_1": ({"channels": 1}, (1, 16, 16)),
    "plain_vgg": ({}, (1, 16, 16)),
    "plain_vgg of two blocks": ({"widths": ((4, 4), (8,)), "channels": 3, "size": 8, "head_norm": False}, (3, 8, 8)),
}
LARGE = {
    "resnet34_8x": ({"classes": 100}, (3, 32, 32)),
    "resnet18_8x": ({}, (3, 32, 32)),
    "resnet34_imagenet": ({}, (3, 128, 128)),
    "resnet18_imagenet": ({}, (3, 128, 128)),
    "wrn16_2": ({}, (3, 32, 32)),
    "wrn40_1": ({}, (3, 32, 32)),
    "wrn40_2": ({"classes": 100}, (3, 32, 32)),
    "vgg11_bn": ({}, (3, 32, 32)),
    "vgg11_bn with four pools": ({"classes": 200, "pools": 4}, (3, 64, 64)),
    "vgg16_plain": ({}, (3, 32, 32)),
    "vgg16_plain_half": ({}, (3, 32, 32)),
    "alexnet": ({"classes": 60}, (3, 64, 64)),
}
CLASSES = {
    "conv3 with batch norm": 5,
    "conv4": 4,
    "resnet34_8x": 100,
    "resnet34_imagenet": 101,
    "resnet18_imagenet": 101,
    "wrn40_2": 100,
    "vgg11_bn with four pools": 200,
    "alexnet": 60,
}


def network(case: str) -> nets.Classifier:
    """Build the network of one case."""
    arguments, _ = (SMALL | LARGE)[case]
    return nets.build(case.split()[0], **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("lenet5", {}, 61_706),
        ("lenet5_half", {}, 15_738),
        ("resnet34_8x", {}, 21_282_122),
        ("resnet18_8x", {}, 11_173_962),
        ("conv3", {}, 23_946),
        ("conv3", {"width": 8}, 6_218),
        ("conv4", {}, 26_394),
        ("wrn16_1", {}, 175_066),
        ("wrn16_2", {}, 691_674),
        ("wrn40_1", {}, 563_930),
        ("wrn40_2", {}, 2_243_546),
        ("vgg11_bn", {}, 9_231_114),
        ("vgg11_bn", {"pools": 4}, 9_231_114),
        ("upsampling_generator", {"latent": 100}, 1_049_985),
        ("upsampling_generator", {"image": (3, 32, 32), "latent": 256}, 2_329_091),
        ("dcgan_generator", {}, 11_243_203),
        ("inversion_generator", {}, 2_328_899),
        ("inversion_generator", {"large": True}, 4_581_955),
        ("inversion_generator", {"large": True, "latent": 512}, 8_776_259),
    ],
)
def test_parameter_count_is_the_published_one(name: str, arguments: dict, count: int) -> None:
    with torch.device("meta"):
        assert nets.parameter_count(nets.build(name, **arguments)) == count


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_imagenet_networks_are_torchvisions(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        original = torchvision.models.get_model(name, weights=None, num_classes=101)
        ours = nets.build(f"{name}_imagenet")
    assert nets.parameter_count(ours) == nets.parameter_count(original)


def test_imagenet_wrapper_computes_what_torchvision_computes() -> None:
    torchvision = pytest.importorskip("torchvision")
    original = torchvision.models.resnet18(num_classes=7).eval()
    ours = nets.resnet18_imagenet(classes=7).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), original.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(images), original(images))


@pytest.mark.parametrize("case", SMALL)
def test_shapes_and_gradients(case: str) -> None:
    classifier, image = network(case), SMALL[case][1]
    logits = classifier(torch.randn(4, *image))
    assert logits.shape == (4, CLASSES.get(case, 10))
    logits.square().sum().backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", SMALL | LARGE)
def test_meta_device(case: str) -> None:
    with torch.device("meta"):
        classifier = network(case)
        images = torch.randn(2, *(SMALL | LARGE)[case][1], requires_grad=True)
    logits = classifier(images)
    logits.sum().backward()
    assert logits.shape == (2, CLASSES.get(case, 10)) and logits.is_meta
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize("case", SMALL | LARGE)
def test_activations_are_the_outputs_of_the_blocks(case: str) -> None:
    with torch.device("meta"):
        classifier = network(case)
        images = torch.randn(2, *(SMALL | LARGE)[case][1])
    outputs = classifier.activations(images)
    assert len(outputs) == len(classifier.blocks)
    assert classifier.features(images).shape == (2, classifier.head.in_features)
    assert outputs[-1].shape == classifier.blocks(images).shape


def test_parts_compose_to_forward() -> None:
    classifier = nets.lenet5().eval()
    images = torch.randn(3, 1, 32, 32)
    last = classifier.activations(images)[-1]
    assert torch.equal(classifier.head(classifier.pool(last)), classifier(images))
    assert torch.equal(classifier.head(classifier.features(images)), classifier(images))


@pytest.mark.parametrize("name", ["lenet5", "lenet5_half", "conv3"])
def test_no_batch_norm_by_default(name: str) -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in nets.build(name).modules())


def test_conv4_has_a_batch_norm_after_each_convolution() -> None:
    network = nets.conv4()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [16, 16, 32, 64]
    sides = [maps.shape[-1] for maps in network.activations(torch.randn(2, 1, 16, 16))]
    assert sides == [8, 8, 4, 2]


@pytest.mark.parametrize("case", SMALL | LARGE)
def test_wrong_channels_say_what_fits(case: str) -> None:
    with torch.device("meta"):
        classifier = network(case)
        images = torch.randn(2, 2, 32, 32)
    for use in (classifier, classifier.features, classifier.activations):
        with pytest.raises(ShapeMismatch, match=rf"\(batch, {classifier.channels}, .*not \(2, 2, 32, 32\)"):
            use(images)


def test_an_image_without_its_batch_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"not \(1, 16, 16\)"):
        nets.conv3()(torch.randn(1, 16, 16))


def test_lenet_names_the_size_it_needs() -> None:
    with pytest.raises(ShapeMismatch, match="size=32"):
        nets.lenet5()(torch.randn(2, 1, 28, 28))


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="lenet5"):
        nets.build("lenet_5")


def test_state_round_trip() -> None:
    first, second = nets.small_resnet(width=4), nets.small_resnet(width=4)
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(first.eval()(images), second.eval()(images))
