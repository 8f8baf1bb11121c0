"""DEPARA's graphs: nodes, edges, their similarity, and rankings by it."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from test_affinity import networks, probes
from torch import Tensor

from reuselib.attribution import ModelSpace, features, maps, rsa
from reuselib.depara import (
    Graph,
    attribution_graph,
    edge_similarity,
    edge_values,
    graph_similarity,
    node_similarity,
    rank_graphs,
    similarities,
)
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName


def graph(seed: int = 0, count: int = 20, units: int = 15) -> Graph:
    random = torch.Generator().manual_seed(seed)
    return Graph.of(torch.randn(count, 4, 5, generator=random), torch.randn(count, units, generator=random))


# --- similarity of graphs (1)


def test_similarity_of_a_graph_with_itself_and_its_bounds() -> None:
    a, b = graph(0), graph(1)
    for lambda_ in (0, 0.25, 1, 10):
        assert graph_similarity(a, a, lambda_) == pytest.approx(1 + lambda_, abs=1e-6)
        assert graph_similarity(a, b, lambda_) == graph_similarity(b, a, lambda_)
    assert abs(node_similarity(a, b)) <= 1 and abs(edge_similarity(a, b)) <= 1
    assert graph_similarity(a, b, 10) - graph_similarity(a, b, 1) == pytest.approx(9 * edge_similarity(a, b))


def test_nodes_are_compared_image_by_image() -> None:
    a, b = torch.randn(6, 3, 3), torch.randn(6, 3, 3)
    expected = torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean()
    f = torch.randn(6, 2)
    assert node_similarity(Graph.of(a, f), Graph.of(b, f)) == pytest.approx(float(expected), abs=1e-6)


# --- edges (2)


def test_edges_are_the_cosines_of_all_pairs() -> None:
    f = torch.randn(5, 7)
    found = edge_values(f, centred=False)
    pairs = [(p, q) for p in range(5) for q in range(p + 1, 5)]
    expected = [float(torch.cosine_similarity(f[p], f[q], dim=0)) for p, q in pairs]
    assert found.tolist() == pytest.approx(expected, abs=1e-6) and found.dtype == torch.float64
    torch.testing.assert_close(edge_values(f), edge_values(f - f.mean(0), centred=False), atol=1e-6, rtol=0)
    assert len(graph(count=20).edges) == 190 and len(graph(count=20).ranks) == 190


def with_edges(edges: Tensor, count: int) -> Graph:
    return Graph(torch.eye(count), edges)


def test_only_the_order_of_edges_counts() -> None:
    a, b = graph(0), graph(1)
    for change in (torch.exp, lambda e: 3 * e - 1, lambda e: e**3):
        assert edge_similarity(with_edges(change(a.edges), 20), b) == edge_similarity(a, b)
    assert edge_similarity(with_edges(1 - a.edges, 20), with_edges(1 - b.edges, 20)) == pytest.approx(
        edge_similarity(a, b), abs=1e-12
    )


def test_scale_shift_and_rotation_of_features() -> None:
    f = torch.randn(20, 15).double()
    turn = torch.linalg.qr(torch.randn(15, 15).double()).Q
    for centred in (True, False):
        for same in (2.5 * f, f @ turn):
            torch.testing.assert_close(edge_values(same, centred), edge_values(f, centred))
    shifted = f + torch.randn(15)
    torch.testing.assert_close(edge_values(shifted), edge_values(f))
    assert not torch.allclose(edge_values(shifted, centred=False), edge_values(f, centred=False), atol=0.05)


# --- rank correlation (3, 4)


def test_edges_in_reverse_order_and_independent_edges() -> None:
    a = graph(0)
    assert edge_similarity(a, with_edges(-a.edges, 20)) == -1
    sizes = [sum(abs(edge_similarity(graph(s, n), graph(s + 50, n))) for s in range(10)) / 10 for n in (8, 80)]
    assert sizes[1] < 0.05 < sizes[0]


def test_without_ties_it_is_scipys_spearman() -> None:
    a, b = graph(0, 40), graph(1, 40)
    assert a.ties == 0
    expected = scipy.stats.spearmanr(a.edges, b.edges).statistic
    assert edge_similarity(a, b) == pytest.approx(expected, abs=1e-12)
    assert edge_similarity(a, b, "average") == pytest.approx(expected, abs=1e-12)


def test_ties_are_counted_and_can_be_corrected() -> None:
    f, other = torch.randn(10, 4), graph(3, 10)
    f[:4] = f[0]  # probes that the network cannot tell apart
    a = Graph.of(torch.randn(10, 3, 3), f)
    assert a.ties >= 6
    assert edge_similarity(a, other, "average") == pytest.approx(
        scipy.stats.spearmanr(a.edges, other.edges).statistic, abs=1e-12
    )
    assert a.ranks.sort().values.tolist() == list(range(45))


# --- the order of probes (5)


def test_both_graphs_need_the_same_order_of_probes() -> None:
    maps_, f, order = torch.randn(30, 4, 4), torch.randn(30, 9), torch.randperm(30)
    noisy = maps_ + 0.1 * torch.randn(30, 4, 4), f + 0.1 * torch.randn(30, 9)
    a, b = Graph.of(maps_, f), Graph.of(*noisy)
    shuffled = Graph.of(maps_[order], f[order]), Graph.of(noisy[0][order], noisy[1][order])
    assert graph_similarity(*shuffled) == pytest.approx(graph_similarity(a, b), abs=1e-6)
    assert node_similarity(a, b) > 0.9 < edge_similarity(a, b)
    assert abs(node_similarity(a, shuffled[1])) < 0.3 > abs(edge_similarity(a, shuffled[1]))


# --- rankings (7)


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return {name: attribution_graph(net, probes(12)) for name, net in networks(5).items()}


def test_one_pass_gives_nodes_and_edges(graphs: dict[str, Graph]) -> None:
    net = networks()["net 2"]
    assert torch.equal(graphs["net 2"].edges, edge_values(features(net, probes(12))))
    expected = maps(net, probes(12)).flatten(1)
    torch.testing.assert_close(graphs["net 2"].nodes, expected / expected.norm(dim=1, keepdim=True))


def test_lambda_zero_is_the_attribution_map_method_and_infinity_the_edges(graphs: dict[str, Graph]) -> None:
    space = ModelSpace(probes(12))
    space.extend(networks(5))
    v, e = similarities(list(graphs.values()))
    torch.testing.assert_close(v, space.affinity, rtol=0, atol=1e-6)
    for target in graphs:
        assert rank_graphs(graphs, target, 0).sources == space.ranking(target).sources
        edges = {name: float(e[int(target[-1]), int(name[-1])]) for name in graphs if name != target}
        assert rank_graphs(graphs, target, 1e9).sources == tuple(sorted(edges, key=edges.get, reverse=True))
    found = dict(rank_graphs(graphs, "net 0", 2.5))
    assert found["net 3"] == pytest.approx(float(v[0, 3] + 2.5 * e[0, 3]), abs=1e-6)
    assert torch.equal(v, v.T) and torch.equal(e, e.T) and (v.diagonal() == 1).all()


def test_edges_and_rsa_are_near_relatives(graphs: dict[str, Graph]) -> None:
    nets = list(networks(2).values())
    found = rsa(*(features(net, probes(12)) for net in nets))
    assert found == pytest.approx(edge_similarity(graphs["net 0"], graphs["net 1"]), abs=0.3)


# --- wrong input


def test_wrong_input_is_named() -> None:
    a = graph()
    with pytest.raises(ShapeMismatch, match="20 nodes have 190 edges"):
        Graph(a.nodes, a.edges[1:])
    with pytest.raises(ShapeMismatch, match="same probes"):
        graph_similarity(a, graph(count=19))
    with pytest.raises(ShapeMismatch, match="20 and of 19 probes"):
        edge_similarity(a, graph(count=19))
    with pytest.raises(UnknownName, match="graph 'x'"):
        rank_graphs({"a": a}, "x")
    with pytest.raises(ReuseError, match="no graph beside"):
        rank_graphs({"a": a}, "a")
    with pytest.raises(NonFinite):
        edge_values(torch.full((3, 2), torch.nan))


def test_zeros_are_counted() -> None:
    found = Graph.of(torch.zeros(3, 2, 2), torch.randn(3, 4))
    assert found.zeros == 3 and len(found) == 3 and node_similarity(found, found) == 0
