"""Compatibilities of image and class, learned by ranking: DeViSE, SJE, ALE, LatEm; and regression to codes: CMT.

``F(x, k) = xᵀ W a_k``. One trainer, :class:`~reuselib.qfsl.method.SeenTraining`, drives them all; they differ in
their loss and in what gives the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.qfsl import losses
from reuselib.qfsl.estimator import Problem
from reuselib.qfsl.method import SeenTraining, TrainedClassifier
from reuselib.qfsl.samples import FeatureSet


class Compatibility(nn.Module):
    """``F(x, k) = max_i xᵀ W_i a_k``; only the map that gives the maximum gets a gradient.

    Attributes:
        weight: W, (maps, d, m).
        codes: a, (C, m), a buffer.

    Source: one map: Frome et al. 2013, Akata et al. 2013, 2015; several: Xian et al. 2016 (LatEm).
    """

    codes: Tensor

    def __init__(self, features: int, codes: Tensor, maps: int = 1, std: float = 0.01) -> None:
        """Draw W at random.

        Args:
            features: d.
            codes: (C, m).
            maps: how many W_i.
            std: of the initial W: small, since what training does not reach stays there as noise.

        Raises:
            ReuseError: there is no map.
        """
        super().__init__()
        if maps < 1:
            raise ReuseError(f"{maps} maps score nothing. Give 1 or more.")
        self.weight = nn.Parameter(torch.randn(maps, features, codes.shape[1]) * std)
        self.register_buffer("codes", codes.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The compatibilities (B, C) of features (B, d) with all classes."""
        return (x @ self.weight @ self.codes.T).amax(0)


class Regression(nn.Module):
    """``F(x, k) = -|W_2 tanh(W_1 x + b) + c - a_k|²``: the nearest code wins.

    Attributes:
        layers: the regression.
        codes: a, (C, m), a buffer.

    Source: Socher et al. 2013 (CMT).
    """

    codes: Tensor

    def __init__(self, features: int, hidden: int, codes: Tensor) -> None:
        """Build the two layers."""
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, codes.shape[1]))
        self.register_buffer("codes", codes.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Minus the squared distances (B, C) of features (B, d) to all codes."""
        z, a = self.layers(x), self.codes
        return 2 * z @ a.T - z.square().sum(1, keepdim=True) - a.square().sum(1)


def distance_loss(s: Tensor, y: Tensor) -> Tensor:
    """``-s_y``, (B,): with minus squared distances as scores, the squared error of a regression to the codes."""
    return -s.gather(1, y.unsqueeze(1)).squeeze(1)


@dataclass(eq=False, repr=False, kw_only=True)
class _Trained(TrainedClassifier):
    """A network that learns from the seen classes by one loss."""

    lr: float = 1e-3
    weight_decay: float = 0.0

    def _method(self, problem: Problem) -> SeenTraining:
        images = FeatureSet(problem.features, problem.labels)
        return SeenTraining(self.network_, images, problem.seen, loss=self._loss(), **self._options())

    def _loss(self) -> losses.Loss:
        raise NotImplementedError(f"{type(self).__name__} has no loss: use one of its subclasses.")


@dataclass(eq=False, repr=False, kw_only=True)
class _Ranking(_Trained):
    """A compatibility that learns by a ranking loss."""

    ranking: ClassVar[Any]
    margin: float = 1.0

    def _network(self, problem: Problem) -> nn.Module:
        return Compatibility(problem.features.shape[1], problem.codes)

    def _loss(self) -> losses.Loss:
        return partial(type(self).ranking, margin=self.margin)


@dataclass(eq=False, repr=False, kw_only=True)
class DeViSE(_Ranking):
    """A compatibility that learns by :func:`~reuselib.qfsl.losses.devise_loss`, in batches.

    Attributes:
        margin: Δ.
        steps: updates.
        lr: learning rate of SGD with momentum 0.9.
        weight_decay: L2 penalty.
        batch: images per update.
        seed: of initial weights and batches.
        network_: the :class:`Compatibility`.

    Source: Frome et al. 2013.
    """

    ranking: ClassVar[Any] = staticmethod(losses.devise_loss)


@dataclass(eq=False, repr=False, kw_only=True)
class SJE(_Ranking):
    """A compatibility that learns by :func:`~reuselib.qfsl.losses.sje_loss`; options as :class:`DeViSE`.

    Source: Akata et al. 2015.
    """

    ranking: ClassVar[Any] = staticmethod(losses.sje_loss)


@dataclass(eq=False, repr=False, kw_only=True)
class ALE(_Ranking):
    """A compatibility that learns by :func:`~reuselib.qfsl.losses.ale_loss`; options as :class:`DeViSE`.

    Source: Akata et al. 2013, 2016.
    """

    ranking: ClassVar[Any] = staticmethod(losses.ale_loss)


@dataclass(eq=False, repr=False, kw_only=True)
class LatEm(_Ranking):
    """Latent embeddings: the best of several compatibilities, with DeViSE's loss; options as :class:`DeViSE`.

    Attributes:
        maps: how many, K.

    Source: Xian et al. 2016.
    """

    ranking: ClassVar[Any] = staticmethod(losses.devise_loss)
    maps: int = 2

    def _network(self, problem: Problem) -> nn.Module:
        return Compatibility(problem.features.shape[1], problem.codes, self.maps)


@dataclass(eq=False, repr=False, kw_only=True)
class CMT(_Trained):
    """Cross-modal transfer: two layers regress the codes, the nearest one wins; without its detection of novelty.

    Attributes:
        hidden: width of the hidden layer.
        network_: the :class:`Regression`.

    Source: Socher et al. 2013.
    """

    hidden: int = 64
    lr: float = 1e-2

    def _network(self, problem: Problem) -> nn.Module:
        return Regression(problem.features.shape[1], self.hidden, problem.codes)

    def _loss(self) -> losses.Loss:
        return distance_loss
