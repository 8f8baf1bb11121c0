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
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor

from reuselib import run
from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.qfsl.codes import Classes
from reuselib.qfsl.estimator import CHUNK, Problem, ZeroShotClassifier
from reuselib.qfsl.samples import FeatureSet, as_matrix, as_tensor, like, train
from reuselib.qfsl.selection import Fold, class_wise
from reuselib.selective.augmented import AugmentedNetwork, AugmentedTraining
from reuselib.selective.confidence import CONFIDENCES, Evidence
from reuselib.selective.risk import aurcc, risk_coverage

# --- prototypes of unseen classes -------------------------------------------------------------------------------------


def ridge_weights(unseen: Tensor, seen: Tensor, kappa: float = 1.0) -> Tensor:
    """``B = argmin ||A_u - B A_s||² + κ ||B||² = A_u A_sᵀ (A_s A_sᵀ + κ I)⁻¹``: unseen codes as sums of seen ones.

    Args:
        unseen: A_u, (T, m).
        seen: A_s, (S, m).
        kappa: κ, above 0; near-duplicate codes, and fewer attributes than seen classes, need it.

    Returns:
        float64 (T, S).

    Raises:
        ReuseError: κ is not above 0.
    """
    if not kappa > 0:
        raise ReuseError(f"kappa must be above 0, not {kappa}: the codes of the seen classes may depend on each other.")
    unseen, seen = unseen.double(), seen.double()
    gram = seen @ seen.T + kappa * torch.eye(len(seen), dtype=torch.float64, device=seen.device)
    return torch.linalg.solve(gram, seen @ unseen.T).T


def similarity_weights(unseen: Tensor, seen: Tensor, sharpness: float = 5.0) -> Tensor:
    """Softmax over the seen classes of ``sharpness × ã_u·ã_k``, float64 (T, S): positive weights, as ConSE has them."""
    return (sharpness * unseen.double() @ seen.double().T).softmax(1)


SYNTHESES: dict[str, Callable[..., Tensor]] = {"ridge": ridge_weights, "similarity": similarity_weights}
"""Name → (unseen codes, seen codes) → weights (T, S)."""


def synthesised(weights: Tensor, prototypes: Tensor) -> Tensor:
    """``ρ_u = normalise(B ρ_s)``: rows of length one, (T, q), of weights (T, S) and prototypes (S, q) of any length."""
    rows = F.normalize(prototypes, dim=1)
    return F.normalize(weights.to(rows.dtype) @ rows, dim=1)


