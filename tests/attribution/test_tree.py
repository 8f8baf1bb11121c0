"""The tree of tasks: SciPy's linkage, compared and cut."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from reuselib.attribution import Tree, cophenetic_correlation, purity

NAMES = tuple("abcdef")
ROWS = torch.tensor([[0.0, 0], [0.1, 0], [0, 0.3], [5, 5], [5.2, 5], [5, 5.5]])
"""Two far groups of three."""


def test_the_linkage_is_scipys() -> None:
    data = torch.rand(8, 8)
    gaps = pdist(data.double().numpy())
    for method in ("single", "average"):
        found, links = Tree.of(data, tuple("abcdefgh"), method), hierarchy.linkage(gaps, method)
        numpy.testing.assert_allclose(found.links[:, 2], links[:, 2])
        leaves = hierarchy.leaves_list(hierarchy.optimal_leaf_ordering(links, gaps))
        assert found.leaves == tuple("abcdefgh"[i] for i in leaves)
        torch.testing.assert_close(found.cophenetic()[0, 1:], torch.from_numpy(hierarchy.cophenet(links))[:7])
    assert float(Tree.of(ROWS, NAMES).cophenetic(("c", "a"))[0, 1]) == pytest.approx(0.3)


def test_clusters_and_purity() -> None:
    clusters = Tree.of(ROWS, NAMES).clusters(2)
    assert len({clusters[name] for name in "abc"}) == 1 == len({clusters[name] for name in "def"})
    assert set(clusters.values()) == {0, 1}
    assert purity(clusters, dict(zip(NAMES, "xxxyyy", strict=True))) == 1
    assert purity(clusters, dict(zip(NAMES, "xxyyyy", strict=True))) == pytest.approx(5 / 6)
    assert set(Tree.of(ROWS, NAMES).clusters(1).values()) == {0}


def test_cophenetic_correlation() -> None:
    a, order = Tree.of(ROWS, NAMES), [3, 1, 5, 0, 2, 4]
    assert cophenetic_correlation(a, Tree.of(ROWS[order], [NAMES[i] for i in order])) == pytest.approx(1)
    other = Tree.of(torch.rand(6, 6), NAMES)
    expected = numpy.corrcoef(hierarchy.cophenet(a.links), hierarchy.cophenet(other.links))[0, 1]
    assert cophenetic_correlation(a, other) == pytest.approx(expected)
    assert -1 <= cophenetic_correlation(a, Tree.of(ROWS[:4], NAMES[:4])) <= 1
