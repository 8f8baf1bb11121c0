"""Selective zero-shot classification with augmented attributes: predict with what is defined, trust by what is learned.

A network learns the attributes that people defined and, beside them, residual attributes of its own. An image of an
unseen class is classified by the defined attributes alone; how far that is to be trusted, both say. The residual
prototypes of unseen classes come from those of seen classes, by the weights that rebuild an unseen class's defined
code from the seen ones.

Source: Song et al. 2018 (ECCV), whose abstract gives this order. The body of the paper could not be read: losses,
synthesis and confidences are a reconstruction, and where one sentence allows several, all are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import checks, qfsl
from reuselib.errors import ShapeMismatch, unknown
from reuselib.qfsl import Problem, SeenTraining, TrainedClassifier, ZeroShotNetwork, bridge, check_dropout
from reuselib.selective import losses
from reuselib.selective.evidence import CONFIDENCES, Evidence
from reuselib.selective.risk import aurcc, check_threshold, risk_coverage

SYNTHESES: dict[str, Callable[..., Tensor]] = {"ridge": losses.ridge_weights, "similarity": losses.similarity_weights}
"""Name → (unseen codes, seen codes) → weights (T, S)."""


class AugmentedNetwork(ZeroShotNetwork):
    """A zero-shot network with a second head: residual attributes r(x), and their prototypes of seen classes.

    The scores of the network are those of the defined attributes alone.

    Args:
        codes: (C, m), of all classes.
        seen: the seen classes, in the order of the prototypes.
        features: of an image.
        width: q, the number of residual attributes.
        backbone: φ, images to features, if the network is to take images.

    Attributes:
        residual: features → q attributes.
        prototypes: R, (S, q), learned; only the directions of its rows count.

    Raises:
        ReuseError: a seen class does not exist.
    """

    def __init__(
        self, codes: Tensor, seen: qfsl.Classes, features: int, width: int = 16, backbone: nn.Module | None = None
    ) -> None:
        super().__init__(codes, bridge(features, codes.shape[-1]), backbone)
        self.seen: tuple[int, ...] = tuple(qfsl.class_indices(seen, len(codes)).tolist())
        self.residual = bridge(features, width)
        self.prototypes = nn.Parameter(0.1 * torch.randn(len(self.seen), width))

    def residual_scores(self, residual: Tensor) -> Tensor:
        """The scores ``r(x)·ρ_k`` of the seen classes, (B, S), of residual attributes (B, q)."""
        return residual @ F.normalize(self.prototypes, dim=1).T


class AugmentedTraining(SeenTraining):
    """Both heads learn the seen classes by SGD: ``L = L_def + β L_res (+ η decorrelation)``. No unseen image occurs.

    Args:
        student: learns.
        images: labelled images, or features where the student has no backbone.
        task: what the residual attributes learn, one of ``losses.TASKS``.
        beta: weight of their loss; 0 leaves the defined attributes alone, the direct ablation.
        eta: weight of the decorrelation, where the task has one.
        dropout: share of the features that are set to 0 in each update, the same ones for both heads.
        backbone_lr: learning rate of the backbone; 0 keeps the backbone as it is, in evaluation mode.
        options: of :class:`SeenTraining`, but for ``seen`` and ``softmax``.

    Raises:
        UnknownName: there is no such task.
        ReuseError: see :class:`SeenTraining`; or the dropout would leave nothing, or a weight is below 0.
        DeviceError: see :class:`SeenTraining`.
        ShapeMismatch: see :class:`SeenTraining`.

    Source: a reconstruction of Song et al. 2018 (ECCV); only the order of its parts is the paper's.
    """

    student: AugmentedNetwork

    def __init__(
        self,
        student: AugmentedNetwork,
        images: qfsl.Samples,
        *,
        task: str = "own",
        beta: float = 1.0,
        eta: float = 1.0,
        dropout: float = 0.2,
        backbone_lr: float = 0.0,
        **options: Any,
    ) -> None:
        if task not in losses.TASKS:
            raise unknown("task of the residual attributes", task, losses.TASKS)
        check_dropout(dropout)
        checks.number(beta=beta, eta=eta)
        super().__init__(student, images, backbone_lr=backbone_lr, **options)
        self.task, self.beta, self.dropout, self.tuned = task, beta, dropout, backbone_lr > 0
        self.eta = eta if task == "decorrelated" else 0.0
        if student.backbone is not None and not self.tuned:
            student.backbone.eval()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch.

        Returns:
            ``loss`` and, before they are weighed, its parts ``defined``, ``residual`` and ``decorrelation``.
        """
        student = self.student
        x, labels = self.images.sample(self.batch, self.random, self.augment)
        y = self._column_of[labels]
        with self.precision.autocast():
            with torch.set_grad_enabled(self.tuned):
                features = x if student.backbone is None else student.backbone(x)
            kept = torch.rand(features.shape, device=self.device, generator=self.random) >= self.dropout
            features = features * kept / (1 - self.dropout)
            attributes, residual = student.bridge(features).float(), student.residual(features).float()
        defined = student.score(attributes)[:, self._columns]
        parts = {
            "defined": losses.defined_loss(defined, y),
            "residual": losses.residual_loss(defined, student.residual_scores(residual), y, self.task),
            "decorrelation": losses.decorrelation(attributes, residual),
        }
        loss = losses.augmented_loss(**parts, beta=self.beta, eta=self.eta)
        self.precision.minimise(loss, self.optimizer)
        return {name: value.detach() for name, value in {"loss": loss, **parts}.items()}


