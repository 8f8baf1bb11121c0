"""Classifiers of attributes or of seen classes, and what their probabilities say of unseen ones: DAP, IAP, ConSE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.qfsl.estimator import Problem, SharedFit
from reuselib.qfsl.rivals import convex


def binarised(attributes: Tensor, seen: Tensor) -> Tensor:
    """Attributes (C, m) as 0 and 1: 1 above the attribute's mean over the seen classes."""
    return (attributes > attributes[seen].mean(0)).to(attributes.dtype)


def logistic(features: Tensor, targets: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Linear classifiers with the least penalised cross-entropy, in float64.

    Minimises ``1/N sum_i L(x_i W + b, t_i) + penalty/2 |W|²``; L is the softmax's for labels, and for a matrix the sum
    over its columns of the logistic loss, one classifier for each column.

    Args:
        features: (N, d).
        targets: int64 (N,), each of 0 to K-1 at least once; or 0 and 1, float (N, K).
        penalties: above 0, since separable images have no minimum without it; ``1 / (N C)`` in scikit-learn's terms.

    Returns:
        W (d, K) and b (K,) for each penalty.
    """
    x, back = convex.span(features.double())
    t = targets.double() if targets.is_floating_point() else targets
    classes = t.shape[1] if t.ndim == 2 else int(t.max()) + 1

    def loss(z: Tensor) -> Tensor:
        if t.ndim == 2:
            return F.binary_cross_entropy_with_logits(z, t, reduction="sum") / len(x)
        return F.cross_entropy(z, t)

    def parts(point: Tensor) -> convex.Parts:
        return point[:-1].T, point[-1]

    found = convex.classifiers(x, parts, loss, penalties, x.new_zeros(x.shape[1] + 1, classes))
    return [(each[:-1] if back is None else back @ each[:-1], each[-1]) for each in found]


def attribute_scores(yes: Tensor, no: Tensor, attributes: Tensor, seen: Tensor) -> Tensor:
    """``sum_j log p(a_j = a_j^k | x) - log p(a_j = a_j^k)`` for every class k: the posterior of DAP and IAP.

    The prior of an attribute is its frequency among the seen classes. One that all of them share says nothing and
    counts 0.

    Args:
        yes: ``log p(a_j = 1 | x)``, (n, m).
        no: ``log p(a_j = 0 | x)``, (n, m).
        attributes: 0 and 1, (C, m).
        seen: int64 (S,).

    Returns:
        (n, C).

    Source: Lampert et al. 2009, 2014.
    """
    a = attributes.to(yes.dtype)
    prior = a[seen].mean(0)
    varied = ((prior > 0) & (prior < 1)).to(a.dtype)
    safe = torch.where(varied.bool(), prior, 0.5)
    there, absent = a * varied, (1 - a) * varied
    return (yes - safe.log()) @ there.T + (no - (1 - safe).log()) @ absent.T


class _Probabilistic(SharedFit):
    """A linear classifier of attributes or of seen classes.

    Attributes:
        of_attributes: which of the two.
        penalty: see :func:`logistic`.
    """

    varied: ClassVar[tuple[str, ...]] = ("penalty",)
    of_attributes: ClassVar[bool] = False

    penalty: float = 1e-3

    @classmethod
    def _learn_all(cls, alike: Sequence[Any], problem: Problem) -> None:
        penalties = [*{each.penalty: None for each in alike}]
        binary = binarised(problem.attributes, problem.seen).double()
        targets = binary[problem.labels] if cls.of_attributes else problem.places
        found = dict(zip(penalties, logistic(problem.features, targets, penalties), strict=True))
        for each in alike:
            each.weights_, each.intercept_ = found[each.penalty]
            each._binary, each._codes, each._known = binary, problem.codes.double(), problem.seen

    def _logits(self, features: Tensor) -> Tensor:
        return features.double() @ self.weights_ + self.intercept_


class DAP(_Probabilistic):
    """Direct attribute prediction: one classifier for each attribute; a class has the product of their answers.

    Attributes:
        penalty: of the classifiers, see :func:`logistic`.
        weights_: float64 (d, m).
        intercept_: float64 (m,).

    Source: Lampert et al. 2009, 2014, with logistic regression in place of support vector machines.
    """

    of_attributes: ClassVar[bool] = True

    def _scores(self, features: Tensor) -> Tensor:
        z = self._logits(features)
        return attribute_scores(F.logsigmoid(z), F.logsigmoid(-z), self._binary, self._known)


class IAP(_Probabilistic):
    """Indirect attribute prediction: attributes are as likely as the seen classes that have them.

    ``p(a_j | x) = sum_y p(y | x) [a_j^y = a_j]`` over the seen classes; then as in :class:`DAP`.

    Attributes:
        penalty: of the classifier, see :func:`logistic`.
        weights_: float64 (d, S).
        intercept_: float64 (S,).

    Source: Lampert et al. 2009, 2014.
    """

    def _scores(self, features: Tensor) -> Tensor:
        p, a = self._logits(features).softmax(1), self._binary[self._known]
        tiny = torch.finfo(torch.float64).tiny
        yes, no = ((p @ has).clamp(min=tiny).log() for has in (a, 1 - a))
        return attribute_scores(yes, no, self._binary, self._known)


class ConSE(_Probabilistic):
    """Convex combination of semantic embeddings: an image lies between the codes of the seen classes it may be.

    ``e(x) = sum p_k a_k / sum p_k`` over the ``top`` most likely seen classes; the score of a class is the cosine of
    e(x) and its code.

    Attributes:
        penalty: of the classifier of seen classes, see :func:`logistic`.
        top: how many classes take part, all if there are fewer.
        weights_: float64 (d, S).
        intercept_: float64 (S,).

    Source: Norouzi et al. 2014.
    """

    varied: ClassVar = ("penalty", "top")

    top: int = 10

    def _scores(self, features: Tensor) -> Tensor:
        p, places = self._logits(features).softmax(1).topk(min(self.top, len(self._known)), dim=1)
        p = p / p.sum(1, keepdim=True)
        embedded = (p.unsqueeze(2) * self._codes[self._known][places]).sum(1)
        return F.normalize(embedded) @ F.normalize(self._codes).T
