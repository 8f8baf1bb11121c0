"""Chapter 10: selective zero-shot classification, on attribute worlds, digits and benchmarks.

A row is ``<task>-<method>``. The tasks "full", "no-colour" and "four" are the same worlds with other attributes; a
seed is a world. A seed of "digits" or "segments" is twelve random splits, over which every metric is averaged. All
methods of one task and seed judge the same answers, but for other methods than ours, whose answers are their own.

A network is trained once in a process. What a row costs is nonetheless what it would cost alone: the fit that it reads,
and what it does itself. The backbone of a world is not counted.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from reuselib import run
from reuselib.data import ZeroShotSet
from reuselib.errors import ReuseError
from reuselib.qfsl import metrics
from reuselib.qfsl.estimator import Predictor
from reuselib.qfsl.options import build, options
from reuselib.qfsl.tasks import REAL, SPLITS, BackbonePlan, benchmark, real_sets, world_task
from reuselib.run.legacy import Chapter, Outcome
from reuselib.selective.confidence import Evidence
from reuselib.selective.method import (
    AugmentedClassifier,
    bootstrapped,
    choose,
    class_means,
    permuted,
    random_prototypes,
)
from reuselib.selective.risk import SCORE_CONFIDENCES, RiskCoverage, aurcc, risk_coverage
from reuselib.worlds.attributes import REGIMES, SELECTIVE_PLAN, WorldPlan

SECOND = 1000
"""The second network of a seed has a seed that is larger by this."""
COVERAGES = (20, 50, 80, 100)
"""Per cent of the images, at which a record keeps the risk."""
POINTS = tuple(range(5, 101, 5))
"""Per cent of the images, at which a record's curve keeps it."""
TIES = "mean"  # an order among equal confidences would be that of the classes


# --- configurations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where images and attributes come from.

    Attributes:
        name: "world", "digits", "segments", or a benchmark such as "awa2".
        plan: of a world, and which attributes it has.
        backbone: how a world's backbone learns.
        splits: random splits that make one seed.
    """

    name: str
    plan: WorldPlan | None = None
    backbone: BackbonePlan | None = None
    splits: int = 1


@dataclass(frozen=True)
class Heads:
    """The network, and how it learns; the fields are those of :class:`AugmentedClassifier`.

    The defined attributes depend neither on ``task`` nor on ``width`` and ``beta``: with one seed all networks that
    differ in these alone give the same answers, bit for bit. So the network that has learned defined attributes alone
    is the same network, read by its defined attributes.
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


@dataclass(frozen=True)
class Config:
    """Everything that decides a row, beside the seed.

    Attributes:
        source: images and attributes.
        method: the row without its task.
        heads: the network.
        confidence: one of ``CONFIDENCES``, "random", "perfect", or "own": the best of three that the other method has.
        prototypes: of unseen classes: "ridge", "chosen" (the ridge and the weight, by cross-validation), "similarity",
            "permuted", "random", "unlabelled" (from images of unseen classes), "oracle" (from their labels too), or
            "second": a second network of defined attributes stands in the place of the residual ones.
        weight: w.
        predictor: another method that gives the answers, if any.
        options: of that method, as pairs.
        weights: among which w is chosen.
        kappas: among which κ is chosen.
        folds: of class-wise cross-validation.
        rounds: how often prototypes from unlabelled images move.
        share: of the images predicted as a class, that they move to.
    """

    source: Source
    method: str
    heads: Heads
    confidence: str = "sum"
    prototypes: str = "ridge"
    weight: float = 1.0
    predictor: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    weights: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    kappas: tuple[float, ...] = (0.1, 1.0, 10.0)
    folds: int = 4
    rounds: int = 3
    share: float = 1 / 3

    @property
    def transductive(self) -> bool:
        """Whether images of unseen classes take part, beside being judged."""
        return self.prototypes in ("unlabelled", "oracle")


