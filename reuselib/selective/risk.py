"""Risk and coverage: how well a confidence sorts right answers before wrong ones.

A selective classifier answers where its confidence reaches a threshold and passes the rest on. Coverage is the share
that it answers, selective risk the error rate among those. The area under risk over coverage (AURCC) is low where a
classifier is right, and where it knows when it is; the excess over the best possible order keeps only the second.

Source: Song et al. 2018 (ECCV) compare methods by the trade-off of risk and coverage; how the area is estimated is our
choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reuselib import checks, qfsl
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch

ROUNDING = 1e-9  # 0.2 * 15 is a little more than 3 in binary


def selective_risk(errors: Tensor, shares: Tensor) -> Tensor:
    """The error rate among the first 1, 2, …, n answers, float64 (n,).

    Args:
        errors: float64 (n,), the most trusted answer first: 1 for a wrong one, 0 for a right one.
        shares: float64 (n,), what each answer counts, 1/n but for rounding; their running sum is the coverage.

    Equation: `selective-risk`.
    """
    return (shares * errors).cumsum(0) / shares.cumsum(0)


def area(errors: Tensor, shares: Tensor) -> float:
    """AURCC, ``(1/n) sum_k (1/k) sum_{i<=k} e_i``, between 0 and 1; arguments as in :func:`selective_risk`.

    Equation: `selective-aurcc`.
    """
    return float(shares @ selective_risk(errors, shares))


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The curve of a classifier, from the answer that it trusts most to all answers.

    Attributes:
        confidence: float64 (n,), descending.
        wrong: float64 (n,), in that order: 1 for a wrong answer, 0 for a right one.
        errors: float64 (n,), the same, but for the mean over equal confidences.
    """

    confidence: Tensor
    wrong: Tensor
    errors: Tensor

    @property
    def shares(self) -> Tensor:
        """What each answer counts, float64 (n,)."""
        return torch.full_like(self.errors, 1 / len(self.errors))

    @property
    def coverage(self) -> Tensor:
        """The share answered when the first 1, 2, …, n answers are given, float64 (n,); 1 at the end."""
        sums = self.shares.cumsum(0)
        return sums / sums[-1]

    @property
    def risk(self) -> Tensor:
        """The error rate among those, float64 (n,)."""
        return selective_risk(self.errors, self.shares)

    @property
    def area(self) -> float:
        """AURCC, see :func:`area`: lower is better."""
        return area(self.errors, self.shares)

    @property
    def excess(self) -> float:
        """E-AURCC, the area less the least one: 0 for a perfect order, whatever the error rate."""
        return self.area - best_area(self.wrong)

    def risk_at(self, coverage: float) -> float:
        """The selective risk when at least this share is answered.

        Raises:
            BadValue: the share is not above 0 and at most 1.
        """
        checks.number(0, 1, above=True, coverage=coverage)
        place = int(torch.searchsorted(self.coverage, coverage - ROUNDING))
        return float(self.risk[min(place, len(self.errors) - 1)])

    def threshold_for(self, risk: float) -> float:
        """The lowest threshold whose selective risk is at most this; infinite where there is none.

        Only thresholds that the confidences allow count: of equal ones all are answered or none.

        Raises:
            BadValue: the risk is no share.
        """
        checks.number(0, 1, risk=risk)
        last = torch.ones_like(self.confidence, dtype=torch.bool)
        last[:-1] = self.confidence[1:] < self.confidence[:-1]
        allowed = torch.nonzero(last & (self.risk <= risk + ROUNDING)).flatten()
        return float(self.confidence[allowed[-1]]) if len(allowed) else math.inf

    def at(self, threshold: float) -> tuple[float, float]:
        """Coverage and selective risk of all answers whose confidence reaches a threshold; risk nan where none does."""
        check_threshold(threshold)
        count = int((self.confidence >= threshold).sum())
        return (float(self.coverage[count - 1]), float(self.risk[count - 1])) if count else (0.0, math.nan)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no number; an infinite one answers nothing, or all. Raises NonFinite."""
    if math.isnan(threshold):
        raise NonFinite("A threshold is NaN: take that of threshold_for or of choose.")


def risk_coverage(confidence: Any, wrong: Any) -> RiskCoverage:
    """Sort answers by descending confidence and follow their errors.

    Equal confidences count as the mean over all their orders, so that a constant one has the area of the full risk.

    Args:
        confidence: (n,), finite; only its order counts.
        wrong: (n,), whether each answer is wrong: bool, or 0 and 1.

    Returns:
        The curve, on the CPU.

    Raises:
        ShapeMismatch: the arguments do not have one entry for each answer, or there is none.
        NonFinite: a confidence is NaN or infinite.
        ReuseError: an error is neither 0 nor 1.
    """
    confidence, errors = (qfsl.as_tensor(each).cpu().double() for each in (confidence, wrong))
    if confidence.ndim != 1 or not len(confidence) or confidence.shape != errors.shape:
        shapes = f"{tuple(confidence.shape)} and {tuple(errors.shape)}"
        raise ShapeMismatch(f"confidence and wrong must be (n,), one entry for each answer, not {shapes}.")
    if not ((errors == 0) | (errors == 1)).all():
        raise ReuseError("wrong must say of each answer 1 (wrong) or 0 (right): give `predictions != labels`.")
    if not confidence.isfinite().all():
        raise NonFinite("A confidence is NaN or infinite. Take logarithms from log_softmax, not of a softmax.")
    order = confidence.argsort(descending=True, stable=True)
    confidence, errors = confidence[order], errors[order]
    return RiskCoverage(confidence, errors, _tie_means(confidence, errors))


def _tie_means(confidence: Tensor, errors: Tensor) -> Tensor:
    """The mean error of each group of equal confidences, which are sorted."""
    _, group = confidence.unique_consecutive(return_inverse=True)
    weights = torch.full_like(errors, 1 / len(errors))
    sums = torch.zeros(2, int(group[-1]) + 1, dtype=torch.float64)
    sums.index_add_(1, group, torch.stack([weights * errors, weights]))
    return (sums[0] / sums[1])[group]


def aurcc(confidence: Any, wrong: Any) -> float:
    """The area under the risk-coverage curve, see :func:`risk_coverage`; lower is better.

    The first answers weigh most: the one that is trusted most counts ``(1/n) sum_k 1/k``, the one trusted least 1/n².

    Example:
        >>> from reuselib import selective
        >>> confidence, wrong = [0.9, 0.8, 0.6, 0.2], [0, 0, 0, 1]
        >>> selective.aurcc(confidence, wrong)  # the one wrong answer is trusted least
        0.0625
    """
    return risk_coverage(confidence, wrong).area


def best_area(wrong: Any) -> float:
    """AURCC*, the least area of answers: all wrong ones after all right ones.

    For many answers of error rate r it is nearly ``r + (1 - r) ln(1 - r)``.
    """
    errors = torch.as_tensor(wrong).double().sort().values
    shares = torch.full_like(errors, 1 / len(errors))
    for _ in range(2):  # so that their sum is 1 to the last digit
        shares = shares / shares.sum()
    return area(errors, shares)


# --- confidences that any classifier has ------------------------------------------------------------------------------


def largest_score(scores: Tensor) -> Tensor:
    """The largest score of each row, float64 (n,), of scores (n, T) over the candidates."""
    return _matrix(scores).max(1).values


def score_margin(scores: Tensor) -> Tensor:
    """How far the largest score is above the second largest, float64 (n,), of scores (n, T), T at least 2."""
    first, second = _matrix(scores, 2).topk(2, dim=1).values.unbind(1)
    return first - second


def softmax_confidence(scores: Tensor) -> Tensor:
    """The log-probability of the largest score in a softmax of scores (n, T) brought to :func:`one_scale`, (n,).

    The logarithm, since float32 probabilities near 1 would tie.
    """
    return torch.log_softmax(one_scale(scores), 1).max(1).values


def one_scale(scores: Tensor) -> Tensor:
    """Scores (n, T) with a standard deviation of 3 around the mean of their row, float64; as they are if all equal."""
    scores = _matrix(scores)
    spread = float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt()) or 1.0
    return scores * (3.0 / spread)


def _matrix(scores: Tensor, candidates: int = 1) -> Tensor:
    scores = qfsl.as_tensor(scores).double()
    if scores.ndim != 2 or scores.shape[1] < candidates:
        raise ShapeMismatch(f"scores must be (n, T), of at least {candidates} candidates, not {tuple(scores.shape)}.")
    qfsl.check_finite(scores=scores)
    return scores


SCORE_CONFIDENCES = {"largest": largest_score, "margin": score_margin, "softmax": softmax_confidence}
"""Name → the confidence that it takes from scores (n, T). Give every method the best of the three."""
