"""Accuracy per class, of conventional and generalized zero-shot classification.

Scores are matrices (n, C), one column for each class, seen or unseen; labels are columns. The classes among which the
largest score is sought are the candidates: the unseen ones in the conventional setting, all in the generalized one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reuselib import checks
from reuselib.errors import BadValue, ReuseError, ShapeMismatch
from reuselib.qfsl.codes import class_indices
from reuselib.qfsl.samples import check_finite


def predict_among(scores: Tensor, candidates: Tensor) -> Tensor:
    """The candidate with the largest score, int64 (n,): as if all other scores were minus infinity.

    Args:
        scores: (n, C).
        candidates: int64 (K,), columns; of equal scores the first one in this order wins.

    Raises:
        ShapeMismatch: the scores are no matrix.
        NonFinite: a score of a candidate is NaN or infinite.
        ReuseError: a candidate has no column.
    """
    if scores.ndim != 2:
        raise ShapeMismatch(f"scores must be (n, classes), not {tuple(scores.shape)}.")
    candidates = class_indices(candidates, scores.shape[1], "candidates").to(scores.device)
    found = scores[:, candidates]
    check_finite(scores=found)
    return candidates[found.argmax(1)]


def per_class_accuracy(predicted: Tensor, labels: Tensor, classes: Tensor | None = None) -> Tensor:
    """The share of right answers among the images of each class.

    Args:
        predicted: int64 (n,).
        labels: int64 (n,).
        classes: which classes; those that have images, ascending, if left out.

    Returns:
        float64 (K,) on the CPU.

    Raises:
        ShapeMismatch: there are not as many answers as labels.
        ReuseError: a class has no image, so that it has no accuracy.
    """
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ShapeMismatch(f"answers {tuple(predicted.shape)} and labels {tuple(labels.shape)} must be as many, (n,).")
    predicted, labels = predicted.cpu(), labels.cpu()
    classes = labels.unique() if classes is None else classes.cpu()
    is_of = labels.unsqueeze(1) == classes
    images = is_of.sum(0)
    if not len(classes) or not images.all():
        raise ReuseError("There are no images of some class, so it has no accuracy. Ask only about those with images.")
    return ((predicted == labels).unsqueeze(1) & is_of).sum(0).double() / images


def mean_class_accuracy(predicted: Tensor, labels: Tensor, classes: Tensor | None = None) -> float:
    """MCA, the mean over classes of :func:`per_class_accuracy`: each counts alike, however few its images."""
    return float(per_class_accuracy(predicted, labels, classes).mean())


def harmonic_mean(a: float, b: float) -> float:
    """``H = 2ab / (a + b)`` of two shares; 0 where both are 0.

    Equation: `qfsl-h`.
    """
    checks.number(0, 1, a=a, b=b)
    return 2 * a * b / (a + b) if a + b else 0.0


def histogram(predicted: Tensor, classes: Tensor) -> Tensor:
    """How the answers spread over classes, float64 (K,), the share of each: one near 1 tells of a collapse."""
    return (predicted.cpu().unsqueeze(1) == classes.cpu()).double().mean(0)


def report(
    seen_scores: Tensor, seen_labels: Tensor, unseen_scores: Tensor, unseen_labels: Tensor, seen: Tensor, unseen: Tensor
) -> dict[str, float]:
    """Both protocols at once.

    Args:
        seen_scores: (n, C), of images of seen classes that no one trained on.
        seen_labels: int64 (n,).
        unseen_scores: (k, C), of images of unseen classes.
        unseen_labels: int64 (k,).
        seen: int64 (S,), columns.
        unseen: int64 (T,), columns.

    Returns:
        Shares between 0 and 1 – ``conventional``, MCA of the unseen images with the unseen classes as candidates;
        ``seen`` and ``unseen``, MCA_s and MCA_t with all classes as candidates; ``harmonic``, H of those two;
        ``unseen_as_seen``, the share of unseen images that were given a seen class; ``largest_class``, the largest
        share that one class has of the conventional answers.

    Raises:
        ShapeMismatch: scores and labels do not fit together.
        NonFinite: a score is NaN or infinite.
        ReuseError: classes overlap, or a label is none of them, or one of the classes has no column.
    """
    check_sides(seen_scores, seen_labels, unseen_scores, unseen_labels, seen, unseen)
    every = torch.cat([seen, unseen]).sort().values
    conventional = predict_among(unseen_scores, unseen)
    found = [predict_among(scores, every) for scores in (seen_scores, unseen_scores)]
    accuracy = [mean_class_accuracy(*pair) for pair in zip(found, (seen_labels, unseen_labels), strict=True)]
    return {
        "conventional": mean_class_accuracy(conventional, unseen_labels),
        "seen": accuracy[0],
        "unseen": accuracy[1],
        "harmonic": harmonic_mean(*accuracy),
        "unseen_as_seen": float(torch.isin(found[1].cpu(), seen.cpu()).double().mean()),
        "largest_class": float(histogram(conventional, unseen).max()),
    }


def check_sides(
    seen_scores: Tensor, seen_labels: Tensor, unseen_scores: Tensor, unseen_labels: Tensor, seen: Tensor, unseen: Tensor
) -> None:
    """Refuse what :func:`report` cannot be made from.

    Raises:
        ShapeMismatch: there is no row of scores for each label.
        NonFinite: a score is NaN or infinite.
        BadValue: the classes overlap, or a label is none of them, or one of the classes has no column.
    """
    if both := sorted(set(seen.tolist()) & set(unseen.tolist())):
        raise BadValue(f"Classes {both[:8]} are both seen and unseen: leave them out of one list.")
    for scores, labels, own in ((seen_scores, seen_labels, seen), (unseen_scores, unseen_labels, unseen)):
        if scores.ndim != 2 or labels.shape != scores.shape[:1]:
            shapes = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
            raise ShapeMismatch(f"scores must be (n, classes), labels (n,), not {shapes}.")
        check_finite(scores=scores)
        known = class_indices(own, scores.shape[1], "classes")
        if len(odd := labels.cpu()[~torch.isin(labels.cpu(), known)].unique()):
            raise BadValue(f"labels {odd.tolist()[:8]} are none of the classes {known.tolist()[:8]} of their images.")
