"""Networks that learn from seen classes: compatibilities by ranking (DeViSE, SJE, ALE, LatEm), CMT and SCoRe.

One trainer, :class:`~reuselib.qfsl.method.SeenTraining`, drives them all; they differ in their loss and in what gives
the scores.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from reuselib import checks, run
from reuselib.qfsl.classifiers import TrainedClassifier
from reuselib.qfsl.estimator import Problem
from reuselib.qfsl.losses import mean
from reuselib.qfsl.method import SeenTraining, ZeroShotNetwork, bridge
from reuselib.qfsl.samples import Samples

# --- losses: scores s (B, S), labels y (B,) → (B,) --------------------------------------------------------------------


def violations(s: Tensor, y: Tensor) -> Tensor:
    """``[1 + s_k - s_y]_+`` for every wrong class k, 0 for the right one: (B, S)."""
    s = s.float()
    right = F.one_hot(y, s.shape[1]).bool()
    return (1 + s - s.gather(1, y.unsqueeze(1))).clamp(min=0).masked_fill(right, 0)


def devise_loss(s: Tensor, y: Tensor) -> Tensor:
    """``sum_{k≠y} [1 + s_k - s_y]_+``: every class that comes too close counts.

    Source: Frome et al. 2013 (DeViSE); LatEm uses it too.
    """
    return violations(s, y).sum(1)


def sje_loss(s: Tensor, y: Tensor) -> Tensor:
    """``max_k [Δ(y, k) + s_k - s_y]_+`` with ``Δ(y, y) = 0``, else 1: only the worst class counts.

    Source: Akata et al. 2015 (SJE).
    """
    return violations(s, y).amax(1)


def ale_loss(s: Tensor, y: Tensor) -> Tensor:
    """``(β_r / r) sum_{k≠y} [1 + s_k - s_y]_+`` with r the classes that violate the margin, ``β_r = sum_{i<=r} 1/i``.

    The factor weighs the first ranks most; it is 0 for r = 0, and no gradient flows through it.

    Source: Akata et al. 2013, 2016 (ALE), after Usunier et al. 2009.
    """
    each = violations(s, y)
    ranks = torch.arange(1, each.shape[1] + 1, device=s.device)
    weights = F.pad((1 / ranks).cumsum(0) / ranks, (1, 0))
    return weights[(each > 0).sum(1)] * each.sum(1)


def distance_loss(s: Tensor, y: Tensor) -> Tensor:
    """``-s_y``: with minus squared distances as scores, the squared error of a regression to the codes."""
    return -s.gather(1, y.unsqueeze(1)).squeeze(1)


# --- networks ---------------------------------------------------------------------------------------------------------


class Compatibility(nn.Module):
    """``F(x, k) = max_i xᵀ W_i a_k``; only the map that gives the maximum gets a gradient.

    Args:
        features: d.
        codes: a, (C, m), kept as a buffer.
        maps: how many W_i; their initial values are small, since what training does not reach stays there as noise.

    Attributes:
        weight: W, (maps, d, m).

    Source: one map: Frome et al. 2013, Akata et al. 2013, 2015; several: Xian et al. 2016 (LatEm).
    """

    codes: Tensor

    def __init__(self, features: int, codes: Tensor, maps: int = 1) -> None:
        super().__init__()
        checks.whole(features=features, maps=maps)
        self.weight = nn.Parameter(torch.randn(maps, features, codes.shape[1]) * 0.01)
        self.register_buffer("codes", codes.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The compatibilities (B, C) of features (B, d) with all classes."""
        return (x @ self.weight @ self.codes.T).amax(0)


