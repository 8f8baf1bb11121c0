"""Which network and which layer to reuse, by deep attribution graphs: DEPARA (Song et al. 2020)."""
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
