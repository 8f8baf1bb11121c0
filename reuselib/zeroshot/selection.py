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
from reuselib.zeroshot import metrics
from reuselib.zeroshot.codes import class_folds
from reuselib.zeroshot.estimator import Predictor, seen_classes
from reuselib.zeroshot.samples import as_labels, as_matrix, as_tensor

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
    classifier: Predictor, grid: Mapping[str, Sequence[Any]], features: Any, labels: Any, attributes: Any, *,
    folds: int = 4, measure: str = "conventional", holdout: float = 0.2, seed: int = 0,
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
    x = as_matrix(features, "features")
    y, table = as_labels(labels, len(x)), as_tensor(attributes)
    seen, _ = seen_classes(y, None, table)
    y, table = torch.searchsorted(seen, y), table[seen.to(table.device)]
    everyone, held_out = torch.arange(len(seen)), _held_out(y, holdout if measure == "harmonic" else 0, seed)
    tried = []
    for options in ParameterGrid(dict(grid)):
        found = []
        for unseen in class_folds(everyone, folds, seed):
            away = torch.isin(y, unseen)
            candidate = clone(classifier).set_params(**options)
            extra = {"unlabelled": x[away.to(x.device)]} if candidate.transductive else {}
            train_on = ~away & ~held_out
            candidate.fit(x[train_on.to(x.device)], y[train_on], table, **extra)
            found.append(_measured(candidate, x, y, away, ~away & held_out, measure))
        tried.append((options, sum(found) / len(found)))
    return Selection(max(tried, key=lambda pair: pair[1])[0], tuple(tried))


def _held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """A share of the images of each class, bool (N,): all but one of a class at the most."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    result = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = order[labels[order] == label]
        result[own[: min(round(share * len(own)), len(own) - 1)]] = True
    return result


def _measured(
    classifier: Predictor, x: Tensor, y: Tensor, unseen: Tensor, seen: Tensor, measure: str
) -> float:
    where = x.device
    if measure == "conventional":
        return classifier.score(x[unseen.to(where)], y[unseen])
    return metrics.harmonic_mean(
        classifier.score(x[seen.to(where)], y[seen], "all"), classifier.score(x[unseen.to(where)], y[unseen], "all")
    )