class AugmentedClassifier(TrainedClassifier):
    """S-ZSC (reconstruction): a zero-shot classifier that knows how far to trust its answers.

    For example::

        classifier = AugmentedClassifier(seed=0).fit(features, labels, attributes)
        classifier.predict(new), classifier.confidence(new)
        classifier.answer(new, threshold)                               # -1: ask somebody else

    Attributes:
        task: what the residual attributes learn, one of ``losses.TASKS``.
        width: q, their number.
        beta: weight of their loss; 0 leaves them untrained.
        eta: weight of the decorrelation.
        dropout: share of the features set to 0 in an update.
        synthesis: how unseen classes get prototypes, one of ``SYNTHESES``.
        kappa: κ of the ridge.
        kind: the confidence, one of ``CONFIDENCES``.
        weight: w of the residual part in it.
        residual_temperature: what residual scores are divided by.
        network_: the trained heads.

    Example:
        >>> import torch
        >>> from reuselib import selective
        >>> codes, labels = torch.eye(5), torch.arange(100) % 5
        >>> images = codes[labels] + 0.1 * torch.randn(100, 5)
        >>> seen = labels < 3
        >>> classifier = selective.AugmentedClassifier(steps=50).fit(images[seen], labels[seen], codes)
        >>> trust = classifier.confidence(images[~seen])
        >>> trust.shape
        torch.Size([40])
        >>> bool((classifier.answer(images[~seen], threshold=float(trust.max()) + 1) == -1).all())  # asks somebody else
        True

    Source: Song et al. 2018 (ECCV); see the module.
    """

    _trainer: ClassVar = AugmentedTraining
    passed: ClassVar = (*TrainedClassifier.passed, "task", "beta", "eta", "dropout")
    choices: ClassVar = {"task": losses.TASKS, "synthesis": SYNTHESES, "kind": CONFIDENCES}

    task: str = "own"
    width: int = 16
    beta: float = 1.0
    eta: float = 1.0
    dropout: float = 0.2
    batch: int = 64
    synthesis: str = "ridge"
    kappa: float = 1.0
    kind: str = "sum"
    weight: float = 1.0
    residual_temperature: float = 1.0

    def confidence(self, features: Any, candidates: qfsl.Classes = "unseen") -> Any:
        """How far each answer of :meth:`predict` is to be trusted, (n,); only the order matters.

        Args:
            features: (n, d).
            candidates: as in :meth:`predict`; the softmaxes are over these.
        """
        found = self.evidence(features, candidates).confidence(self.kind, self.weight)
        return qfsl.like(found.to(qfsl.as_tensor(features).device), features)

    def answer(self, features: Any, threshold: float, candidates: qfsl.Classes = "unseen") -> Any:
        """The answers of :meth:`predict` whose confidence reaches a threshold, (n,), and -1 for the others."""
        check_threshold(threshold)
        chosen, trust = (qfsl.as_tensor(each(features, candidates)) for each in (self.predict, self.confidence))
        return qfsl.like(torch.where(trust >= threshold, chosen, -1), features)

    def evidence(
        self, features: Any, candidates: qfsl.Classes = "unseen", prototypes: Tensor | None = None
    ) -> Evidence:
        """What defined and residual attributes say of images (n, d), on the CPU.

        Args:
            features: (n, d).
            candidates: as in :meth:`predict`; the columns stand in their order.
            prototypes: (T, q), other ones for the residual attributes: controls, an oracle.
        """
        defined = qfsl.as_tensor(self.decision_function(features)).cpu()
        chosen = self._candidates(candidates)
        rows = self.prototypes(candidates) if prototypes is None else prototypes.cpu()
        if rows.shape != (len(chosen), self.width):
            raise ShapeMismatch(f"Prototypes must be {(len(chosen), self.width)}, not {tuple(rows.shape)}.")
        return Evidence.of(defined[:, chosen], self.residual(features) / self.residual_temperature, rows)

    def residual(self, features: Any) -> Tensor:
        """The residual attributes r(x) of features (n, d), float32 (n, q) on the CPU."""
        return self._mapped(features, lambda x: self.network_.residual(x)).cpu()

    def prototypes(
        self, candidates: qfsl.Classes = "unseen", kappa: float | None = None, synthesis: str | None = None
    ) -> Tensor:
        """Residual prototypes, (T, q) on the CPU: learned for seen classes, synthesised for unseen ones.

        Args:
            candidates: as in :meth:`predict`.
            kappa: another κ than the classifier's own.
            synthesis: another one likewise.
        """
        self._check_fitted()
        synthesis = synthesis or self.synthesis
        table, learned = self.network_.codes.cpu(), self.network_.prototypes.detach().cpu()
        seen, unseen = torch.from_numpy(self.seen_), torch.from_numpy(self.unseen_)
        options = {"kappa": self.kappa if kappa is None else kappa} if synthesis == "ridge" else {}
        weights = SYNTHESES[synthesis](table[unseen], table[seen], **options)
        every = torch.empty(len(table), self.width)
        every[seen], every[unseen] = F.normalize(learned, dim=1), losses.synthesised(weights, learned)
        return every[self._candidates(candidates)]

    def _network(self, problem: Problem) -> AugmentedNetwork:
        return AugmentedNetwork(problem.codes, problem.seen, problem.features.shape[1], self.width)


