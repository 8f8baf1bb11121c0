"""One row of chapter 02 with one seed: images are made, measured, and taught to students."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.cmi.instance import instance_accuracy, watched_features
from reuselib.cmi.losses import softened_kl
from reuselib.cmi.method import Inversion
from reuselib.cmi.rivals import FAMILY, Studio
from reuselib.data import ImageSet
from reuselib.dfad import Distillation
from reuselib.nets import blank, zoo
from reuselib.nets.supervised import Supervised
from reuselib.report import metrics

REAL_SEED = 0
"""Draws the real images that every set is compared with."""
STAGES = ("blocks.0.3", "blocks.1", "blocks.2", "blocks.3")
FEATURED = {"resnet34_8x": STAGES}
"""Architecture of a teacher → modules whose inputs are its features, 512 numbers; of all others every batch norm's."""
REPORTS = 10
"""Of a student that learns from a finished set."""


@dataclass(kw_only=True)
class CMIResult(run.Result):
    """A finished set and what it taught.

    Attributes:
        teacher: frozen.
        student: of the whole set.
        test: the test images of the teacher's data.
        images: the set; ``None`` where none is made.
    """

    teacher: nn.Module
    student: nn.Module
    test: ImageSet
    images: ImageSet | None


class CMIJob(run.Job):
    """The networks, the images made, the student taught, and what is measured."""

    def __init__(self, settings: run.Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        self.teacher, self.judge = (zoo.load(name, self.device) for name in (settings.teacher, settings.judge))
        self.training, test = (zoo.images(settings.teacher, split, self.device) for split in ("train", "test"))
        self.test = test if settings.limit is None else test.subset(slice(settings.limit))
        self.studio = Studio(self.training, **settings.studio)
        self.student = self.new_student()
        self.history = run.History()
        self.found: dict[str, float] = {}

    def new_student(self) -> nn.Module:
        """The student of this seed, untrained: the same one for every row and every set."""
        (name, arguments), space = self.settings.student, self.training
        with run.seeded(self.seed):
            student = nets.build(name, classes=len(space.classes), channels=space.shape[0], **arguments)
        return run.on_device(student, self.device)

    @property
    def count(self) -> int:
        """Images in a finished set."""
        return self.settings.batches * self.settings.batch

    # --- what is trained

    def inversion(self, settings: run.Settings) -> Inversion:
        """The row's method, its pool empty; the student has no part in a row without adversary and without updates."""
        early = round(settings.early * settings.batches)
        adversarial = FAMILY[settings.family].terms.adversarial and settings.weights.get("adversarial", 1)
        alongside = {"student_steps": settings.student_steps, "schedule": run.cosine(settings.batches - early)}
        alongside |= settings.get("alongside", {})
        return self.studio.inversion(
            settings.family,
            self.teacher,
            self.studio.pool(self.count),
            settings.weights,
            student=self.new_student() if adversarial or settings.student_steps else None,
            learning=settings.learning | alongside if settings.student_steps else None,
            batch=settings.batch,
            image_steps=settings.image_steps,
            early=early,
            early_steps=settings.early_steps,
            layers=FEATURED.get(zoo.RECIPES[settings.teacher].architecture),
            seed=self.seed,
            **settings.memory,
        )

    def distilling(self, images: ImageSet, student: nn.Module, **own: Any) -> Distillation:
        """A student learns from a finished set."""
        pool = self.studio.pool(len(images))
        pool.add(images.images / 255, images.labels)
        options = {"discrepancy": softened_kl, "student_steps": 1, **self._afterwards(), **own}
        return Distillation(self.teacher, student, pool, **options)

    def labelled(self) -> Supervised:
        """The ceiling: the student learns labels."""
        moved: dict[str, Any] = {"crop": self.studio.shift, "flip": self.studio.flip}
        return Supervised(self.student, self.training, **moved | self._afterwards())

    def _afterwards(self) -> dict[str, Any]:
        updates, falls = self.settings.updates, self.settings.get("falls")
        course = run.step_decay([round(share * updates) for share in falls]) if falls else run.cosine(updates)
        return {"schedule": course, "seed": self.seed, **self.settings.learning}

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """What the row trains, in parts that cost the same: updates of the images, of students alongside and after."""
        settings = self.settings
        finished = blank.images(self.training.name, self.training.shape[1], self.count)
        if settings.family:
            early = round(settings.early * settings.batches)
            times = settings.batches - early
            first, then = settings.early_steps or settings.image_steps, settings.image_steps
            single = settings.but(image_steps=1, early=0.0, student_steps=0)
            yield self.inversion(single), early * first + times * then
            if settings.student_steps:
                times *= then if FAMILY[settings.family].canvas == "lasting" else 1
                learner = self.distilling(finished, self.new_student(), **settings.get("alongside", {}))
                yield learner, times * settings.student_steps
        if settings.method == "supervised":
            yield self.labelled(), settings.updates
        elif settings.family or settings.method in ("kd-real", "noise"):
            yield self.distilling(finished, self.student), settings.updates * (len(settings.sizes) + 1)

    # --- the run

    def result(self) -> CMIResult:
        """Make a set of images, measure it, and teach students with it."""
        images = self.make_images()
        self.teach(images)
        return CMIResult(
            metrics=self.measure(images),
            history=self.history,
            curves=("inversion", "contrastive", "batch_norm", "accuracy"),
            device=self.device,
            precision=self.precision,
            teacher=self.teacher,
            student=self.student,
            test=self.test,
            images=images,
        )

    def make_images(self) -> ImageSet | None:
        """A set by inversion, of noise, or of real images for the ceiling."""
        settings = self.settings
        if settings.method == "noise":
            options: dict[str, Any] = {"generator": run.generator(self.device, self.seed), "device": self.device}
            pixels = torch.randint(256, (self.count, *self.training.shape), dtype=torch.uint8, **options)
            return replace(self.training, images=pixels, labels=torch.zeros_like(pixels[:, 0, 0, 0]).long())
        if settings.method == "kd-real":
            # Not the seed of the images to compare with, or this row would be compared with itself.
            return self.training.take(min(self.count, len(self.training)), REAL_SEED + 1 + self.seed)
        return self._invert() if settings.family else None

    def _invert(self) -> ImageSet:
        inversion = self.inversion(self.settings)
        learner = inversion.imitation and inversion.imitation.student
        look = (lambda: {"accuracy": run.accuracy(learner, self.test)}) if learner else None
        self.history = self.train(inversion, self.settings.batches, evaluate=look, evaluations=4, report_every=1)
        if learner:
            self.found["online_accuracy"] = self.history.last("accuracy")
        return inversion.pool.images()

    def teach(self, images: ImageSet | None) -> None:
        """A new student for each size; that of the whole set stays in ``student``."""
        settings = self.settings
        if settings.method == "supervised":
            self._learn(self.labelled(), "labels")
        elif images is not None:
            for size in settings.sizes:
                student = self.new_student()
                self._learn(self.distilling(images.subset(slice(size)), student), f"student.{size}")
                self.found[f"accuracy_{size}"] = run.accuracy(student, self.test)
            whole = self.training if settings.method == "kd-real" else images
            self._learn(self.distilling(whole, self.student), "student")

    def _learn(self, method: run.Method, part: str) -> None:
        """Train a student of a finished set; passes are counted of the images alone, seconds of both."""
        updates = self.settings.updates
        spent = self.train(method, updates, report_every=-(-updates // REPORTS), part=part).cost
        self.history.cost.add(spent, passes=False)

    # --- measures

    def measure(self, images: ImageSet | None) -> dict[str, float]:
        """The student's accuracy, and how good and how varied the images are."""
        shown = self.teacher if self.settings.method == "teacher" else self.student
        result = {"accuracy": run.accuracy(shown, self.test)} | self.found
        # The student as the method's own protocol trains it: alongside the images, or afterwards.
        result["protocol_accuracy"] = result.get("online_accuracy", result["accuracy"])
        return result if images is None else result | self._quality(images)

    @torch.no_grad()
    def _quality(self, images: ImageSet) -> dict[str, float]:
        """Measures in the judge's features, on as many real images; none of the rows could optimise them."""
        real = self.training.take(min(len(images), len(self.training)), REAL_SEED)
        true, fake = (metrics.features_of(self.judge, each.normalised(each.images)) for each in (real, images))
        judged = self.judge.head(fake).softmax(1)  # type: ignore[operator]
        teacher = torch.cat([self.teacher(x).softmax(1) for x, _ in images.batches()])
        names = zoo.card(self.settings.judge)["classes"]
        per_class = len(names) // len(images.classes)
        sure = judged.amax(1) > 0.8
        cells = torch.bincount(judged.argmax(1)[sure], minlength=len(names))
        return {
            "judge_distance": metrics.mean_distance(fake),
            "judge_cosine": metrics.cosine_diversity(fake),
            "coverage": metrics.coverage(true, fake),
            "recall": metrics.recall(true, fake),
            "frechet": metrics.frechet_distance(true, fake),
            "kernel_distance": metrics.kernel_distance(true, fake),
            "judge_classes": metrics.effective_number(judged.argmax(1), len(names)),
            "judge_confidence": float(judged.amax(1).mean()),
            "judge_agreement": float((judged.argmax(1) // per_class == teacher.argmax(1)).float().mean()),
            "teacher_confidence": float(teacher.amax(1).mean()),
            "cells": float((cells >= max(2, 0.005 * len(images))).sum()),
            "instance_accuracy": self._instance_accuracy(images.subset(slice(1000))),
        }

    def _instance_accuracy(self, images: ImageSet, views: int = 9) -> float:
        """Instance discrimination with a new head on the teacher's features, one view of each kind held out."""
        random = run.generator(self.device, 0)
        shown, pixels, pool = self.studio.views("fresh"), images.images / 255, self.studio.pool(1)

        def seen(view: Callable[..., Tensor]) -> Tensor:
            each = [watched_features(self.teacher, pool.normalised(view(pixels, random))) for _ in range(views)]
            return torch.stack(each)

        return instance_accuracy(seen(shown.local), seen(shown.broad))