BLIND = ("random", "perfect", "defined", "margin")
"""Confidences that do not read the residual attributes."""
STANDARDISED = {"confidence": "standardised"}
CONFIDENCE_ROWS: dict[str, dict[str, Any]] = {
    "random": {"confidence": "random"},
    "defined": {"confidence": "defined"},
    "margin": {"confidence": "margin"},
    "two-heads": {"prototypes": "second"},
    "augmented": {},
    "chosen": {"prototypes": "chosen"},
    "similarity": {"prototypes": "similarity"},
    "joint": {"confidence": "joint"},
    "standardised": STANDARDISED,
    "residual": {"confidence": "residual"},
    "permuted": {"prototypes": "permuted"},
    "random-prototypes": {"prototypes": "random"},
    "bootstrap": STANDARDISED | {"prototypes": "unlabelled"},
    "oracle-prototypes": STANDARDISED | {"prototypes": "oracle"},
    "perfect": {"confidence": "perfect"},
}
"""Row → what it changes in a configuration; so are those that follow. "task" and "width" are the network's."""
TASK_ROWS = {
    f"{task}{suffix}": CONFIDENCE_ROWS[row] | {"task": task}
    for task in ("remainder", "decorrelated")
    for suffix, row in {"": "augmented", "-standardised": "standardised", "-bootstrap": "bootstrap"}.items()
}
WEIGHT_ROWS: dict[str, dict[str, Any]] = {
    f"weight-{weight}": {"weight": float(weight)} for weight in ("0.25", "0.5", "1", "2", "4")
}
WIDTH_ROWS: dict[str, dict[str, Any]] = {f"width-{width}": {"width": width} for width in (2, 4, 8, 16, 32, 64)}
BASELINES = ("dap", "iap", "conse", "devise", "sje", "latem", "eszsl", "ale", "sync", "sae")
BASELINE_ROWS: dict[str, dict[str, Any]] = {name: {"confidence": "own", "predictor": name} for name in BASELINES}
JUDGED_ROWS: dict[str, dict[str, Any]] = {
    f"{name}-augmented": {"predictor": name} for name in ("dap", "eszsl", "ale", "sae")
}
SHARED_ROWS = CONFIDENCE_ROWS | TASK_ROWS | BASELINE_ROWS | JUDGED_ROWS
ROWS = SHARED_ROWS | WEIGHT_ROWS | WIDTH_ROWS
REAL_ROWS = ("random", "defined", "augmented", "permuted", "perfect")


def rows(
    task: str,
    source: Source,
    kind: str,
    names: Iterable[str],
    heads: Heads,
    baseline_steps: int | None = None,
    **settings: Any,
) -> dict[str, Config]:
    """The rows of a task, with the options that were chosen for its kind of features.

    Args:
        task: of the rows.
        source: of images and attributes.
        kind: of the features, for the options of other methods.
        names: keys of ``ROWS``.
        heads: the network of most rows.
        baseline_steps: updates of other methods that learn step by step, if not their own number.
        settings: further fields of the configuration.
    """
    found = {}
    for name in names:
        changes = dict(ROWS[name])
        own = replace(heads, **{key: changes.pop(key) for key in ("task", "width") if key in changes})
        if "predictor" in changes:
            changes["options"] = options(kind, changes["predictor"], baseline_steps)
        found[f"{task}-{name}"] = Config(source, name, own, **settings, **changes)
    return found


SMALL_PLAN = replace(
    SELECTIVE_PLAN,
    classes=24,
    seen=18,
    train_images=8,
    test_images=2,
    unseen_images=8,
    auxiliary_classes=8,
    auxiliary_images=16,
)
SMOKE: dict[str, Any] = {"heads": Heads(steps=40), "weights": (0.5, 1.0), "kappas": (1.0, 10.0), "folds": 2}
LAPTOP: dict[str, Any] = {"heads": Heads()}
STEPS = {"apy": 2800, "awa2": 11_000, "cub": 3300, "sun": 4800}
"""Updates on each benchmark: about thirty passes through its training images."""


def small_presets(small: bool) -> dict[str, Config]:
    """The rows of worlds and digits: all of them in the smallest numbers, or as they are recorded."""
    settings, steps = (SMOKE, 40) if small else (LAPTOP, None)
    plan, backbone = SMALL_PLAN if small else SELECTIVE_PLAN, BackbonePlan(epochs=1 if small else 8)
    found: dict[str, Config] = {}
    for regime in REGIMES:
        source = Source("world", replace(plan, annotated=regime), backbone)
        found |= rows(regime, source, "world", ROWS, baseline_steps=steps, **settings)
    for task in ("digits", "segments"):
        found |= rows(task, Source(task, splits=2 if small else SPLITS), "digits", REAL_ROWS, **settings)
    return found


def benchmark_presets(name: str, names: Iterable[str]) -> dict[str, Config]:
    """The rows of a benchmark."""
    return rows(name, Source(name), "benchmark", names, Heads(width=64, steps=STEPS[name]))


# --- what is read and fitted, once in a process -----------------------------------------------------------------------


