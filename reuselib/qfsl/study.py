"""Chapter 09: QFSL, its ablations and the methods before it, on an attribute world, digits, clothes and benchmarks.

A row is ``<task>-<method>``. A seed of the task "world" is a world with a backbone of its own; a seed of "digits" or
"fashion" is twelve random splits, over which every metric is averaged. Only a fit is measured: the backbone of a world
is trained once in a process, before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from reuselib import qfsl, run
from reuselib.attribution.classifiers import classifier as torchvision_classifier
from reuselib.data import ZeroShotSet, attributes
from reuselib.data.augment import crop_and_flip
from reuselib.errors import ReuseError
from reuselib.qfsl import metrics
from reuselib.qfsl.estimator import Predictor
from reuselib.qfsl.method import SeenTraining, ZeroShotNetwork
from reuselib.qfsl.options import CLASSIFIERS, build, options
from reuselib.qfsl.samples import train
from reuselib.qfsl.selection import choose_shift, class_wise
from reuselib.qfsl.tasks import SPLITS, BackbonePlan, WorldTask, benchmark, features_of, real_sets, world_task
from reuselib.run.legacy import Chapter, Outcome
from reuselib.worlds.attributes import QFSL_PLAN, WorldPlan

WEIGHTS = ("0.05", "0.1", "0.2", "0.5", "1", "2", "5")
TERMS = {"entropy": "entropy", "pseudo-labels": "pseudo_labels", "unseen-pseudo-labels": "unseen_pseudo_labels"}
METHODS = (
    "random",
    *CLASSIFIERS,
    "minus-seen",
    "stacking",
    "stacking-oracle",
    "minus-all",
    *TERMS,
    *(f"qfsl-{weight}" for weight in WEIGHTS),
    "qfsl-chosen",
    "supervised",
)
"""The rows of every task."""
CONDITIONS = ("qfsl-cold", "qfsl-half", "qfsl-contaminated")
END_TO_END = ("minus-end-to-end", "qfsl-end-to-end", "qfsl-scratch")
TRANSDUCTIVE = ("gfzsl-transductive", *TERMS)
"""Beside every row that begins with "qfsl"."""


def transductive(method: str) -> bool:
    """Whether a row's training has the unlabelled images of the unseen classes."""
    return method in TRANSDUCTIVE or method.startswith("qfsl")


