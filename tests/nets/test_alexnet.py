"""AlexNet: its published sizes, torchvision's weights, and what each layer gives before its ReLU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.nets.alexnet import TORCHVISION, alexnet, take_torchvision_alexnet

STUDENT = {"widths": (72, 210, 420, 320, 320), "hidden": (4200, 4200), "classes": 120}


@pytest.mark.parametrize(
    ("arguments", "count"),
    [({}, 61_100_840), ({"classes": 60}, 57_249_660), (STUDENT, 69_866_998)],
    ids=["ImageNet", "teacher", "student"],
)
def test_parameter_counts_of_the_paper(arguments: dict, count: int) -> None:
    with torch.device("meta"):
        assert nets.parameter_count(nets.build("alexnet", **arguments)) == count


def test_sides_of_the_maps_and_widths() -> None:
    with torch.device("meta"):
        network, images = alexnet(**STUDENT), torch.empty(2, 3, 224, 224)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    sides = []
    for convolution in convolutions:
        convolution.register_forward_hook(lambda module, inputs, output: sides.append(tuple(output.shape[1:])))
    assert network(images).shape == (2, 120)
    assert sides == [(72, 55, 55), (210, 27, 27), (420, 13, 13), (320, 13, 13), (320, 13, 13)]
    assert network.activations(images)[-1].shape == (2, 320, 6, 6) and network.features(images).shape == (2, 4200)


def small() -> nets.Classifier:
    return alexnet(widths=(4, 6, 8, 6, 5), hidden=(12, 10), classes=3).eval()


@pytest.mark.parametrize("side", [63, 224])
def test_no_relu_works_in_place(side: int) -> None:
    network, seen = small(), []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append((output, output.clone())))
    network(torch.randn(2, 3, side, side))
    assert len(seen) == 8
    for output, when_seen in seen:
        assert torch.equal(output, when_seen) and output.min() < 0


def test_torchvisions_weights_give_torchvisions_logits() -> None:
    torchvision = pytest.importorskip("torchvision")
    original = torchvision.models.alexnet(num_classes=5).eval()
    assert {key.rpartition(".")[0] for key in original.state_dict()} == set(TORCHVISION)
    ours = alexnet(classes=5).eval()
    take_torchvision_alexnet(ours, original.state_dict())
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(ours(images), original(images))


def test_a_head_of_other_classes_keeps_its_weights() -> None:
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.alexnet(num_classes=5).state_dict()
    ours = alexnet(classes=7)
    head = ours.head.weight.clone()
    take_torchvision_alexnet(ours, state)
    assert torch.equal(ours.head.weight, head)
    assert torch.equal(ours.blocks[0][0].weight, state["features.0.weight"])
    assert torch.equal(ours.pool[6].bias, state["classifier.4.bias"])


def test_weights_that_do_not_fit_change_nothing() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        alien = torchvision.models.resnet18().state_dict()
        state = torchvision.models.alexnet().state_dict()
    for given in (alien, state, {key: value for key, value in state.items() if "features.3" not in key}):
        network = small()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(ShapeMismatch, match=r"alexnet\(widths=\(64, 192, 384, 256, 256\)"):
            take_torchvision_alexnet(network, given)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("arguments", [{"widths": (64, 192)}, {"hidden": (4096,)}])
def test_other_depths_are_refused(arguments: dict) -> None:
    with pytest.raises(ReuseError, match="5 widths of convolutions and 2 of hidden linear layers, not"):
        alexnet(**arguments)


def test_dropout_only_in_training() -> None:
    network, images = small(), torch.randn(4, 3, 80, 80)
    assert torch.equal(network(images), network(images))
    torch.manual_seed(0)
    assert not torch.equal(network.train()(images), network(images))
    still = alexnet(widths=(4, 6, 8, 6, 5), hidden=(12, 10), classes=3, dropout=0.0).train()
    assert torch.equal(still(images), still(images))
