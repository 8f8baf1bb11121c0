"""Attribution graphs (DEPARA): probe images are the nodes, and what a network makes of two of them is their edge.

A node is the attribution map of a probe, an edge the cosine of the features of two probes. Two networks are alike
where their nodes are (mean cosine) and where their edges stand in the same order (rank correlation).

Source: Song et al. 2020 (CVPR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from reuselib.attribution.affinity import Ranking, cosines, normalised, ranking
from reuselib.attribution.method import Method, Reduce, channel_mean, explain
from reuselib.attribution.representation import Images, Represent
from reuselib.attribution.rivals import matrices, ordinal_ranks, spearman, spearman_of_ranks, unit_rows, upper
from reuselib.errors import ReuseError, ShapeMismatch, unknown

LAMBDA = 1.0
"""λ fixed in advance; the paper's own were chosen for each set of probes."""


def edge_values(features: Tensor, centred: bool = True) -> Tensor:
    """The cosines of the features of all pairs of probes.

    Args:
        features: (n, U), n at least 2.
        centred: whether the mean over the probes is taken off first, as in model selection; layer selection does not.

    Returns:
        float64 (n (n - 1) / 2,), the pairs (0, 1), (0, 2), … in order. A probe without features has cosines of 0.
    """
    (f,) = matrices(features)
    rows = unit_rows(f - f.mean(0) if centred else f)
    return upper(rows @ rows.T)


@dataclass(frozen=True, eq=False)
class Graph:
    """The attribution graph of a network, or of a network up to one of its layers.

    Attributes:
        nodes: unit vectors of the maps, float32 or float64 (n, d) on the CPU; a map of zeros stays zero.
        edges: float64 (n (n - 1) / 2,), as :func:`edge_values` gives them.
    """

    nodes: Tensor
    edges: Tensor

    def __post_init__(self) -> None:
        """Check that nodes and edges belong together."""
        count = len(self.nodes)
        if self.nodes.ndim != 2 or self.edges.shape != (count * (count - 1) // 2,):
            raise ShapeMismatch(
                f"{count} nodes have {count * (count - 1) // 2} edges, not {tuple(self.edges.shape)}. Take maps and "
                "features of the same probes."
            )

    @classmethod
    def of(cls, maps: Tensor, features: Tensor, centred: bool = True) -> Graph:
        """Make the graph of maps (n, ...) and features (n, U); ``centred`` as in :func:`edge_values`."""
        return cls(normalised(maps).cpu(), edge_values(features, centred))

    def __len__(self) -> int:
        """Return the number of probes."""
        return len(self.nodes)

    @cached_property
    def ranks(self) -> Tensor:
        """The ranks of the edges, int64, equal ones in their order."""
        return ordinal_ranks(self.edges)

    @property
    def zeros(self) -> int:
        """How many maps are zero."""
        return int((self.nodes == 0).all(1).sum())

    @property
    def ties(self) -> int:
        """How many edges equal another one: their ranks, and with them E, hang on the order of the probes."""
        return len(self.edges) - int((self.edges.unique(return_counts=True)[1] == 1).sum())


def attribution_graph(
    network: nn.Module,
    images: Images,
    method: str | Method = "input_x_gradient",
    *,
    represent: Represent = None,
    reduce: Reduce = channel_mean,
    centred: bool = True,
    batch: int = 64,
) -> Graph:
    """The graph of a network on probe images, in one pass.

    Args:
        network: any network; it is left as it was.
        images: as in :func:`~reuselib.attribution.method.explain`.
        method: of the nodes.
        represent: the features, whose sum the nodes explain.
        reduce: attributions → maps.
        centred: as in :func:`edge_values`.
        batch: images at a time.
    """
    found = explain(network, images, method, represent=represent, reduce=reduce, batch=batch)
    return Graph.of(found.maps, found.features, centred)


def node_similarity(a: Graph, b: Graph) -> float:
    """``V = (1/n) sum_p cos(v_p, v'_p)``, in [-1, 1].

    Raises:
        ShapeMismatch: the graphs are not of the same probes, or their maps differ in size.
    """
    if a.nodes.shape != b.nodes.shape:
        raise ShapeMismatch(
            f"Graphs of maps {tuple(a.nodes.shape)} and {tuple(b.nodes.shape)} cannot be compared: take the same "
            "probes, and maps of one size."
        )
    return float(cosines(a.nodes, b.nodes).mean())


def edge_similarity(a: Graph, b: Graph, ties: str = "ordinal") -> float:
    """E, the rank correlation of the edges, in [-1, 1]; ``ties`` as in `similarity.spearman`.

    Raises:
        ShapeMismatch: the graphs are not of the same probes.
    """
    if a.edges.shape != b.edges.shape:
        raise ShapeMismatch(f"Graphs of {len(a)} and of {len(b)} probes cannot be compared: take the same probes.")
    return spearman_of_ranks(a.ranks, b.ranks) if ties == "ordinal" else spearman(a.edges, b.edges, ties)


def graph_similarity(a: Graph, b: Graph, lambda_: float = LAMBDA) -> float:
    """``V + λ E``: symmetric, and ``1 + λ`` for a graph and itself.

    Args:
        a: one graph.
        b: another, of the same probes.
        lambda_: weight of the edges; 0 leaves the attribution maps alone.
    """
    return node_similarity(a, b) + lambda_ * edge_similarity(a, b)


def similarities(graphs: Sequence[Graph]) -> tuple[Tensor, Tensor]:
    """V and E of every pair, float64 (N, N) each; ``V + λ E`` then costs nothing for any λ."""
    v, e = torch.eye(len(graphs), dtype=torch.float64), torch.eye(len(graphs), dtype=torch.float64)
    for i, a in enumerate(graphs):
        for j, b in enumerate(graphs[:i]):
            v[i, j] = v[j, i] = node_similarity(a, b)
            e[i, j] = e[j, i] = edge_similarity(a, b)
    return v, e


def rank_graphs(graphs: Mapping[str, Graph], target: str, lambda_: float = LAMBDA) -> Ranking:
    """Rank networks, or layers, by the similarity of their graphs with one of them.

    Args:
        graphs: by name.
        target: one of the names.
        lambda_: weight of the edges.

    Returns:
        The table, the best source first. Its errors are nan: an edge belongs to two probes.

    Raises:
        UnknownName: there is no such graph.
        ReuseError: there is no other graph.
    """
    if target not in graphs:
        raise unknown("graph", target, graphs)
    if len(graphs) < 2:
        raise ReuseError("There is no graph beside the target's. Give two at least.")
    scores = torch.tensor([graph_similarity(graph, graphs[target], lambda_) for graph in graphs.values()])
    zeros = {name: graph.zeros for name, graph in graphs.items()}
    return ranking(target, list(graphs), scores, torch.full_like(scores, torch.nan), zeros, len(graphs[target]))
