"""Images out of any classifier in one call."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import players
import pytest
import torch
import torchvision
from torch import nn

from reuselib import run
from reuselib.cmi import FAMILY, Inversion, invert
from reuselib.cmi.statistics import spread
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName
from reuselib.nets import zoo


def resnet() -> nn.Module:
    """A network that knows nothing of this library."""
    with run.seeded(0):
        return torchvision.models.resnet18(weights=None, num_classes=7)


def call(network: nn.Module | None = None, image: Any = players.IMAGE, **options: Any) -> ImageSet:
    half = dict.fromkeys(("mean", "std"), (0.5,) * image[0]) if image else {}
    short = half | {"count": 4, "image_steps": 2, "progress": False}
    return invert(network or players.cast().teacher, image, **short | options)


def test_a_network_of_torchvision_is_shown_what_images_can_be() -> None:
    network, seen = resnet(), []
    before = players.state(network)
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with pytest.warns(UserWarning, match=r"No card says .*taken to be ImageNet's. Give mean=\(0.485"):
        images = call(network, (3, 32, 32), count=3, labels=[4, 0], mean=None, std=None)
    handle.remove()
    assert images.images.shape == (3, 3, 32, 32) and images.images.dtype == torch.uint8  # of two batches of two
    assert images.labels.tolist() == [4, 0, 4] and images.images.float().std() > 1
    assert (images.mean, images.std, images.classes) == (*IMAGENET_STATISTICS, ())
    assert len(seen) == 1 + 2 * 2 * 2  # a look at its outputs; two batches, two updates, two views
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_STATISTICS)
    shown = torch.cat(seen) * std + mean
    assert -1e-5 <= shown.min() and shown.max() <= 1 + 1e-5
    assert not list(players.differences(before, players.state(network))) and players.hooks(network) == 0


@pytest.mark.parametrize("name", FAMILY)
def test_every_method_and_a_seed_decides_the_images(name: str) -> None:
    adversary = None if name in ("dafl", "deepinversion", "inversion") else players.cast().student
    before = torch.get_rng_state()
    first, again, other = (call(method=name, student=adversary, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first) == 4 and torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert (first.mean, first.std) == ((0.5,), (0.5,)) and not torch.equal(first.images, other.images)


def test_a_network_of_the_zoo_tells_its_space_by_its_card_and_names_the_images() -> None:
    network, card = zoo.load("shapes16-conv4"), zoo.card("shapes16-conv4")
    sizes = {"width": 16, "lr": 5e-3, "flip": False}
    options = {"method": "inversion", "labels": [0, 1, 2, 3] * 4, "image_steps": 60, "sizes": sizes}
    images = call(network, None, count=16, **options)
    assert images.shape == tuple(card["image"]) and images.classes == tuple(card["classes"])
    assert (images.mean, images.std) == (tuple(card["mean"]), tuple(card["std"]))
    assert run.accuracy(network, images) > 0.7


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"count": 18, "batch": 6}
    whole, path = call(**options), tmp_path / "run.pt"
    with monkeypatch.context() as interrupted, pytest.raises(players.Explosion):
        interrupted.setattr(Inversion, "step", players.rigged(Inversion.step, at=2))
        call(checkpoint=path, **options)
    resumed = call(checkpoint=path, **options)
    assert torch.equal(resumed.images, whole.images) and torch.equal(resumed.labels, whole.labels)
    for name, value in (("image_steps", 4), ("mean", (0.1,)), ("seed", 1), ("sizes", {"width": 8}), ("count", 17)):
        with pytest.raises(ReuseError, match="made with other settings"):
            call(checkpoint=path, **options | {name: value})


def test_weights_and_statistics_can_be_changed_in_a_call() -> None:
    teacher, seen = players.cast().teacher, []
    teacher.register_forward_pre_hook(lambda *_: seen.append(None))
    images = call(teacher, contrastive=0.0, mean=(0.1,), std=(0.9,))
    assert len(seen) == 1 + 2 and (images.mean, images.std) == ((0.1,), (0.9,))  # no second view
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1)]
    assert len(call(nn.Sequential(*layers, nn.Flatten()), (3, 8, 8))) == 4  # without linear layers


def test_the_cost_is_said_before_it_is_paid(capsys: pytest.CaptureFixture[str]) -> None:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    call(nn.Sequential(*layers), (3, 8, 8), count=6, method="inversion", batch=4, image_steps=3, progress=True)
    forward = 2 * (8 * 27 * 64 + 512 * 4)
    said = f"inversion: 2 x 3 updates of 4 images; the network alone takes {3 * forward * 24 / 1e12:.2g} TFLOP"
    assert said in capsys.readouterr().err


def test_a_head_on_very_many_channels_is_not_built_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network = players.cast().teacher  # batch norms of 4, 8 and 16 channels
    monkeypatch.setattr("reuselib.cmi.statistics.WIDEST", 20)
    with pytest.warns(UserWarning, match="reads 2 of 3 batch norms, 20 of 28 channels.*Give layers"):
        assert spread(network) == ("blocks.0.1", "blocks.2.1")
    with warnings.catch_warnings(action="error"):
        call(network, layers=["blocks.2.1"])
        call(network, contrastive=0.0)


PICTURES = (3, 32, 32)


@pytest.mark.parametrize(
    ("error", "words", "image", "options"),
    [
        (UnknownName, "inversion method 'cmy'. Did you mean 'cmi'", PICTURES, {"method": "cmy"}),
        (ReuseError, r"No card says.*Give image=\(channels, height, width\)", None, {}),
        (BadValue, r"image must be \(channels, height, width\)", (16, 16), {"mean": None}),
        *((BadValue, f"{name} must be", PICTURES, {name: -1}) for name in ("count", "batch", "batch_norm")),
        (BadValue, "temperature must be", PICTURES, {"temperature": 0}),
        (UnknownName, "weight 'batchnorm'. Did you mean 'batch_norm'", PICTURES, {"batchnorm": 1}),
        (ShapeMismatch, r"Images of shape \(2, 1, 32, 32\) do not fit the teacher", (1, 32, 32), {}),
        (ShapeMismatch, "multiples of 4", (3, 30, 30), {}),
    ],
)
def test_errors_of_the_call_name_the_way_out(error: type[Exception], words: str, image: Any, options: Any) -> None:
    network = resnet()
    with pytest.raises(error, match=words):
        call(network, image, **{"count": 2, "image_steps": 1} | options)
    assert players.hooks(network) == 0
