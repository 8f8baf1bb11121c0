"""Risk-coverage curves: areas, optima, thresholds, ties and weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import metrics
from reuselib.selective import risk


def answers(count: int = 200, rate: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences and errors that have something to do with each other."""
    random = torch.Generator().manual_seed(seed)
    wrong = torch.rand(count, generator=random) < rate
    return torch.randn(count, generator=random, dtype=torch.float64) - wrong.double(), wrong


def slow_area(confidence: Tensor, wrong: Tensor) -> float:
    order = sorted(range(len(wrong)), key=lambda i: -float(confidence[i]))
    errors = [float(wrong[i]) for i in order]
    return sum(sum(errors[:k]) / k for k in range(1, len(errors) + 1)) / len(errors)


# --- the area (1, 2)


def test_all_right_is_zero_and_all_wrong_is_one() -> None:
    confidence = torch.randn(50)
    assert risk.aurcc(confidence, torch.zeros(50)) == 0
    assert risk.aurcc(confidence, torch.ones(50)) == pytest.approx(1)


def test_the_area_is_the_plain_formula() -> None:
    confidence, wrong = answers()
    assert risk.aurcc(confidence, wrong) == pytest.approx(slow_area(confidence, wrong))
    assert risk.aurcc(confidence.numpy(), wrong.tolist()) == risk.aurcc(confidence, wrong)


@pytest.mark.parametrize("transform", [torch.exp, lambda c: 3 * c - 7, torch.atan, lambda c: c**3])
def test_the_area_only_asks_for_the_order(transform: object) -> None:
    confidence, wrong = answers()
    assert risk.aurcc(transform(confidence), wrong) == risk.aurcc(confidence, wrong)  # type: ignore[operator]


def test_the_examples_of_three_answers() -> None:
    trust = torch.tensor([3.0, 2.0, 1.0])
    assert risk.aurcc(trust, torch.tensor([0, 0, 1])) == pytest.approx(1 / 9)
    assert risk.aurcc(trust, torch.tensor([1, 0, 0])) == pytest.approx(11 / 18)
    assert risk.best_area(torch.tensor([1, 0, 0])) == pytest.approx(1 / 9)


def test_no_order_is_better_than_errors_last() -> None:
    errors = torch.tensor([1, 0, 1, 0, 0, 1])
    areas = [risk.aurcc(-torch.arange(6), errors[torch.tensor(order)]) for order in itertools.permutations(range(6))]
    assert min(areas) == pytest.approx(risk.best_area(errors))
    assert risk.excess_aurcc(-errors, errors) == pytest.approx(0)


def test_no_order_is_better_than_errors_last_with_weights_too() -> None:
    errors, weights = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([0.1, 3.0, 2.0, 0.5, 1.0])
    areas = [
        risk.aurcc(-torch.arange(5), errors[order], weights=weights[order])
        for order in map(torch.tensor, itertools.permutations(range(5)))
    ]
    assert min(areas) == pytest.approx(risk.best_area(errors, weights))


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_the_optimum_of_many_answers_has_a_closed_form(rate: float) -> None:
    wrong = torch.arange(20_000) < 20_000 * rate
    assert risk.best_area(wrong) == pytest.approx(rate + (1 - rate) * math.log(1 - rate), abs=1e-3)


def test_the_excess_is_what_the_order_loses() -> None:
    confidence, wrong = answers()
    curve = risk.risk_coverage(confidence, wrong)
    assert curve.excess == pytest.approx(curve.area - risk.best_area(wrong)) and curve.excess > 0
    assert risk.excess_aurcc(confidence, wrong) == curve.excess


def test_a_random_confidence_has_the_area_of_the_error_rate() -> None:
    _, wrong = answers(20_000, seed=1)
    assert risk.aurcc(torch.rand(20_000), wrong) == pytest.approx(wrong.double().mean().item(), abs=0.03)


# --- curves and thresholds (3)


def test_at_full_coverage_every_confidence_has_the_plain_error_rate() -> None:
    confidence, wrong = answers()
    for each in (confidence, -confidence, torch.zeros(200), torch.randn(200)):
        curve = risk.risk_coverage(each, wrong)
        assert curve.full_risk == pytest.approx(wrong.double().mean().item()) == curve.risk_at(1)
        assert curve.coverage[-1] == 1 and len(curve) == 200


