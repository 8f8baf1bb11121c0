"""Calibrated stacking: a constant is taken off the scores of the seen classes.

It is the plainest remedy against the bias, and the control that a transductive method must beat.

Source: Chao et al. 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from reuselib.errors import ReuseError
from reuselib.qfsl import metrics
from reuselib.qfsl.codes import Classes
from reuselib.qfsl.estimator import Predictor


def calibrated(scores: Tensor, seen: Tensor, shift: float) -> Tensor:
    """``s_k - g`` for the seen classes, ``s_k`` for the others, (n, C); as g → ∞ only unseen classes are predicted."""
    return scores.index_add(1, seen, scores.new_full((len(scores), len(seen)), -shift))


@dataclass(frozen=True, eq=False)
class Curve:
    """What a classifier can reach in the generalized setting, as the constant goes from -∞ to ∞.

    Attributes:
        shifts: float64 (K,), ascending: the midpoints between the constants at which an answer changes.
        changes: those constants, float64 (K - 1,), ascending.
        seen: MCA_s at each, float64 (K,), never rising.
        unseen: MCA_t at each, float64 (K,), never falling.
    """

    shifts: Tensor
    changes: Tensor
    seen: Tensor
    unseen: Tensor

    @property
    def harmonic(self) -> Tensor:
        """H at each constant, float64 (K,)."""
        total = self.seen + self.unseen
        return torch.where(total > 0, 2 * self.seen * self.unseen / total.clamp(min=1e-12), 0)

    @property
    def best(self) -> tuple[float, float]:
        """The constant with the largest H, and H: an oracle where the labels are those of the test."""
        where = int(self.harmonic.argmax())
        return float(self.shifts[where]), float(self.harmonic[where])

    def harmonic_at(self, shifts: Tensor) -> Tensor:
        """H at any constants, float64 like ``shifts``."""
        return self.harmonic[torch.searchsorted(self.changes, shifts.double())]

    @property
    def area(self) -> float:
        """AUSUC, the area under MCA_t over MCA_s: from 0 to 1, whatever the constant."""
        return float(torch.trapezoid(self.unseen.flip(0), self.seen.flip(0)))


def curve(
    seen_scores: Tensor, seen_labels: Tensor, unseen_scores: Tensor, unseen_labels: Tensor, seen: Tensor, unseen: Tensor
) -> Curve:
    """The exact seen-unseen curve.

    An image leaves the seen classes when the constant passes the gap between its best seen and its best unseen score,
    so that only those gaps and their right answers are needed.

    Args:
        seen_scores: (n, C), of images of seen classes.
        seen_labels: int64 (n,).
        unseen_scores: (k, C), of images of unseen classes.
        unseen_labels: int64 (k,).
        seen: int64 (S,), columns.
        unseen: int64 (T,), columns.

    Source: Chao et al. 2016.
    """
    sides = []
    for scores, labels, own in ((seen_scores, seen_labels, seen), (unseen_scores, unseen_labels, unseen)):
        metrics.check_scores(scores, labels)
        scores, labels = scores.detach().cpu().double(), labels.cpu()
        gaps = scores[:, seen.cpu()].amax(1) - scores[:, unseen.cpu()].amax(1)
        right = (metrics.predict_among(scores, own.cpu()) == labels).double()
        sides.append((gaps, right * metrics.class_weights(labels)))
    ends = torch.cat([gaps for gaps, _ in sides]).unique()
    shifts = between(ends)
    (seen_gaps, seen_right), (unseen_gaps, unseen_right) = sides
    left = _below(seen_gaps, seen_right, shifts)
    return Curve(shifts, ends, seen_right.sum() - left, _below(unseen_gaps, unseen_right, shifts))


def between(ends: Tensor) -> Tensor:
    """Constants below, between and above all of those where an answer changes, (K,) to (K + 1,); ascending both."""
    return torch.cat([ends[:1] - 1, (ends[1:] + ends[:-1]) / 2, ends[-1:] + 1])


def _below(gaps: Tensor, values: Tensor, shifts: Tensor) -> Tensor:
    """The sum of the values whose gap lies below each constant, (K,)."""
    order = gaps.argsort()
    sums = torch.cat([values.new_zeros(1), values[order].cumsum(0)])
    return sums[torch.searchsorted(gaps[order], shifts)]


@dataclass(eq=False, repr=False, kw_only=True)
class CalibratedStacking(Predictor):
    """Another classifier whose scores of seen classes are lowered by a constant.

    Choose the constant by :func:`~reuselib.qfsl.selection.select` with ``measure="harmonic"``, or by
    :attr:`Curve.best` as an oracle.

    Attributes:
        estimator: the other classifier; it stays as it is, a copy is fitted.
        shift: the constant g.
        estimator_: the fitted copy.
    """

    estimator: Any = None
    shift: float = 0.0

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether the other classifier is."""
        return bool(getattr(self.estimator, "transductive", False))

    def fit(
        self, features: Any, labels: Any, attributes: Any, seen: Classes | None = None, unlabelled: Any = None
    ) -> CalibratedStacking:
        """Fit a copy of the other classifier; see its own.

        Raises:
            ReuseError: there is no other classifier; and its errors.
        """
        if not isinstance(self.estimator, Predictor):
            raise ReuseError("CalibratedStacking needs another classifier: give estimator=ESZSL(), say.")
        self.estimator_ = clone(self.estimator).fit(features, labels, attributes, seen, unlabelled)
        for name in ("classes_", "seen_", "unseen_", "n_features_in_", "_device"):
            setattr(self, name, getattr(self.estimator_, name))
        return self

    def decision_function(self, features: Any) -> Any:
        """The other classifier's scores (n, C), the seen classes' lowered; see its own."""
        self._check_fitted()
        scores = self.estimator_.decision_function(features)
        if isinstance(scores, Tensor):
            return calibrated(scores, torch.from_numpy(self.seen_).to(scores.device), self.shift)
        return calibrated(torch.from_numpy(scores), torch.from_numpy(self.seen_), self.shift).numpy()
