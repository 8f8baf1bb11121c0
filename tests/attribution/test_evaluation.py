"""Hits, precision and recall; controls; Taskonomy's own numbers to the digit; how a truth is made; trees."""

from __future__ import annotations

import itertools

import numpy
import pytest
import scipy.stats
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist
from torch import Tensor

from reuselib import report
from reuselib.attribution import Tree, Truth, bootstrap_error, cophenetic_correlation, purity, split_half, taskonomy
from reuselib.attribution.evaluation import GROUPS, expected_hits, hits, order
from reuselib.attribution.ordinal import affinities, ahp, odds, principal, wins


def small(targets: int = 4, sources: int = 6, top: int = 2) -> Truth:
    names = tuple(f"s{i}" for i in range(sources))
    return Truth(names[1 : targets + 1], names, torch.rand(targets, sources).double(), top)


def test_order_drops_the_target_by_its_place_and_keeps_ties_in_order() -> None:
    scores = torch.tensor([[1.0, 9, 5, 5], [0, 0, 0, 0]])
    assert order(scores, torch.tensor([2, 0])).tolist() == [[1, 3, 0], [1, 2, 3]]


def test_hits_against_sets_of_scores_for_the_targets_or_for_all_sources() -> None:
    t, scores = small(), torch.rand(6, 6)
    found = t.evaluate(scores[1:5])
    assert torch.equal(t.evaluate(scores).hits, found.hits)
    for i, name in enumerate(t.targets):
        ranked = sorted((s for s in t.sources if s != name), key=lambda s: -scores[1 + i, t.sources.index(s)])
        for k in range(1, 6):
            assert int(found.hits[i, k - 1]) == len(set(ranked[:k]) & set(t.best(name)))
    assert found.hits.dtype == torch.int64 and torch.equal(found.total, found.hits.sum(0))
    torch.testing.assert_close(found.precision, found.total.double() / (4 * torch.arange(1, 6)))
    torch.testing.assert_close(found.recall, found.total.double() / (4 * 2))


def test_expected_hits_are_the_mean_over_all_orders_of_equals() -> None:
    scores = torch.tensor([[2.0, 1, 1, 1, 0]])
    relevant, own = torch.tensor([[False, True, False, True, True]]), torch.tensor([0])
    found = expected_hits(scores, relevant, own)[0]
    orders = [[*permutation, 4] for permutation in itertools.permutations([1, 2, 3])]
    expected = [numpy.mean([sum(bool(relevant[0, c]) for c in each[:k]) for each in orders]) for k in range(1, 5)]
    assert found.tolist() == pytest.approx(expected)
    distinct, t = torch.rand(4, 6), small()
    assert torch.equal(expected_hits(distinct, t.relevant, t.own), hits(order(distinct, t.own), t.relevant).double())


def test_rank_correlations_leave_the_target_out() -> None:
    t, scores = small(), torch.rand(4, 6)
    found = t.evaluate(scores).correlations
    for i, own in enumerate(t.own):
        others = [c for c in range(6) if c != own]
        expected = scipy.stats.spearmanr(scores[i, others], t.affinity[i, others]).statistic
        assert float(found[i]) == pytest.approx(expected)
    scores[torch.arange(4), t.own] = torch.nan  # is not used
    assert torch.equal(t.evaluate(scores).correlations, found)
    chance = t.evaluate(torch.zeros(4, 6), "random")
    assert chance.correlations.isnan().all() and chance.correlation == 0


def test_bootstrap_error_is_that_of_a_mean() -> None:
    values = torch.randn(40, 2)
    found = bootstrap_error(values, draws=4000)
    expected = values.double().std(0, correction=0) / 40**0.5
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.1)
    score = small().evaluate(torch.rand(4, 6))
    assert score.precision_error().shape == (5,) and float(score.precision_error()[-1]) == pytest.approx(0, abs=1e-12)


def test_taskonomys_top_5_and_the_variants_of_the_controls_are_the_published_ones() -> None:
    truth, published = taskonomy(), report.published("attribution")
    assert truth.affinity.shape == (18, 20) and truth.candidates == 19 and truth.top == 5
    assert float(truth.affinity[0, 2]) == 44.41 and float(truth.affinity[17, 19]) == 2.449
    short = {"rgb2depth": "depth", "rgb2mist": "distance", "rgb2sfnorm": "normals", "inpainting_whole": "inpainting"}
    for target, row in zip(truth.targets, published.table("truth").rows, strict=True):
        assert row.id == short.get(target, target)
        best = [cell[0].value for cell in row.published.values()]
        assert [short.get(name, name) for name in truth.best(target)] == best
    groups = {name: group for group, names in GROUPS.items() for name in names}
    variants = {
        "group-random": truth.evaluate(truth.group_prior(groups), "random"),
        "symmetric-affinities": truth.evaluate(truth.symmetric(truth.standardised_log())),
    }
    for row in published.table("variants").rows:
        shown = [f"{float(value):.3f}".removeprefix("0") for value in variants[row.id].precision[:5]]
        assert shown == [cell[-1].value for cell in row.published.values()]


def test_a_symmetric_truth_is_met_by_itself() -> None:
    t = small()
    found, full = t.symmetric(), torch.zeros(6, 6).double()
    assert float(found[0, 5]) == -float(t.ranks[0, 5])  # s5 is no target
    full[1:5], full[:, 1:5] = found, found.T
    assert torch.equal(full, full.T)
    assert t.symmetric_correlation(full) == pytest.approx(1) and t.symmetric_correlation(-full) == pytest.approx(-1)