def test_coverage_falls_as_the_threshold_rises() -> None:
    confidence, wrong = answers()
    curve = risk.risk_coverage(confidence, wrong)
    found = [curve.at(float(threshold))[0] for threshold in confidence.sort().values]
    assert found == sorted(found, reverse=True) and found[0] == 1
    assert (curve.coverage.diff() > 0).all()


def test_a_threshold_answers_exactly_those_that_reach_it() -> None:
    confidence, wrong = answers()
    curve = risk.risk_coverage(confidence, wrong)
    for threshold in (-1.0, 0.0, 0.5, float(confidence[7])):
        kept = confidence >= threshold
        coverage, found = curve.at(threshold)
        assert coverage == pytest.approx(kept.double().mean().item())
        assert found == pytest.approx(wrong[kept].double().mean().item())
    coverage, found = curve.at(math.inf)
    assert coverage == 0 and math.isnan(found)


def test_a_coverage_is_reached_by_its_threshold() -> None:
    confidence, wrong = answers(150)
    curve = risk.risk_coverage(confidence, wrong)
    for coverage in (0.2, 0.5, 0.8, 1.0):  # 0.2 * 150 is not 30 in binary
        reached, found = curve.at(curve.threshold_at(coverage))
        assert reached == pytest.approx(coverage) and found == curve.risk_at(coverage)
    assert curve.risk_at(0.001) in (0, 1)


def test_a_risk_is_kept_to_by_the_lowest_threshold_that_does() -> None:
    confidence, wrong = answers()
    curve = risk.risk_coverage(confidence, wrong)
    for allowed in (0.1, 0.2):
        threshold = curve.threshold_for(allowed)
        assert curve.at(threshold)[1] <= allowed
        assert all(curve.at(float(lower))[1] > allowed for lower in confidence[confidence < threshold])
    assert curve.threshold_for(1) == float(confidence.min())
    assert risk.risk_coverage([2.0, 1.0], [1, 1]).threshold_for(0.5) == math.inf


def test_equal_confidences_are_answered_together() -> None:
    curve = risk.risk_coverage([2, 1, 1, 1], [0, 0, 1, 1])
    assert curve.at(1) == (1, 0.5) and curve.at(1.5) == (0.25, 0)
    assert curve.threshold_for(0.1) == 2  # half of the three equal ones cannot be answered
    assert curve.threshold_at(0.5) == 1


# --- ties and weights


def test_a_stable_sort_keeps_the_order_of_equal_confidences() -> None:
    first, last = torch.tensor([1, 0, 0, 0]), torch.tensor([0, 0, 0, 1])
    assert risk.aurcc(torch.zeros(4), first) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert risk.aurcc(torch.zeros(4), last) == pytest.approx(1 / 16)


def test_the_mean_over_ties_is_that_over_their_orders() -> None:
    confidence, errors = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 1, 0, 1, 1])
    orders = [[0, *(1 + i for i in order), 4] for order in itertools.permutations(range(3))]
    expected = sum(risk.aurcc(confidence, errors[torch.tensor(order)]) for order in orders) / len(orders)
    assert risk.aurcc(confidence, errors, ties="mean") == pytest.approx(expected)


def test_a_constant_confidence_has_the_area_of_the_error_rate() -> None:
    _, wrong = answers()
    curve = risk.risk_coverage(torch.zeros(200), wrong, ties="mean")
    assert curve.area == pytest.approx(wrong.double().mean().item())
    assert curve.best_area == pytest.approx(risk.best_area(wrong))


def test_without_ties_their_treatment_does_not_matter() -> None:
    confidence, wrong = answers()
    assert risk.aurcc(confidence, wrong, ties="mean") == pytest.approx(risk.aurcc(confidence, wrong))


def test_saturated_probabilities_tie_where_their_logarithms_do_not() -> None:
    scores = torch.tensor([[40.0, 0.0], [60.0, 0.0]])
    assert len(scores.softmax(1).max(1).values.unique()) == 1
    assert len(risk.softmax_confidence(scores).unique()) == 2


