"""Chapter 02: Contrastive Model Inversion, the family it belongs to, its floors and its ceilings.

A row is ``<task>-<method>``. Every method of a task makes as many images with as many updates for one teacher; then a
new student learns from the finished set, in the same way for all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import nets, report, run
from reuselib.cmi.instance import instance_accuracy, watched_features
from reuselib.cmi.method import FAMILY, Inversion, Studio, softened_kl
from reuselib.data import ImageSet
from reuselib.dfad.method import Distillation
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised
from reuselib.report import metrics
from reuselib.run.legacy import Chapter, Outcome

REAL_SEED = 0
"""Draws the real images that every set is compared with."""

PLAIN = ("teacher", "untrained", "supervised", "kd-real", "noise")
"""Rows that invert nothing."""

METHODS = (
    *PLAIN,
    "untrained-generator",
    "dafl",
    "zskt",
    "dfad",
    "dfq",
    "deepinversion",
    "adi",
    "inversion",
    "cmi-nonadv",
    "cmi-scratch",
    "cmi",
    "inversion-adv",
    "inversion-long",
    "inversion-wide",
    "cmi-soft",
    "cmi-wide",
)

INVERTING: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in FAMILY},
    "untrained-generator": ("inversion", {}),
    "cmi-nonadv": ("cmi", {"adversarial": 0.0}),
    "cmi-scratch": ("cmi", {"one_hot": 1.0}),
    "inversion-adv": ("cmi", {"contrastive": 0.0}),
    "inversion-long": ("inversion", {}),
    "inversion-wide": ("inversion", {}),
    "cmi-soft": ("cmi", {"adversarial": 0.0, "contrastive": 0.2}),
    "cmi-wide": ("cmi", {"adversarial": 0.0}),
}
"""Row → method of the family, and the weights in which the row's protocol differs."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a row, beside the seed.

    Attributes:
        task: name of the task.
        method: one of ``METHODS``.
        teacher: name in the zoo; its images are the task's.
        judge: an independent classifier in the zoo, for measuring only.
        student: architecture of the student.
        student_arguments: what it is built with, beside classes and channels.
        batches: made one after the other.
        batch: images in each.
        image_steps: updates of the images for each batch.
        early: share of the batches made before a student takes part (1: none ever does).
        early_steps: updates of the images of those batches; ``image_steps`` if left out.
        student_steps: updates of the student alongside: after each finished batch, or after each update of a generator.
        updates: of the student that learns from the finished set.
        student_batch: images per update of a student.
        lr: of the student's SGD.
        weight_decay: of the student.
        sizes: set sizes from which a new student learns, the first images each time; the whole set always.
        latent: length of a generator's noise.
        width: of a generator.
        generator_lr: of the generator, or of the pixels.
        flip: whether images may be mirrored.
        embedding: of the instance head.
        bank: images remembered by the contrast.
        negatives: of those, how many take part in a step.
        changes: weights of terms other than the method's own.
        limit: images of the test set that are used, ``None`` for all.
    """

    task: str
    method: str
    teacher: str
    judge: str
    student: str
    student_arguments: dict[str, Any]
    batches: int
    batch: int = 128
    image_steps: int = 120
    early: float = 0.0
    early_steps: int | None = None
    student_steps: int = 0
    updates: int = 1000
    student_batch: int = 64
    lr: float = 0.1
    weight_decay: float = 1e-4
    sizes: tuple[int, ...] = ()
    latent: int = 64
    width: int = 16
    generator_lr: float = 5e-3
    flip: bool = True
    embedding: int = 64
    bank: int = 4096
    negatives: int = 512
    changes: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None


FASHION = Config(
    "fashion",
    "cmi",
    teacher="fashion16-resnet",
    judge="fashion16-conv3",
    student="conv4",
    student_arguments={"width": 16},
    batches=16,
    updates=2000,
)
SHAPES = Config(
    "shapes",
    "cmi",
    teacher="shapes16-conv4",
    judge="shapes16-judge",
    student="conv4",
    student_arguments={"width": 8},
    batches=8,
    batch=64,
    image_steps=80,
    updates=800,
    flip=False,
)
CELLS = replace(SHAPES, task="cells", teacher="shapes16-cells")
CIFAR10_COLAB = Config(
    "cifar10",
    "cmi",
    teacher="cifar10-resnet18",
    judge="cifar10-wrn16-2",
    student="small_resnet",
    student_arguments={"width": 32, "depth_blocks": (2, 2, 2)},
    batches=16,
    batch=256,
    image_steps=200,
    updates=4000,
    student_batch=128,
    latent=256,
    width=64,
    generator_lr=1e-3,
    embedding=256,
    bank=40_960,
    negatives=4096,
)


def _paper_tasks() -> Iterator[Config]:
    """The pairs of Table 1, and Tiny-ImageNet of the abstract; the budgets are those of the protocol's own scripts."""
    pairs = {
        "r34-r18": ("resnet34", "resnet18_8x", "vgg11"),
        "v11-r18": ("vgg11", "resnet18_8x", "resnet34"),
        "w402-w161": ("wrn40-2", "wrn16_1", "resnet34"),
        "w402-w401": ("wrn40-2", "wrn40_1", "resnet34"),
        "w402-w162": ("wrn40-2", "wrn16_2", "resnet34"),
    }
    for dataset, short in (("cifar10", "c10"), ("cifar100", "c100")):
        for pair, (teacher, student, judge) in pairs.items():
            yield replace(
                CIFAR10_COLAB,
                task=f"{short}.{pair}",
                teacher=f"{dataset}-{teacher}",
                judge=f"{dataset}-{judge}",
                student=student,
                student_arguments={},
                batches=196,
                image_steps=500,
                updates=78_400,
            )
    yield replace(
        CIFAR10_COLAB,
        task="tiny.r34-r18",
        teacher="tiny-imagenet-resnet34",
        judge="tiny-imagenet-vgg11",
        student="resnet18_8x",
        student_arguments={},
        batches=300,
        image_steps=500,
        updates=120_000,
    )


