"""DEPARA's graphs, of networks and of layers, and cuts that freeze what is transferred."""

from __future__ import annotations

import players
import pytest
import scipy.stats
import torch
from maps_toys import classifier, networks, probes
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.attribution import ModelSpace, absolute_channel_mean, channel_mean, features, maps
from reuselib.depara import by_edges, by_graphs, cut, layer_graphs, layer_names, similarities
from reuselib.depara.losses import edge_similarity, edge_values, graph_similarity, node_similarity
from reuselib.depara.method import Graph, similarity


def graph(seed: int = 0, count: int = 20, units: int = 15) -> Graph:
    random = torch.Generator().manual_seed(seed)
    return Graph.of(torch.randn(count, 4, 5, generator=random), torch.randn(count, units, generator=random))


def edges_of(a: Graph, b: Graph) -> float:
    return edge_similarity(a.ranks, b.ranks)


def test_similarity_is_v_plus_lambda_e_symmetric_and_bounded() -> None:
    a, b = graph(0), graph(1)
    for lambda_ in (0, 0.25, 10):
        assert similarity(a, a, lambda_) == pytest.approx(1 + lambda_, abs=1e-6)
        assert similarity(a, b, lambda_) == similarity(b, a, lambda_)
    v, e = node_similarity(a.nodes, b.nodes), edges_of(a, b)
    assert abs(v) <= 1 and abs(e) <= 1 and similarity(a, b, 2.5) == graph_similarity(v, e, 2.5) == v + 2.5 * e


def test_edges_are_the_cosines_of_all_pairs() -> None:
    f = torch.randn(5, 7)
    found, pairs = edge_values(f, centred=False), [(p, q) for p in range(5) for q in range(p + 1, 5)]
    expected = [float(torch.cosine_similarity(f[p], f[q], dim=0)) for p, q in pairs]
    assert found.tolist() == pytest.approx(expected, abs=1e-6) and found.dtype == torch.float64
    torch.testing.assert_close(edge_values(f), edge_values(f - f.mean(0), centred=False), atol=1e-6, rtol=0)


def test_only_the_order_of_edges_counts_and_ties_are_counted() -> None:
    a, b = graph(0), graph(1)
    assert a.ties == 0 and edges_of(a, b) == pytest.approx(scipy.stats.spearmanr(a.edges, b.edges).statistic, abs=1e-12)
    assert edges_of(Graph(a.nodes, a.edges**3), b) == edges_of(a, b) and edges_of(a, Graph(a.nodes, -a.edges)) == -1
    f = torch.randn(10, 4)
    f[:4] = f[0]  # probes that the network cannot tell apart
    a = Graph.of(torch.randn(10, 3, 3), f)
    assert a.ties >= 6 and a.ranks.sort().values.tolist() == list(range(45))


def test_networks_are_compared_by_the_maps_and_the_features_of_the_probes() -> None:
    some, ways = networks(4), {"graphs": by_graphs(0.25), "edges": by_edges(), "maps": None}
    spaces = {name: ModelSpace(probes(12), way) for name, way in ways.items()}
    for space in spaces.values():
        space.extend(some)
    graphs = spaces["graphs"].observed
    v, e = similarities(list(graphs.values()))
    torch.testing.assert_close(v, spaces["maps"].similarity, rtol=0, atol=1e-6)
    assert torch.equal(e, spaces["edges"].similarity)
    torch.testing.assert_close(spaces["graphs"].similarity, v + 0.25 * e)
    assert torch.equal(graphs["net 2"].edges, edge_values(features(some["net 2"], probes(12))))
    unit = maps(some["net 2"], probes(12)).flatten(1)
    torch.testing.assert_close(graphs["net 2"].nodes, unit / unit.norm(dim=1, keepdim=True))
    filed = ModelSpace(probes(12), by_graphs(0.25), memory=graphs["net 2"].nodes.nbytes)  # the nodes of all but one
    filed.extend(some)
    assert torch.equal(filed.similarity, spaces["graphs"].similarity)
    assert filed.left == (1 - len(some)) * graphs["net 2"].nodes.nbytes


