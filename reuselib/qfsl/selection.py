"""Choosing options without a look at the unseen classes: class-wise cross-validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from sklearn.model_selection import ParameterGrid
from torch import Tensor

from reuselib import checks
from reuselib.errors import NonFinite
from reuselib.qfsl.estimator import ZeroShotClassifier, seen_classes
from reuselib.qfsl.samples import as_labels, as_matrix, as_tensor


class Fold(NamedTuple):
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

    def fit(self, classifier: Any, **options: Any) -> Any:
        """A copy of a classifier with these options, fitted; a transductive one gets what is held out, unlabelled."""
        return self.fits(classifier, [options])[0]

    def fits(self, classifier: Any, choices: Iterable[Mapping[str, Any]]) -> list[Any]:
        """The same with several choices of options, see :meth:`ZeroShotClassifier.fits`."""
        unlabelled = self.unseen[0] if classifier.transductive else None
        return classifier.fits(choices, *self.train, self.attributes, unlabelled)


def class_wise(
    features: Any, labels: Any, attributes: Any, folds: int = 4, holdout: float = 0.2, seed: int = 0
) -> list[Fold]:
    """Cut the seen classes into parts, each of which is unseen once.

    Args:
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        folds: into how many parts the seen classes are cut.
        holdout: the share of each other class's images that is not trained on.
        seed: of folds and held-out images.

    Raises:
        ReuseError: there are too few seen classes, or a share is none.
    """
    checks.number(0, 1, holdout=holdout)
    x = as_matrix(features, "features")
    y, table = as_labels(labels, len(x)), as_tensor(attributes)
    seen = seen_classes(y, None, len(table))
    y, table = torch.searchsorted(seen, y), table[seen.to(table.device)]
    found = []
    for _, masks in fold_masks(y, len(seen), folds, holdout, seed):
        train, other, played = ((x[mask.to(x.device)], y[mask]) for mask in masks)
        found.append(Fold(train, other, played, table))
    return found


def fold_masks(
    labels: Tensor, classes: int, folds: int, holdout: float, seed: int
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]:
    """For each fold the classes that play the unseen ones, and which images are its parts: bool (N,) each.

    The parts are those of a :class:`Fold`: what is learned from, what is held out of the same classes, and the rest.
    """
    out = held_out(labels, holdout, seed)
    for unseen in class_folds(classes, folds, seed):
        away = torch.isin(labels, unseen)
        yield unseen, (~away & ~out, ~away & out, away)


def class_folds(classes: int, folds: int, seed: int = 0) -> list[Tensor]:
    """Classes 0, 1, … in parts of almost equal size, at random: those that each fold holds out.

    Raises:
        BadValue: there are fewer classes than folds, or fewer than two folds.
    """
    checks.whole(0, checks.SEEDS, seed=seed)
    checks.whole(2, classes, folds=folds)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(folds)]


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """A share of the images of each class, bool (N,): all but one of a class at the most."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    result = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = order[labels[order] == label]
        result[own[: min(round(share * len(own)), len(own) - 1)]] = True
    return result


def select(
    classifier: ZeroShotClassifier,
    grid: Mapping[str, Sequence[Any]],
    features: Any,
    labels: Any,
    attributes: Any,
    *,
    folds: int = 4,
    seed: int = 0,
) -> tuple[dict[str, Any], list[tuple[dict[str, Any], float]]]:
    """Choose options by class-wise cross-validation: no image and no label of an unseen class is read.

    In each fold some seen classes play the unseen ones; a transductive classifier gets their features without labels.
    What counts is the mean class accuracy of the held-out classes among themselves; a choice with which a fold
    diverges is out.

    Args:
        classifier: what to choose options for; it stays as it is.
        grid: option → values to try, all combinations.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        folds: into how many parts the seen classes are cut.
        seed: of the folds.

    Returns:
        The options with the highest mean; and every choice with its mean over the folds, in the order of the grid,
        minus infinity where it diverged.

    Raises:
        ReuseError: there are too few seen classes.
        NonFinite: no choice gives scores.
    """
    choices = [*ParameterGrid(dict(grid))]
    parts = class_wise(features, labels, attributes, folds, 0.0, seed)
    scores = [[_score(fitted, fold) for fitted in fold.fits(classifier, choices)] for fold in parts]
    tried = [(options, sum(each) / folds) for options, *each in zip(choices, *scores, strict=True)]
    best, score = max(tried, key=lambda pair: pair[1])
    if score == -math.inf:
        raise NonFinite(f"{type(classifier).__name__} diverges with every choice: look at the features, or try others.")
    return best, tried


def _score(fitted: ZeroShotClassifier, fold: Fold) -> float:
    try:
        return float(fitted.score(*fold.unseen))
    except NonFinite:
        return -math.inf
