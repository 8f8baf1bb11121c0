"""One row of chapter 10 with one seed: answers, how far they are trusted, and the risk over coverage that this gives.

A network is trained once in a process. What a row costs is nonetheless what it would cost alone: the fits that it
reads, and what it does itself. The backbone of a world is not counted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from reuselib import run
from reuselib.data import ZeroShotSet
from reuselib.qfsl import ZeroShotClassifier, metrics, rivals, tasks
from reuselib.selective.evidence import Evidence
from reuselib.selective.method import AugmentedClassifier, choose
from reuselib.selective.risk import SCORE_CONFIDENCES, RiskCoverage, aurcc, risk_coverage
from reuselib.selective.rivals import bootstrapped, class_means, permuted, random_prototypes

SECOND = 1000
"""The second network of a seed has a seed that is larger by this."""
COVERAGES = (20, 50, 80, 100)
"""Per cent of the images, at which a record keeps the risk."""
POINTS = tuple(range(5, 101, 5))
"""Per cent of the images, at which a record's curve keeps it."""
BLIND = ("random", "perfect", "defined", "margin")
"""Confidences that do not read the residual attributes."""


@dataclass(kw_only=True)
class SelectiveResult(run.Result):
    """Answers of the first split and how far they are trusted.

    Attributes:
        data: images or features, and attributes.
        classifier: what gives the answers.
        evidence: what both kinds of attributes say; nothing of another method alone.
        confidence: (n,), of the images of unseen classes.
        wrong: bool (n,).
        curve: the risk over coverage.
    """

    data: ZeroShotSet
    classifier: ZeroShotClassifier
    evidence: Evidence | None
    confidence: Tensor
    wrong: Tensor
    curve: RiskCoverage


class SelectiveJob(run.Job):
    """All splits of one seed."""

    def result(self) -> SelectiveResult:
        """Fit, answer and judge on every split; metrics and the curve ``risk`` are means over them."""
        cost, judged = run.Cost(), []
        with run.threads():
            for split in range(self.settings.source.splits):
                judge = Judge(self.settings, self.seed, split, str(self.device))
                judged.append((judge, verdict := judge.verdict(), *measures(verdict, judge.places)))
                cost.add(judge.cost)
        found = [values for _, _, values, _ in judged]
        risks = [sum(curve.risk_at(share / 100) for *_, curve in judged) / len(judged) for share in POINTS]
        rounds: Any = [{"iteration": share, "risk": risk} for share, risk in zip(POINTS, risks, strict=True)]
        judge, verdict, _, curve = judged[0]
        return SelectiveResult(
            metrics={name: sum(each[name] for each in found) / len(found) for name in found[0]},
            history=run.History(rounds, cost),
            curves=("risk",),
            device=self.device,
            precision=self.precision if self.settings.source.name in tasks.LEARNED else "fp32",
            data=judge.data,
            classifier=judge.network if judge.other is None else judge.other,
            evidence=verdict.evidence,
            confidence=verdict.confidence,
            wrong=verdict.predicted != judge.places,
            curve=curve,
        )


# --- what is read and fitted, once in a process -----------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def fitted(
    method: str,
    options: run.Settings,
    source: run.Settings,
    seed: int,
    data_seed: int,
    split: int,
    where: str,
    tuned: run.Settings | None = None,
) -> tuple[Any, run.Cost]:
    """A classifier fitted to a split, and what that cost; nobody may change it.

    Args:
        method: "augmented" for our network, or one of qfsl's ``RIVALS``.
        options: of it.
        source: of images and attributes.
        seed: of initial weights, batches and dropout.
        data_seed: of world and splits.
        split: its number.
        where: the device.
        tuned: how further options of another method are chosen on the seen classes; they are as given if left out.
    """
    data, cost = tasks.opened(source.name, source, data_seed, where)[split], run.Cost()
    with run.measured(cost):
        if method == "augmented":
            classifier: ZeroShotClassifier = AugmentedClassifier(**options, seed=seed)
        else:
            given = *data.part("train"), data.attributes
            chosen = rivals.tuned(method, *given, seed=seed, **tuned) if tuned else {}
            classifier = rivals.build(method, seed, **{**options, **chosen})
        classifier.fit(*data.part("train"), data.attributes, data.seen)
    return classifier, cost


# --- one row on one split ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Verdict:
    """Answers, and how far each is trusted.

    Attributes:
        predicted: int64 (n,), positions among the unseen classes.
        confidence: float64 (n,).
        reference: float64 (n,), the confidence that the same classifier has without residual attributes.
        evidence: what both kinds of attributes say; nothing of another method alone.
        extra: further metrics.
    """

    predicted: Tensor
    confidence: Tensor
    reference: Tensor
    evidence: Evidence | None = None
    extra: dict[str, float] = field(default_factory=dict)


