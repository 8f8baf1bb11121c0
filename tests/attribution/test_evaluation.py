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

ROOM_GROUPS = {name: group for group, names in GROUPS.items() for name in names}


@pytest.fixture(scope="module")
def truth() -> Truth:
    return taskonomy()


def small(targets: int = 4, sources: int = 6, top: int = 2) -> Truth:
    names = tuple(f"s{i}" for i in range(sources))
    return Truth(names[1 : targets + 1], names, torch.rand(targets, sources).double(), top)


# --- equations


def test_order_drops_the_target_by_its_place_and_keeps_ties_in_order() -> None:
    scores = torch.tensor([[1.0, 9, 5, 5], [0, 0, 0, 0]])
    assert order(scores, torch.tensor([2, 0])).tolist() == [[1, 3, 0], [1, 2, 3]]


def test_hits_against_sets() -> None:
    t = small()
    scores = torch.rand(4, 6)
    found = t.evaluate(scores)
    for i, name in enumerate(t.targets):
        ranked = sorted((s for s in t.sources if s != name), key=lambda s: -scores[i, t.sources.index(s)])
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
    distinct = torch.rand(4, 6)
    t = small()
    assert torch.equal(expected_hits(distinct, t.relevant, t.own), hits(order(distinct, t.own), t.relevant).double())


def test_closed_forms_of_random_and_oracle() -> None:
    top, candidates = 4, 16
    t, k = small(5, candidates + 1, top), torch.arange(1, candidates + 1).double()
    chance, oracle = t.evaluate(torch.zeros(5, 17), "random"), t.evaluate(t.affinity)
    torch.testing.assert_close(chance.precision, torch.full((candidates,), top / candidates).double())
    torch.testing.assert_close(chance.recall, k / candidates)
    torch.testing.assert_close(oracle.precision, (top / k).clamp(max=1))
    torch.testing.assert_close(oracle.recall, (k / top).clamp(max=1))
    torch.testing.assert_close(t.evaluate(t.affinity.exp()).precision, oracle.precision)
    assert float(oracle.precision[top - 1]) == float(oracle.recall[top - 1]) == 1
    assert chance.correlations.isnan().all() and chance.correlation == 0 and oracle.correlation == pytest.approx(1)
    anything = t.evaluate(torch.rand(t.affinity.shape))
    assert float(anything.precision[-1]) == pytest.approx(top / candidates) and float(anything.recall[-1]) == 1
    assert (anything.hits.diff(dim=1) >= 0).all()


def test_rank_correlations_leave_the_target_out() -> None:
    t, scores = small(), torch.rand(4, 6)
    found = t.evaluate(scores).correlations
    for i, own in enumerate(t.own):
        others = [c for c in range(6) if c != own]
        assert float(found[i]) == pytest.approx(
            scipy.stats.spearmanr(scores[i, others], t.affinity[i, others]).statistic
        )
    scores[torch.arange(4), t.own] = torch.nan  # is not used
    assert torch.equal(t.evaluate(scores).correlations, found)


def test_rows_are_taken_from_a_matrix_over_all_sources() -> None:
    t, scores = small(), torch.rand(6, 6)
    assert torch.equal(t.evaluate(scores).hits, t.evaluate(scores[1:5]).hits)


def test_bootstrap_error_is_that_of_a_mean() -> None:
    values = torch.randn(40, 2)
    found = bootstrap_error(values, draws=4000)
    expected = values.double().std(0, correction=0) / 40**0.5
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.1)
    assert torch.equal(found, bootstrap_error(values, draws=4000))
    t = small()
    score = t.evaluate(torch.rand(4, 6))
    assert score.precision_error().shape == (5,) and float(score.precision_error()[-1]) == pytest.approx(0, abs=1e-12)


# --- Taskonomy, to the digit (8, 10, tables 5.1, 5.3 and 5.4)


def test_the_truth_has_18_targets_and_20_sources(truth: Truth) -> None:
    assert truth.affinity.shape == (18, 20) and truth.candidates == 19 and truth.top == 5
    assert set(truth.sources) - set(truth.targets) == {"colorization", "inpainting_whole"}
    assert (truth.affinity > 0).all() and truth.affinity.sum(1).max() < 1000
    assert float(truth.affinity[0, 2]) == 44.41 and float(truth.affinity[17, 19]) == 2.449


def test_the_top_5_are_the_published_ones_and_the_target_itself_is_first(truth: Truth) -> None:
    short = {"rgb2depth": "depth", "rgb2mist": "distance", "rgb2sfnorm": "normals", "inpainting_whole": "inpainting"}
    for target, row in zip(truth.targets, report.published("attribution").table("truth").rows, strict=True):
        assert row.id == short.get(target, target)
        best = [cell[0].value for cell in row.published.values()]
        assert [short.get(name, name) for name in truth.best(target)] == best
    # Its own network is the best source for most; sort_gt.npy puts it first for all.
    assert 0 < int((truth.affinity.argmax(1) != truth.own).sum()) < 6


