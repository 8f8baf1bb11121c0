"""Taps record what flows through any network and leave no hook behind."""

from __future__ import annotations

import players
import pytest
import torch
from torch import nn
from torchvision import models as torchvision

from reuselib import nets
from reuselib.errors import ReuseError, UnknownName

hooks = players.hooks


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8)


def test_tap_records_the_last_output_of_the_named_modules_with_its_graph() -> None:
    network, x = nets.conv3(width=4), images()
    with nets.tap(network, "blocks.0", "head", "") as outputs:
        assert outputs == {} and hooks(network) == 3
        with pytest.raises(ReuseError, match="'head' has not run. Run the network inside.*compiled"):
            outputs["head"]
        network(images(5))
        logits = network(x)
    assert torch.equal(outputs["blocks.0"], network.blocks[0](x)) and outputs["blocks.0"].requires_grad
    assert outputs["head"] is outputs[""] is logits and hooks(network) == 0


def test_a_copy_is_not_altered_by_a_layer_that_works_in_place() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    for copy in (False, True):
        with nets.tap(network, "0", copy=copy) as outputs:
            answer = network(x := torch.randn(4, 3))
        assert torch.equal(outputs["0"], network[0](x) if copy else answer)


def test_hooks_are_gone_after_an_exception_and_unknown_modules_get_the_nearest() -> None:
    network = nets.conv3(width=4)
    with pytest.raises(UnknownName, match="blocks.1"), nets.tap(network, "blocks.0", "block.1"):
        pass
    for context in (nets.tap(network, "head"), nets.penultimate(network)):
        assert hooks(network) == 0
        with pytest.raises(RuntimeError, match="on purpose"), context:
            assert hooks(network) > 0
            raise RuntimeError("on purpose")
    assert hooks(network) == 0


def test_taps_nest_and_spare_other_hooks() -> None:
    network, calls = nets.conv3(width=4), []
    network.head.register_forward_hook(lambda *_: calls.append(1))
    with nets.tap(network, "head") as outer, nets.tap(network, "head") as inner:
        network(images())
    assert outer["head"] is inner["head"] and calls == [1] and hooks(network) == 1


class Reversed(nn.Module):
    """Runs its layers in another order than that of their definition, by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.trunk = nn.Linear(3, 2), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(input=self.trunk(x))


def test_penultimate_is_what_the_last_linear_layer_to_run_sees() -> None:
    resnet = torchvision.resnet18(num_classes=4)
    stack = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 2))
    cases = (
        *((nets.build(name), (1, 32, 32), "features") for name in ("conv3", "lenet5", "small_resnet")),
        (resnet, (3, 32, 32), nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())),
        (stack, (1, 8, 8), stack[:3]),
        (odd := Reversed(), (4,), odd.trunk),
    )
    for network, image, features in cases:
        network.eval()
        x = torch.randn(2, *image, requires_grad=True)
        with nets.penultimate(network) as seen:
            with pytest.raises(ReuseError, match="Run the network"):
                _ = seen.value
            network(x)
        expected = (getattr(network, features) if isinstance(features, str) else features)(x)
        assert torch.equal(seen.value, expected) and hooks(network) == 0
        seen.value.abs().mean().backward()
        assert x.grad.abs().sum() > 0


def test_penultimate_without_a_linear_layer_says_what_to_do() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ReuseError, match="no linear layer.*tap"), nets.penultimate(network):
        pass
