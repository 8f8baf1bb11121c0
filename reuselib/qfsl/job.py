"""One row of chapter 09 with one seed: a classifier is fitted on every split of its task, and tested in both settings.

Only a fit is measured: the backbone of a world is trained once in a process, before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from reuselib import run
from reuselib.data import ImageSet, ZeroShotSet, attributes
from reuselib.data.augment import crop_and_flip
from reuselib.qfsl import metrics
from reuselib.qfsl.classifiers import QFSLClassifier, SeenClassifier
from reuselib.qfsl.codes import Classes, class_codes, geometry, others
from reuselib.qfsl.method import QFSL, SeenTraining, ZeroShotNetwork, bridge
from reuselib.qfsl.rivals import RIVALS, build, tuned
from reuselib.qfsl.rivals.stacking import calibrated, choose_shift, curve
from reuselib.qfsl.samples import Standardise
from reuselib.qfsl.selection import class_wise, fold_masks
from reuselib.qfsl.tasks import LEARNED, WorldTask, backbone, features_of, opened, published, resnet101, world_task

Drive = Callable[[run.Method, int], object]
"""Calls a method's ``step()`` so often."""


@dataclass(kw_only=True)
class Answers:
    """Scores of the test images, and what is kept of the fit.

    Attributes:
        scores_seen: of the test images of seen classes, (n, C).
        scores_unseen: of images of unseen classes, (k, C).
        labels_unseen: of the latter, (k,).
        classifier: fitted, or a network, or nothing.
        extra: further metrics.
    """

    scores_seen: Tensor
    scores_unseen: Tensor
    labels_unseen: Tensor
    classifier: Any = None
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class QFSLResult(run.Result, Answers):
    """The answers on the first split.

    Attributes:
        data: images or features, and attributes.
    """

    data: ZeroShotSet


class QFSLJob(run.Job):
    """All splits of one seed."""

    def result(self) -> run.Result:
        """Fit and test on every split; metrics are means over them."""
        if self.settings.method == "codes":
            return self.codes()
        history, found, kept = run.History(), [], []
        with run.threads():
            for data, world in self.tasks():
                split = Split(self.settings, self.seed, data, world, self.train)
                with run.measured(history.cost):
                    answers = split.answers()
                found.append(split.report(answers) | answers.extra)
                kept.append({"data": data, **vars(answers)})
        metrics = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
        metrics["seconds"] = history.cost.cpu_seconds if self.device.type == "cpu" else history.cost.wall_seconds
        trained = self.settings.task in LEARNED or self.settings.method in TUNED
        precision = self.precision if trained else "fp32"  # fits of given features take float32
        return QFSLResult(metrics=metrics, history=history, device=self.device, precision=precision, **kept[0])

    def codes(self) -> run.Result:
        """What the attributes of all classes tell, without images; the mean over random splits of the classes."""
        settings, history = self.settings, run.History()
        with run.threads(), run.measured(history.cost):
            if settings.unseen:  # of a benchmark
                table = attributes.gbu_attributes(settings.task.upper())
                draw = torch.Generator().manual_seed(self.seed)
                unseen = [torch.randperm(len(table), generator=draw)[: settings.unseen] for _ in range(settings.splits)]
                found = [geometry(table, each, number) for number, each in enumerate(unseen)]
            else:
                found = [geometry(each.attributes, each.unseen, n) for n, (each, _) in enumerate(self.tasks())]
        metrics = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
        return run.Result(metrics=metrics, history=history, device=self.device)

    def tasks(self) -> list[tuple[ZeroShotSet, WorldTask | None]]:
        """The splits, each with its world where there is one."""
        settings, where = self.settings, str(self.device)
        world = world_task(self.seed, settings.plan, settings.epochs, where) if settings.task == "world" else None
        found = opened(settings.task, settings, self.seed, where)
        if settings.method in TUNED and world is None:
            photographs = attributes.gbu_images(*published(settings.task)).images
            assert photographs is not None
            found = (replace(found[0], images=photographs.to(where)),)
        return [(data, world) for data in found]

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """On ``meta``, the network of a benchmark that learns from photographs; all other rows take seconds."""
        shape = attributes.BENCHMARKS.get(published(self.settings.task)[0])
        if self.settings.method in TUNED and shape:
            with torch.device(self.device):
                pixels, labels = torch.zeros(64, 3, 224, 224, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64)
                images = ImageSet("blank", pixels, labels, ("",) * shape.classes, (0.5,) * 3, (0.5,) * 3)
                top = bridge(2048, shape.attributes, dropout=self.settings.dropout)
                codes = torch.zeros(shape.classes, shape.attributes)
            network = ZeroShotNetwork(codes, top, resnet101(self.device))
            seen = range(shape.classes - shape.unseen)
            chosen = self.settings.folds * len(self.settings.weights) if "weights" in self.settings else 0
            method = tuning(self.settings, self.seed, network, (images, images), seen)
            yield method, self.settings.updates * (chosen + 1)


