"""The paper's equations: the edges of an attribution graph, and how alike two graphs are.

Source: Song et al. 2020 (CVPR).
"""

from typing import Any, TypeVar

from torch import Tensor

from reuselib.attribution import affinity, matrices, spearman_of_ranks, unit_rows, upper

Number = TypeVar("Number", float, Tensor)


def edge_values(features: Tensor, centred: bool = True) -> Tensor:
    """The cosines of the features of all pairs of probes.

    Equation: `depara-edges`.

    Args:
        features: (n, U), n at least 2.
        centred: whether the mean over the probes is taken off first, as in model selection; layer selection does not.

    Returns:
        float64 (n (n - 1) / 2,), the pairs (0, 1), (0, 2), … in order. A probe without features has cosines of 0.
    """
    (f,) = matrices(features)
    rows = unit_rows(f - f.mean(0) if centred else f)
    return upper(rows @ rows.T)


def node_similarity(a: Tensor, b: Tensor) -> float:
    """``V = (1/n) sum_p cos(v_p, v'_p)``, in [-1, 1], of unit vectors (n, d): the affinity of chapter 7.

    Equation: `depara-v`.

    Raises:
        ShapeMismatch: the nodes are not of the same probes, or their maps differ in size.
    """
    return affinity(a, b)


def edge_similarity(a: Tensor, b: Tensor) -> float:
    """E, Spearman's rank correlation of the edges, in [-1, 1].

    Equation: `depara-e`.

    Args:
        a: ranks 0 … K - 1 of one network's edges, int64 (K,).
        b: of the other's, of the same probes.

    Raises:
        ShapeMismatch: the edges are not of the same probes.

    Example:
        >>> import torch
        >>> from reuselib import depara
        >>> depara.edge_similarity(torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]))
        -1.0
    """
    return spearman_of_ranks(a, b)


def graph_similarity(v: Number, e: Number, lambda_: Any = 1.0) -> Number:
    """``S = V + λ E``: symmetric, and ``1 + λ`` for a graph and itself.

    Equation: `depara-similarity`.

    Args:
        v: similarity of the nodes, one or a tensor.
        e: of the edges.
        lambda_: weight of the edges; 0 leaves the attribution maps alone.
    """
    return v + lambda_ * e