LAYERS = ["blocks.0.0", "blocks.1.0", "blocks.2.0", "head"]


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def plain(net: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Output and gradient of one layer, in plain PyTorch."""
    with run.frozen(net):
        x, seen = images().requires_grad_(), []
        hook = dict(net.named_modules())[name].register_forward_hook(lambda *a: seen.append(a[2].clone()))
        net(x)
        hook.remove()
        seen[0].flatten(1).mean(1).sum().backward()
    return seen[0].detach().flatten(1), x.grad


def test_every_layer_has_a_gradient_of_its_own_unless_they_add_up() -> None:
    net, total = classifier(), torch.zeros(6, 3, 8, 8)
    assert layer_names(net, images()) == LAYERS  # its ReLUs work in place
    own, signed, summed = (
        layer_graphs(net, images(), batch=4, **options)
        for options in ({}, {"reduce": channel_mean, "centred": True}, {"cumulative": True})
    )
    for name in LAYERS:
        output, gradient = plain(net, name)
        total += gradient
        for found, expected in (
            (own[name], Graph.of(absolute_channel_mean(images() * gradient), output, centred=False)),
            (signed[name], Graph.of(channel_mean(images() * gradient), output)),
            (summed[name], Graph.of(absolute_channel_mean(images() * total), output, centred=False)),
        ):
            torch.testing.assert_close(found.nodes, expected.nodes)
            torch.testing.assert_close(found.edges, expected.edges)
    last = layer_graphs(net, images(), [""])[""]  # the network's output
    assert similarity(own["head"], last, 10) == pytest.approx(11, abs=1e-6)


def test_the_network_is_left_as_it_was_also_after_an_exception() -> None:
    net = classifier().train()
    state = players.state(net)
    with pytest.raises(players.Explosion):
        layer_graphs(net, images(), reduce=players.rigged(absolute_channel_mean, at=2))
    assert not list(players.differences(players.state(net), state))
    assert players.hooks(net) == 0 and all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def build() -> nn.Module:
    return nets.conv3(width=4, classes=4, channels=3, batch_norm=True)


def parts(net: nn.Module, frozen: bool, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The state of the modules that are, or are not, among the names."""
    state = net.state_dict().items()
    return {key: value.clone() for key, value in state if (key.rpartition(".")[0] in names) == frozen}


def test_what_is_cut_stays_bit_for_bit_and_the_rest_starts_alike_and_learns() -> None:
    source = classifier(1)
    before, fresh = players.state(source), {}
    for layer in LAYERS[:3]:
        made = cut(source, build, layer, images(), seed=3)
        frozen, tail = (parts(made.network, way, made.frozen) for way in (True, False))
        assert frozen and all(torch.equal(value, source.state_dict()[key]) for key, value in frozen.items())
        assert any("running_mean" in key for key in frozen)  # the batch norm goes with its convolution
        assert all(not torch.equal(tail[key], source.state_dict()[key]) for key in tail if key.endswith("0.weight"))
        fresh = fresh or tail  # for one seed, wherever the cut is
        assert tail.keys() <= fresh.keys() and all(torch.equal(value, fresh[key]) for key, value in tail.items())
        optimizer = torch.optim.SGD(made.parameters(), 0.1, weight_decay=0.1)
        made.train()
        for _ in range(3):
            optimizer.zero_grad()
            made(images()).square().mean().backward()
            optimizer.step()
        now = made.network.state_dict()
        assert all(torch.equal(now[key], value) for key, value in frozen.items())
        assert not any(torch.equal(now[key], value) for key, value in tail.items())
    assert not list(players.differences(players.state(source), before)) and players.hooks(source) == 0
    another = cut(source, build, LAYERS[0], images(), seed=4)
    assert not torch.equal(another.network.head.weight, fresh["head.weight"])
    whole = cut(source, build, "head", images())
    assert not list(players.differences(before, players.state(whole.network)))


def test_frozen_blocks_stay_in_evaluation_mode() -> None:
    made = cut(classifier(1), build, "blocks.1.0", images())
    made.train()
    modes = {name: module.training for name, module in made.network.named_modules()}
    assert not modes["blocks.0.0"] and not modes["blocks.0.1"] and not modes["blocks.1.1"] and modes["blocks.2.1"]
    assert made.frozen[-1] == "blocks.1.1" and {"blocks.0", "blocks.1.0"} <= set(made.frozen)
    parameters = made.network.named_parameters()
    assert all(parameter.requires_grad == name.startswith(("blocks.2", "head")) for name, parameter in parameters)
    assert not any(module.training for module in made.eval().modules())


def test_a_whole_residual_stage_may_be_cut() -> None:
    source, make = nets.small_resnet(width=4, channels=3), lambda: nets.small_resnet(width=4, channels=3, classes=3)
    made = cut(source, make, "blocks.1", images())
    own = made.network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in source.blocks[:2].state_dict(prefix="blocks.").items())
    assert not any(parameter.requires_grad for parameter in made.network.blocks[:2].parameters())