class Split:
    """One split of a seed, and every row on it.

    Args:
        settings: of the row.
        seed: of the method.
        data: with features.
        world: the world and its backbone, for rows that train one.
        drive: how networks learn that have a checkpoint.
    """

    def __init__(
        self,
        settings: run.Settings,
        seed: int,
        data: ZeroShotSet,
        world: WorldTask | None = None,
        drive: Drive | None = None,
    ) -> None:
        self.settings, self.seed, self.data, self.world = settings, seed, data, world
        self.drive = drive or partial(run.run, progress=False)
        self.train, self.seen, self.unseen = (data.part(name) for name in attributes.PARTS)

    def answers(self) -> Answers:
        """Fit the row's method and score the test images."""
        method = self.settings.method
        if method in RIVALS:
            return self.scored(self.fit(build(method, self.seed, **self.options())))
        return METHODS[method](self)

    def options(self) -> dict[str, Any]:
        """Of another method: as the row says, or by class-wise cross-validation on this split's seen classes."""
        given, choice = dict(self.settings.options), self.settings.get("choice")
        if choice is None:
            return given
        return given | tuned(self.settings.method, *self.train, self.data.attributes, seed=self.seed, **choice)

    def report(self, answers: Answers, part: Tensor | slice = slice(None)) -> dict[str, float]:
        """Both protocols, on all or a part of the images of unseen classes; a standard split has the first alone."""
        where, kinds = self.data.device, (self.data.seen, self.data.unseen)
        unseen = answers.scores_unseen[part].to(where), answers.labels_unseen[part]
        if not len(self.seen[1]):
            answer = metrics.predict_among(unseen[0], self.data.unseen)
            largest = float(metrics.histogram(answer, self.data.unseen).max())
            return {"conventional": metrics.mean_class_accuracy(answer, unseen[1]), "largest_class": largest}
        return metrics.report(answers.scores_seen.to(where), self.seen[1], *unseen, *kinds)

    # --- classifiers

    def minus(self, **changes: Any) -> SeenClassifier:
        """QFSL without the bias loss."""
        options = {name: value for name, value in self.settings.options.items() if name != "unlabelled_steps"}
        return SeenClassifier(**options | {"seed": self.seed} | changes)

    def qfsl(self, **changes: Any) -> QFSLClassifier:
        """QFSL after the same start."""
        return QFSLClassifier(**dict(self.settings.options) | {"seed": self.seed} | changes)

    def fit(self, classifier: Any, unlabelled: Tensor | None = None) -> Any:
        """Fit a classifier; a transductive one gets all images of unseen classes if not told otherwise."""
        extra = (self.unseen[0] if unlabelled is None else unlabelled) if classifier.transductive else None
        return classifier.fit(*self.train, self.data.attributes, self.data.seen, extra)

    def scored(self, classifier: Any, **extra: float) -> Answers:
        """The scores of a fitted classifier."""
        unseen = classifier.decision_function(self.unseen[0])
        seen = classifier.decision_function(self.seen[0]) if len(self.seen[0]) else unseen[:0]
        return self.answered(seen, unseen, classifier=classifier, extra=extra)

    def answered(self, seen: Tensor, unseen: Tensor, **kept: Any) -> Answers:
        """These scores of the test images."""
        return Answers(scores_seen=seen, scores_unseen=unseen, labels_unseen=self.unseen[1], **kept)

    # --- rows of their own

    def random(self) -> Answers:
        """Scores that know nothing."""
        draw, classes = torch.Generator().manual_seed(self.seed), len(self.data.classes)
        seen, unseen = (torch.rand(len(part[0]), classes, generator=draw) for part in (self.seen, self.unseen))
        return self.answered(seen, unseen)

    def stacking(self) -> Answers:
        """Calibrated stacking, its constant by class-wise cross-validation."""
        given = *self.train, self.data.attributes
        return self.lowered(choose_shift(self.minus(), *given, folds=self.settings.folds, seed=self.seed))

    def lowered(self, shift: float | None = None) -> Answers:
        """QFSL without the bias loss, a constant off its seen scores: the best for the test labels, if left out."""
        found, data = self.scored(self.fit(self.minus())), self.data
        if shift is None:
            sides = found.scores_seen, self.seen[1], found.scores_unseen, found.labels_unseen
            shift = curve(*sides, data.seen, data.unseen).best[0]
        scores = (calibrated(each, data.seen, shift) for each in (found.scores_seen, found.scores_unseen))
        return self.answered(*scores, classifier=found.classifier, extra={"shift": shift})

    def supervised(self) -> Answers:
        """The ceiling: a linear classifier with labels of all classes; each half of the unseen images learns once."""
        x, y = self.train
        mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
        halves = self.halves()
        scores = self.unseen[0].new_zeros(len(self.unseen[0]), len(self.data.classes))
        seen = torch.zeros_like(scores[:1]).repeat(len(self.seen[0]), 1)
        for learn, test in (halves, halves[::-1]):
            inputs, labels = torch.cat([x, self.unseen[0][learn]]), torch.cat([y, self.unseen[1][learn]])
            fitted = LogisticRegression(C=0.1, max_iter=10_000)
            fitted.fit(((inputs - mean) / scale).cpu().numpy(), labels.cpu().numpy())
            seen += self._linear(fitted, (self.seen[0] - mean) / scale) / 2
            scores[test] = self._linear(fitted, (self.unseen[0][test] - mean) / scale)
        return self.answered(seen, scores)

    def _linear(self, fitted: LogisticRegression, x: Tensor) -> Tensor:
        scores = np.full((len(x), len(self.data.classes)), -1e9, dtype=np.float32)
        if len(x):
            scores[:, fitted.classes_] = fitted.decision_function(x.cpu().numpy())
        return torch.from_numpy(scores).to(x.device)

    def halves(self) -> tuple[Tensor, Tensor]:
        """Positions of two random halves of the images of each unseen class."""
        order = torch.randperm(len(self.unseen[1]), generator=torch.Generator().manual_seed(self.seed))
        order = order[self.unseen[1].cpu()[order].argsort(stable=True)]  # class by class
        return order[::2].sort().values, order[1::2].sort().values

    def chosen(self) -> Answers:
        """QFSL, λ by class-wise cross-validation: some of the seen classes play the unseen ones."""
        weight = self.best_weight()
        return self.scored(self.fit(self.qfsl(weight=weight)), weight=weight)

    def best_weight(self) -> float:
        """The λ with the largest mean H over the folds; each fold has one start for all of them."""
        total = dict.fromkeys(self.settings.weights, 0.0)
        for fold in class_wise(*self.train, self.data.attributes, self.settings.folds, seed=self.seed):
            start = self.minus().fit(*fold.train, fold.attributes)
            for weight in total:
                fitted = self.qfsl(weight=weight, start=start)
                fitted.fit(*fold.train, fold.attributes, unlabelled=fold.unseen[0])
                both = (fitted.score(*part, "all") for part in (fold.seen, fold.unseen))
                total[weight] += metrics.harmonic_mean(*both)
        return max(total, key=total.__getitem__)

    def cold(self) -> Answers:
        """QFSL from random weights of the bridge, with as many updates in all."""
        warm = self.qfsl()
        return self.scored(self.fit(self.qfsl(steps=0, unlabelled_steps=warm.steps + warm.unlabelled_steps)))

    def half(self) -> Answers:
        """QFSL with one half of the unlabelled images; the other half is tested, then the first beside it."""
        used, unused = self.halves()
        found = self.scored(self.fit(self.qfsl(), self.unseen[0][used]))
        first, second = (self.report(found, part)["harmonic"] for part in (unused, used))
        extra = {"unused_less_used": first - second}
        rest = {"scores_unseen": found.scores_unseen[unused], "labels_unseen": found.labels_unseen[unused]}
        return replace(found, **rest, extra=extra)

    def contaminated(self) -> Answers:
        """QFSL with images of seen classes among the unlabelled ones, drawn from those of the training."""
        count = min(round(self.settings.contamination * len(self.unseen[0])), len(self.train[0]))
        order = torch.randperm(len(self.train[0]), generator=torch.Generator().manual_seed(self.seed))
        return self.scored(self.fit(self.qfsl(), torch.cat([self.unseen[0], self.train[0][order[:count]]])))

    def heap(self) -> Answers:
        """QFSL with an uneven heap of unlabelled images, or one that lacks some of the unseen classes altogether."""
        classes, labels, kept = self.data.unseen.cpu(), self.unseen[1].cpu(), []
        draw = torch.Generator().manual_seed(self.seed)
        order, sizes = torch.randperm(len(classes), generator=draw), heap_sizes(len(classes), **self.settings.heap)
        for label, share in zip(classes[order], sizes, strict=True):
            own = (labels == label).nonzero().flatten()
            kept.append(own[torch.randperm(len(own), generator=draw)[: round(share * len(own))]])
        return self.scored(self.fit(self.qfsl(), self.unseen[0][torch.cat(kept)]))

    # --- end to end

    def end_to_end(self) -> Answers:
        """The network with its backbone: from the pretrained one and a started bridge, or from random weights."""
        network, images = self.network(), [self.data.part_images(part) for part in attributes.PARTS]
        method = tuning(self.settings, self.seed, network, images[::2], self.data.seen)
        self.drive(method, self.settings.updates)
        network.eval()
        seen, unseen = (features_of(network, each) for each in images[1:])
        return self.answered(seen, unseen, classifier=network)

    def end_to_end_chosen(self) -> Answers:
        """The same, λ by class-wise cross-validation of networks that learn with their backbones too.

        The last network alone has a checkpoint: those of the folds would take gigabytes.
        """
        total = dict.fromkeys(self.settings.weights, 0.0)
        for fold in self.folds():
            for weight in total:
                split = self.weighted(weight, fold)
                total[weight] += split.report(split.end_to_end())["harmonic"]
        weight = max(total, key=total.__getitem__)
        return replace(self.weighted(weight, self.data, self.drive).end_to_end(), extra={"weight": weight})

    def weighted(self, weight: float, data: ZeroShotSet, drive: Drive | None = None) -> Split:
        """This row with a λ, on a split."""
        options = {**self.settings.options, "weight": weight}
        return Split(self.settings.but(options=options), self.seed, data, self.world, drive)

    def folds(self) -> list[ZeroShotSet]:
        """The training images of the seen classes as splits, in each of which some of those classes are unseen."""
        data, (features, labels) = self.data, self.train
        y, found = torch.searchsorted(data.seen, labels), []
        names, images = tuple(data.classes[k] for k in data.seen.tolist()), data.part_images("train")
        held: dict[str, Any] = {"classes": names, "attributes": data.attributes[data.seen], "labels": y}
        held |= {"attribute_names": data.attribute_names, "features": features}
        held["images"] = replace(images, labels=y, classes=names)
        for unseen, masks in fold_masks(y.cpu(), len(names), self.settings.folds, 0.2, self.seed):
            held |= {part: mask.nonzero().flatten().to(y) for part, mask in zip(attributes.PARTS, masks, strict=True)}
            held |= {"seen": others(unseen, len(names)).to(y), "unseen": unseen.to(y)}
            found.append(ZeroShotSet(name=data.name, **held))
        return found

    def network(self) -> ZeroShotNetwork:
        """The network of :meth:`end_to_end` before its training."""
        data, settings, scratch = self.data, self.settings, self.settings.method == "qfsl-scratch"
        codes = class_codes(data.attributes, data.seen).to(data.device)
        with run.seeded(self.seed):
            top = bridge(self.train[0].shape[1], codes.shape[1], dropout=settings.dropout)
            if self.world is None:
                inner: nn.Module = resnet101(data.device)
            else:
                inner = backbone(2)[0] if scratch else copy.deepcopy(self.world.backbone)
        network = ZeroShotNetwork(codes, top, inner).to(data.device)
        if settings.start is not None:
            started = self.fit(SeenClassifier(**settings.start, seed=self.seed))
            network.bridge = nn.Sequential(Standardise(self.train[0]), copy.deepcopy(started.network_.bridge))
        return network