def test_class_weights_count_every_class_alike() -> None:
    labels, wrong = torch.tensor([5] * 90 + [2] * 10), torch.tensor([0] * 90 + [1] * 10)
    weights = metrics.class_weights(labels)
    assert weights.sum() == pytest.approx(1) and weights[:90].sum() == pytest.approx(0.5)
    assert risk.risk_coverage(torch.randn(100), wrong, weights=weights).full_risk == pytest.approx(0.5)
    assert risk.risk_coverage(torch.randn(100), wrong).full_risk == pytest.approx(0.1)


def test_equal_weights_change_nothing() -> None:
    confidence, wrong = answers()
    alike = torch.full((200,), 7.0)
    assert risk.aurcc(confidence, wrong, weights=alike) == pytest.approx(risk.aurcc(confidence, wrong))


def test_a_weight_of_two_is_an_answer_given_twice_in_the_end() -> None:
    weighted = risk.risk_coverage([3, 2, 1], [0, 1, 0], weights=[1, 2, 1])
    doubled = risk.risk_coverage([3, 2, 2, 1], [0, 1, 1, 0])
    assert weighted.full_risk == doubled.full_risk and weighted.coverage.tolist() == [0.25, 0.75, 1]


# --- confidences from scores


def test_confidences_are_their_plain_formulas() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.5], [0.0, -1.0, -4.0]])
    assert risk.largest_score(scores).tolist() == [3, 0]
    assert risk.score_margin(scores).tolist() == [0.5, 1]
    spread = np.sqrt(np.mean((scores.numpy() - scores.numpy().mean(1, keepdims=True)) ** 2))
    expected = torch.log_softmax(3 * scores / spread, 1).max(1).values
    torch.testing.assert_close(risk.softmax_confidence(scores).float(), expected)
    assert set(risk.SCORE_CONFIDENCES) == {"largest", "margin", "softmax"}


def test_the_softmax_does_not_see_scale_or_offset_of_scores() -> None:
    scores, offsets = torch.randn(40, 6, dtype=torch.float64), 9 * torch.randn(40, 1, dtype=torch.float64)
    torch.testing.assert_close(risk.softmax_confidence(5 * scores + offsets), risk.softmax_confidence(scores))
    assert risk.score_spread(torch.ones(3, 4)) == 1


def test_a_spread_from_elsewhere_makes_images_independent_of_each_other() -> None:
    scores = torch.randn(40, 6)
    found = risk.softmax_confidence(scores, spread=2.0)
    torch.testing.assert_close(risk.softmax_confidence(scores[:3], spread=2.0), found[:3])


# --- bad input


@pytest.mark.parametrize(
    ("confidence", "wrong", "options", "error", "message"),
    [
        ([1.0, 2.0], [0], {}, ShapeMismatch, "2 confidences do not fit 1 answers"),
        ([], [], {}, ShapeMismatch, "one entry for each answer"),
        ([[1.0]], [0], {}, ShapeMismatch, "one entry for each answer"),
        ([math.nan, 1.0], [0, 1], {}, NonFinite, "log_softmax"),
        ([1.0, 2.0], [0, 0.5], {}, ReuseError, "predictions != labels"),
        ([1.0, 2.0], [0, 1], {"weights": [1.0, 0.0]}, ReuseError, "above 0"),
        ([1.0, 2.0], [0, 1], {"weights": [1.0]}, ShapeMismatch, "1 weights"),
        ([1.0, 2.0], [0, 1], {"ties": "meen"}, UnknownName, "Did you mean 'mean'"),
    ],
)
def test_bad_answers_are_refused(
    confidence: object, wrong: object, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        risk.aurcc(confidence, wrong, **options)  # type: ignore[arg-type]


def test_bad_questions_are_refused() -> None:
    curve = risk.risk_coverage([1.0, 2.0], [0, 1])
    for coverage in (0, 1.1, -1):
        with pytest.raises(ReuseError, match="above 0 and at most 1"):
            curve.risk_at(coverage)
    with pytest.raises(ShapeMismatch, match="at least 2 candidates"):
        risk.score_margin(torch.zeros(3, 1))
    with pytest.raises(ShapeMismatch, match="labels must be"):
        metrics.class_weights(torch.zeros(0))
