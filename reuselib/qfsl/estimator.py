"""What all zero-shot classifiers share: they fit features and attributes as scikit-learn's classifiers fit features.

For example::

    classifier = ESZSL(gamma=10.0).fit(features, labels, attributes, seen=seen)
    classifier.predict(images_of_unseen_classes)                        # among the unseen classes
    classifier.decision_function(images)                                # (n, C), for any other protocol

Features are a matrix (N, d), labels rows of the attribute matrix (C, m). NumPy in, NumPy out; tensors in, tensors out,
on their device. Nothing of the unseen classes but their attributes is ever asked for, except the unlabelled features
of those methods whose ``transductive`` is true.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.qfsl import metrics
from reuselib.qfsl.codes import Classes, check_labels, class_codes, class_indices, filled, others
from reuselib.qfsl.samples import Standardise, as_labels, as_matrix, as_tensor, like

CHUNK = 4096  # rows at a time where scores are computed
DOORS: dict[Callable[..., None], tuple[str, ...]] = {
    partial(checks.number, above=True): ("penalty", "gamma", "lam", "ridge", "width", "kappa", "residual_temperature"),
    checks.number: ("weight",),
    checks.whole: ("top", "maps"),
    partial(checks.whole, 0): ("steps", "unlabelled_steps"),
    partial(checks.whole, 0, checks.SEEDS): ("seed",),
}
"""Check → the options that must pass it, of the classifiers that have them; networks and methods check their own.

:meta hide-value:
"""


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
        unlabelled: float32 (M, d), scaled; empty for an inductive classifier.
    """

    features: Tensor
    labels: Tensor
    places: Tensor
    attributes: Tensor
    codes: Tensor
    seen: Tensor
    unseen: Tensor
    unlabelled: Tensor


