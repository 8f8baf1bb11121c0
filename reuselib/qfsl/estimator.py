"""What all zero-shot classifiers share: they fit features and attributes as scikit-learn's classifiers fit features.

    classifier = ESZSL(gamma=10.0).fit(features, labels, attributes, seen=seen)
    classifier.predict(images_of_unseen_classes)                        # among the unseen classes
    classifier.decision_function(images)                                # (n, C), for any other protocol

Features are a matrix (N, d), labels rows of the attribute matrix (C, m). NumPy in, NumPy out; tensors in, tensors out,
on their device. Nothing of the unseen classes but their attributes is ever asked for, except the unlabelled features
of those methods whose ``transductive`` is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.qfsl import metrics
from reuselib.qfsl.codes import Classes, class_codes, class_folds, class_indices, filled, others
from reuselib.qfsl.samples import FeatureSet, Samples, as_labels, as_matrix, as_tensor, like, standardisation, train

__all__ = [
    "CANDIDATES",
    "CHUNK",
    "SCALINGS",
    "FeatureSet",
    "NotFitted",
    "Predictor",
    "Problem",
    "Samples",
    "ZeroShotClassifier",
    "as_labels",
    "as_matrix",
    "as_tensor",
    "class_folds",
    "like",
    "seen_classes",
    "train",
]

SCALINGS = ("standard", "unit", "standard_unit", "none")
CANDIDATES = ("unseen", "seen", "all")
CHUNK = 4096  # rows at a time where scores are computed


class NotFitted(ReuseError, NotFittedError):
    """A classifier was asked before it was fitted."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a classifier learns from, checked, on one device.

    Attributes:
        features: float32 (N, d), scaled.
        labels: int64 (N,), classes.
        places: int64 (N,), the place of each label in ``seen``.
        attributes: float32 (C, m), without gaps.
        codes: float32 (C, m), what the classifier's ``codes`` asks for.
        seen: int64 (S,), ascending.
        unseen: int64 (T,), ascending.
        unlabelled: float32 (M, d), scaled; ``None`` for an inductive classifier.
    """

    features: Tensor
    labels: Tensor
    places: Tensor
    attributes: Tensor
    codes: Tensor
    seen: Tensor
    unseen: Tensor
    unlabelled: Tensor | None = None


class Predictor(ClassifierMixin, BaseEstimator):
    """What has scores of all classes, and so predicts.

    Attributes:
        transductive: whether unlabelled images of the unseen classes take part in the fit.
        classes_: all classes, (C,).
        seen_: the seen ones, (S,).
        unseen_: the others, (T,).
        n_features_in_: d.
    """

    transductive: ClassVar[bool] = False

    def decision_function(self, features: Any) -> Any:
        """The scores of all classes, (n, C), of features (n, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not score: use one of its subclasses.")

    def predict(self, features: Any, candidates: str | Classes = "unseen") -> Any:
        """The most likely class of each image, (n,).

        Args:
            features: (n, d).
            candidates: ``"unseen"``: the conventional setting; ``"all"``: the generalized one; ``"seen"``; or classes.

        Raises:
            UnknownName: there are no such candidates.
            ReuseError: a candidate does not exist; and the errors of :meth:`decision_function`.
        """
        self._check_fitted()
        chosen = self._candidates(candidates)
        scores = as_tensor(self.decision_function(features))
        return like(metrics.predict_among(scores, chosen), features)

    def score(self, features: Any, labels: Any, candidates: str | Classes = "unseen") -> float:
        """The mean class accuracy of :meth:`predict` on labelled images: every class counts alike."""
        predicted = as_tensor(self.predict(features, candidates))
        return metrics.mean_class_accuracy(predicted, as_labels(labels, len(predicted)))

    def _candidates(self, candidates: str | Classes) -> Tensor:
        if not isinstance(candidates, str):
            return class_indices(candidates, len(self.classes_), "candidates")
        if candidates not in CANDIDATES:
            raise unknown("candidates", candidates, CANDIDATES)
        return torch.from_numpy({"unseen": self.unseen_, "seen": self.seen_, "all": self.classes_}[candidates])

    def _check_fitted(self) -> None:
        if not hasattr(self, "_device"):
            raise NotFitted(f"This {type(self).__name__} is not fitted: call fit(features, labels, attributes) first.")


@dataclass(eq=False, repr=False, kw_only=True)
class ZeroShotClassifier(Predictor):
    """Base of the classifiers that learn from features. Subclasses write ``_learn`` and ``_scores``.

    Attributes:
        codes: what becomes of the attributes, see :func:`~reuselib.qfsl.codes.class_codes`.
        signed: whether negative attributes are values and not marks of the undefined.
        scaling: of the features: ``"standard"``: each with mean 0 and standard deviation 1 over the training images;
            ``"unit"``: each image's vector of length one; ``"standard_unit"``: the first, then the second; ``"none"``.
    """

    codes: str = "centred"
    signed: bool = False
    scaling: str = "standard"

    def fit(
        self, features: Any, labels: Any, attributes: Any, seen: Classes | None = None, unlabelled: Any = None
    ) -> Self:
        """Learn from labelled features of the seen classes.

        Args:
            features: (N, d).
            labels: (N,), rows of the attributes; seen classes only.
            attributes: (C, m), of all classes.
            seen: the seen classes; those that have images, if left out.
            unlabelled: (M, d), for a transductive classifier only: features of images of the unseen classes.

        Raises:
            ShapeMismatch: the shapes do not fit together.
            NonFinite: the features hold NaN or infinity.
            ReuseError: a label is none of a seen class, a seen class has no image, no class is unseen, the attributes
                do not do, or ``unlabelled`` is given to an inductive classifier, or not to a transductive one.
        """
        x = as_matrix(features, "features")
        y, where = as_labels(labels, len(x)), x.device
        attributes = as_tensor(attributes).to(where)
        attributes = attributes if attributes.is_floating_point() else attributes.float()
        known, rest = seen_classes(y, seen, attributes)
        self._fit_scaling(x)
        table = filled(attributes, self.signed).float()
        codes = class_codes(attributes, known, self.codes, self.signed).float()
        place = torch.full((len(table),), -1, dtype=torch.int64).index_copy(0, known, torch.arange(len(known)))
        extra = self._unlabelled(unlabelled, x)
        self.classes_, self.seen_, self.unseen_ = np.arange(len(table)), known.numpy(), rest.numpy()
        self._learn(
            Problem(
                self._scaled(x), y.to(where), place[y].to(where), table, codes, known.to(where), rest.to(where), extra
            )
        )
        self._device = where
        return self

    def decision_function(self, features: Any) -> Any:
        """The scores of all classes, (n, C), the larger the more likely, of features (n, d).

        Raises:
            NotFitted: ``fit`` was not called.
            ShapeMismatch: the features are not as many as at the fit.
            NonFinite: they hold NaN or infinity.
        """
        x = as_matrix(features, "features")
        self._check_fitted()
        self._check_width(x)
        with torch.no_grad():
            parts = [self._scores(self._scaled(chunk.to(self._device))) for chunk in x.split(CHUNK)]
        return like(torch.cat(parts).to(x.device), features)

    def _learn(self, problem: Problem) -> None:
        """Learn; keep what :meth:`_scores` needs as attributes."""
        raise NotImplementedError(f"{type(self).__name__} does not learn: use one of its subclasses.")

    def _scores(self, features: Tensor) -> Tensor:
        """The scores (n, C) of scaled features (n, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not score: use one of its subclasses.")

    def _fit_scaling(self, x: Tensor) -> None:
        if self.scaling not in SCALINGS:
            raise unknown("scaling", self.scaling, SCALINGS)
        self.n_features_in_ = x.shape[1]
        standard = self.scaling.startswith("standard")
        self._shift, self._scale = standardisation(x) if standard else (torch.zeros_like(x[0]), torch.ones_like(x[0]))

    def _scaled(self, x: Tensor) -> Tensor:
        x = (x - self._shift) / self._scale
        return torch.nn.functional.normalize(x) if self.scaling.endswith("unit") else x

    def _unlabelled(self, unlabelled: Any, x: Tensor) -> Tensor | None:
        name = type(self).__name__
        if unlabelled is None and self.transductive:
            raise ReuseError(f"{name} is transductive: give unlabelled=, features (M, d) of images of unseen classes.")
        if unlabelled is None:
            return None
        if not self.transductive:
            raise ReuseError(f"{name} is inductive and cannot use unlabelled=: leave it out.")
        extra = as_matrix(unlabelled, "unlabelled").to(x.device)
        self._check_width(extra, "unlabelled")
        return self._scaled(extra)

    def _check_width(self, x: Tensor, name: str = "features") -> None:
        if x.shape[1] != self.n_features_in_:
            raise ShapeMismatch(
                f"{name} have {x.shape[1]} columns, those of the fit had {self.n_features_in_}. Take them from the "
                "same layer of the same network."
            )


def seen_classes(labels: Tensor, seen: Classes | None, attributes: Tensor) -> tuple[Tensor, Tensor]:
    """The seen and the unseen classes, ascending, on the CPU, once the labels are known to fit them."""
    if attributes.ndim != 2 or not attributes.numel():
        raise ShapeMismatch(f"attributes must be (classes, attributes), not {tuple(attributes.shape)}.")
    count, there = len(attributes), labels.unique()
    if int(there.min()) < 0 or int(there.max()) >= count:
        raise ShapeMismatch(
            f"labels are {int(there.min())} to {int(there.max())}, but the attributes describe {count} classes, "
            "counted from 0. A label is a row of the attributes."
        )
    known = there if seen is None else class_indices(seen, count).sort().values
    if len(odd := there[~torch.isin(there, known)]):
        raise ReuseError(f"There are labels of classes {odd.tolist()[:8]}, which are not seen: leave those images out.")
    if len(odd := known[~torch.isin(known, there)]):
        raise ReuseError(f"The seen classes {odd.tolist()[:8]} have no image: leave them out of seen=.")
    if len(known) == count:
        raise ReuseError("All classes are seen. Give attributes of at least one class that is not.")
    return known, others(known, count)
