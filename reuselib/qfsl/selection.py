"""Choosing options without a look at the unseen classes: class-wise cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from torch import Tensor

from reuselib.errors import unknown
from reuselib.qfsl import metrics
from reuselib.qfsl.calibrated import between, curve
from reuselib.qfsl.codes import class_folds
from reuselib.qfsl.estimator import Predictor, seen_classes
from reuselib.qfsl.samples import as_labels, as_matrix, as_tensor

MEASURES = ("conventional", "harmonic")


@dataclass(frozen=True)
class Selection:
    """What :func:`select` found.

    Attributes:
        best: the options with the highest mean.
        tried: every choice of options with its mean over the folds, in the order of the grid.
    """

    best: dict[str, Any]
    tried: tuple[tuple[dict[str, Any], float], ...]


def select(
    classifier: Predictor,
    grid: Mapping[str, Sequence[Any]],
    features: Any,
    labels: Any,
    attributes: Any,
    *,
    folds: int = 4,
    measure: str = "conventional",
    holdout: float = 0.2,
    seed: int = 0,
) -> Selection:
    """Choose options by class-wise cross-validation: no image and no label of an unseen class is read.

    In each fold some seen classes play the unseen ones; a transductive classifier gets their features without labels.

    Args:
        classifier: what to choose options for; it stays as it is.
        grid: option → values to try, all combinations.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        folds: into how many parts the seen classes are cut.
        measure: ``"conventional"``: MCA of the held-out classes among themselves; ``"harmonic"``: H over all seen
            classes.
        holdout: the share of each other class's images that is not trained on, for ``"harmonic"``.
        seed: of folds and held-out images.

    Raises:
        UnknownName: there is no such measure.
        ReuseError: there are too few seen classes.
    """
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    parts = class_wise(features, labels, attributes, folds, holdout if measure == "harmonic" else 0, seed)
    tried = []
    for options in ParameterGrid(dict(grid)):
        found = []
        for fold in parts:
            candidate = clone(classifier).set_params(**options)
            extra = {"unlabelled": fold.unseen[0]} if candidate.transductive else {}
            candidate.fit(*fold.train, fold.attributes, **extra)
            found.append(_measured(candidate, fold, measure))
        tried.append((options, sum(found) / len(found)))
    return Selection(max(tried, key=lambda pair: pair[1])[0], tuple(tried))


def choose_shift(
    classifier: Predictor,
    features: Any,
    labels: Any,
    attributes: Any,
    *,
    folds: int = 4,
    holdout: float = 0.2,
    seed: int = 0,
) -> float:
    """Choose the constant of calibrated stacking as :func:`select` would, but fit each fold once for all constants.

    Args:
        classifier: an inductive one; it stays as it is.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        folds: as in :func:`select`, and so the others.
        holdout: the share of each other class's images that is not trained on.
        seed: of folds and held-out images.

    Returns:
        The constant with the largest mean of H over the folds, the lowest of equally good ones.

    Source: the procedure is that of Chao et al. 2016, by harmonic mean.
    """
    curves = []
    for fold in class_wise(features, labels, attributes, folds, holdout, seed):
        fitted = clone(classifier).fit(*fold.train, fold.attributes)
        scores = [as_tensor(fitted.decision_function(part[0])).cpu() for part in (fold.seen, fold.unseen)]
        kinds = torch.from_numpy(fitted.seen_), torch.from_numpy(fitted.unseen_)
        curves.append(curve(scores[0], fold.seen[1], scores[1], fold.unseen[1], *kinds))
    changes = torch.cat([each.changes for each in curves]).unique()
    middles = between(changes)
    found = torch.stack([each.harmonic_at(middles) for each in curves]).mean(0)
    return float(middles[found.argmax()])


@dataclass(frozen=True, eq=False)
class Fold:
    """Seen classes, some of which play the unseen ones; labels are positions among the seen classes, on the CPU.

    Attributes:
        train: features and labels to learn from.
        seen: the same of other images of those classes.
        unseen: the same of the classes that are held out.
        attributes: (S, m), of all seen classes.
    """

    train: tuple[Tensor, Tensor]
    seen: tuple[Tensor, Tensor]
    unseen: tuple[Tensor, Tensor]
    attributes: Tensor


def class_wise(
    features: Any, labels: Any, attributes: Any, folds: int = 4, holdout: float = 0.2, seed: int = 0
) -> list[Fold]:
    """Cut the seen classes into parts, each of which is unseen once; arguments as in :func:`select`."""
    x = as_matrix(features, "features")
    y, table = as_labels(labels, len(x)), as_tensor(attributes)
    seen, _ = seen_classes(y, None, table)
    y, table = torch.searchsorted(seen, y), table[seen.to(table.device)]
    held_out, found = _held_out(y, holdout, seed), []
    for unseen in class_folds(torch.arange(len(seen)), folds, seed):
        away = torch.isin(y, unseen)
        masks = (~away & ~held_out, ~away & held_out, away)
        train, other, played = ((x[mask.to(x.device)], y[mask]) for mask in masks)
        found.append(Fold(train, other, played, table))
    return found


def _held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """A share of the images of each class, bool (N,): all but one of a class at the most."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    result = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = order[labels[order] == label]
        result[own[: min(round(share * len(own)), len(own) - 1)]] = True
    return result


def _measured(classifier: Predictor, fold: Fold, measure: str) -> float:
    if measure == "conventional":
        return classifier.score(*fold.unseen)
    return metrics.harmonic_mean(classifier.score(*fold.seen, "all"), classifier.score(*fold.unseen, "all"))
