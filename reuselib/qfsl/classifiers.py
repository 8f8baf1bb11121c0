"""Networks of given features as classifiers: QFSL, and QFSL without the bias loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier
from reuselib.qfsl.losses import TERMS
from reuselib.qfsl.method import QFSL, SOFTMAXES, SeenTraining, ZeroShotNetwork, bridge
from reuselib.qfsl.samples import FeatureSet


@dataclass(eq=False, repr=False, kw_only=True)
class TrainedClassifier(ZeroShotClassifier):
    """A classifier of given features that is a network; subclasses say which, and how it learns.

    Attributes:
        steps: updates.
        lr: learning rate.
        weight_decay: L2 penalty.
        batch: images per update.
        seed: of initial weights and batches.
        network_: the network.
    """

    steps: int = 1500
    lr: float = 1e-2
    weight_decay: float = 5e-4
    batch: int = 32
    seed: int = 0

    def _learn(self, problem: Problem) -> None:
        with run.seeded(self.seed):
            self.network_: Any = self._network(problem).to(problem.features.device)
            run.run(self._method(problem), updates=self.steps, progress=False)
        self.network_.eval()

    def _network(self, problem: Problem) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} has no network: use one of its subclasses.")

    def _method(self, problem: Problem) -> SeenTraining:
        images = FeatureSet(problem.features, problem.labels)
        return SeenTraining(self.network_, images, problem.seen, **self._options())

    def _options(self) -> dict[str, Any]:
        """Of the method."""
        names = ("lr", "weight_decay", "batch", "seed")
        return {name: getattr(self, name) for name in names} | {"precision": "fp32"}

    def _scores(self, features: Tensor) -> Tensor:
        return self.network_(features)


@dataclass(eq=False, repr=False, kw_only=True)
class SeenClassifier(TrainedClassifier):
    """QFSL-minus on given features: a bridge learns from the seen classes alone, see :class:`SeenTraining`.

    Attributes:
        softmax: ``"seen"`` for QFSL-minus (a), ``"all"`` for (b).
        hidden: widths of hidden layers of the bridge.
        dropout: share of the features left out.
        network_: the :class:`ZeroShotNetwork`.
    """

    softmax: str = "seen"
    hidden: Sequence[int] = ()
    dropout: float = 0.0

    def _network(self, problem: Problem) -> ZeroShotNetwork:
        widths = problem.features.shape[1], *self.hidden, problem.codes.shape[1]
        return ZeroShotNetwork(problem.codes, bridge(*widths, dropout=self.dropout))

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"softmax": self.softmax}


@dataclass(eq=False, repr=False, kw_only=True)
class QFSLClassifier(SeenClassifier):
    """QFSL on given features: a warm start on the seen classes, then :class:`QFSL` with the unlabelled features.

    Attributes:
        weight: λ.
        term: a key of ``losses.TERMS``: ``"bias"`` for QFSL; ``"entropy"``, ``"pseudo_labels"`` and
            ``"unseen_pseudo_labels"`` are controls.
        steps: updates of the warm start, over the softmax of ``softmax``; 0 for none.
        unlabelled_steps: updates with unlabelled features.
        start: a classifier fitted on the same features, whose network takes the place of the warm start.
    """

    transductive: ClassVar[bool] = True
    choices: ClassVar = {"softmax": SOFTMAXES, "term": TERMS}

    weight: float = 1.0
    term: str = "bias"
    unlabelled_steps: int = 400
    start: SeenClassifier | None = None

    def _learn(self, problem: Problem) -> None:
        if self.start is None:
            super()._learn(problem)
        else:
            self.network_ = copy.deepcopy(self.start.network_)
        labels = torch.zeros(len(problem.unlabelled), dtype=torch.int64, device=problem.unlabelled.device)
        sets = FeatureSet(problem.features, problem.labels), FeatureSet(problem.unlabelled, labels)
        options = TrainedClassifier._options(self) | {"seed": self.seed + 1}
        with run.seeded(self.seed + 1):
            method = QFSL(self.network_, *sets, problem.seen, weight=self.weight, term=TERMS[self.term], **options)
            run.run(method, updates=self.unlabelled_steps, progress=False)
        self.network_.eval()