class Regression(nn.Module):
    """``F(x, k) = -|W_2 tanh(W_1 x + b) + c - a_k|²``: the nearest code wins.

    Args:
        features: d.
        hidden: width of the hidden layer.
        codes: a, (C, m), kept as a buffer.

    Source: Socher et al. 2013 (CMT).
    """

    codes: Tensor

    def __init__(self, features: int, hidden: int, codes: Tensor) -> None:
        super().__init__()
        checks.whole(features=features, hidden=hidden)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, codes.shape[1]))
        self.register_buffer("codes", codes.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Minus the squared distances (B, C) of features (B, d) to all codes."""
        z, a = self.layers(x), self.codes
        return 2 * z @ a.T - z.square().sum(1, keepdim=True) - a.square().sum(1)


# --- classifiers ------------------------------------------------------------------------------------------------------


class _Loss(nn.Module):
    """The loss of a method as a function of its student's parameters."""

    def __init__(self, method: SeenTraining) -> None:
        super().__init__()
        self.student, self.method = method.student, method

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.method.losses(x, y)["loss"]


def at_rates(method: SeenTraining, rates: Sequence[float], updates: int) -> list[nn.Module]:
    """The students of one method at several learning rates, trained side by side on the same batches.

    Args:
        method: before its first update; it stays there.
        rates: of SGD, one a student.
        updates: of each.
    """
    loss, students = _Loss(method), [copy.deepcopy(method.student) for _ in rates]
    options = {name: method.optimizer.param_groups[0][name] for name in ("momentum", "weight_decay")}
    groups = [{"params": [*each.parameters()], "lr": rate} for each, rate in zip(students, rates, strict=True)]
    optimizer = run.sgd(groups, method.device, **options)
    losses = torch.vmap(lambda own, x, y: functional_call(loss, own, (x, y)), in_dims=(0, None, None))
    for _ in range(updates):
        parameters = zip(*(each.named_parameters(prefix="student") for each in students), strict=True)
        stacked = {same[0][0]: torch.stack([own for _, own in same]) for same in parameters}
        optimizer.zero_grad()
        losses(stacked, *method.images.sample(method.batch, method.random, method.augment)).sum().backward()
        optimizer.step()
    return [each.eval() for each in students]


class ManyRates(TrainedClassifier):
    """A classifier whose learning rates are tried side by side.

    They begin with the same weights and see the same images, so that each ends as it would by itself, but for rounding.
    """

    varied: ClassVar = ("lr",)

    @classmethod
    def _learn_all(cls, alike: Sequence[Self], problem: Problem) -> None:
        first = alike[0]
        if len(alike) == 1:
            return first._learn(problem)
        with run.seeded(first.seed):
            networks = at_rates(first._method(problem), [each.lr for each in alike], first.steps)
        for each, network in zip(alike, networks, strict=True):
            each.network_ = network


class DeViSE(ManyRates):
    """A compatibility that learns by :func:`devise_loss`, in batches.

    Attributes:
        lr: learning rate of SGD with momentum 0.9.
        network_: the :class:`Compatibility`.

    Source: Frome et al. 2013.
    """

    passed: ClassVar = (*TrainedClassifier.passed, "loss")
    loss: ClassVar[Any] = staticmethod(devise_loss)

    lr: float = 1e-3
    weight_decay: float = 0.0

    def _network(self, problem: Problem) -> nn.Module:
        return Compatibility(problem.features.shape[1], problem.codes)


class SJE(DeViSE):
    """A compatibility that learns by :func:`sje_loss`; options as :class:`DeViSE`.

    Source: Akata et al. 2015.
    """

    loss: ClassVar[Any] = staticmethod(sje_loss)


class ALE(DeViSE):
    """A compatibility that learns by :func:`ale_loss`; options as :class:`DeViSE`.

    Source: Akata et al. 2013, 2016.
    """

    loss: ClassVar[Any] = staticmethod(ale_loss)


class LatEm(DeViSE):
    """Latent embeddings: the best of several compatibilities, with DeViSE's loss; options as :class:`DeViSE`.

    Attributes:
        maps: how many, K.

    Source: Xian et al. 2016.
    """

    maps: int = 2

    def _network(self, problem: Problem) -> nn.Module:
        return Compatibility(problem.features.shape[1], problem.codes, self.maps)


class CMT(DeViSE):
    """Cross-modal transfer: two layers regress the codes, the nearest one wins; without its detection of novelty.

    Attributes:
        hidden: width of the hidden layer.
        network_: the :class:`Regression`.

    Source: Socher et al. 2013.
    """

    loss: ClassVar[Any] = staticmethod(distance_loss)

    hidden: int = 64
    lr: float = 1e-2

    def _network(self, problem: Problem) -> nn.Module:
        return Regression(problem.features.shape[1], self.hidden, problem.codes)


# --- codes that may move ----------------------------------------------------------------------------------------------


class CodewordNetwork(ZeroShotNetwork):
    """A network whose seen classes learn codewords of their own, beginning at the codes; unseen ones keep the codes.

    Args:
        codes: ψ*, (C, m); see :class:`ZeroShotNetwork`.
        seen: int64 (S,), the seen classes.
        bridge: θ.
        backbone: φ, if the network is to take images.

    Attributes:
        codewords: (S, m), parameters.
    """

    known: Tensor

    def __init__(self, codes: Tensor, seen: Tensor, bridge: nn.Module, backbone: nn.Module | None = None) -> None:
        super().__init__(codes, bridge, backbone)
        self.seen = tuple(seen.tolist())
        self.register_buffer("known", torch.tensor(self.seen, device=codes.device))
        self.codewords = nn.Parameter(codes.detach()[self.known].clone())

    def score(self, embedded: Tensor) -> Tensor:
        """The scores (B, C) of embeddings (B, m), the seen classes' by their codewords."""
        return super().score(embedded).index_copy(1, self.known, embedded @ self.codewords.T.to(embedded.dtype))


class SCoReTraining(SeenTraining):
    """Semantically consistent regularisation: codewords are learned, but held to the codes.

    ``L = CE over the seen classes + attributes * L_a + codewords * |C - ψ*|²``. L_a is the logistic loss of every
    attribute, the sign of its code as label, averaged over attributes; that form is our choice.

    Args:
        student: a :class:`CodewordNetwork`.
        images: as in :class:`SeenTraining`.
        attributes: weight of L_a.
        codewords: weight of the squared distance.
        options: of :class:`SeenTraining`.

    Source: Morgado & Vasconcelos 2017 (SCoRe); weights of the official code.
    """

    student: CodewordNetwork

    def __init__(
        self,
        student: CodewordNetwork,
        images: Samples,
        *,
        attributes: float = 0.01,
        codewords: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, images, **options)
        checks.number(attributes=attributes, codewords=codewords)
        self.attributes, self.codewords = attributes, codewords

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """``loss`` and its parts ``supervised``, ``attributes`` and ``codewords``, unweighted."""
        codes = self.student.codes
        with self.precision.autocast():
            embedded = self.student.embed(x)
            scores = self.student.score(embedded)
        parts = {
            "supervised": mean(self.labelled(scores.float(), y)),
            "attributes": F.binary_cross_entropy_with_logits(embedded.float(), (codes[y] > 0).float()),
            "codewords": (self.student.codewords - codes[self.seen]).square().sum(),
        }
        weights = 1.0, self.attributes, self.codewords
        loss = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum()
        return {"loss": loss, **parts}


class SCoRe(ManyRates):
    """SCoRe on given features, see :class:`SCoReTraining`.

    Attributes:
        codewords: weight of the distance of codewords and codes.
        network_: the :class:`CodewordNetwork`.
    """

    _trainer: ClassVar = SCoReTraining
    passed: ClassVar = (*TrainedClassifier.passed, "codewords")

    codewords: float = 1.0

    def _network(self, problem: Problem) -> CodewordNetwork:
        widths = problem.features.shape[1], problem.codes.shape[1]
        return CodewordNetwork(problem.codes, problem.seen, bridge(*widths))