def tuning(settings: run.Settings, seed: int, network: ZeroShotNetwork, images: Any, seen: Classes) -> SeenTraining:
    """How a network learns from labelled and unlabelled images, with the bias loss or without."""
    augment = partial(crop_and_flip, padding=0, flip=True) if settings.flip else None
    options = {"augment": augment, "seed": seed, **settings.options}
    if settings.method == "minus-end-to-end":
        return SeenTraining(network, images[0], seen, **options)
    return QFSL(network, images[0], images[1], seen, **options)


def heap_sizes(classes: int, ratio: float = 1.0, absent: float = 0.0) -> list[float]:
    """The share of its images that each unseen class has in a heap, falling by ``ratio`` in all; the last have none."""
    there = classes - round(absent * classes)
    return [ratio ** (-rank / max(classes - 1, 1)) if rank < there else 0.0 for rank in range(classes)]


TUNED = ("minus-end-to-end", "qfsl-end-to-end", "qfsl-scratch", "qfsl-end-to-end-chosen")
METHODS: dict[str, Callable[[Split], Answers]] = {
    "random": Split.random,
    "minus": lambda split: split.scored(split.fit(split.minus())),
    "qfsl": lambda split: split.scored(split.fit(split.qfsl())),
    "stacking": Split.stacking,
    "stacking-oracle": Split.lowered,
    "supervised": Split.supervised,
    "qfsl-chosen": Split.chosen,
    "qfsl-cold": Split.cold,
    "qfsl-half": Split.half,
    "qfsl-contaminated": Split.contaminated,
    **dict.fromkeys(("qfsl-uneven", "qfsl-absent"), Split.heap),
    **dict.fromkeys(TUNED[:3], Split.end_to_end),
    TUNED[3]: Split.end_to_end_chosen,
}
"""How the rows answer that are no other method's."""
