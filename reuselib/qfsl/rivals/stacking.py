"""Calibrated stacking: a constant is taken off the scores of the seen classes.

It is the plainest remedy against the bias, and the control that a transductive method must beat.

Source: Chao et al. 2016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reuselib import checks
from reuselib.qfsl import metrics
from reuselib.qfsl.estimator import ZeroShotClassifier
from reuselib.qfsl.samples import as_tensor
from reuselib.qfsl.selection import class_wise


def calibrated(scores: Tensor, seen: Tensor, shift: float) -> Tensor:
    """``s_k - g`` for the seen classes, ``s_k`` for the others, (n, C); as g → ∞ only unseen classes are predicted."""
    checks.number(-math.inf, shift=shift)
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

    Raises:
        ReuseError: see :func:`~reuselib.qfsl.metrics.report`.

    Source: Chao et al. 2016.
    """
    metrics.check_sides(seen_scores, seen_labels, unseen_scores, unseen_labels, seen, unseen)
    sides = []
    for scores, labels, own in ((seen_scores, seen_labels, seen), (unseen_scores, unseen_labels, unseen)):
        scores, labels = scores.detach().cpu().double(), labels.cpu()
        gaps = scores[:, seen.cpu()].amax(1) - scores[:, unseen.cpu()].amax(1)
        right = (metrics.predict_among(scores, own.cpu()) == labels).double()
        _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
        sides.append((gaps, right / (len(counts) * counts[inverse].double())))  # every class counts alike
    ends = torch.cat([gaps for gaps, _ in sides]).unique()
    shifts = between(ends)
    (seen_gaps, seen_right), unseen_side = sides
    return Curve(shifts, ends, seen_right.sum() - _below(seen_gaps, seen_right, shifts), _below(*unseen_side, shifts))


def between(ends: Tensor) -> Tensor:
    """Constants below, between and above all of those where an answer changes, (K,) to (K + 1,); ascending both."""
    return torch.cat([ends[:1] - 1, (ends[1:] + ends[:-1]) / 2, ends[-1:] + 1])


def _below(gaps: Tensor, values: Tensor, shifts: Tensor) -> Tensor:
    """The sum of the values whose gap lies below each constant, (K,)."""
    order = gaps.argsort()
    sums = torch.cat([values.new_zeros(1), values[order].cumsum(0)])
    return sums[torch.searchsorted(gaps[order], shifts)]


def choose_shift(
    classifier: ZeroShotClassifier, features: Any, labels: Any, attributes: Any, *, folds: int = 4, seed: int = 0
) -> float:
    """Choose the constant of calibrated stacking by class-wise cross-validation; each fold is fitted once.

    Args:
        classifier: an inductive one; it stays as it is.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        folds: into how many parts the seen classes are cut.
        seed: of folds and held-out images.

    Returns:
        The constant with the largest mean of H over the folds, the lowest of equally good ones.

    Source: the procedure is that of Chao et al. 2016, by harmonic mean.
    """
    curves = []
    for fold in class_wise(features, labels, attributes, folds, seed=seed):
        fitted = fold.fit(classifier)
        scores = [as_tensor(fitted.decision_function(part[0])).cpu() for part in (fold.seen, fold.unseen)]
        kinds = torch.from_numpy(fitted.seen_), torch.from_numpy(fitted.unseen_)
        curves.append(curve(scores[0], fold.seen[1], scores[1], fold.unseen[1], *kinds))
    middles = between(torch.cat([each.changes for each in curves]).unique())
    found = torch.stack([each.harmonic_at(middles) for each in curves]).mean(0)
    return float(middles[found.argmax()])