@dataclass_transform(eq_default=False, kw_only_default=True)
@dataclass(eq=False, repr=False, kw_only=True)
class ZeroShotClassifier(ClassifierMixin, BaseEstimator, ABC):
    """Base of all zero-shot classifiers. Subclasses write ``_learn`` and ``_scores``; annotated fields are options.

    Attributes:
        transductive: whether unlabelled images of the unseen classes take part in the fit.
        choices: options that are names, and the names that there are.
        varied: options in which classifiers may differ that learn together.
        codes: what becomes of the attributes, see :func:`~reuselib.qfsl.codes.class_codes`.
        standardise: whether features get mean 0 and standard deviation 1 over the training images.
        classes_: all classes, (C,).
        seen_: the seen ones, (S,).
        unseen_: the others, (T,).
        n_features_in_: d.
    """

    transductive: ClassVar[bool] = False
    choices: ClassVar[Mapping[str, Iterable[str]]] = {}
    varied: ClassVar[tuple[str, ...]] = ()

    codes: str = "centred"
    standardise: bool = True

    def __init_subclass__(cls, **given: Any) -> None:
        """Make a subclass a dataclass, as the base is."""
        super().__init_subclass__(**given)
        dataclass(eq=False, repr=False, kw_only=True)(cls)

    def fit(self, features: Any, labels: Any, attributes: Any, seen: Classes = None, unlabelled: Any = None) -> Self:
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
        problem = self._problem(features, labels, attributes, seen, unlabelled)
        self._learn(problem)
        self._device = problem.features.device
        return self

    def fits(
        self, choices: Iterable[Mapping[str, Any]], features: Any, labels: Any, attributes: Any, unlabelled: Any = None
    ) -> list[Self]:
        """Copies with these options, each fitted on the same, see :meth:`fit`; what they share may be computed once."""
        copies = [clone(self).set_params(**options) for options in choices]
        groups: dict[str, list[Self]] = {}
        for each in copies:
            groups.setdefault(str(each.get_params() | dict.fromkeys(self.varied)), []).append(each)
        for alike in groups.values():
            for each in alike:  # the same problem each time: a copy only needs its scaler and its classes
                problem = each._problem(features, labels, attributes, None, unlabelled)
                each._device = problem.features.device
            self._learn_all(alike, problem)
        return copies

    def _problem(
        self, features: Any, labels: Any, attributes: Any, seen: Classes = None, unlabelled: Any = None
    ) -> Problem:
        self._check_options()
        x = as_matrix(features, "features")
        y, where = as_labels(labels, len(x)), x.device
        given = as_tensor(attributes).to(where)
        table = filled(given).float()
        known = seen_classes(y, seen, len(table))
        codes = class_codes(given, known, self.codes).float()
        self.n_features_in_ = x.shape[1]
        self._scaler = Standardise(x) if self.standardise else nn.Identity()
        extra = self._unlabelled(unlabelled, x)
        rest, places = others(known, len(table)), torch.searchsorted(known, y)
        self.classes_, self.seen_, self.unseen_ = np.arange(len(table)), known.numpy(), rest.numpy()
        parts = (each.to(where) for each in (y, places, table, codes, known, rest, extra))
        return Problem(self._scaler(x), *parts)

    def decision_function(self, features: Any) -> Any:
        """The scores of all classes, (n, C), the larger the more likely, of features (n, d).

        Raises:
            NotFitted: ``fit`` was not called.
            ShapeMismatch: the features are not as many as at the fit.
            NonFinite: they hold NaN or infinity.
        """
        return like(self._mapped(features, self._scores), features)

    def predict(self, features: Any, candidates: Classes = "unseen") -> Any:
        """The most likely class of each image, (n,).

        Args:
            features: (n, d).
            candidates: ``"unseen"``: the conventional setting; ``"all"``: the generalized one; ``"seen"``; or classes.

        Raises:
            UnknownName: there are no such candidates.
            ReuseError: a candidate does not exist; and the errors of :meth:`decision_function`.
        """
        scores = as_tensor(self.decision_function(features))
        return like(metrics.predict_among(scores, self._candidates(candidates)), features)

    def score(self, features: Any, labels: Any, candidates: Classes = "unseen") -> float:
        """The mean class accuracy of :meth:`predict` on labelled images: every class counts alike."""
        predicted = as_tensor(self.predict(features, candidates))
        return metrics.mean_class_accuracy(predicted, as_labels(labels, len(predicted)))

    def _candidates(self, candidates: Classes) -> Tensor:
        named = {"unseen": self.unseen_, "seen": self.seen_, "all": self.classes_}
        if not isinstance(candidates, str):
            return class_indices(candidates, len(self.classes_), "candidates")
        if candidates not in named:
            raise unknown("candidates", candidates, named)
        return torch.from_numpy(named[candidates])

    def _check_options(self) -> None:
        options = self.get_params(deep=False)
        for name, names in self.choices.items():
            if options[name] not in names:
                raise unknown(name, options[name], names)
        for door, held in DOORS.items():
            door(**{name: options[name] for name in held if name in options})

    def _check_fitted(self) -> None:
        if not hasattr(self, "_device"):
            raise NotFitted(f"This {type(self).__name__} is not fitted: call fit(features, labels, attributes) first.")

    @classmethod
    def _learn_all(cls, alike: Sequence[Self], problem: Problem) -> None:
        """Let classifiers learn that differ in ``varied`` alone; each for itself where a subclass shares nothing."""
        for each in alike:
            each._learn(problem)

    @abstractmethod
    def _learn(self, problem: Problem) -> None:
        """Learn; keep what :meth:`_scores` needs as attributes."""

    @abstractmethod
    def _scores(self, features: Tensor) -> Tensor:
        """The scores (n, C) of scaled features (n, d)."""

    def _mapped(self, features: Any, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function makes of scaled features, some rows at a time, on the features' device."""
        self._check_fitted()
        x = self._matrix(features, "features")
        with torch.no_grad():
            parts = [function(self._scaler(chunk.to(self._device))) for chunk in x.split(CHUNK)]
        return torch.cat(parts).to(x.device)

    def _matrix(self, values: Any, name: str) -> Tensor:
        x = as_matrix(values, name)
        if x.shape[1] != self.n_features_in_:
            columns = f"{x.shape[1]} columns, those of the fit had {self.n_features_in_}"
            raise ShapeMismatch(f"{name} have {columns}. Take them from the same layer of the same network.")
        return x

    def _unlabelled(self, unlabelled: Any, x: Tensor) -> Tensor:
        name = type(self).__name__
        if unlabelled is None and self.transductive:
            raise ReuseError(f"{name} is transductive: give unlabelled=, features (M, d) of images of unseen classes.")
        if unlabelled is not None and not self.transductive:
            raise ReuseError(f"{name} is inductive and cannot use unlabelled=: leave it out.")
        return x[:0] if unlabelled is None else self._scaler(self._matrix(unlabelled, "unlabelled").to(x.device))


def seen_classes(labels: Tensor, seen: Classes | None, count: int) -> Tensor:
    """The seen ones of ``count`` classes, ascending, on the CPU, once the labels are known to fit them."""
    there = class_indices(labels.unique(), count, "labels")
    known = there if seen is None else class_indices(seen, count).sort().values
    check_labels(there, known, count)
    if len(odd := known[~torch.isin(known, there)]):
        raise ReuseError(f"The seen classes {odd.tolist()[:8]} have no image: leave them out of seen=.")
    return known


class SharedFit(ZeroShotClassifier):
    """A classifier that shares what it computes with others like it. Subclasses write ``_learn_all`` for ``_learn``."""

    def _learn(self, problem: Problem) -> None:
        self._learn_all([self], problem)

    @classmethod
    @abstractmethod
    def _learn_all(cls, alike: Sequence[Self], problem: Problem) -> None:
        """Let classifiers learn that differ in ``varied`` alone."""