# --- configurations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Everything that decides a row, beside the seed.

    Attributes:
        task: "world", "digits", "fashion", or a benchmark.
        method: the row without its task.
        options: of the classifier, as pairs.
        plan: of the world.
        backbone: how its backbone learns.
        splits: random splits that make one seed.
        steps: updates on the seen classes.
        unlabelled_steps: updates with unlabelled images, after those.
        batch: labelled images per update, and as many unlabelled ones.
        lr: of the bridge.
        weight_decay: L2 penalty.
        weights: λ among which class-wise cross-validation chooses.
        folds: of class-wise cross-validation.
        contamination: seen images among the unlabelled ones, as a share of those of unseen classes.
        tuned_steps: updates of the network end to end.
        tuned_lr: of the bridge there; the backbone's is ``backbone_lr`` times it.
        backbone_lr: see there.
        frozen_statistics: whether batch norm keeps the pretrained statistics there.
        scratch_steps: updates of the network from random weights.
        scratch_lr: of all its layers.
        dropout: of the features, end to end.
        flip: whether images are mirrored at random, end to end.
    """

    task: str
    method: str
    options: tuple[tuple[str, Any], ...] = ()
    plan: WorldPlan | None = None
    backbone: BackbonePlan | None = None
    splits: int = 1
    steps: int = 1500
    unlabelled_steps: int = 400
    batch: int = 32
    lr: float = 1e-2
    weight_decay: float = 5e-4
    weights: tuple[float, ...] = tuple(map(float, WEIGHTS))
    folds: int = 4
    contamination: float = 4 / 3
    tuned_steps: int = 300
    tuned_lr: float = 1e-2
    backbone_lr: float = 0.1
    frozen_statistics: bool = True
    scratch_steps: int = 1500
    scratch_lr: float = 1e-2
    dropout: float = 0.0
    flip: bool = False


def rows(
    task: str, kind: str, methods: tuple[str, ...], baseline_steps: int | None = None, **settings: Any
) -> dict[str, Config]:
    """The rows of a task, with the options that were chosen for its kind of features.

    Args:
        task: of the rows.
        kind: of the features.
        methods: of the rows.
        baseline_steps: updates of the methods that learn step by step, if not their own number.
        settings: fields of the configuration.
    """
    return {
        f"{task}-{method}": Config(
            task, method, options(kind, method, baseline_steps) if method in CLASSIFIERS else (), **settings
        )
        for method in methods
    }


SMALL_PLAN = replace(
    QFSL_PLAN, train_images=8, test_images=4, unseen_images=8, auxiliary_classes=8, auxiliary_images=16
)
SMOKE: dict[str, Any] = {
    "baseline_steps": 40,
    "steps": 40,
    "unlabelled_steps": 20,
    "tuned_steps": 6,
    "scratch_steps": 6,
    "weights": (0.2, 1.0),
    "folds": 2,
}
BENCHMARK: dict[str, Any] = {"steps": 3000, "unlabelled_steps": 2000, "lr": 5e-3}
"""Features of a ResNet-101: the spec leaves steps open; 5,000 in all."""
TUNED: dict[str, Any] = {
    "steps": 0,
    "tuned_steps": 5000,
    "tuned_lr": 1e-3,
    "backbone_lr": 0.1,
    "frozen_statistics": False,
    "dropout": 0.2,
    "flip": True,
}
"""The paper's own setting, as far as it is known: the network learns from its ImageNet weights, without a warm start.
``steps`` has no meaning there."""


# --- what a method answers --------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """Scores of the test images, (n, C), and what is kept of the fit.

    Attributes:
        seen: of the test images of seen classes.
        unseen: of the images of unseen classes.
        classifier: fitted, or a network, or nothing.
        extra: further metrics.
    """

    seen: Tensor
    unseen: Tensor
    classifier: Any = None
    extra: dict[str, float] = field(default_factory=dict)


class Bench:
    """One task of one seed, and every method on it.

    Args:
        config: of the row.
        seed: of the method.
        data: with features.
        world: the world and its backbone, for rows that train one.
    """

    def __init__(self, config: Config, seed: int, data: ZeroShotSet, world: WorldTask | None = None) -> None:
        self.config, self.seed, self.data, self.world = config, seed, data, world
        self.train, self.seen, self.unseen = (data.part(name) for name in attributes.PARTS)

    def answers(self) -> Answers:
        """Fit the method and score the test images."""
        method = self.config.method
        if method in CLASSIFIERS:
            return self._scored(self._fit(build(method, self.config.options, self.seed)))
        if method in TERMS:
            return self._scored(self._fit(self.qfsl(1.0, term=TERMS[method])))
        if method.removeprefix("qfsl-") in WEIGHTS:
            return self._scored(self._fit(self.qfsl(float(method.removeprefix("qfsl-")))))
        if method in END_TO_END:
            return self.end_to_end(method)
        own: dict[str, Callable[[], Answers]] = {
            "random": self.random,
            "minus-seen": partial(self.minus, "seen"),
            "minus-all": partial(self.minus, "all"),
            "stacking": self.stacking,
            "stacking-oracle": self.stacking_oracle,
            "supervised": self.supervised,
            "qfsl-chosen": self.chosen,
            "qfsl-cold": self.cold,
            "qfsl-half": self.half,
            "qfsl-contaminated": self.contaminated,
        }
        return own[method]()

    # --- classifiers

    def seen_classifier(self, softmax: str = "seen") -> qfsl.SeenClassifier:
        """QFSL without the bias loss."""
        config = self.config
        return qfsl.SeenClassifier(
            softmax=softmax,
            steps=config.steps,
            lr=config.lr,
            weight_decay=config.weight_decay,
            batch=config.batch,
            seed=self.seed,
        )

    def qfsl(self, weight: float, **changes: Any) -> qfsl.QFSLClassifier:
        """QFSL after the same start as :meth:`seen_classifier`."""
        config = self.config
        names = ("steps", "unlabelled_steps", "lr", "weight_decay", "batch")
        settings = {name: getattr(config, name) for name in names} | changes
        return qfsl.QFSLClassifier(weight=weight, seed=self.seed, **settings)

    def _fit(self, classifier: Any, unlabelled: Tensor | None = None) -> Any:
        if not classifier.transductive:
            return classifier.fit(*self.train, self.data.attributes, self.data.seen)
        extra = self.unseen[0] if unlabelled is None else unlabelled
        return classifier.fit(*self.train, self.data.attributes, self.data.seen, extra)

    def _scored(self, classifier: Predictor) -> Answers:
        seen, unseen = (classifier.decision_function(part[0]) for part in (self.seen, self.unseen))
        return Answers(seen, unseen, classifier)

    # --- rows of their own

    def random(self) -> Answers:
        """Scores that know nothing."""
        draw = torch.Generator().manual_seed(self.seed)
        classes = len(self.data.classes)
        seen, unseen = (torch.rand(len(part[0]), classes, generator=draw) for part in (self.seen, self.unseen))
        return Answers(seen, unseen)

    def minus(self, softmax: str) -> Answers:
        """QFSL without the bias loss, over the seen or over all classes."""
        return self._scored(self._fit(self.seen_classifier(softmax)))

    def stacking(self) -> Answers:
        """Calibrated stacking, its constant by class-wise cross-validation."""
        estimator = self.seen_classifier()
        shift = choose_shift(estimator, *self.train, self.data.attributes, folds=self.config.folds, seed=self.seed)
        found = self._scored(self._fit(qfsl.CalibratedStacking(estimator=estimator, shift=shift)))
        return replace(found, extra={"shift": shift})

    def stacking_oracle(self) -> Answers:
        """Calibrated stacking, its constant the best for the test labels."""
        found = self._scored(self._fit(self.seen_classifier()))
        data = self.data
        curve = qfsl.curve(found.seen, self.seen[1], found.unseen, self.unseen[1], data.seen, data.unseen)
        shift = curve.best[0]
        seen, unseen = (qfsl.calibrated(each, data.seen, shift) for each in (found.seen, found.unseen))
        return Answers(seen, unseen, found.classifier, {"shift": shift})

    def supervised(self) -> Answers:
        """The ceiling: a linear classifier with labels of all classes; each half of the unseen images learns once."""
        x, y = self.train
        mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
        halves = self.halves()
        scores = self.unseen[0].new_zeros(len(self.unseen[0]), len(self.data.classes))
        seen = torch.zeros_like(scores[:1]).repeat(len(self.seen[0]), 1)
        for learn, test in (halves, halves[::-1]):
            inputs = torch.cat([x, self.unseen[0][learn]])
            labels = torch.cat([y, self.unseen[1][learn]])
            fitted = LogisticRegression(C=0.1, max_iter=10_000).fit(
                ((inputs - mean) / scale).cpu().numpy(), labels.cpu().numpy()
            )
            seen += self._linear(fitted, (self.seen[0] - mean) / scale) / 2
            scores[test] = self._linear(fitted, (self.unseen[0][test] - mean) / scale)
        return Answers(seen, scores)

    def _linear(self, fitted: LogisticRegression, x: Tensor) -> Tensor:
        scores = np.full((len(x), len(self.data.classes)), -1e9, dtype=np.float32)
        scores[:, fitted.classes_] = fitted.decision_function(x.cpu().numpy())
        return torch.from_numpy(scores).to(x.device)

    def halves(self) -> tuple[Tensor, Tensor]:
        """Positions of two random halves of the images of each unseen class."""
        draw = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.unseen[1]), generator=draw)
        order = order[self.unseen[1].cpu()[order].argsort(stable=True)]  # class by class
        return order[::2].sort().values, order[1::2].sort().values

    def chosen(self) -> Answers:
        """QFSL, λ by class-wise cross-validation: some of the seen classes play the unseen ones."""
        weight = self.best_weight()
        return replace(self._scored(self._fit(self.qfsl(weight))), extra={"weight": weight})

    def best_weight(self) -> float:
        """The λ with the largest mean H over the folds; each fold has one start for all of them."""
        config, total = self.config, dict.fromkeys(self.config.weights, 0.0)
        for fold in class_wise(*self.train, self.data.attributes, config.folds, seed=self.seed):
            start = self.seen_classifier().fit(*fold.train, fold.attributes)
            for weight in total:
                fitted = self.qfsl(weight, start=start).fit(*fold.train, fold.attributes, unlabelled=fold.unseen[0])
                both = (fitted.score(*part, "all") for part in (fold.seen, fold.unseen))
                total[weight] += metrics.harmonic_mean(*both)
        return max(total, key=total.__getitem__)

    def cold(self) -> Answers:
        """QFSL from random weights of the bridge, with as many updates in all."""
        config = self.config
        return self._scored(self._fit(self.qfsl(1.0, steps=0, unlabelled_steps=config.steps + config.unlabelled_steps)))

    def half(self) -> Answers:
        """QFSL with one half of the unlabelled images; the other half is tested, then the first beside it."""
        used, unused = self.halves()
        found = self._scored(self._fit(self.qfsl(1.0), self.unseen[0][used]))
        first, second = (
            self.report(found.seen, found.unseen[part], self.unseen[1][part])["harmonic"] for part in (unused, used)
        )
        self.unseen = self.unseen[0][unused], self.unseen[1][unused]
        return replace(found, unseen=found.unseen[unused], extra={"unused_less_used": first - second})

    def contaminated(self) -> Answers:
        """QFSL with images of seen classes among the unlabelled ones, drawn from those of the training."""
        count = min(round(self.config.contamination * len(self.unseen[0])), len(self.train[0]))
        order = torch.randperm(len(self.train[0]), generator=torch.Generator().manual_seed(self.seed))
        mixed = torch.cat([self.unseen[0], self.train[0][order[:count]]])
        return self._scored(self._fit(self.qfsl(1.0), mixed))

    # --- end to end

    def end_to_end(self, method: str) -> Answers:
        """The network with its backbone: from the pretrained one and a started bridge, or from random weights."""
        config, scratch = self.config, method == "qfsl-scratch"
        network = self.network(scratch)
        labelled, unlabelled = self.data.part_images("train"), self.data.part_images("test_unseen")
        settings: dict[str, Any] = {
            "batch": config.batch,
            "weight_decay": config.weight_decay,
            "seed": self.seed,
            "lr": config.scratch_lr if scratch else config.tuned_lr,
            "backbone_lr": 1.0 if scratch else config.backbone_lr,
            "frozen_statistics": config.frozen_statistics and not scratch,
            "augment": partial(crop_and_flip, padding=0, flip=True) if config.flip else None,
        }
        if method == "minus-end-to-end":
            learning: SeenTraining = SeenTraining(network, labelled, self.data.seen, **settings)
        else:
            learning = qfsl.QFSL(network, labelled, unlabelled, self.data.seen, weight=1.0, **settings)
        train(learning, config.scratch_steps if scratch else config.tuned_steps)
        network.eval()
        seen, unseen = (features_of(network, self.data.part_images(part)) for part in attributes.PARTS[1:])
        return Answers(seen, unseen, network)

    def network(self, scratch: bool) -> ZeroShotNetwork:
        """The network of :meth:`end_to_end` before its training."""
        config, data = self.config, self.data
        codes = qfsl.class_codes(data.attributes, data.seen).to(data.device)
        width = self.train[0].shape[1]
        with run.seeded(self.seed):
            bridge = qfsl.bridge(width, codes.shape[1], dropout=config.dropout)
            if self.world is None:
                backbone: nn.Module = torchvision_classifier("resnet101", data.device)
                backbone.fc = nn.Identity()
            elif scratch:
                assert config.backbone is not None
                fresh = config.backbone.build(2)
                backbone = nn.Sequential(fresh.blocks, fresh.pool)
            else:
                backbone = copy.deepcopy(self.world.backbone)
        network = ZeroShotNetwork(codes, bridge, backbone).to(data.device)
        if config.steps and not scratch:
            started = self._fit(self.seen_classifier())
            network.bridge = nn.Sequential(qfsl.Standardise(self.train[0]), copy.deepcopy(started.network_.bridge))
        return network

    # --- metrics

    def report(self, seen: Tensor, unseen: Tensor, labels: Tensor) -> dict[str, float]:
        """Both protocols."""
        where, kinds = self.data.device, (self.data.seen, self.data.unseen)
        return qfsl.report(seen.to(where), self.seen[1], unseen.to(where), labels, *kinds)


# --- the chapter ------------------------------------------------------------------------------------------------------


class QFSLChapter(Chapter):
    """Chapter 09.

    A run keeps ``data``, ``classifier``, ``scores_seen`` and ``scores_unseen`` (n, C) of its first split, and
    ``labels_unseen`` of the images that the latter belong to.
    """

    name = "qfsl"
    title = "Transductive unbiased embedding for zero-shot learning"

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """The rows of a scale."""
        if scale in ("smoke", "laptop"):
            small = scale == "smoke"
            world: dict[str, Any] = {
                "plan": SMALL_PLAN if small else QFSL_PLAN,
                "backbone": BackbonePlan(epochs=1 if small else 10),
            }
            real: dict[str, Any] = {"splits": 1 if small else SPLITS} | ({**SMOKE} if small else {"folds": 3})
            methods = METHODS + CONDITIONS + END_TO_END
            return {
                **rows("world", "world", methods, **world, **(SMOKE if small else {})),
                **rows("digits", "digits", METHODS, **real),
                **rows("fashion", "fashion", METHODS, **real),
            }
        names = ("awa2",) if scale == "colab" else ("awa2", "cub", "sun")
        found: dict[str, Config] = {}
        for name in names:
            found |= rows(name, "benchmark", METHODS + CONDITIONS, **BENCHMARK)
            if scale == "paper" and name != "sun":  # SUN has too few images of a class to train a backbone on
                found |= rows(name, "benchmark", END_TO_END[:2], **TUNED)
        return found

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Fit and test; ``checkpoint`` is not used, a fit takes seconds."""
        history, found = run.History(), []
        kept: dict[str, Any] = {}
        with run.threads():
            for data, world in tasks(config, seed):
                bench = Bench(config, seed, data, world)
                with run.measured(history.cost):
                    answers = bench.answers()
                found.append(bench.report(answers.seen, answers.unseen, bench.unseen[1]) | answers.extra)
                kept = kept or {
                    "data": data,
                    "classifier": answers.classifier,
                    "scores_seen": answers.seen,
                    "scores_unseen": answers.unseen,
                    "labels_unseen": bench.unseen[1],
                }
        averages = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
        where = kept["data"].device
        spent = history.cost.cpu_seconds if where.type == "cpu" else history.cost.wall_seconds
        return Outcome(averages | {"seconds": spent}, history, where, "fp32", kept)


def tasks(config: Config, seed: int) -> list[tuple[ZeroShotSet, WorldTask | None]]:
    """The splits of a seed, each with its world where there is one.

    Raises:
        ReuseError: a world lacks its plans.
        MissingFile: a benchmark was not brought.
    """
    if config.task == "world":
        if config.plan is None or config.backbone is None:
            raise ReuseError("The task 'world' needs plan= and backbone=: take a preset of chapter 09.")
        world = world_task(seed, config.plan, config.backbone)
        return [(world.data, world)]
    if config.task in ("digits", "fashion"):
        found = real_sets(config.task, seed, config.splits, str(run.device()))
        return [(data, None) for data in found]
    data = benchmark(config.task)
    if config.method in END_TO_END:
        photographs = attributes.gbu_images(config.task.upper()).images
        assert photographs is not None
        data = replace(data, images=photographs.to(data.device))
    return [(data, None)]
