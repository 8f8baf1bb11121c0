"""Hits, precision and recall; controls; and Taskonomy's own numbers to the digit."""

from __future__ import annotations

import itertools

import numpy
import pytest
import scipy.stats
import torch

from reuselib import report
from reuselib.attribution import Truth, bootstrap_error, split_half, taskonomy
from reuselib.attribution.evaluation import GROUPS, expected_hits, hits, order


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
    for k in range(1, 6):
        assert float(found.precision[k - 1]) == pytest.approx(int(found.total[k - 1]) / (4 * k))
        assert float(found.recall[k - 1]) == pytest.approx(int(found.total[k - 1]) / (4 * 2))


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
