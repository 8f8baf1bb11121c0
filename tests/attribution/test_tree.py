"""The tree of tasks: SciPy's linkage, compared and cut."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from reuselib.attribution import Tree, cophenetic_correlation, purity, taskonomy
from reuselib.attribution.evaluation import GROUPS

NAMES = tuple("abcdef")


def rows() -> torch.Tensor:
    """Two far groups of three."""
    return torch.tensor([[0.0, 0], [0.1, 0], [0, 0.3], [5, 5], [5.2, 5], [5, 5.5]])


def test_the_linkage_is_scipys() -> None:
    data = torch.rand(8, 8)
    found = Tree.of(data, tuple("abcdefgh"))
    expected = hierarchy.linkage(data.double().numpy(), method="single", metric="euclidean")
    numpy.testing.assert_allclose(found.links[:, 2], expected[:, 2])
    leaves = hierarchy.leaves_list(hierarchy.optimal_leaf_ordering(expected, data.double().numpy()))
    assert found.leaves == tuple("abcdefgh"[i] for i in leaves)
    torch.testing.assert_close(found.cophenetic()[0, 1:], torch.from_numpy(hierarchy.cophenet(expected))[:7])
    other = Tree.of(data, tuple("abcdefgh"), "average")
    numpy.testing.assert_allclose(other.links[:, 2], hierarchy.linkage(data.double().numpy(), "average")[:, 2])


def test_heights_by_hand() -> None:
    found = Tree.of(rows(), NAMES)
    gaps = [0.1, 0.2, 0.3, 0.5, float(pdist(torch.stack([rows()[2], rows()[3]]))[0])]
    assert found.links[:, 2].tolist() == pytest.approx(gaps, rel=1e-5)
    assert float(found.cophenetic(("c", "a"))[0, 1]) == pytest.approx(0.3)
    assert set(found.leaves[:3]) in ({"a", "b", "c"}, {"d", "e", "f"})


def test_clusters_and_purity() -> None:
    clusters = Tree.of(rows(), NAMES).clusters(2)
    assert len({clusters[name] for name in "abc"}) == 1 == len({clusters[name] for name in "def"})
    assert set(clusters.values()) == {0, 1}
    assert purity(clusters, dict(zip(NAMES, "xxxyyy", strict=True))) == 1
    assert purity(clusters, dict(zip(NAMES, "xxyyyy", strict=True))) == pytest.approx(5 / 6)
    assert set(Tree.of(rows(), NAMES).clusters(1).values()) == {0}


def test_cophenetic_correlation() -> None:
    a = Tree.of(rows(), NAMES)
    assert cophenetic_correlation(a, a) == pytest.approx(1)
    order = [3, 1, 5, 0, 2, 4]
    assert cophenetic_correlation(a, Tree.of(rows()[order], [NAMES[i] for i in order])) == pytest.approx(1)
    other = Tree.of(torch.rand(6, 6), NAMES)
    expected = numpy.corrcoef(hierarchy.cophenet(a.links), hierarchy.cophenet(other.links))[0, 1]
    assert cophenetic_correlation(a, other) == pytest.approx(expected)
    fewer = Tree.of(rows()[:4], NAMES[:4])
    assert -1 <= cophenetic_correlation(a, fewer) <= 1


def test_taskonomys_own_tree_keeps_2d_tasks_together() -> None:
    truth = taskonomy()
    square = truth.affinity[:, truth.own]
    found = Tree.of(square.log().T, truth.targets, "average")
    groups = {name: group for group, names in GROUPS.items() for name in names}
    assert purity(found.clusters(4), {name: groups[name] for name in truth.targets}) > 0.7
