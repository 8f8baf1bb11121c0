"""Explanations, comparisons, model spaces, and the researcher's entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import players
import pytest
import torch
import torchvision
from maps_toys import TimmLike, network, networks, probes
from torch import Tensor, nn

from reuselib import nets
from reuselib.attribution import METHODS, ModelSpace, by_features, by_maps, explain, losses, maps, rank, rsa
from reuselib.attribution.representation import features, represent
from reuselib.data import ImageSet


def space_of(some: dict[str, nn.Module], **options) -> ModelSpace:
    space = ModelSpace(probes(), **options)
    space.extend(some)
    return space


def plain(some: dict[str, nn.Module], method: str = "input_x_gradient") -> Tensor:
    return losses.affinity_matrix([maps(net, probes(), method) for net in some.values()])


def test_shapes_batches_and_the_meta_device() -> None:
    network, x = nets.task_network(3), torch.randn(5, 3, 32, 32)
    for method in METHODS:
        whole = explain(network, x, method)
        assert whole.maps.shape == (5, 32, 32) and whole.features.shape == (5, 512)
        torch.testing.assert_close(whole.maps, maps(network, x, method, batch=3), rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(whole.features, network.eval().represent(x).flatten(1))
        with torch.device("meta"):
            found = explain(nets.task_network(3), torch.randn(3, 3, 32, 32), method)
        assert found.maps.is_meta and found.maps.shape == (3, 32, 32) and found.features.shape == (3, 512)


def test_images_may_be_a_set_a_method_a_function_and_maps_pooled() -> None:
    pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    images = ImageSet("probes", pixels, torch.zeros(6).long(), ("a",), (0.5,) * 3, (0.5,) * 3)
    net, found = nets.task_network(3), pixels / 127.5 - 1
    expected = maps(net, found)
    torch.testing.assert_close(maps(net, images, batch=4), expected, rtol=1e-4, atol=1e-7)
    ten = maps(net, found, lambda n, x, where: 10 * METHODS["input_x_gradient"](n, x, where))
    torch.testing.assert_close(ten, 10 * expected)
    assert maps(net, found, reduce=losses.pooled(4)).shape == (6, 8, 8)
    assert maps(net.double(), images).dtype == torch.float64  # types follow the network


def test_a_space_gives_the_affinities_of_all_maps_at_once() -> None:
    some = networks()
    for method in METHODS:
        space = space_of(some, way=by_maps(method), memory=4 * 64 * 9 * 3)  # some are kept in a file
        assert torch.equal(space.similarity, plain(some, method))
        assert space.names == tuple(some) and space.zeros == dict.fromkeys(some, 0)
    centred = space_of(some, way=by_maps(centred=True))
    found = torch.stack([maps(net, probes()) for net in some.values()])
    assert torch.equal(centred.similarity, losses.affinity_matrix(losses.without_shared(found)))
    assert centred.compare(some["net 1"]) == pytest.approx(centred.similarity[1].tolist(), abs=1e-6)
    by_rsa = space_of(some, way=by_features(rsa))
    assert by_rsa.similarity[0, 3] == by_rsa.compare(some["net 0"])[3] and by_rsa.zeros == dict.fromkeys(some, 0)


def test_a_new_network_costs_one_pass_and_leaves_the_rest_bit_for_bit() -> None:
    some, seen, before = networks(), [], torch.zeros(0, 0)
    for net in some.values():
        net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    space = ModelSpace(probes(), by_maps(batch=2))
    for count, (name, net) in enumerate(some.items()):
        space.add(name, net)
        assert torch.equal(space.similarity[:count, :count], before.double()) and sum(seen) == 9 * (count + 1)
        before = space.similarity
    assert space.compare(some["net 3"])[:2] == pytest.approx(plain(some)[3, :2].tolist(), abs=1e-6)
    assert set(space.tree().leaves) == set(some)


def test_the_ranking_of_a_space() -> None:
    space = space_of(networks())
    found = space.ranking("net 2")
    assert set(found.index) == {"net 0", "net 1", "net 3"} and found.similarity.is_monotonic_decreasing
    assert found.similarity.to_dict() == {name: float(space.similarity[2, int(name[-1])]) for name in found.index}
    each = losses.cosines(*(losses.normalised(maps(net, probes())) for net in (network(2, "residual"), network(0))))
    assert found.error["net 0"] == pytest.approx(float(each.std()) / 3, rel=1e-5)
    same = network(0)
    assert list(space_of({"a": same, "b": same, "c": same}).ranking("b").index) == ["a", "c"]  # equal ones in order
    dead = network(1)
    with torch.no_grad():
        dead.encoder[1][1].bias.fill_(-100)
    space = space_of({"alive": network(0), "dead": dead})
    assert space.zeros == {"alive": 0, "dead": 9} and space.similarity[0, 1] == 0
    assert space.ranking("alive").zeros.to_dict() == {"dead": 9}


def test_ranking_a_list_of_networks(capsys: pytest.CaptureFixture[str]) -> None:
    some = networks()
    found = rank(some, probes(), "net 1")
    assert "4/4" in capsys.readouterr().err
    assert found.equals(space_of(some).ranking("net 1"))
    assert rank(some, probes(), some["net 1"], progress=False).equals(found)  # the target may be a network
    other = rank(some, probes(), network(9), progress=False)
    assert set(other.index) == set(some) and capsys.readouterr().err == ""
    opened: list[str] = []

    def load(name: str) -> nn.Module:
        opened.append(name)
        return some[name]

    assert rank({name: partial(load, name) for name in some}, probes(), "net 1", progress=False).equals(found)
    assert opened == list(some)


def test_representations_and_preparations_by_name() -> None:
    some = {"rooms": network(0), "grey": nets.conv3(width=4, channels=1)}
    where, grey = {"grey": "blocks.1", "target": "encoder"}, {"grey": lambda x: x.mean(1, keepdim=True)}
    found = rank(some, probes(), network(3), progress=False, where=where, prepare=grey)
    own = maps(some["grey"], probes().mean(1, keepdim=True), where="blocks.1")
    expected = losses.affinity_matrix([maps(network(3), probes(), where="encoder"), own])[0, 1]
    assert found.similarity["grey"] == pytest.approx(float(expected), abs=1e-6)


KNOWN: list[tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = [
    (lambda: nets.task_network(3), lambda n, x: n.encoder(x)),  # tells itself
    (lambda: nets.conv3(channels=3), lambda n, x: n.features(x)),  # what the head sees
    (TimmLike, lambda n, x: n.forward_features(x).mean((2, 3))),
    (lambda: TimmLike(0), lambda n, x: n.forward_features(x).mean((2, 3))),
]
TORCHVISION = {"vgg11": "classifier.6", "squeezenet1_1": "classifier.1", "vit_b_32": "heads.head"}
"""The classifiers of some networks."""


def test_the_representation_is_what_the_classifier_sees() -> None:
    x = torch.randn(2, 3, 32, 32)
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


def test_layers_in_place_do_not_alter_what_is_read() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(represent(network, x, "0"), network[0](x)) and represent(network, x, "0").min() < 0
    assert torch.equal(represent(network, x), network[:2](x))


def test_features_are_a_matrix_of_a_module_that_is_named_or_of_what_a_function_gives() -> None:
    network, x = nets.task_network(3).train(), torch.randn(5, 3, 32, 32)
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