def class_means(residual: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The directions of the mean residual attributes of each class: with true labels an oracle, an upper bound.

    Args:
        residual: r(x), (n, q).
        labels: int64 (n,), 0 to T - 1; a class without images gets zeros.
        classes: T.

    Returns:
        (T, q), rows of length one.
    """
    return F.normalize(F.one_hot(labels, classes).to(residual.dtype).T @ residual, dim=1)


def bootstrapped(
    defined: Tensor,
    residual: Tensor,
    prototypes: Tensor,
    *,
    rounds: int = 3,
    share: float = 1 / 3,
    confidence: str = "standardised",
    weight: float = 1.0,
) -> Tensor:
    """Prototypes from the unseen images themselves, without their labels: this is transductive.

    Each round keeps, of the images predicted as a class, those that are trusted most, and moves the class's prototype
    to their mean. Where most predictions of a class are wrong, it locks them in.

    Args:
        defined: ``D(x)·ã_u``, (n, T); the predictions, which never change, are made from these.
        residual: r(x), (n, q).
        prototypes: ρ_u to start from, (T, q).
        rounds: how often.
        share: of the images of a predicted class that are kept, one at least.
        confidence: one of ``CONFIDENCES``.
        weight: of the residual part in it.

    Returns:
        (T, q), rows of length one; a class that is never predicted keeps its prototype.
    """
    predicted = defined.argmax(1)
    counts = predicted.bincount(minlength=len(prototypes))
    keep = (counts.double() * share - 1e-9).ceil().long()
    for _ in range(rounds):
        trust = Evidence.of(defined, residual, prototypes).confidence(confidence, weight)
        # By class first, the most trusted first within each: a stable sort by trust, then one by class.
        order = trust.argsort(descending=True, stable=True)
        order = order[predicted[order].argsort(stable=True)]
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[predicted[order]]
        chosen = order[place < keep[predicted[order]]]
        means = class_means(residual[chosen], predicted[chosen], len(prototypes))
        prototypes = torch.where(counts.unsqueeze(1) > 0, means, prototypes)
    return prototypes


def permuted(prototypes: Tensor, seed: int = 0) -> Tensor:
    """A control: the prototypes (T, q), each given to another class; no class keeps its own.

    Raises:
        ReuseError: there is only one class.
    """
    if len(prototypes) < 2:
        raise ReuseError("The prototype of a single class cannot go to another one. Give two classes at least.")
    order = torch.randperm(len(prototypes), generator=torch.Generator().manual_seed(seed)).to(prototypes.device)
    shuffled = torch.empty_like(prototypes)
    shuffled[order] = prototypes[order.roll(1)]
    return shuffled


def random_prototypes(like: Tensor, seed: int = 0) -> Tensor:
    """A control: random directions, (T, q), rows of length one."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=1).to(like)


# --- classifiers ------------------------------------------------------------------------------------------------------


@dataclass(eq=False, repr=False, kw_only=True)
class AugmentedClassifier(ZeroShotClassifier):
    """S-ZSC (reconstruction): a zero-shot classifier that knows how far to trust its answers.

        classifier = AugmentedClassifier(seed=0).fit(features, labels, attributes)
        classifier.predict(new), classifier.confidence(new)
        classifier.answer(new, threshold)                               # -1: ask somebody else

    Attributes:
        task: what the residual attributes learn, see ``augmented.TASKS``.
        width: q, their number.
        beta: weight of their loss; 0 leaves them untrained.
        eta: weight of the decorrelation.
        dropout: share of the features set to 0 in an update.
        lr: learning rate.
        weight_decay: L2 penalty.
        batch: images per update.
        steps: updates.
        synthesis: how unseen classes get prototypes, one of ``SYNTHESES``.
        kappa: κ of the ridge.
        kind: the confidence, one of ``CONFIDENCES``.
        weight: w of the residual part in it.
        defined_temperature: what defined scores are divided by, in confidences only.
        residual_temperature: what residual scores are divided by.
        seed: of initial weights, batches and dropout.
        progress: whether to show a bar.
        network_: the trained heads.

    Source: Song et al. 2018 (ECCV); see the module.
    """

    task: str = "own"
    width: int = 16
    beta: float = 1.0
    eta: float = 1.0
    dropout: float = 0.2
    lr: float = 1e-2
    weight_decay: float = 5e-4
    batch: int = 64
    steps: int = 1500
    synthesis: str = "ridge"
    kappa: float = 1.0
    kind: str = "sum"
    weight: float = 1.0
    defined_temperature: float = 1.0
    residual_temperature: float = 1.0
    seed: int = 0
    progress: bool = False

    def confidence(
        self, features: Any, candidates: str | Classes = "unseen", kind: str | None = None, weight: float | None = None
    ) -> Any:
        """How far each answer of :meth:`predict` is to be trusted, (n,); only the order matters.

        Args:
            features: (n, d).
            candidates: as in :meth:`predict`; the softmaxes are over these.
            kind: another confidence than the classifier's own.
            weight: another weight.

        Raises:
            UnknownName: there is no such confidence; and the errors of :meth:`decision_function`.
        """
        found = self.evidence(features, candidates)
        return like(found.confidence(kind or self.kind, self.weight if weight is None else weight), features)

    def answer(self, features: Any, threshold: float, candidates: str | Classes = "unseen") -> Any:
        """The answers of :meth:`predict` whose confidence reaches a threshold, (n,), and -1 for the others."""
        chosen, trust = (as_tensor(each(features, candidates)) for each in (self.predict, self.confidence))
        return like(torch.where(trust >= threshold, chosen, -1), features)

    def evidence(
        self, features: Any, candidates: str | Classes = "unseen", prototypes: Tensor | None = None
    ) -> Evidence:
        """What defined and residual attributes say of images (n, d), on the CPU.

        Args:
            features: (n, d).
            candidates: as in :meth:`predict`; the columns stand in their order.
            prototypes: (T, q), other ones for the residual attributes: controls, an oracle.
        """
        self._check_fitted()
        chosen = self._candidates(candidates)
        defined = as_tensor(self.decision_function(features)).cpu()[:, chosen]
        rows = self.prototypes(candidates) if prototypes is None else prototypes.cpu()
        if rows.shape != (len(chosen), self.width):
            raise ShapeMismatch(f"Prototypes must be {(len(chosen), self.width)}, not {tuple(rows.shape)}.")
        found = Evidence.of(defined, self.residual(features), rows)
        return found.tempered(self.defined_temperature, self.residual_temperature)

    def residual(self, features: Any) -> Tensor:
        """The residual attributes r(x) of features (n, d), float32 (n, q) on the CPU."""
        x = as_matrix(features, "features")
        self._check_fitted()
        self._check_width(x)
        scaled = (self._scaled(each.to(self._device)) for each in x.split(CHUNK))
        with torch.no_grad():
            return torch.cat([self.network_.residual(each).cpu() for each in scaled])

    def prototypes(self, candidates: str | Classes = "unseen", kappa: float | None = None) -> Tensor:
        """Residual prototypes, (T, q) on the CPU: learned for seen classes, synthesised for unseen ones.

        Args:
            candidates: as in :meth:`predict`.
            kappa: another κ than the classifier's own.
        """
        self._check_fitted()
        rows = self._synthesised(self.kappa if kappa is None else kappa) if self._refined is None else self._refined
        every = torch.empty(len(self.classes_), self.width)
        every[torch.from_numpy(self.seen_)] = F.normalize(self.network_.prototypes.detach().cpu(), dim=1)
        every[torch.from_numpy(self.unseen_)] = rows
        return every[self._candidates(candidates)]

    def _learn(self, problem: Problem) -> None:
        if self.synthesis not in SYNTHESES:
            raise unknown("synthesis", self.synthesis, SYNTHESES)
        if self.kind not in CONFIDENCES:
            raise unknown("confidence", self.kind, CONFIDENCES)
        self._refined: Tensor | None = None
        images = FeatureSet(problem.features, problem.labels)
        names = ("task", "beta", "eta", "dropout", "lr", "weight_decay", "batch", "seed")
        options = {name: getattr(self, name) for name in names}
        with run.seeded(self.seed):
            network = AugmentedNetwork(problem.codes, problem.seen, problem.features.shape[1], self.width)
            self.network_ = network.to(problem.features.device)
            train(AugmentedTraining(self.network_, images, **options, precision="fp32"), self.steps, self.progress)
        self.network_.eval()

    def _scores(self, features: Tensor) -> Tensor:
        return self.network_(features)

    def _codes(self, classes: Any) -> Tensor:
        return self.network_.codes.cpu()[torch.from_numpy(classes)]

    def _synthesised(self, kappa: float) -> Tensor:
        options = {"kappa": kappa} if self.synthesis == "ridge" else {}
        weights = SYNTHESES[self.synthesis](self._codes(self.unseen_), self._codes(self.seen_), **options)
        return synthesised(weights, self.network_.prototypes.detach().cpu())


@dataclass(eq=False, repr=False, kw_only=True)
class BootstrappedClassifier(AugmentedClassifier):
    """The same, with prototypes of unseen classes moved to unlabelled images of theirs: transductive.

    Attributes:
        rounds: how often prototypes move.
        share: of the images predicted as a class that are kept in a round.
    """

    transductive: ClassVar[bool] = True

    kind: str = "standardised"
    rounds: int = 3
    share: float = 1 / 3

    def _learn(self, problem: Problem) -> None:
        super()._learn(problem)
        assert problem.unlabelled is not None  # the base has checked it
        with torch.no_grad():
            scores, residual = self.network_(problem.unlabelled), self.network_.residual(problem.unlabelled)
        self._refined = bootstrapped(
            scores[:, problem.unseen].cpu(),
            residual.cpu(),
            self._synthesised(self.kappa),
            rounds=self.rounds,
            share=self.share,
            confidence=self.kind,
            weight=self.weight,
        )


# --- choices without unseen classes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
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
        classifier: what to choose for; it stays as it is. An inductive one.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        weights: values of w to try.
        kappas: values of κ to try.
        risk: the selective risk that the threshold must keep to.
        folds: into how many parts the seen classes are cut; 4 or 5 hold out 20 to 25 %.
        seed: of the folds.

    Raises:
        ReuseError: the classifier is transductive, there are too few seen classes, or no class is unseen.
    """
    if classifier.transductive:
        raise ReuseError("choose() is for inductive classifiers: choose for an AugmentedClassifier, then take over.")
    cut = class_wise(features, labels, attributes, folds, holdout=0, seed=seed)
    parts = [_held_out_evidence(classifier, fold, kappas) for fold in cut]
    grid = [(kappa, weight) for kappa in kappas for weight in weights]
    kind, found = classifier.kind, {}
    for kappa, weight in grid:
        each = [aurcc(part[kappa].confidence(kind, weight), wrong) for part, wrong in parts]
        found[kappa, weight] = sum(each) / len(each)
    kappa, weight = min(grid, key=found.__getitem__)
    trust = torch.cat([part[kappa].confidence(kind, weight) for part, _ in parts])
    curve = risk_coverage(trust, torch.cat([wrong for _, wrong in parts]))
    threshold = curve.threshold_for(risk)
    return Choice(weight, kappa, threshold, *curve.at(threshold), found)


def _held_out_evidence(
    classifier: AugmentedClassifier, fold: Fold, kappas: Sequence[float]
) -> tuple[dict[float, Evidence], Tensor]:
    """For each κ what is said of the images of held-out classes, candidates among themselves; and what is wrong."""
    inputs, labels = fold.unseen
    candidates = labels.unique()
    fitted = clone(classifier).fit(*fold.train, fold.attributes)
    found = {kappa: fitted.evidence(inputs, candidates, fitted.prototypes(candidates, kappa)) for kappa in kappas}
    wrong = candidates[found[kappas[0]].prediction] != labels
    return found, wrong
