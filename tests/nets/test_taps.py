"""Taps record what flows through any network, or refuse it, and leave no hook behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as torchvision

from reuselib import nets
from reuselib.attribution import represent
from reuselib.cmi.statistics import watch
from reuselib.depara.method import finished
from reuselib.errors import ReuseError, UnknownName
from reuselib.nets.taps import listening

hooks = players.hooks


def test_tap_records_the_last_output_of_the_named_modules_with_its_graph() -> None:
    network, x, calls = nets.conv3(width=4), torch.randn(2, 1, 8, 8), []
    network.head.register_forward_hook(lambda *_: calls.append(1))  # others' hooks are spared
    with nets.tap(network, "blocks.0", "head", "") as outputs, nets.tap(network, "head") as inner:
        assert outputs == {} and hooks(network) == 5
        with pytest.raises(ReuseError, match="'head' has not run. Run the network inside"):
            outputs["head"]
        network(torch.randn(5, 1, 8, 8))
        logits = network(x)
    assert torch.equal(outputs["blocks.0"], network.blocks[0](x)) and outputs["blocks.0"].requires_grad
    assert outputs["head"] is outputs[""] is inner["head"] is logits and hooks(network) == 1 and len(calls) == 2


class Twice(nn.Module):
    """Runs its layers in another order than that of their definition, by keyword, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.trunk = nn.Linear(4, 2), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.trunk(input=self.trunk(x)))


def test_all_uses_of_a_module_are_told_in_the_order_in_which_they_happen() -> None:
    network, x, told = Twice(), torch.randn(3, 4), []
    with listening(network, lambda *each: told.append(each)):
        network(x)
    assert [name for name, _ in told] == ["trunk", "trunk", "head", ""]
    told.clear()
    with listening(network, lambda *each: told.append(each), ("trunk",), inputs=True):
        network(x)
    assert [name for name, _ in told] == ["trunk"] * 2 and torch.equal(told[1][1], network.trunk(x))


@pytest.mark.parametrize("learning", [False, True])
def test_what_works_in_place_does_not_alter_what_was_read(learning: bool) -> None:
    class Hasty(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self[0](x), inplace=True)

    x, plain = torch.randn(4, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    for network, copy in ((plain, False), (hasty := Hasty(nn.Linear(3, 3)), True), (hasty, False)):
        with nets.tap(network.requires_grad_(learning), "0", copy=copy) as outputs:
            network(x)
        if learning and network is hasty and not copy:
            with pytest.raises(ReuseError, match="'0' was overwritten by a function that works in place.*copy=True"):
                outputs["0"]
        else:
            assert torch.equal(outputs["0"], network[0](x)) and outputs["0"].min() < 0


def test_hooks_are_gone_after_an_exception_and_unknown_modules_get_the_nearest() -> None:
    network = nets.conv3(width=4)
    with pytest.raises(UnknownName, match="blocks.1"), nets.tap(network, "blocks.0", "block.1"):
        pass
    for context in (nets.tap(network, "head"), nets.penultimate(network)):
        with pytest.raises(RuntimeError, match="on purpose"), context:
            assert hooks(network) == 1
            raise RuntimeError("on purpose")
        assert hooks(network) == 0


def test_penultimate_is_what_the_last_linear_layer_to_run_sees() -> None:
    resnet, odd, lenet = torchvision.resnet18(num_classes=4), Twice(), nets.lenet5()
    for network, image, features in (
        (lenet, (1, 32, 32), lenet.features),
        (resnet, (3, 32, 32), nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())),
        (odd, (4,), nn.Sequential(odd.trunk, odd.trunk)),
    ):
        x = torch.randn(2, *image, requires_grad=True)
        with nets.penultimate(network.eval()) as seen:
            with pytest.raises(ReuseError, match="Run the network"):
                _ = seen.value
            network(x)
        assert torch.equal(seen.value, features(x)) and hooks(network) == 0
        seen.value.abs().mean().backward()
        assert x.grad.abs().sum() > 0
    with pytest.raises(ReuseError, match="no linear layer.*tap"), nets.penultimate(nn.Conv2d(1, 2, 3)):
        pass


# --- networks that run in another way ---------------------------------------------------------------------------------


def small() -> nn.Sequential:
    trunk = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*trunk, nn.Linear(8, 4)).eval()


def tapped(network: nn.Module, x: Tensor) -> Tensor:
    with nets.tap(network, "3") as seen, nets.penultimate(network) as features:
        network(x)
    return torch.cat([seen["3"].flatten(1), features.value])


def statistics(network: nn.Module, x: Tensor) -> Tensor:
    with watch(network) as seen:
        network(x)
        return seen.statistics_loss()


READERS: tuple[Callable[[nn.Module, Tensor], Any], ...] = (tapped, statistics, represent, finished)


def compiled_in_place(network: nn.Module, x: Tensor) -> nn.Module:
    network.compile(backend="eager")
    return network


def compiled_in_part(network: nn.Sequential, x: Tensor) -> nn.Module:
    return nn.Sequential(*network[:3], torch.compile(network[3], backend="eager"), *network[4:])


def test_compiled_networks_give_what_they_were_made_from_and_closed_ones_are_refused() -> None:
    network, x = small(), torch.randn(6, 3, 16, 16)
    symbolic = torch.fx.symbolic_trace(network)  # whose parts do run one by one
    closed = [torch.jit.trace(network, x), torch.jit.script(network), torch.export.export(network, (x,)).module()]
    closed.append(nn.Sequential(nn.Identity(), closed[0]))
    with torch.no_grad():
        for make in (lambda net, x: torch.compile(net, backend="eager"), compiled_in_place, compiled_in_part):
            compiled = make(small(), x)
            compiled.load_state_dict(dict(zip(compiled.state_dict(), network.state_dict().values(), strict=True)))
            compiled(x)  # it is compiled before anything is watched
            for read in READERS:
                found, expected = read(compiled, x), read(network, x)
                if read is finished:
                    assert [name for name in found if "_orig_mod" not in name] == expected
                else:
                    assert torch.equal(found, expected)
        for read in READERS:
            found, expected = read(symbolic, x), read(network, x)
            assert found == expected if read is finished else torch.equal(found, expected)
            for other in closed:
                with pytest.raises(ReuseError, match="was traced, scripted or exported.*made from|module '3'"):
                    read(other, x)
