"""Risk and coverage: how well a confidence sorts right answers before wrong ones.

A selective classifier answers where its confidence reaches a threshold and passes the rest on. Coverage is the share
that it answers, selective risk the error rate among those. The area under risk over coverage (AURCC) is low where a
classifier is right, and where it knows when it is; the excess over the best possible order keeps only the second.

Source: Song et al. 2018 (ECCV) compare methods by the trade-off of risk and coverage; how the area is estimated is our
choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, unknown

TIES = ("stable", "mean")
# 0.2 * 15 is a little more than 3 in binary.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The curve of a classifier, from the answer that it trusts most to all answers.

    Attributes:
        confidence: float64 (n,), descending.
        wrong: float64 (n,), in that order: 1 for a wrong answer, 0 for a right one.
        errors: float64 (n,), the same, or the mean over equal confidences where ties are averaged.
        weights: float64 (n,), in that order, sum 1: what each answer counts.
    """

    confidence: Tensor
    wrong: Tensor
    errors: Tensor
    weights: Tensor

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.errors)

    @cached_property
    def coverage(self) -> Tensor:
        """The share answered when the first 1, 2, …, n answers are given, float64 (n,); 1 at the end."""
        return _shares(self.weights)

    @cached_property
    def risk(self) -> Tensor:
        """The error rate among those, float64 (n,)."""
        return (self.weights * self.errors).cumsum(0) / self.weights.cumsum(0)

    @property
    def full_risk(self) -> float:
        """The error rate of all answers: the same for every confidence."""
        return float(self.risk[-1])

    @property
    def area(self) -> float:
        """AURCC, ``sum_k w_k R_k``; with equal weights ``(1/n) sum_k (1/k) sum_{i<=k} e_i``. Between 0 and 1."""
        return float(self.weights @ self.risk)

    @property
    def best_area(self) -> float:
        """AURCC*, the area if every wrong answer came after every right one: the least there is."""
        return best_area(self.wrong, self.weights)

    @property
    def excess(self) -> float:
        """E-AURCC, the area less the least one: 0 for a perfect order, whatever the error rate."""
        return self.area - self.best_area

    def risk_at(self, coverage: float) -> float:
        """The selective risk when at least this share is answered.

        Raises:
            ReuseError: the share is not above 0 and at most 1.
        """
        return float(self.risk[self._position(coverage)])

    def threshold_at(self, coverage: float) -> float:
        """The confidence from which at least this share is answered; equal confidences are answered together."""
        return float(self.confidence[self._position(coverage)])

    def threshold_for(self, risk: float) -> float:
        """The lowest threshold whose selective risk is at most this; infinite where there is none.

        Only thresholds that the confidences allow count: of equal ones all are answered or none.
        """
        last = torch.ones(len(self), dtype=torch.bool)
        last[:-1] = self.confidence[1:] < self.confidence[:-1]
        allowed = torch.nonzero(last & (self.risk <= risk + ROUNDING)).flatten()
        return float(self.confidence[allowed[-1]]) if len(allowed) else math.inf

    def at(self, threshold: float) -> tuple[float, float]:
        """Coverage and selective risk of all answers whose confidence reaches a threshold; risk nan where none does."""
        count = int((self.confidence >= threshold).sum())
        return (float(self.coverage[count - 1]), float(self.risk[count - 1])) if count else (0.0, math.nan)

    def _position(self, coverage: float) -> int:
        if not 0 < coverage <= 1:
            raise ReuseError(f"A coverage is above 0 and at most 1, not {coverage}.")
        return min(int(torch.searchsorted(self.coverage, coverage - ROUNDING)), len(self) - 1)


def risk_coverage(confidence: Any, wrong: Any, *, weights: Any = None, ties: str = "stable") -> RiskCoverage:
    """Sort answers by descending confidence and follow their errors.

    Args:
        confidence: (n,), finite or infinite; only its order counts.
        wrong: (n,), whether each answer is wrong: bool, or 0 and 1.
        weights: (n,), above 0, what each answer counts, such as :func:`class_weights`; all alike if left out.
        ties: of equal confidences, ``"stable"`` keeps the order given, ``"mean"`` takes the mean over all their orders
            (with unequal weights, their mean error), so that a constant confidence has the area of the full risk.

    Returns:
        The curve, on the CPU.

    Raises:
        ShapeMismatch: the arguments do not have one entry for each answer, or there is none.
        NonFinite: a confidence is NaN.
        ReuseError: an error is neither 0 nor 1, or a weight is not above 0.
        UnknownName: there is no such way to treat ties.
    """
    if ties not in TIES:
        raise unknown("treatment of ties", ties, TIES)
    confidence, errors = _column("confidence", confidence), _errors(wrong)
    weights = _weights(weights, errors)
    if confidence.shape != errors.shape:
        raise ShapeMismatch(f"{len(confidence)} confidences do not fit {len(errors)} answers: give one for each.")
    if confidence.isnan().any():
        raise NonFinite("A confidence is NaN. Take log-probabilities from log_softmax, not the log of a softmax.")
    order = confidence.argsort(descending=True, stable=True)
    confidence, errors, weights = confidence[order], errors[order], weights[order]
    means = _tie_means(confidence, errors, weights) if ties == "mean" else errors
    return RiskCoverage(confidence, errors, means, weights)