TASKS: dict[str, tuple[Config, ...]] = {
    "smoke": (replace(SHAPES, batches=4, batch=16, image_steps=4, updates=20, limit=200),),
    "laptop": (FASHION, SHAPES, CELLS),
    "colab": (CIFAR10_COLAB,),
    "paper": (*_paper_tasks(),),
}
_STAGES = ("blocks.0.3", "blocks.1", "blocks.2", "blocks.3")
FEATURED = {"resnet34_8x": _STAGES, "resnet18_8x": _STAGES}
"""Architecture of a teacher → modules whose inputs are its features, 512 numbers; of all others every batch norm's."""
LASTING_LR = {"dafl": 5e-3, "zskt": 1e-3, "dfad": 1e-3, "dfq": 5e-3}
"""The better of 0.001 and 0.005 on Fashion-MNIST, by the student of the finished set: short runs, a seed of no table,
training images set aside. A generator made anew had 0.001, 0.005 and 0.02 to choose from, pixels 0.03, 0.1 and 0.3."""
SIZES = ("inversion", "cmi-nonadv", "deepinversion", "kd-real")


def _row(task: Config, method: str) -> Config:
    """A method's configuration: that of its task, and what its protocol sets.

    A student that learns from a pool takes ``task.updates`` updates, spread over the batches after which it learns. One
    that learns from a lasting generator takes five (DFQ: ten) after every update of it; there are fewer of those than
    of other images, so that a run takes about as long as CMI's. A quarter of CMI's images are adversarial.
    """
    changes: dict[str, Any] = {}
    if method in SIZES:
        whole = task.batches * task.batch
        changes["sizes"] = tuple(size for size in (64, 128, 256, 512, 1024) if size < whole)
    canvas = FAMILY[INVERTING[method][0]].canvas if method in INVERTING else ""
    if canvas == "lasting":
        steps = 10 if method == "dfq" else 5
        changes |= {"student_steps": steps, "generator_lr": LASTING_LR[method]}
        changes["image_steps"] = max(1, round(task.image_steps * (0.4 if method == "dfq" else 2 / 3)))
    elif canvas == "pixels":
        changes["generator_lr"] = 0.1
    if method in ("adi", "cmi-scratch"):
        changes["student_steps"] = task.updates // task.batches
    elif method in ("cmi", "inversion-adv"):
        changes |= {"early": 0.75, "student_steps": 4 * task.updates // task.batches}
    elif method == "untrained-generator":
        changes["image_steps"] = 1  # the best iterate is chosen before the update
    elif method == "inversion-long":
        changes["image_steps"] = 2 * task.image_steps
    elif method in ("inversion-wide", "cmi-wide"):
        changes |= {"batch": 4 * task.batch, "batches": task.batches // 4}
    return replace(task, method=method, **changes)


def _published_row(task: Config, method: str) -> Config:
    """The batches and updates of the official scripts, where they differ from method to method."""
    changes: dict[str, Any] = {
        "cmi": {"batches": 236, "early": 196 / 236, "early_steps": 500, "image_steps": 200, "student_steps": 2000},
        "cmi-scratch": {"batches": 200, "image_steps": 200, "student_steps": 400},
        "deepinversion": {"image_steps": 1000},
        "adi": {"image_steps": 1000, "student_steps": 400},
    }.get("cmi" if method == "inversion-adv" else method, {})  # type: ignore[assignment]
    if method in LASTING_LR:
        steps = 10 if method == "dfq" else 5
        changes = {"batches": 200, "image_steps": 400 // steps, "generator_lr": 1e-3}
    return replace(_row(task, method), **changes)


ROWS = {"smoke": _row, "laptop": _row, "colab": _row, "paper": _published_row}
"""Scale → how a task and a method make a row."""


class ContrastiveInversion(Chapter):
    """Chapter 02. A run keeps ``teacher``, ``student``, ``test`` and ``images``, the finished set."""

    name = "cmi"
    title = "Contrastive Model Inversion"
    shortened = {"laptop": {"batches": 4, "image_steps": 60, "updates": 600, "sizes": ()}}

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """Every task of the scale with every method."""
        row = ROWS[scale]
        return {f"{task.task}-{method}": row(task, method) for task in TASKS[scale] for method in METHODS}

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Make a set of images, measure it, and teach students with it."""
        bench = Bench(config, seed, checkpoint, progress, title)
        bench.make_images()
        bench.teach()
        return Outcome(
            bench.measure(),
            bench.history,
            bench.device,
            bench.precision,
            {"teacher": bench.teacher, "student": bench.student, "test": bench.test, "images": bench.images},
            curves=("inversion", "contrastive", "batch_norm", "accuracy"),
        )


def build_studio(
    config: Config, image: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Studio:
    """An image space with the sizes of a configuration."""
    rate = config.generator_lr
    return Studio(
        image,
        mean,
        std,
        latent=config.latent,
        width=config.width,
        lr=rate,
        lasting_lr=rate,
        pixel_lr=rate,
        flip=config.flip,
    )


def build_inversion(config: Config, studio: Studio, teacher: nn.Module, student: nn.Module, seed: int) -> Inversion:
    """The row's method, its pool empty; the student has no part in a row without adversary and without updates."""
    name, changes = INVERTING[config.method]
    where = next(teacher.parameters()).device
    early = round(config.early * config.batches)
    adversarial = FAMILY[name].terms.adversarial and changes.get("adversarial", 1)
    return studio.inversion(
        name,
        teacher,
        studio.pool(config.batches * config.batch, where),
        changes | config.changes,
        student=student if adversarial or config.student_steps else None,
        student_steps=config.student_steps,
        batch=config.batch,
        image_steps=config.image_steps,
        early=early,
        early_steps=config.early_steps,
        embedding=config.embedding,
        bank=config.bank,
        negatives=config.negatives,
        seed=seed,
        layers=FEATURED.get(zoo.RECIPES[config.teacher].architecture),
        student_options={
            "batch": config.student_batch,
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "schedule": run.cosine(config.batches - early),
        },
    )


class Bench:
    """One run: the networks, the images made, the student taught, and what is measured.

    Args:
        config: of the row.
        seed: of every network that is not loaded and of everything drawn.
        checkpoint: file to resume from.
        progress: whether to show bars.
        title: before the bars.
        device: chosen by the engine if left out.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        checkpoint: str | Path | None = None,
        progress: bool = False,
        title: str = "",
        device: str | None = None,
    ) -> None:
        self.config, self.seed, self.checkpoint, self.device = config, seed, checkpoint, run.device(device)
        self.progress, self.title = progress, title
        self.precision = run.precision(self.device).name
        self.teacher, self.judge = (zoo.load(name, self.device) for name in (config.teacher, config.judge))
        self.student = self.new_student()
        self.history = run.History()
        self.images: ImageSet | None = None
        self.results: dict[str, float] = {}

    def new_student(self) -> nn.Module:
        """The student of this seed, untrained: the same one for every row and every set."""
        card, config = zoo.card(self.config.teacher), self.config
        with run.seeded(self.seed):
            student = nets.build(
                config.student, classes=len(card["classes"]), channels=card["image"][0], **config.student_arguments
            )
        return run.on_device(student, self.device)

    @functools.cached_property
    def test(self) -> ImageSet:
        """The test images of the teacher's data."""
        images = zoo.images(self.config.teacher, "test", self.device)
        return images if self.config.limit is None else images.subset(slice(self.config.limit))

    @functools.cached_property
    def training(self) -> ImageSet:
        """The training images, for the ceilings and for measuring."""
        return zoo.images(self.config.teacher, "train", self.device)

    @property
    def count(self) -> int:
        """Images in a finished set."""
        return self.config.batches * self.config.batch

    def make_images(self) -> None:
        """Fill ``images``: by inversion, with noise, or with real images for the ceiling."""
        config = self.config
        if config.method == "noise":
            random = run.generator(self.device, self.seed)
            size = (self.count, *self.training.shape)
            pixels = torch.randint(256, size, generator=random, device=self.device, dtype=torch.uint8)
            self.images = replace(self.training, images=pixels, labels=torch.zeros_like(pixels[:, 0, 0, 0]).long())
        elif config.method == "kd-real":
            # Not the seed of the images to compare with, or this row would be compared with itself.
            self.images = self.training.take(min(self.count, len(self.training)), REAL_SEED + 1 + self.seed)
        elif config.method in INVERTING:
            self.images = self._invert()

    def _invert(self) -> ImageSet:
        config = self.config
        inversion = build_inversion(config, self.studio(), self.teacher, self.new_student(), self.seed)
        self.history = run.run(
            inversion,
            config.batches,
            checkpoint=self.checkpoint,
            progress=self.progress,
            title=self.title,
            evaluate=self._evaluate(inversion),
            evaluate_every=max(1, config.batches // 4),
            settings=f"{report.config_hash(config)} seed {self.seed}",
        )
        if inversion.imitation is not None:
            self.results["online_accuracy"] = self.history.last("accuracy")
        return replace(inversion.pool.images(), classes=self.training.classes)

    def studio(self) -> Studio:
        """The teacher's image space, and the sizes of this task."""
        card = zoo.card(self.config.teacher)
        return build_studio(self.config, tuple(card["image"]), tuple(card["mean"]), tuple(card["std"]))

    def _evaluate(self, inversion: Inversion) -> Any:
        """Test accuracy of the student that learns alongside, where there is one."""
        if inversion.imitation is None:
            return None

        return lambda: {"accuracy": run.accuracy(inversion.student, self.test)}  # type: ignore[arg-type]

    def teach(self) -> None:
        """A new student for each size; that of the whole set stays in ``student``."""
        config = self.config
        if config.method == "supervised":
            self._train(self._labelled())
        elif self.images is not None:
            for size in config.sizes:
                student = self.new_student()
                self._train(self._distilling(self.images.subset(slice(size)), student))
                self.results[f"accuracy_{size}"] = run.accuracy(student, self.test)
            whole = self.training if config.method == "kd-real" else self.images
            self._train(self._distilling(whole, self.student))

    def _train(self, method: run.Method) -> None:
        rounds = 10
        method.steps_per_round = -(-self.config.updates // rounds)
        with run.measured(self.history.cost):
            run.run(method, rounds, progress=self.progress, title=self.title)

    def _labelled(self) -> Supervised:
        config, shift = self.config, self.studio().shift
        return Supervised(
            self.student,
            self.training,
            batch=config.student_batch,
            lr=config.lr,
            weight_decay=config.weight_decay,
            schedule=run.cosine(config.updates),
            crop=shift,
            flip=config.flip,
            seed=self.seed,
        )

    def _distilling(self, images: ImageSet, student: nn.Module) -> Distillation:
        config = self.config
        pool = self.studio().pool(len(images), self.device)
        pool.add(images.images / 255, images.labels)
        return Distillation(
            self.teacher,
            student,
            pool,
            discrepancy=softened_kl,
            batch=config.student_batch,
            student_steps=1,
            lr=config.lr,
            weight_decay=config.weight_decay,
            schedule=run.cosine(config.updates),
            seed=self.seed,
        )

    def measure(self) -> dict[str, float]:
        """The student's accuracy, and how good and how varied the images are."""
        shown = self.teacher if self.config.method == "teacher" else self.student
        result = {"accuracy": run.accuracy(shown, self.test)} | self.results
        # The student as the method's own protocol trains it: alongside the images, or afterwards.
        result["protocol_accuracy"] = result.get("online_accuracy", result["accuracy"])
        return result if self.images is None else result | self._quality(self.images)

    @torch.no_grad()
    def _quality(self, images: ImageSet) -> dict[str, float]:
        """Measures in the judge's features, on as many real images; none of the rows could optimise them."""
        real = self.training.take(min(len(images), len(self.training)), REAL_SEED)
        features = {}
        for name, each in (("real", real), ("fake", images)):
            features[name] = metrics.features_of(self.judge, each.normalised(each.images))
        judged = self.judge.head(features["fake"]).softmax(1)  # type: ignore[operator]
        teacher = torch.cat([self.teacher(x).softmax(1) for x, _ in images.batches()])
        fake = features["fake"]
        names = zoo.card(self.config.judge)["classes"]
        per_class = len(names) // len(images.classes)
        sure = judged.amax(1) > 0.8
        cells = torch.bincount(judged.argmax(1)[sure], minlength=len(names))
        return {
            "judge_distance": metrics.mean_distance(fake),
            "judge_cosine": metrics.cosine_diversity(fake),
            "coverage": metrics.coverage(features["real"], fake),
            "recall": metrics.recall(features["real"], fake),
            "frechet": metrics.frechet_distance(features["real"], fake),
            "kernel_distance": metrics.kernel_distance(features["real"], fake),
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
        shown, pixels = self.studio().views("fresh"), images.images / 255
        pool = self.studio().pool(1, self.device)
        sides: list[Tensor] = []
        for view in (shown.local, shown.broad):
            each = [watched_features(self.teacher, pool.normalised(view(pixels, random))) for _ in range(views)]
            sides.append(torch.stack(each))
        return instance_accuracy(sides[0], sides[1])