def test_hits_of_the_oracle_and_of_luck(truth: Truth) -> None:
    oracle, chance = truth.evaluate(truth.affinity), truth.evaluate(torch.zeros_like(truth.affinity), "random")
    assert oracle.total[:10].tolist() == [18, 36, 54, 72] + [90] * 6
    published = [4.74, 9.47, 14.2, 18.9, 23.7, 28.4, 33.2, 37.9, 42.6, 47.4, 52.1, 56.8, 61.6, 66.3, 71.1, 75.8]
    assert [f"{value:.3g}" for value in chance.total[:16]] == [f"{value:.3g}" for value in published]
    assert chance.precision.tolist() == pytest.approx([5 / 19] * 19)
    assert int(oracle.total[-1]) == round(float(chance.total[-1])) == 90


def at(score, digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in score.precision[:5]]


def test_hits_of_popularity(truth: Truth) -> None:
    found = truth.evaluate(truth.popularity())
    assert found.total[:5].tolist() == [7, 19, 28, 40, 49] and at(found) == [0.389, 0.528, 0.519, 0.556, 0.544]


def test_hits_of_the_best_symmetric_scores(truth: Truth) -> None:
    ranks, logs = truth.evaluate(truth.symmetric()), truth.evaluate(truth.symmetric(truth.standardised_log()))
    assert ranks.total[:5].tolist() == [18, 36, 52, 65, 78] and at(ranks) == [1, 1, 0.963, 0.903, 0.867]
    assert at(logs) == [1, 0.972, 0.926, 0.931, 0.889]


def test_the_group_prior_is_near_the_simulated_one(truth: Truth) -> None:
    """The published values come from random draws; these are their exact means."""
    groups = truth.evaluate(truth.group_prior(ROOM_GROUPS), "random")
    then = truth.evaluate(truth.group_prior(ROOM_GROUPS, "3D"), "random")
    assert groups.precision[:5].tolist() == pytest.approx([0.795, 0.753, 0.709, 0.680, 0.663], abs=0.005)
    assert then.precision[:5].tolist() == pytest.approx([0.796, 0.769, 0.740, 0.726, 0.715], abs=0.004)
    assert at(groups) == [0.799, 0.756, 0.706, 0.681, 0.666] and at(then) == [0.799, 0.771, 0.739, 0.723, 0.713]


# --- controls


def test_popularity_leaves_the_target_out() -> None:
    t = small()
    found, ranks = t.popularity(), t.ranks
    for i, j in itertools.product(range(4), range(6)):
        others = [-float(ranks[k, j]) for k in range(4) if k != i and int(t.own[k]) != j]
        assert float(found[i, j]) == pytest.approx(numpy.mean(others))
    changed = Truth(t.targets, t.sources, t.affinity.clone(), 2)
    changed.affinity[0] = torch.rand(6)
    assert torch.equal(changed.popularity()[0], found[0])  # a target's own truth does not help it


def test_the_group_prior_has_three_tiers() -> None:
    t = small()
    groups = {"s0": "a", "s1": "a", "s2": "b", "s3": "b", "s4": "c", "s5": "c"}
    assert t.group_prior(groups)[0].tolist() == [2, 2, 0, 0, 0, 0]
    assert t.group_prior(groups, "b")[0].tolist() == [2, 2, 1, 1, 0, 0]
    assert t.group_prior(groups, "b")[1].tolist() == [0, 0, 2, 2, 0, 0]


def test_symmetric_scores_are_symmetric_means() -> None:
    t = small()
    found, ranks = t.symmetric(), t.ranks
    assert float(found[0, 3]) == pytest.approx(-(float(ranks[0, 3]) + float(ranks[2, 1])) / 2)  # targets s1 and s3
    assert float(found[0, 5]) == -float(ranks[0, 5])  # s5 is no target
    assert torch.equal(found[:, 1:5], found[:, 1:5].T)


def test_a_symmetric_truth_is_met_by_itself() -> None:
    t = small()
    full = torch.full((6, 6), 0.0).double()
    full[1:5] = t.symmetric()
    full[:, 1:5] = t.symmetric().T
    assert t.symmetric_correlation(full) == pytest.approx(1)
    assert t.symmetric_correlation(-full) == pytest.approx(-1)
    assert abs(taskonomy().symmetric_correlation(torch.rand(20, 20))) < 0.3


def test_halves_of_the_test_images_agree_the_more_the_clearer_the_truth_is() -> None:
    t, noise = small(3, 6, 2), torch.rand(3, 6, 400)
    clear = split_half(t, torch.rand(3, 6).unsqueeze(2) + 0.01 * noise)
    assert float(clear.recall[1]) == 1 and clear.correlation == pytest.approx(1)
    rough = [split_half(t, noise, seed=seed) for seed in range(5)]
    assert numpy.mean([float(each.recall[1]) for each in rough]) < 0.8
    assert abs(numpy.mean([each.correlation for each in rough])) < 0.5
    assert torch.equal(split_half(t, noise, seed=1).hits, rough[1].hits)