# --- choices without unseen classes -----------------------------------------------------------------------------------


class Choice(NamedTuple):
    """What :func:`choose` found on seen classes that played unseen ones.

    Attributes:
        weight: w.
        kappa: κ.
        threshold: the lowest confidence to answer from; infinite where no threshold meets the risk.
        coverage: the share of those images that it answers.
        risk: their error rate; nan where it answers none.
        areas: (κ, w) → AURCC, the mean over the folds.
    """

    weight: float
    kappa: float
    threshold: float
    coverage: float
    risk: float
    areas: dict[tuple[float, float], float]


def choose(
    classifier: AugmentedClassifier,
    features: Any,
    labels: Any,
    attributes: Any,
    *,
    weights: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    kappas: Sequence[float] = (0.1, 1.0, 10.0),
    risk: float = 0.1,
    folds: int = 4,
    seed: int = 0,
) -> Choice:
    """Choose w, κ and the threshold by class-wise cross-validation: no unseen class takes part.

    In each fold a part of the seen classes plays the unseen ones; the heads are trained once for all choices. The
    threshold is that of all folds together. It is an estimate: a fold has fewer candidates than the real test.

    Args:
        classifier: what to choose for; it stays as it is.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        weights: values of w to try.
        kappas: values of κ to try.
        risk: the selective risk that the threshold must keep to.
        folds: into how many parts the seen classes are cut; 4 or 5 hold out 20 to 25 %.
        seed: of the folds.

    Raises:
        ReuseError: there are too few seen classes, or no class is unseen.
    """
    checks.number(0, 1, risk=risk)
    grid = list(product(kappas, weights))
    checks.whole(choices=len(grid))
    for kappa, weight in grid:
        checks.number(above=True, kappa=kappa)
        checks.number(weight=weight)
    cut = qfsl.class_wise(features, labels, attributes, folds, holdout=0, seed=seed)
    parts = [_held_out_evidence(classifier, fold, kappas) for fold in cut]
    kind, found = classifier.kind, {}
    for kappa, weight in grid:
        found[kappa, weight] = sum(aurcc(p[kappa].confidence(kind, weight), wrong) for p, wrong in parts) / len(parts)
    kappa, weight = min(grid, key=found.__getitem__)
    trust = torch.cat([part[kappa].confidence(kind, weight) for part, _ in parts])
    curve = risk_coverage(trust, torch.cat([wrong for _, wrong in parts]))
    threshold = curve.threshold_for(risk)
    return Choice(weight, kappa, threshold, *curve.at(threshold), found)


def _held_out_evidence(
    classifier: AugmentedClassifier, fold: qfsl.Fold, kappas: Sequence[float]
) -> tuple[dict[float, Evidence], Tensor]:
    """For each κ what is said of the images of held-out classes, candidates among themselves; and what is wrong."""
    inputs, labels = fold.unseen
    candidates = labels.unique()
    fitted = fold.fit(classifier)
    found = {kappa: fitted.evidence(inputs, candidates, fitted.prototypes(candidates, kappa)) for kappa in kappas}
    return found, candidates[found[kappas[0]].prediction] != labels
