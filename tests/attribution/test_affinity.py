"""Affinities, model spaces in bounded memory, and the researcher's entry."""

from __future__ import annotations

import itertools

import numpy
import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import attribution, run
from reuselib import nets as models
from reuselib.attribution import (
    METHODS,
    ModelSpace,
    affinity_matrix,
    cosines,
    distance,
    maps,
    normalised,
    pooled,
    rank,
    without_shared,
)
from reuselib.data import ImageSet
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName


def network(seed: int, encoder: str = "plain") -> nn.Module:
    """A small network with a representation of its own."""
    with run.seeded(seed):
        body = models.room_encoder((4, 6), (2, 1)) if encoder == "plain" else models.residual_room_encoder(2, 6)
        return models.TaskNetwork(body, nn.Flatten())


def networks(count: int = 4) -> dict[str, nn.Module]:
    return {f"net {i}": network(i, "residual" if i == 2 else "plain") for i in range(count)}


def probes(count: int = 9) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


# --- equations (5, 6)


def test_affinity_against_a_loop() -> None:
    a = torch.randn(3, 6, 4, 5)
    found = affinity_matrix(a)
    for i, j in itertools.product(range(3), repeat=2):
        each = []
        for p in range(6):
            u, v = a[i, p].numpy().ravel().astype(float), a[j, p].numpy().ravel().astype(float)
            each.append(u @ v / numpy.linalg.norm(u) / numpy.linalg.norm(v))
        assert float(found[i, j]) == pytest.approx(numpy.mean(each), abs=1e-6)
    assert found.dtype == torch.float64


def test_affinity_is_symmetric_with_ones_and_within_bounds() -> None:
    a = torch.randn(5, 7, 30)
    a[3], a[4] = a[0], -2 * a[0]
    found = affinity_matrix(a)
    assert torch.equal(found, found.T) and (found.diagonal() == 1).all() and found.abs().max() <= 1
    assert float(found[0, 3]) == pytest.approx(1, abs=1e-6) and float(found[0, 4]) == pytest.approx(-1, abs=1e-6)


def test_the_order_of_probes_does_not_matter_if_it_is_the_same() -> None:
    a, order = torch.randn(3, 8, 20).double(), torch.randperm(8)
    torch.testing.assert_close(affinity_matrix(a[:, order]), affinity_matrix(a), rtol=0, atol=1e-15)
    other = torch.stack([a[0], a[1, order], a[2]])
    assert not torch.allclose(affinity_matrix(other), affinity_matrix(a))


def test_the_cosine_is_taken_image_by_image() -> None:
    a = torch.randn(3, 8, 20).double()
    before = affinity_matrix(a)
    a[1, 4] *= 1e6
    a[1, 5] *= 1e-30
    torch.testing.assert_close(affinity_matrix(a), before, rtol=0, atol=1e-12)


def test_maps_of_zeros_have_a_cosine_of_zero_and_tiny_or_huge_ones_do_not_vanish() -> None:
    a = torch.randn(4, 10)
    a[1] = 0
    unit = normalised(a)
    assert (unit[1] == 0).all() and cosines(unit, unit).tolist() == pytest.approx([1, 0, 1, 1])
    for factor in (1e-38, 1e38):
        torch.testing.assert_close(normalised(a * factor), unit, rtol=1e-4, atol=1e-6)


def test_distance_is_one_over_affinity_where_there_is_one() -> None:
    assert distance(torch.tensor([0.5, 1.0, 0.0, -0.2])).tolist() == [2, 1, float("inf"), float("inf")]


def test_the_shared_map_is_taken_off_per_image() -> None:
    a = torch.randn(3, 4, 6, 6)
    found = without_shared(a)
    torch.testing.assert_close(found.mean(0), torch.zeros(4, 6, 6), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2, 1], a[2, 1] - (a[0, 1] + a[1, 1] + a[2, 1]) / 3)


# --- a space of models


def plain(nets: dict[str, nn.Module], method: str = "input_x_gradient") -> Tensor:
    return affinity_matrix([maps(net, probes(), method) for net in nets.values()])