def test_halves_of_the_test_images_agree_the_more_the_clearer_the_truth_is() -> None:
    t, noise = small(3, 6, 2), torch.rand(3, 6, 400)
    clear = split_half(t, torch.rand(3, 6).unsqueeze(2) + 0.01 * noise)
    assert float(clear.recall[1]) == 1 and clear.correlation == pytest.approx(1)
    rough = [split_half(t, noise, seed=seed) for seed in range(5)]
    assert numpy.mean([float(each.recall[1]) for each in rough]) < 0.8
    assert abs(numpy.mean([each.correlation for each in rough])) < 0.5


# --- the truth: wins, odds, and their principal eigenvector


def losses(sources: int = 5, images: int = 40) -> Tensor:
    return torch.rand(sources, images) + torch.linspace(0, 0.5, sources).unsqueeze(1)


def test_wins_against_a_loop_and_both_ways_together_are_one() -> None:
    found = losses().mul(10).round()  # with ties
    w = wins(found)
    for i in range(5):
        for j in range(5):
            each = [1.0 if a < b else 0.5 if a == b else 0.0 for a, b in zip(found[i], found[j], strict=True)]
            assert float(w[i, j]) == pytest.approx(sum(each) / 40)
    torch.testing.assert_close(w + w.T, torch.ones(5, 5).double())


def test_a_consistent_matrix_gives_its_vector_exactly_and_any_other_numpys() -> None:
    p = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03], dtype=torch.float64)
    shares = p.unsqueeze(1) / (p.unsqueeze(1) + p)  # wins of sources that win in proportion to p
    torch.testing.assert_close(principal(odds(shares)), p, rtol=1e-12, atol=0)
    matrix = odds(wins(losses()))
    values, vectors = numpy.linalg.eig(matrix.numpy())
    expected = numpy.abs(numpy.real(vectors[:, numpy.argmax(numpy.real(values))]))
    torch.testing.assert_close(principal(matrix), torch.from_numpy(expected / expected.sum()), rtol=1e-9, atol=0)


def test_increasing_maps_change_nothing_and_every_target_has_its_own() -> None:
    found = torch.stack([losses(), losses()]).double()
    for change in (torch.exp, lambda x: 5 * x - 20):  # below zero too
        assert torch.equal(ahp(change(found[0])), ahp(found[0]))
    assert torch.equal(affinities(found), torch.stack([ahp(found[0]), ahp(found[1])]))


def test_who_always_wins_is_first_and_clipped() -> None:
    found = losses()
    found[3] = -1
    w, others = wins(found), [0, 1, 2, 4]
    assert w[3].sum() == 4.5 and ahp(found).argmax() == 3
    assert torch.allclose(odds(w)[3, others], torch.tensor(999.0).double()) and float(odds(w)[3, 3]) == 1
    assert odds(w)[others, 3].tolist() == pytest.approx([1 / 999] * 4)
    everyone = ahp(torch.arange(20.0).unsqueeze(1).expand(20, 100))  # each is beaten by the next
    assert everyone.argsort(descending=True).tolist() == list(range(20)) and everyone.min() > 0


# --- the tree of tasks: SciPy's linkage, compared and cut


NAMES = tuple("abcdef")
ROWS = torch.tensor([[0.0, 0], [0.1, 0], [0, 0.3], [5, 5], [5.2, 5], [5, 5.5]])
"""Two far groups of three."""


def test_the_linkage_is_scipys() -> None:
    data = torch.rand(8, 8)
    gaps = pdist(data.double().numpy())
    found, links = Tree.of(data, tuple("abcdefgh")), hierarchy.linkage(gaps)
    numpy.testing.assert_allclose(found.links[:, 2], links[:, 2])
    leaves = hierarchy.leaves_list(hierarchy.optimal_leaf_ordering(links, gaps))
    assert found.leaves == tuple("abcdefgh"[i] for i in leaves)
    torch.testing.assert_close(found.cophenetic()[0, 1:], torch.from_numpy(hierarchy.cophenet(links))[:7])
    assert float(Tree.of(ROWS, NAMES).cophenetic(("c", "a"))[0, 1]) == pytest.approx(0.3)


def test_clusters_purity_and_the_correlation_of_trees() -> None:
    clusters = Tree.of(ROWS, NAMES).clusters(2)
    assert len({clusters[name] for name in "abc"}) == 1 == len({clusters[name] for name in "def"})
    assert set(clusters.values()) == {0, 1}
    assert purity(clusters, dict(zip(NAMES, "xxxyyy", strict=True))) == 1
    assert purity(clusters, dict(zip(NAMES, "xxyyyy", strict=True))) == pytest.approx(5 / 6)
    a, order = Tree.of(ROWS, NAMES), [3, 1, 5, 0, 2, 4]
    assert cophenetic_correlation(a, Tree.of(ROWS[order], [NAMES[i] for i in order])) == pytest.approx(1)
    other = Tree.of(torch.rand(6, 6), NAMES)
    expected = numpy.corrcoef(hierarchy.cophenet(a.links), hierarchy.cophenet(other.links))[0, 1]
    assert cophenetic_correlation(a, other) == pytest.approx(expected)
    assert -1 <= cophenetic_correlation(a, Tree.of(ROWS[:4], NAMES[:4])) <= 1
