"""The representation is found in any network, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable

import players
import pytest
import torch
import torchvision
from torch import Tensor, nn

from reuselib import nets
from reuselib.attribution import features, represent
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size)


def test_a_task_network_tells_itself() -> None:
    network, x = nets.task_network(3).eval(), images()
    assert torch.equal(represent(network, x), network.encoder(x))


def test_a_classifier_gives_what_its_head_sees() -> None:
    for network in (
        nets.conv3(channels=3),
        nets.small_resnet(width=4, channels=3),
        nets.plain_vgg(channels=3, size=32),
    ):
        network.eval()
        assert torch.equal(represent(network, x := images()), network.features(x))
        assert players.hooks(network) == 0


TORCHVISION: dict[str, Callable[[nn.Module], nn.Module]] = {
    "resnet18": lambda n: n.fc,
    "vgg11": lambda n: n.classifier[-1],
    "squeezenet1_1": lambda n: n.classifier[1],
    "vit_b_32": lambda n: n.heads.head,
    "convnext_tiny": lambda n: n.classifier[-1],
}


def test_torchvisions_networks_give_what_their_classifier_sees() -> None:
    for name, head in TORCHVISION.items():
        with torch.device("meta"):
            network = torchvision.models.get_model(name, weights=None).eval()
            found = represent(network, torch.randn(2, 3, 224, 224))
        classifier = head(network)
        width = classifier.in_features if isinstance(classifier, nn.Linear) else classifier.in_channels
        assert found.shape[:2] == (2, width) and players.hooks(network) == 0
    network = torchvision.models.resnet18(num_classes=4).eval()
    x = images(size=64)
    assert torch.equal(network.fc(represent(network, x)), network(x))
    network.fc = nn.Identity()  # a network without a classifier gives its output
    assert torch.equal(represent(network, x), network(x))


class TimmLike(nn.Module):
    """The methods of timm's networks; the classifier may be gone."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, classes) if classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.stem(x)).relu()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_timms_way_is_known() -> None:
    for classes in (4, 0):
        network, x = TimmLike(classes).eval(), images()
        assert torch.equal(represent(network, x), network.forward_features(x).mean((2, 3)))


def test_a_module_may_be_named_or_a_function_given() -> None:
    network, x = nets.conv3(channels=3).eval(), images()
    assert torch.equal(represent(network, x, "blocks.1"), network.blocks[:2](x))
    assert torch.equal(represent(network, x, ""), network(x))
    assert torch.equal(represent(network, x, lambda n, x: n(x)[:, :2]), network(x)[:, :2])


def test_layers_in_place_do_not_alter_what_is_read() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.ReLU(inplace=True))
    x = images()
    assert torch.equal(represent(network, x, "0"), network[0](x)) and represent(network, x, "0").min() < 0
    assert torch.equal(represent(network, x), network[:2](x))
    hasty = Hasty()
    assert torch.equal(represent(hasty, x), hasty.body(x).mean((2, 3)))
    assert players.hooks(network) == 0


def test_hooks_are_gone_after_an_exception() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Exploding())
    for where in (None, "0"):
        with pytest.raises(players.Explosion):
            represent(network, images(), where)
        assert players.hooks(network) == 0


class Hasty(nn.Module):
    """Overwrites what its classifier has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).mean((2, 3))
        logits = self.head(features)
        features.zero_()
        return logits


class Exploding(nn.Module):
    """Raises."""

    def forward(self, x: Tensor) -> Tensor:
        raise players.Explosion


def test_features_are_a_matrix() -> None:
    network, x = nets.task_network(3).train(), images(5)
    found = features(network, x, batch=2)
    with torch.no_grad():
        maps = network.eval().represent(x)
    torch.testing.assert_close(found, maps.flatten(1))
    torch.testing.assert_close(features(network, x, pooled=True), maps.mean((2, 3)))
    torch.testing.assert_close(
        features(network, x, where="decoder.0", pooled=True), network.decoder[0](maps).mean((2, 3))
    )
    assert not found.requires_grad
    classifier = nets.conv3(channels=3)
    assert features(classifier, x, pooled=True).shape == (5, 64)  # vectors have no places


class Several(nn.Module):
    """Gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.spare = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.norm(self.layer(x))}


def test_what_is_no_representation_is_named() -> None:
    network, x = Several().eval(), images()
    with pytest.raises(ReuseError, match=r"should be one float tensor with 2 rows, not dict.*where='encoder'"):
        represent(network, x)
    with pytest.raises(ReuseError, match=r"not torch.float32 \(1, 2"):
        represent(network, x, lambda n, x: n(x)["out"][:1])
    with pytest.raises(ReuseError, match="torch.int64"):
        represent(network, x, lambda n, x: n(x)["out"].argmax(1))
    with pytest.raises(UnknownName, match="Did you mean 'layer'"):
        represent(network, x, "laier")
    with pytest.raises(ReuseError, match="'spare' has not run"):
        represent(network, x, "spare")
    with pytest.raises(ShapeMismatch, match=r"Several does not take images of shape \(2, 1, 8, 8\)"):
        represent(network, torch.randn(2, 1, 8, 8), "layer")


def test_a_full_device_names_a_batch() -> None:
    def full(network: nn.Module, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(DeviceError, match="ran out of memory on 8 images. Try batch=4"):
        represent(Several(), images(8), full)


def test_own_errors_pass_unchanged() -> None:
    with pytest.raises(ShapeMismatch, match="channels=3"):
        represent(nets.task_network(1), torch.randn(2, 1, 32, 32))
