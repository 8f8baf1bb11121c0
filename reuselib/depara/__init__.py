"""Chapter 08, DEPARA: which network, and which layer of it, to reuse, by deep attribution graphs."""
# ruff: noqa: F401

from reuselib.depara import domains, layers, losses
from reuselib.depara.losses import edge_similarity, edge_values, graph_similarity, node_similarity
from reuselib.depara.method import (
    Cut,
    Graph,
    attribution_graph,
    by_edges,
    by_graphs,
    cut,
    layer_graphs,
    layer_names,
    similarities,
    similarity,
)