def opened(source: Source, seed: int, split: int, where: str) -> ZeroShotSet:
    """The images of one split of a seed, with features and attributes.

    Raises:
        ReuseError: a world lacks its plans.
        MissingFile: a benchmark was not brought.
        UnknownName: there is no such benchmark.
    """
    if source.name == "world":
        if source.plan is None or source.backbone is None:
            raise ReuseError("The source 'world' needs plan= and backbone=: take one of a preset of chapter 10.")
        return world_task(seed, source.plan, source.backbone, where).data
    if source.name in REAL:
        return real_sets(source.name, seed, source.splits, where)[split]
    return benchmark(source.name)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted classifier, and what that cost."""

    classifier: Any
    cost: run.Cost


def _fitted(classifier: Any, data: ZeroShotSet) -> Fitted:
    cost = run.Cost()
    with run.measured(cost):
        classifier.fit(*data.part("train"), data.attributes, data.seen)
    return Fitted(classifier, cost)


@functools.lru_cache(maxsize=256)
def network(heads: Heads, source: Source, seed: int, data_seed: int, split: int, where: str) -> Fitted:
    """The trained network of a split; nobody may change it.

    Args:
        heads: the network.
        source: of images and attributes.
        seed: of initial weights, batches and dropout.
        data_seed: of world and splits.
        split: its number.
        where: the device.
    """
    return _fitted(AugmentedClassifier(**asdict(heads), seed=seed), opened(source, data_seed, split, where))


@functools.lru_cache(maxsize=64)
def baseline(
    name: str, chosen: tuple[tuple[str, Any], ...], source: Source, seed: int, split: int, where: str
) -> Fitted:
    """Another method, fitted to a split; nobody may change it."""
    return _fitted(build(name, chosen, seed), opened(source, seed, split, where))


def _add(total: run.Cost, part: run.Cost) -> None:
    total.wall_seconds += part.wall_seconds
    total.cpu_seconds += part.cpu_seconds
    total.peak_memory_mb = max(total.peak_memory_mb, part.peak_memory_mb)


def forget() -> None:
    """Drop what was read and fitted in this process."""
    for cached in (real_sets, network, baseline, benchmark):
        cached.cache_clear()


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


class Bench:
    """One row on one split.

    Args:
        config: of the row.
        seed: of data and method.
        split: its number.
        where: the device.
    """

    def __init__(self, config: Config, seed: int, split: int, where: str) -> None:
        self.config, self.seed, self.split, self.where = config, seed, split, where
        self.data, self.cost = opened(config.source, seed, split, where), run.Cost()
        self.images, labels = self.data.part("test_unseen")
        self.unseen = self.data.unseen.cpu()
        self.places = (labels.cpu().unsqueeze(1) == self.unseen).int().argmax(1)
        self.other: Predictor | None = None
        if config.predictor:
            key = (config.predictor, config.options, config.source, seed, split, where)
            self.other = self._taken(baseline(*key))
        if config.confidence != "own":
            self.network: AugmentedClassifier = self._taken(self._network(config.heads, seed))
        if config.prototypes == "second":
            self.second: AugmentedClassifier = self._taken(self._network(config.heads, seed + SECOND))
        self.weight = config.weight
        self.kappa: float | None = None  # the network's own

    def _network(self, heads: Heads, seed: int) -> Fitted:
        return network(heads, self.config.source, seed, self.seed, self.split, self.where)

    def _taken(self, fitted: Fitted) -> Any:
        _add(self.cost, fitted.cost)
        return fitted.classifier

    @property
    def classifier(self) -> Predictor:
        """What gives the answers."""
        return self.network if self.other is None else self.other

    def verdict(self) -> Verdict:
        """Answer, and say how far to trust that."""
        with run.measured(self.cost):
            return self.own() if self.config.confidence == "own" else self.judged()

    def own(self) -> Verdict:
        """Another method, with the best of its own three confidences on these very images: in its favour."""
        scores = self.scores()
        predicted = scores.argmax(1)
        found = {name: confidence(scores) for name, confidence in SCORE_CONFIDENCES.items()}
        areas = {name: aurcc(each, predicted != self.places, ties=TIES) for name, each in found.items()}
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
        wrong = evidence.prediction != self.places
        right = evidence.residual.argmax(1) == self.places
        extra |= {"residual_accuracy": float(right.double().mean())}
        kind = self.config.confidence
        if kind == "random":
            draw = torch.Generator().manual_seed(self.seed * SPLITS + self.split)
            confidence = torch.rand(len(wrong), generator=draw, dtype=torch.float64)
        else:
            confidence = (~wrong).double() if kind == "perfect" else evidence.confidence(kind, self.weight)
        reference = evidence.confidence("defined")
        return Verdict(evidence.prediction, confidence, reference, evidence, {} if kind in BLIND else extra)

    def evidence(self) -> tuple[Evidence, dict[str, float]]:
        """What is known of the images, and metrics that tell of the prototypes."""
        if self.config.prototypes == "second":
            first, second = (each.evidence(self.images, self.unseen).defined for each in (self.network, self.second))
            return Evidence(first, second, torch.ones(len(first), dtype=torch.float64)), {}
        extra = self.choose() if self.config.prototypes == "chosen" else {}
        residual = self.network.residual(self.images)
        prototypes = self.prototypes(residual)
        found = self.network.evidence(self.images, self.unseen, prototypes)
        true = class_means(residual, self.places, len(self.unseen))
        extra |= {"cosine": float((prototypes * true).sum(1).mean())}
        return found if self.other is None else found.judging(self.scores()), extra

    def choose(self) -> dict[str, float]:
        """Choose w and κ on seen classes."""
        config = self.config
        found = choose(
            clone(self.network),
            *self.data.part("train"),
            self.data.attributes,
            weights=config.weights,
            kappas=config.kappas,
            folds=config.folds,
            seed=self.seed,
        )
        self.weight, self.kappa = found.weight, found.kappa
        return {"weight": found.weight, "kappa": found.kappa}

    def prototypes(self, residual: Tensor) -> Tensor:
        """The prototypes of the unseen classes, (T, q), of residual attributes (n, q) if they are read."""
        own = self.network.prototypes(self.unseen, self.kappa)
        ways: dict[str, Callable[[], Tensor]] = {
            "ridge": lambda: own,
            "chosen": lambda: own,
            "similarity": self.similar,
            "permuted": lambda: permuted(own, self.seed),
            "random": lambda: random_prototypes(own, self.seed),
            "unlabelled": lambda: self.moved(own, residual),
            "oracle": lambda: class_means(residual, self.places, len(self.unseen)),
        }
        return ways[self.config.prototypes]()

    def similar(self) -> Tensor:
        """Prototypes by a softmax of similarities."""
        other = copy.copy(self.network)
        other.synthesis = "similarity"
        return other.prototypes(self.unseen)

    def moved(self, prototypes: Tensor, residual: Tensor) -> Tensor:
        """Prototypes moved to unlabelled images."""
        config, defined = self.config, self.network.evidence(self.images, self.unseen).defined
        return bootstrapped(
            defined,
            residual,
            prototypes,
            rounds=config.rounds,
            share=config.share,
            confidence=config.confidence,
            weight=config.weight,
        )


def measures(verdict: Verdict, places: Tensor) -> tuple[dict[str, float], RiskCoverage]:
    """The metrics of a verdict on images of true classes (n,), and the curve of risk over coverage.

    ``gain`` is the area by the reference less that by the confidence, ``better`` 1 where it is above 0.
    """
    wrong = verdict.predicted != places
    curve = risk_coverage(verdict.confidence, wrong, ties=TIES)
    gain = aurcc(verdict.reference, wrong, ties=TIES) - curve.area
    found = {
        "accuracy": 1 - float(wrong.double().mean()),
        "class_accuracy": metrics.mean_class_accuracy(verdict.predicted, places),
        "aurcc": curve.area,
        "excess": curve.excess,
        "gain": gain,
        "better": float(gain > 0),
    }
    return found | {f"risk_{share}": curve.risk_at(share / 100) for share in COVERAGES} | verdict.extra, curve


# --- the chapter ------------------------------------------------------------------------------------------------------


class SelectiveChapter(Chapter):
    """Chapter 10.

    A run keeps, of its first split, ``data``, ``classifier`` (what gives the answers), ``evidence`` (nothing of another
    method alone), ``confidence`` (n,), ``wrong`` (n,) and ``curve``; its record keeps the curve ``risk`` over coverage
    in per cent.
    """

    name = "selective"
    title = "Selective zero-shot classification"

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """The rows of a scale."""
        if scale in ("smoke", "laptop"):
            return small_presets(scale == "smoke")
        if scale == "colab":
            return benchmark_presets("awa2", SHARED_ROWS)
        return {row: config for name in STEPS for row, config in benchmark_presets(name, CONFIDENCE_ROWS).items()}

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Fit, answer and judge; ``checkpoint`` is not used, a fit takes seconds."""
        history, found, risks = run.History(), [], []
        kept: dict[str, Any] = {}
        with run.threads():
            where = run.device()
            for split in range(config.source.splits):
                bench = Bench(config, seed, split, str(where))
                verdict = bench.verdict()
                values, curve = measures(verdict, bench.places)
                found.append(values)
                risks.append([curve.risk_at(share / 100) for share in POINTS])
                _add(history.cost, bench.cost)
                kept = kept or {
                    "data": bench.data,
                    "classifier": bench.classifier,
                    "evidence": verdict.evidence,
                    "confidence": verdict.confidence,
                    "wrong": verdict.predicted != bench.places,
                    "curve": curve,
                }
        averages = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
        means = [sum(column) / len(column) for column in zip(*risks, strict=True)]
        history.rounds = [{"iteration": share, "risk": risk} for share, risk in zip(POINTS, means, strict=True)]
        return Outcome(averages, history, where, "fp32", kept, ("risk",))
