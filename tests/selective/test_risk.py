"""Risk-coverage curves: areas, optima, thresholds and ties."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from zeroshot_toys import assert_refused

from reuselib.errors import BadValue, NonFinite, ReuseError, ShapeMismatch
from reuselib.selective import risk


def answers(count: int = 200) -> tuple[Tensor, Tensor]:
    """Confidences and errors that have something to do with each other."""
    random = torch.Generator().manual_seed(0)
    wrong = torch.rand(count, generator=random) < 0.3
    return torch.randn(count, generator=random, dtype=torch.float64) - wrong.double(), wrong


def test_the_area_is_the_plain_formula_and_asks_only_for_the_order() -> None:
    confidence, wrong = answers()
    errors = wrong[confidence.argsort(descending=True)].double()
    expected = sum(float(errors[:k].mean()) for k in range(1, 201)) / 200
    for same in (confidence, confidence.numpy(), confidence.exp(), 3 * confidence - 7, confidence**3):
        assert risk.aurcc(same, wrong) == pytest.approx(expected)
    assert risk.aurcc(confidence, 0 * wrong) == 0 and risk.aurcc(confidence, 0 * wrong + 1) == pytest.approx(1)
    assert risk.aurcc([3.0, 2.0, 1.0], [1, 0, 0]) == pytest.approx(11 / 18)


def test_no_order_is_better_than_errors_last() -> None:
    errors = torch.tensor([1, 0, 1, 0, 0, 1])
    areas = [risk.aurcc(-torch.arange(6), errors[torch.tensor(order)]) for order in itertools.permutations(range(6))]
    assert min(areas) == pytest.approx(risk.best_area(errors)) and sum(areas) / len(areas) == pytest.approx(1 / 2)
    confidence, wrong = answers()
    curve = risk.risk_coverage(confidence, wrong)
    assert curve.excess == pytest.approx(curve.area - risk.best_area(wrong)) and curve.excess > 0
    assert risk.best_area(torch.arange(20_000) < 2000) == pytest.approx(0.1 + 0.9 * math.log(0.9), abs=1e-3)


def test_coverages_and_thresholds_belong_together() -> None:
    confidence, wrong = answers(150)
    curve = risk.risk_coverage(confidence, wrong)
    assert float(curve.risk[-1]) == pytest.approx(wrong.double().mean().item())
    assert curve.coverage[-1] == 1 and (curve.coverage.diff() > 0).all()
    for threshold in (-1.0, 0.0, 0.5, float(confidence[7])):
        kept = confidence >= threshold
        expected = kept.double().mean().item(), wrong[kept].double().mean().item()
        assert curve.at(threshold) == pytest.approx(expected)
    assert curve.at(math.inf) == pytest.approx((0, math.nan), nan_ok=True)
    for coverage in (0.2, 0.5, 0.8, 1.0):  # 0.2 * 150 is not 30 in binary
        assert curve.risk_at(coverage) == float(curve.risk[round(coverage * 150) - 1])
    for allowed in (0.1, 0.2):
        threshold = curve.threshold_for(allowed)
        assert curve.at(threshold)[1] <= allowed
        assert all(curve.at(float(lower))[1] > allowed for lower in confidence[confidence < threshold])
    assert curve.threshold_for(1) == float(confidence.min())
    assert risk.risk_coverage([2.0, 1.0], [1, 1]).threshold_for(0.5) == math.inf


def test_equal_confidences_are_answered_together_and_count_as_the_mean_over_their_orders() -> None:
    curve = risk.risk_coverage([2, 1, 1, 1], [0, 0, 1, 1])
    assert curve.at(1) == (1, 0.5) and curve.at(1.5) == (0.25, 0)
    assert curve.threshold_for(0.1) == 2  # half of the three equal ones cannot be answered
    errors = torch.tensor([0, 1, 0, 1, 1])
    orders = [[0, *(1 + i for i in order), 4] for order in itertools.permutations(range(3))]
    expected = sum(risk.aurcc(-torch.arange(5), errors[torch.tensor(order)]) for order in orders) / len(orders)
    assert risk.aurcc([2.0, 1.0, 1.0, 1.0, 0.0], errors) == pytest.approx(expected)


def test_confidences_of_scores() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.5], [0.0, -1.0, -4.0]])
    assert risk.largest_score(scores).tolist() == [3, 0] and risk.score_margin(scores).tolist() == [0.5, 1]
    spread = (scores - scores.mean(1, keepdim=True)).square().mean().sqrt()
    expected = torch.log_softmax(3 * scores / spread, 1).max(1).values
    torch.testing.assert_close(risk.softmax_confidence(scores).float(), expected)
    far = torch.tensor([[40.0, 0.0], [60.0, 0.0]])  # saturated probabilities tie, their logarithms do not
    assert len(far.softmax(1).max(1).values.unique()) == 1 and len(risk.softmax_confidence(far).unique()) == 2


def test_bad_input_is_refused() -> None:
    curve, lists = risk.risk_coverage([1.0, 2.0], [0, 1]), (([1.0, 2.0], [0]), ([], []), ([[1]], [0]))
    assert_refused(
        *((ShapeMismatch, "one entry", partial(risk.aurcc, *given)) for given in lists),
        *((NonFinite, "log_softmax", partial(risk.aurcc, [bad, 1.0], [0, 1])) for bad in (math.nan, -math.inf)),
        (ReuseError, "predictions != labels", lambda: risk.aurcc([1.0, 2.0], [0, 0.5])),
        *((BadValue, "above 0 and at most 1", partial(curve.risk_at, share)) for share in (0, 1.1)),
        (NonFinite, "threshold", lambda: curve.at(math.nan)),
        (ShapeMismatch, "at least 2 candidates", lambda: risk.score_margin(torch.zeros(3, 1))),
    )