def aurcc(confidence: Any, wrong: Any, *, weights: Any = None, ties: str = "stable") -> float:
    """The area under the risk-coverage curve, see :func:`risk_coverage`; lower is better.

    The first answers weigh most: the one that is trusted most counts ``(1/n) sum_k 1/k``, the one trusted least 1/n².
    """
    return risk_coverage(confidence, wrong, weights=weights, ties=ties).area


def best_area(wrong: Any, weights: Any = None) -> float:
    """AURCC*, the least area of answers: all wrong ones after all right ones, of those the least weighty first.

    For many answers of error rate r it is nearly ``r + (1 - r) ln(1 - r)``.
    """
    errors = _errors(wrong)
    weights = _weights(weights, errors)
    order = weights.argsort(stable=True)
    order = order[errors[order].argsort(stable=True)]
    # Any confidence that falls along this order will do.
    return aurcc(-torch.arange(len(errors)), errors[order], weights=weights[order])


def excess_aurcc(confidence: Any, wrong: Any, *, weights: Any = None, ties: str = "stable") -> float:
    """E-AURCC, the area less the least one: what is lost by the order alone."""
    return risk_coverage(confidence, wrong, weights=weights, ties=ties).excess


# --- confidences that any classifier has -----------------------------------------------------------------------------


def largest_score(scores: Tensor) -> Tensor:
    """The largest score of each row, float64 (n,), of scores (n, T) over the candidates."""
    return _matrix(scores, 1).max(1).values


def score_margin(scores: Tensor) -> Tensor:
    """How far the largest score is above the second largest, float64 (n,), of scores (n, T), T at least 2."""
    first, second = _matrix(scores, 2).topk(2, dim=1).values.unbind(1)
    return first - second


def softmax_confidence(scores: Tensor, spread: float | None = None, sharpness: float = 3.0) -> Tensor:
    """The log-probability of the largest score in a softmax of scores brought to one scale, float64 (n,).

    Args:
        scores: (n, T) over the candidates.
        spread: what scores are divided by; the standard deviation of these scores around the mean of their row if left
            out. Only this one number depends on the other images.
        sharpness: what they are multiplied by then.

    Returns:
        The logarithm, since float32 probabilities near 1 would tie.
    """
    scores = _matrix(scores, 1)
    spread = score_spread(scores) if spread is None else spread
    return torch.log_softmax(scores * (sharpness / spread), 1).max(1).values


def score_spread(scores: Tensor) -> float:
    """The standard deviation of scores (n, T) around the mean of their row; 1 if all are equal."""
    scores = _matrix(scores, 1)
    return float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt()) or 1.0


SCORE_CONFIDENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": largest_score,
    "margin": score_margin,
    "softmax": softmax_confidence,
}
"""Name → the confidence that it takes from scores (n, T). Give every method the best of the three."""


# --- checks ----------------------------------------------------------------------------------------------------------


def _column(name: str, values: Any) -> Tensor:
    column = torch.as_tensor(values).detach().cpu().double()
    if column.ndim != 1 or not len(column):
        raise ShapeMismatch(f"{name} must be (n,), one entry for each answer, not {tuple(column.shape)}.")
    return column


def _errors(wrong: Any) -> Tensor:
    errors = _column("wrong", wrong)
    if not ((errors == 0) | (errors == 1)).all():
        raise ReuseError("wrong must say of each answer 1 (wrong) or 0 (right): give `predictions != labels`.")
    return errors


def _weights(weights: Any, errors: Tensor) -> Tensor:
    if weights is None:
        return torch.full_like(errors, 1 / len(errors))
    weights = _column("weights", weights)
    if weights.shape != errors.shape:
        raise ShapeMismatch(f"{len(weights)} weights do not fit {len(errors)} answers: give one for each.")
    if not (weights > 0).all() or weights.isinf().any():
        raise ReuseError("Every weight must be above 0 and finite.")
    return weights / weights.sum()


def _tie_means(confidence: Tensor, errors: Tensor, weights: Tensor) -> Tensor:
    """The mean error of each group of equal confidences, which are sorted."""
    _, group = confidence.unique_consecutive(return_inverse=True)
    sums = torch.zeros(2, int(group[-1]) + 1, dtype=torch.float64)
    sums.index_add_(1, group, torch.stack([weights * errors, weights]))
    return (sums[0] / sums[1])[group]


def _shares(weights: Tensor) -> Tensor:
    """Cumulative weights, the last one exactly 1."""
    sums = weights.cumsum(0)
    return sums / sums[-1]


def _matrix(scores: Tensor, candidates: int) -> Tensor:
    scores = torch.as_tensor(scores).detach().double()
    if scores.ndim != 2 or scores.shape[1] < candidates:
        raise ShapeMismatch(
            f"scores must be (n, T), of n images and at least {candidates} candidates, not {tuple(scores.shape)}."
        )
    return scores
