"""Weights of torchvision in networks of ours; fetching them is tested with the zoo."""

from __future__ import annotations

import players
import pytest
import torch
from torchvision import models as torchvision

from reuselib import nets, run
from reuselib.errors import ShapeMismatch
from reuselib.nets.segmentation import take_torchvision_encoder


def old(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state as in the files of the first years, without the counters of the batch norms."""
    return {key: value for key, value in model.state_dict().items() if "num_batches" not in key}


def test_alexnet_gives_torchvisions_logits_and_a_head_of_other_classes_keeps_its_weights() -> None:
    original, ours = torchvision.alexnet(num_classes=5).eval(), nets.alexnet(classes=5).eval()
    nets.take_torchvision_alexnet(ours, original.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images := torch.randn(1, 3, 96, 96)), original(images))
    ours.head = torch.nn.Linear(4096, 7)
    before = players.state(ours)
    nets.take_torchvision_alexnet(ours, original.state_dict())
    assert not list(players.differences(before, players.state(ours)))


def test_resnet18_gives_torchvisions_logits_and_keeps_its_heads() -> None:
    theirs, ours = torchvision.resnet18(num_classes=4).eval(), nets.multi_head_resnet18({"a": 4}).eval()
    before, images = players.state(ours.heads), torch.randn(2, 3, 64, 64)
    for state in (theirs.state_dict(), old(theirs)):
        nets.take_torchvision_resnet18(ours, state)
        assert not list(players.differences(before, players.state(ours.heads)))
    ours.heads["a"].load_state_dict(theirs.fc.state_dict())
    assert torch.equal(ours(images)["a"], theirs(images))


def test_what_deeplabs_encoder_takes_is_used() -> None:
    with run.seeded(1):
        published = torchvision.resnet50(num_classes=7, replace_stride_with_dilation=[False, True, True])
    network = nets.deeplabv3_resnet50(classes=3).eval()
    before = players.state([network.decoder, network.head])
    take_torchvision_encoder(network, old(published))
    assert not list(players.differences(before, players.state([network.decoder, network.head])))
    images = torch.randn(1, 3, 32, 32)
    with nets.tap(published.eval(), "layer4") as seen, torch.no_grad():
        published(images)
        torch.testing.assert_close(network.encoder(images), seen["layer4"])


def test_weights_that_do_not_fit_change_nothing() -> None:
    with torch.device("meta"):
        states = {
            name: torchvision.get_model(name).state_dict()
            for name in ("alexnet", "resnet18", "wide_resnet50_2", "mobilenet_v2")
        }
        deeplab = nets.deeplabv3_resnet50()
    partial = {key: value for key, value in states["alexnet"].items() if "features.3" not in key}
    small = nets.alexnet(widths=(4, 6, 8, 6, 5), hidden=(12, 10), classes=3)
    before = players.state(small)
    for state in (states["resnet18"], states["alexnet"], partial):
        with pytest.raises(ShapeMismatch, match=r"alexnet\(widths=\(64, 192, 384, 256, 256\)"):
            nets.take_torchvision_alexnet(small, state)
    assert not list(players.differences(before, players.state(small)))
    with pytest.raises(ShapeMismatch, match="do not fit this network. Build it with widths="):
        nets.take_torchvision_resnet18(nets.multi_head_resnet18({"a": 2}, (32, 32, 64, 128, 256)), states["resnet18"])
    for name in ("resnet18", "wide_resnet50_2", "mobilenet_v2"):
        with pytest.raises(ShapeMismatch, match="do not fit this network. Give the state of the same"):
            take_torchvision_encoder(deeplab, states[name])
