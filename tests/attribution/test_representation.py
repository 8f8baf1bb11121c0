"""The representation is found in any network, and layers that work in place do not alter it."""

from __future__ import annotations

from collections.abc import Callable

import players
import torch
import torchvision
from maps_toys import TimmLike
from torch import Tensor, nn

from reuselib import nets
from reuselib.attribution import features, represent


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size)


KNOWN: list[tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = [
    (lambda: nets.task_network(3), lambda n, x: n.encoder(x)),  # tells itself
    (lambda: nets.conv3(channels=3), lambda n, x: n.features(x)),  # what the head sees
    (lambda: nets.small_resnet(width=4, channels=3), lambda n, x: n.features(x)),
    (lambda: nets.plain_vgg(channels=3, size=32), lambda n, x: n.features(x)),
    (TimmLike, lambda n, x: n.forward_features(x).mean((2, 3))),
    (lambda: TimmLike(0), lambda n, x: n.forward_features(x).mean((2, 3))),
]
TORCHVISION = {"vgg11": "classifier.6", "squeezenet1_1": "classifier.1", "vit_b_32": "heads.head"}
"""The classifiers of some networks."""


def test_the_representation_is_what_the_classifier_sees() -> None:
    x = images()
    for make, expected in KNOWN:
        network = make().eval()
        assert torch.equal(represent(network, x), expected(network, x)) and players.hooks(network) == 0
    for name, head in TORCHVISION.items():
        with torch.device("meta"):
            network = torchvision.models.get_model(name, weights=None).eval()
            found = represent(network, torch.randn(2, 3, 224, 224))
        assert found.shape[:2] == (2, network.get_submodule(head).weight.shape[1]) and players.hooks(network) == 0
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert torch.equal(represent(network, x), network(x))  # without a classifier it is the output


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


def test_layers_in_place_do_not_alter_what_is_read() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.ReLU(inplace=True))
    x, hasty = images(), Hasty()
    assert torch.equal(represent(network, x, "0"), network[0](x)) and represent(network, x, "0").min() < 0
    assert torch.equal(represent(network, x), network[:2](x))
    assert torch.equal(represent(hasty, x), hasty.body(x).mean((2, 3)))


def test_features_are_a_matrix_of_a_module_that_is_named_or_of_what_a_function_gives() -> None:
    network, x = nets.task_network(3).train(), images(5)
    found = features(network, x, batch=2)
    with torch.no_grad():
        maps = network.eval().represent(x)
        named = {"decoder.0": network.decoder[0](maps), "": network(x), lambda n, x: n(x)[:, :2]: network(x)[:, :2]}
    torch.testing.assert_close(found, maps.flatten(1))
    assert not found.requires_grad
    torch.testing.assert_close(features(network, x, pooled=True), maps.mean((2, 3)))
    for where, expected in named.items():
        torch.testing.assert_close(features(network, x, where=where), expected.flatten(1))
    assert features(nets.conv3(channels=3), x, pooled=True).shape == (5, 64)  # vectors have no places