@pytest.mark.parametrize("method", METHODS)
def test_a_space_gives_the_affinities_of_all_maps_at_once(method: str) -> None:
    nets, space = networks(), ModelSpace(probes(), method=method)
    space.extend(nets)
    torch.testing.assert_close(space.affinity, plain(nets, method), rtol=0, atol=1e-6)
    assert space.names == tuple(nets) and space.recomputed == () and space.zeros == dict.fromkeys(nets, 0)


def test_errors_are_those_of_the_mean_over_probes() -> None:
    nets, space = networks(2), ModelSpace(probes())
    space.extend(nets)
    each = cosines(*(normalised(maps(net, probes())) for net in nets.values()))
    assert float(space.errors[0, 1]) == pytest.approx(float(each.std()) / 3, rel=1e-5)
    assert torch.equal(space.errors, space.errors.T)


ONE = 4 * 64 * 9
"""Bytes of the maps of one network."""


@pytest.mark.parametrize("memory", [1, ONE * 2, ONE * 4, ONE * 6, 2**30])
def test_any_memory_gives_the_same(memory: int) -> None:
    nets, space = networks(), ModelSpace(probes(), memory=memory)
    first = {name: net for name, net in nets.items() if name in ("net 0", "net 1")}
    space.extend(first)
    space.add("net 2", nets["net 2"])
    space.add("net 3", nets["net 3"])
    torch.testing.assert_close(space.affinity, plain(nets), rtol=0, atol=1e-6)
    assert len(space.recomputed) == max(0, 4 - memory // 2 // ONE)


@pytest.mark.parametrize("memory", [1, 2**30])
def test_adding_leaves_the_old_block_bit_for_bit(memory: int) -> None:
    nets, space = networks(), ModelSpace(probes(), memory=memory)
    before = space.affinity
    for count, (name, net) in enumerate(nets.items()):
        space.add(name, net)
        assert torch.equal(space.affinity[:count, :count], before)
        before = space.affinity


def counted(nets: dict[str, nn.Module]) -> dict[str, int]:
    """Count the images that go forward through each encoder."""
    counts = dict.fromkeys(nets, 0)
    for name, net in nets.items():

        def count(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            counts[name] += len(inputs[0])

        net.encoder.register_forward_pre_hook(count)
    return counts


def test_a_new_network_costs_one_pass_of_its_own() -> None:
    nets = networks()
    counts, space = counted(nets), ModelSpace(probes(), batch=2)
    space.extend(nets)
    assert set(counts.values()) == {9}
    new = {"new": network(7)}
    fresh = counted(new)
    space.add("new", new["new"])
    assert fresh == {"new": 9} and set(counts.values()) == {9}


def test_without_memory_a_batch_of_networks_is_explained_once() -> None:
    nets = networks()
    counts, space = counted(nets), ModelSpace(probes(), memory=1)
    space.extend(nets)
    assert set(counts.values()) == {9} and space.recomputed == tuple(nets)
    space.add("new", network(7))
    assert set(counts.values()) == {18}


def test_no_more_maps_are_held_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(module: nn.Module, images: Tensor, where: object) -> Tensor:
        seen.append(len(images))
        return attribution.input_x_gradient(module, images, where)

    nets = networks()
    space = ModelSpace(probes(), method=watch, memory=2 * 4 * 64 * (4 + 6) * 3)  # room for three images, none to keep
    monkeypatch.setattr(ModelSpace, "_room", lambda self: 0)
    space.extend(nets)
    assert seen == [3] * 12
    torch.testing.assert_close(space.affinity, plain(nets), rtol=0, atol=1e-6)


def test_comparing_adds_nothing() -> None:
    nets, space = networks(), ModelSpace(probes())
    space.extend({name: nets[name] for name in ("net 0", "net 1")})
    found = space.compare(nets["net 3"])
    assert found.shape == (2, 9) and found.dtype == torch.float64 and space.names == ("net 0", "net 1")
    torch.testing.assert_close(found.mean(1), plain(nets)[3, :2], rtol=0, atol=1e-6)


def test_the_ranking_of_a_space() -> None:
    nets, space = networks(), ModelSpace(probes())
    space.extend(nets)
    found = space.ranking("net 2")
    assert set(found.sources) == {"net 0", "net 1", "net 3"} and found.target == "net 2" and found.probes == 9
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert dict(found) == pytest.approx({name: float(space.affinity[2, int(name[-1])]) for name in found.sources})
    with pytest.raises(UnknownName, match="net 2"):
        space.ranking("net2")
    assert set(space.tree().leaves) == set(nets)


def test_equal_scores_keep_their_order_and_the_target_is_dropped_by_name() -> None:
    same = network(0)
    space = ModelSpace(probes())
    space.extend({"a": same, "b": same, "c": same})
    assert space.affinity.min() > 1 - 1e-6
    assert space.ranking("b").sources == ("a", "c")


def test_maps_of_zeros_are_counted() -> None:
    dead = network(1)
    with torch.no_grad():
        dead.encoder[1][1].bias.fill_(-100)
    space = ModelSpace(probes())
    space.extend({"alive": network(0), "dead": dead})
    assert space.zeros == {"alive": 0, "dead": 9} and space.affinity[0, 1] == 0
    text = str(space.ranking("alive"))
    assert "Maps of zeros" in text and "dead 9 (of 9)" in text
    assert rank({"alive": network(0), "dead": dead}, probes(), "alive", progress=False).zeros == {"dead": 9}


def test_networks_come_back_as_they_were_also_after_an_exception() -> None:
    nets = networks(3)
    for net in nets.values():
        net.train()
    states = players.state(nets)
    space = ModelSpace(probes(), batch=4)
    rigged = players.rigged(lambda n, x: n.represent(x), at=1)
    with pytest.raises(players.Explosion):
        space.extend(nets, represent={"net 1": rigged})
    assert space.names == ("net 0",) and space._bar is None
    space.extend({name: nets[name] for name in ("net 1", "net 2")})
    torch.testing.assert_close(space.affinity, plain(nets), rtol=0, atol=1e-6)
    assert not list(players.differences(players.state(nets), states))
    for net in nets.values():
        assert players.hooks(net) == 0 and all(m.training for m in net.modules())
        assert all(p.requires_grad and p.grad is None for p in net.parameters())


# --- the researcher's entry


def test_ranking_a_list_of_networks() -> None:
    nets = networks()
    found = rank(nets, probes(), "net 1", progress=False)
    row = plain(nets)[1]
    assert dict(found) == pytest.approx(
        {name: float(row[int(name[-1])]) for name in ("net 0", "net 2", "net 3")}, abs=1e-6
    )
    assert found.best == found.sources[0] == max(dict(found), key=dict(found).get) and len(found) == 3
    assert found.top(2) == found.sources[:2]
    space = ModelSpace(probes())
    space.extend(nets)
    expected = space.ranking("net 1")
    assert found.sources == expected.sources and found.errors == pytest.approx(expected.errors, rel=1e-5)


def test_the_target_may_be_a_network() -> None:
    nets = networks()
    assert rank(nets, probes(), nets["net 1"], progress=False) == rank(nets, probes(), "net 1", progress=False)
    other = rank(nets, probes(), network(9), progress=False)
    assert other.target == "target" and set(other.sources) == set(nets)


def test_networks_may_be_loaded_when_it_is_their_turn() -> None:
    opened: list[str] = []

    def loader(name: str, net: nn.Module):
        def load() -> nn.Module:
            opened.append(name)
            return net

        return load

    nets = networks()
    lazy = {name: loader(name, net) for name, net in nets.items()}
    assert rank(lazy, probes(), "net 1", progress=False) == rank(nets, probes(), "net 1", progress=False)
    assert opened == ["net 1", "net 0", "net 2", "net 3"]


def test_bounded_memory_gives_the_same_ranking() -> None:
    nets = networks()
    found, expected = (rank(nets, probes(), "net 1", memory=memory, progress=False) for memory in (1, 2**30))
    assert found.sources == expected.sources and found.scores == pytest.approx(expected.scores, abs=1e-6)


def test_representations_and_preparations_by_name() -> None:
    nets = {
        "rooms": network(0),
        "grey": models.conv3(width=4, channels=1),
        "resnet": models.small_resnet(width=4, channels=3),
    }
    options = {
        "represent": {"grey": "blocks.1", "target": "encoder"},
        "prepare": {"grey": lambda x: x.mean(1, keepdim=True)},
    }
    found = rank(nets, probes(), network(3), progress=False, **options)
    grey = maps(nets["grey"], probes().mean(1, keepdim=True), represent="blocks.1")
    expected = affinity_matrix([maps(network(3), probes(), represent="encoder"), grey])[0, 1]
    assert dict(found)["grey"] == pytest.approx(float(expected), abs=1e-6)


def test_torchvisions_and_timm_like_networks_in_one_call() -> None:
    torchvision = pytest.importorskip("torchvision")
    from test_representation import TimmLike

    nets = {
        "resnet18": torchvision.models.resnet18(weights=None),
        "squeezenet": torchvision.models.squeezenet1_1(weights=None),
        "timm": TimmLike(),
    }
    found = rank(nets, torch.randn(2, 3, 64, 64), "resnet18", progress=False)
    assert set(found.sources) == {"squeezenet", "timm"} and all(abs(score) <= 1 for score in found.scores)


def test_image_sets_and_pooled_maps() -> None:
    pixels = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    images = ImageSet("probes", pixels, torch.zeros(6).long(), ("a",), (0.5,) * 3, (0.5,) * 3)
    nets = networks(3)
    found = rank(nets, images, "net 0", reduce=pooled(2), progress=False)
    expected = affinity_matrix([maps(net, pixels / 127.5 - 1, reduce=pooled(2)) for net in nets.values()])
    assert dict(found)["net 2"] == pytest.approx(float(expected[0, 2]), abs=1e-5)


def test_the_table_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    found = rank(networks(), probes(), "net 1")
    bar = capsys.readouterr().err
    assert "rank for net 1" in bar and "36/36" in bar
    lines = str(found).splitlines()
    assert "'net 1', by their maps of 9 images" in lines[0] and len(lines) == 5 and found.best in lines[2]
    html = found._repr_html_()
    assert html.count("<tr>") == 4 and found.best in html
    ModelSpace(probes(), progress=False).extend(networks())
    assert capsys.readouterr().err == ""


# --- wrong input


class Broken(nn.Module):
    """Gives NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * torch.nan


def test_wrong_input_is_named() -> None:
    nets = networks(2)
    with pytest.raises(UnknownName, match="target 'net 5'.*Did you mean"):
        rank(nets, probes(), "net 5", progress=False)
    with pytest.raises(UnknownName, match="network 'nett'"):
        rank(nets, probes(), "net 0", represent={"nett": ""}, progress=False)
    with pytest.raises(ReuseError, match="no network to reuse beside the target"):
        rank({"a": network(0)}, probes(), "a", progress=False)
    with pytest.raises(UnknownName, match="attribution method"):
        rank(nets, probes(), "net 0", method="gradcam", progress=False)
    with pytest.raises(ReuseError, match="1 probe images are too few"):
        ModelSpace(probes(1))
    with pytest.raises(ShapeMismatch, match="uint8"):
        ModelSpace(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    space = ModelSpace(probes())
    with pytest.raises(ReuseError, match="Add one first"):
        space.compare(nets["net 0"])
    space.extend(nets)
    with pytest.raises(ReuseError, match="a network 'net 0' already"):
        space.add("net 0", network(3))
    with pytest.raises(NonFinite, match="maps of 'broken' hold NaN"):
        space.add("broken", Broken(), represent="")
    with pytest.raises(ShapeMismatch, match="'small' have 16 pixels, those of the probes 64"):
        space.add("small", network(4), prepare=lambda x: x[:, :, ::2, ::2])
    with pytest.raises(ShapeMismatch, match="takes images of shape") as caught:
        space.add("grey", models.conv3(), represent="blocks")
    assert caught.value.__notes__ == ["This was the network 'grey'."]
    assert space.names == tuple(nets) and space.affinity.shape == (2, 2)
