"""The room of depara."""

from reuselib.depara.graph import (
    Graph,
    attribution_graph,
    edge_similarity,
    edge_values,
    graph_similarity,
    node_similarity,
    rank_graphs,
    similarities,
)
from reuselib.depara.layers import Cut, cut, layer_graphs, layer_names

__all__ = [
    "Cut",
    "Graph",
    "attribution_graph",
    "cut",
    "edge_similarity",
    "edge_values",
    "graph_similarity",
    "layer_graphs",
    "layer_names",
    "node_similarity",
    "rank_graphs",
    "similarities",
]
