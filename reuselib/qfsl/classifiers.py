"""Networks of given features as classifiers: QFSL, and QFSL without the bias loss."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier
from reuselib.qfsl.losses import TERMS
from reuselib.qfsl.method import BATCH, LR, QFSL, SOFTMAXES, WEIGHT_DECAY, SeenTraining, ZeroShotNetwork, bridge
from reuselib.qfsl.samples import FeatureSet


class TrainedClassifier(ZeroShotClassifier):
    """A classifier of given features that is a network; subclasses say which, and how it learns.

    Attributes:
        passed: options that it takes.
        steps: updates.
        lr: learning rate.
        weight_decay: L2 penalty.
        batch: images per update.
        seed: of initial weights and batches.
        network_: the network.
    """

    _trainer: ClassVar[type[SeenTraining]] = SeenTraining
    passed: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "batch", "seed")

    steps: int = 1500
    lr: float = LR
    weight_decay: float = WEIGHT_DECAY
    batch: int = BATCH
    seed: int = 0

    def _learn(self, problem: Problem) -> None:
        with run.seeded(self.seed):
            run.run(self._method(problem), updates=self.steps, progress=False)
        self.network_.eval()

    def _method(self, problem: Problem) -> SeenTraining:
        images = FeatureSet(problem.features, problem.labels)
        self.network_: Any = self._network(problem).to(problem.features.device)
        options = {name: getattr(self, name) for name in self.passed}
        return self._trainer(self.network_, images, seen=problem.seen, precision="fp32", **options)

    @abstractmethod
    def _network(self, problem: Problem) -> nn.Module:
        """The network with its initial weights."""

    def _scores(self, features: Tensor) -> Tensor:
        return self.network_(features)


class SeenClassifier(TrainedClassifier):
    """QFSL-minus on given features: a bridge learns from the seen classes alone, see :class:`SeenTraining`.

    Attributes:
        softmax: ``"seen"`` for QFSL-minus (a), ``"all"`` for (b).
        hidden: widths of hidden layers of the bridge.
        dropout: share of the features left out.
        network_: the :class:`ZeroShotNetwork`.

    Example:
        >>> import torch
        >>> from reuselib import qfsl
        >>> codes = torch.eye(4)  # four classes, the last of which is never seen
        >>> labels = torch.arange(60) % 3
        >>> features = codes[labels] + 0.1 * torch.randn(60, 4)
        >>> classifier = qfsl.SeenClassifier(steps=50).fit(features, labels, codes)
        >>> classifier.predict(features, candidates="all").shape
        torch.Size([60])
    """

    passed: ClassVar = (*TrainedClassifier.passed, "softmax")

    softmax: str = "seen"
    hidden: Sequence[int] = ()
    dropout: float = 0.0

    def _network(self, problem: Problem) -> ZeroShotNetwork:
        widths = problem.features.shape[1], *self.hidden, problem.codes.shape[1]
        return ZeroShotNetwork(problem.codes, bridge(*widths, dropout=self.dropout))


class QFSLClassifier(SeenClassifier):
    """QFSL on given features: a warm start on the seen classes, then :class:`QFSL` with the unlabelled features.

    Attributes:
        weight: λ.
        term: a key of ``losses.TERMS``: ``"bias"`` for QFSL; ``"entropy"``, ``"pseudo_labels"`` and
            ``"unseen_pseudo_labels"`` are controls.
        steps: updates of the warm start, over the softmax of ``softmax``; 0 for none.
        unlabelled_steps: updates with unlabelled features.
        start: a classifier fitted on the same features, whose network takes the place of the warm start.

    Example:
        >>> import torch
        >>> from reuselib import qfsl
        >>> codes, labels = torch.eye(4), torch.arange(80) % 4
        >>> images = codes[labels] + 0.1 * torch.randn(80, 4)
        >>> seen = labels < 3
        >>> classifier = qfsl.QFSLClassifier(weight=1.0, steps=50, unlabelled_steps=50)
        >>> classifier = classifier.fit(images[seen], labels[seen], codes, unlabelled=images[~seen])
        >>> classifier.predict(images, candidates="all").shape
        torch.Size([80])
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
        images, extra = FeatureSet(problem.features, problem.labels), problem.unlabelled
        unlabelled = FeatureSet(extra, torch.zeros(len(extra), dtype=torch.int64, device=extra.device))
        options: dict[str, Any] = {"seed": self.seed + 1, "weight": self.weight, "term": TERMS[self.term]}
        options |= {name: getattr(self, name) for name in ("lr", "weight_decay", "batch")}
        with run.seeded(self.seed + 1):
            method = QFSL(self.network_, images, unlabelled, problem.seen, precision="fp32", **options)
            run.run(method, updates=self.unlabelled_steps, progress=False)
        self.network_.eval()