class Judge:
    """One row on one split.

    Args:
        settings: of the row.
        seed: of data and method.
        split: its number.
        where: the device.
    """

    def __init__(self, settings: run.Settings, seed: int, split: int, where: str) -> None:
        self.settings, self.seed, self.cost = settings, seed, run.Cost()
        self.data, self._place = tasks.opened(settings.source.name, settings.source, seed, where)[split], (split, where)
        self.images, labels = self.data.part("test_unseen")
        self.unseen = self.data.unseen.cpu()
        self.places = (labels.cpu().unsqueeze(1) == self.unseen).int().argmax(1)
        self.weight: float = settings.weight
        self.kappa: float | None = None  # the network's own
        how = run.Settings(**settings["tuned"]) if "tuned" in settings else None
        self.other = self._fitted(settings.rival, settings.options, seed, how) if settings.rival else None
        if settings.confidence != "own":
            self.network: AugmentedClassifier = self._fitted("augmented", settings.heads, seed)
        if settings.prototypes == "second":
            self.second: AugmentedClassifier = self._fitted("augmented", settings.heads, seed + SECOND)

    def _fitted(self, method: str, options: run.Settings, seed: int, tuned: run.Settings | None = None) -> Any:
        classifier, cost = fitted(method, options, self.settings.source, seed, self.seed, *self._place, tuned)
        self.cost.add(cost)
        return classifier

    def verdict(self) -> Verdict:
        """Answer, and say how far to trust that."""
        with run.measured(self.cost):
            return self.own() if self.settings.confidence == "own" else self.judged()

    def own(self) -> Verdict:
        """Another method, with the best of its own three confidences on these very images: in its favour."""
        scores = self.scores()
        predicted = scores.argmax(1)
        found = {name: confidence(scores) for name, confidence in SCORE_CONFIDENCES.items()}
        areas = {name: aurcc(each, predicted != self.places) for name, each in found.items()}
        best = min(areas, key=areas.__getitem__)
        extra = {f"aurcc_{name}": area for name, area in areas.items()}
        return Verdict(predicted, found[best], found["softmax"], extra=extra)

    def scores(self) -> Tensor:
        """The other method's scores of the unseen classes, (n, T) on the CPU."""
        assert self.other is not None
        return self.other.decision_function(self.images).cpu()[:, self.unseen]

    def judged(self) -> Verdict:
        """Answers of our network or of another method, judged by the row's confidence."""
        evidence, extra = self.evidence()
        wrong, kind = evidence.prediction != self.places, self.settings.confidence
        extra["residual_accuracy"] = float((evidence.residual.argmax(1) == self.places).double().mean())
        if kind == "random":
            draw = torch.Generator().manual_seed(self.seed * tasks.SPLITS + self._place[0])
            confidence = torch.rand(len(wrong), generator=draw, dtype=torch.float64)
        else:
            confidence = (~wrong).double() if kind == "perfect" else evidence.confidence(kind, self.weight)
        reference = evidence.confidence("defined")
        return Verdict(evidence.prediction, confidence, reference, evidence, {} if kind in BLIND else extra)

    def evidence(self) -> tuple[Evidence, dict[str, float]]:
        """What is known of the images, and metrics that tell of the prototypes."""
        if self.settings.prototypes == "second":
            first, second = (each.evidence(self.images, self.unseen).defined for each in (self.network, self.second))
            return Evidence(first, second, torch.ones(len(first), dtype=torch.float64)), {}
        extra = {}
        if self.settings.prototypes == "chosen":  # on seen classes
            given = *self.data.part("train"), self.data.attributes
            found = choose(clone(self.network), *given, seed=self.seed, **self.settings.choice)
            self.weight, self.kappa = found.weight, found.kappa
            extra = {"weight": found.weight, "kappa": found.kappa}
        residual = self.network.residual(self.images)
        prototypes = self.prototypes(residual)
        evidence = self.network.evidence(self.images, self.unseen, prototypes)
        extra["cosine"] = float((prototypes * self.true_prototypes(residual)).sum(1).mean())
        return evidence if self.other is None else evidence.judging(self.scores()), extra

    def prototypes(self, residual: Tensor) -> Tensor:
        """Of the unseen classes, (T, q), from where the row says; residual attributes (n, q) are of the images."""
        kind, made = self.settings.prototypes, self.network.prototypes(self.unseen, self.kappa)
        if kind == "similarity":
            return self.network.prototypes(self.unseen, synthesis=kind)
        if kind == "permuted":
            return permuted(made, self.seed)
        if kind == "random":
            return random_prototypes(made, self.seed)
        if kind == "unlabelled":  # moved to the images
            defined = self.network.evidence(self.images, self.unseen).defined
            return bootstrapped(defined, residual, made, confidence=self.settings.confidence, weight=self.weight)
        return self.true_prototypes(residual) if kind == "oracle" else made

    def true_prototypes(self, residual: Tensor) -> Tensor:
        """From labelled images."""
        return class_means(residual, self.places, len(self.unseen))


def measures(verdict: Verdict, places: Tensor) -> tuple[dict[str, float], RiskCoverage]:
    """The metrics of a verdict on images of true classes (n,), and the curve of risk over coverage.

    ``gain`` is the area by the reference less that by the confidence, ``better`` 1 where it is above 0.
    """
    wrong = verdict.predicted != places
    curve = risk_coverage(verdict.confidence, wrong)
    gain = aurcc(verdict.reference, wrong) - curve.area
    found = {
        "accuracy": 1 - float(wrong.double().mean()),
        "class_accuracy": metrics.mean_class_accuracy(verdict.predicted, places),
        "aurcc": curve.area,
        "excess": curve.excess,
        "gain": gain,
        "better": float(gain > 0),
    }
    return found | {f"risk_{share}": curve.risk_at(share / 100) for share in COVERAGES} | verdict.extra, curve
