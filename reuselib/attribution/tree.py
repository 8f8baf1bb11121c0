"""The tree of a set of tasks: which networks are alike, by agglomerative clustering.

Source: Song et al. 2019 (NeurIPS), official code: single linkage of the rows of the affinity matrix, leaves in optimal
order. Taskonomy clusters the columns of its own matrix: give their transpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from reuselib import checks
from reuselib.attribution.losses import finite
from reuselib.attribution.rivals import upper
from reuselib.errors import ShapeMismatch


@dataclass(frozen=True, eq=False)
class Tree:
    """A hierarchical clustering.

    Attributes:
        names: the tasks, in the order of the rows that were clustered.
        links: float64 (N - 1, 4), SciPy's linkage matrix: what merges, at which height, how many there are then. The
            leaves are in optimal order; `scipy.cluster.hierarchy.dendrogram` draws it.
    """

    names: tuple[str, ...]
    links: NDArray[numpy.float64]

    @classmethod
    def of(cls, rows: Tensor, names: Sequence[str]) -> Tree:
        """Cluster rows by their Euclidean distances, by single linkage.

        Args:
            rows: (N, M), one for each task: its affinities to all tasks.
            names: of the N tasks, at least two.

        Raises:
            ShapeMismatch: there are not as many names as rows, or fewer than two.
            NonFinite: an affinity is NaN or infinite.
        """
        if rows.ndim != 2 or len(rows) != len(names) or len(names) < 2:
            raise ShapeMismatch(f"{len(names)} names do not fit rows {tuple(rows.shape)}. Give two rows at least.")
        finite(affinities=rows)
        gaps = pdist(rows.detach().cpu().double().numpy())
        return cls(tuple(names), hierarchy.optimal_leaf_ordering(hierarchy.linkage(gaps, "single"), gaps))

    @property
    def leaves(self) -> tuple[str, ...]:
        """The names in the order in which the tree is drawn."""
        return tuple(self.names[i] for i in hierarchy.leaves_list(self.links))

    def cophenetic(self, names: Sequence[str] | None = None) -> Tensor:
        """The height at which two tasks first stand in one cluster, for every pair, float64 (N, N).

        Args:
            names: rows and columns wanted, in this order; all if left out.
        """
        matrix = torch.from_numpy(squareform(hierarchy.cophenet(self.links)))
        checks.known("task", self.names, *(names or ()))
        index = [self.names.index(name) for name in names or self.names]
        return matrix[index][:, index]

    def clusters(self, count: int) -> dict[str, int]:
        """Cut the tree into at most ``count`` clusters: name → number of its cluster, from 0."""
        checks.whole(count=count)
        labels = hierarchy.fcluster(self.links, count, "maxclust")
        return {name: int(label) - 1 for name, label in zip(self.names, labels, strict=True)}


def cophenetic_correlation(a: Tree, b: Tree) -> float:
    """The Pearson correlation of the cophenetic distances of two trees over the tasks that both have.

    Raises:
        ShapeMismatch: they have fewer than three tasks in common.
    """
    shared = [name for name in a.names if name in b.names]
    if len(shared) < 3:
        raise ShapeMismatch(f"Two trees with {len(shared)} tasks in common cannot be compared. 3 are the least.")
    return float(torch.corrcoef(torch.stack([upper(tree.cophenetic(shared)) for tree in (a, b)]))[0, 1])


def purity(clusters: Mapping[str, int], groups: Mapping[str, Hashable]) -> float:
    """The share of tasks that belong to the most frequent group of their cluster: 1 if no cluster mixes groups.

    Args:
        clusters: name → cluster, as :meth:`Tree.clusters` gives it.
        groups: name → group, for the same names.
    """
    checks.known("group of", groups, *clusters)
    members: dict[int, Counter[Hashable]] = {}
    for name, cluster in clusters.items():
        members.setdefault(cluster, Counter())[groups[name]] += 1
    return sum(max(counter.values()) for counter in members.values()) / len(clusters)
