"""Taps record what flows through any network and leave no hook behind."""

import pytest
import torch
from torch import nn

from reuselib import nets
from reuselib.errors import ReuseError, UnknownName


def hooks(model: nn.Module) -> int:
    """Count the forward hooks and forward pre-hooks of all modules."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_tap_records_the_named_outputs() -> None:
    network, images = nets.conv3(width=4), torch.randn(2, 1, 8, 8)
    with nets.tap(network, "blocks.0", "blocks.2", "head") as outputs:
        assert outputs == {} and hooks(network) == 3
        logits = network(images)
    activations = network.activations(images)
    assert torch.equal(outputs["blocks.0"], activations[0])
    assert torch.equal(outputs["blocks.2"], activations[2])
    assert outputs["head"] is logits
    assert hooks(network) == 0


def test_tap_keeps_the_last_output_and_its_graph() -> None:
    network = nets.conv3(width=4)
    with nets.tap(network, "blocks.1") as outputs:
        network(torch.randn(2, 1, 8, 8))
        network(torch.randn(5, 1, 8, 8))
    assert len(outputs["blocks.1"]) == 5 and outputs["blocks.1"].requires_grad


def test_tap_unknown_module_names_the_nearest_and_leaves_nothing() -> None:
    network = nets.conv3(width=4)
    with pytest.raises(UnknownName, match="blocks.1"), nets.tap(network, "blocks.0", "block.1"):
        pass
    assert hooks(network) == 0


@pytest.mark.parametrize("context", [lambda net: nets.tap(net, "head"), nets.penultimate])
def test_hooks_are_gone_after_an_exception(context) -> None:
    network = nets.conv3(width=4)
    with pytest.raises(RuntimeError, match="on purpose"), context(network):
        assert hooks(network) > 0
        raise RuntimeError("on purpose")
    assert hooks(network) == 0


def test_taps_nest_and_spare_other_hooks() -> None:
    network, calls = nets.conv3(width=4), []
    own = network.head.register_forward_hook(lambda *_: calls.append(1))
    with nets.tap(network, "head") as outer, nets.tap(network, "head") as inner:
        network(torch.randn(2, 1, 8, 8))
    assert outer["head"] is inner["head"] and calls == [1] and hooks(network) == 1
    own.remove()


@pytest.mark.parametrize(
    ("name", "image"), [("conv3", (1, 8, 8)), ("lenet5", (1, 32, 32)), ("small_resnet", (1, 8, 8))]
)
def test_penultimate_is_features_for_a_classifier(name: str, image: tuple[int, ...]) -> None:
    network, images = nets.build(name).eval(), torch.randn(2, *image)
    with nets.penultimate(network) as seen:
        network(images)
    assert torch.equal(seen.value, network.features(images))
    assert hooks(network) == 0


def test_penultimate_of_torchvisions_resnet() -> None:
    network = pytest.importorskip("torchvision").models.resnet18(num_classes=4).eval()
    with nets.penultimate(network) as seen, torch.no_grad():
        logits = network(torch.randn(1, 3, 32, 32))
        assert seen.value.shape == (1, 512)
        assert torch.equal(network.fc(seen.value), logits)
    assert hooks(network) == 0


def test_penultimate_of_a_plain_stack() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    images = torch.randn(5, 1, 2, 2)
    with nets.penultimate(network) as seen:
        network(images)
    assert torch.equal(seen.value, network[:3](images))


def test_penultimate_follows_execution_not_definition() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.trunk = nn.Linear(4, 3)

        def forward(self, images):
            return self.head(input=self.trunk(images))

    network, images = Reversed(), torch.randn(5, 4)
    with nets.penultimate(network) as seen:
        network(images)
    assert torch.equal(seen.value, network.trunk(images))


def test_penultimate_carries_gradient() -> None:
    network, images = nets.conv3(width=4), torch.randn(2, 1, 8, 8, requires_grad=True)
    with nets.penultimate(network) as seen:
        network(images)
    seen.value.abs().mean().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_penultimate_without_a_linear_layer_says_what_to_do() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ReuseError, match="no linear layer.*tap"), nets.penultimate(network):
        pass


def test_penultimate_before_a_forward_pass_says_so() -> None:
    with nets.penultimate(nets.conv3()) as seen, pytest.raises(ReuseError, match="Run the network"):
        _ = seen.value
