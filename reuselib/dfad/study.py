"""Chapter 01: Data-Free Adversarial Distillation, its baselines, its floors and its ceilings.

A row is ``<task>-<method>``. A task is a teacher with its images; the methods of a task share teacher, student,
initial weights, number of student updates and evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reuselib.dfad import job, segmentation
from reuselib.nets import zoo
from reuselib.run import Settings, Study, constant

CLASSIFYING = (
    *("teacher", "kd-real", "kd-related", "kd-unrelated", "random", "dafl", "zskt", "dfad"),
    *("supervised", "untrained", "random-generator", "dfad-kl", "dfad-log", "dfad-long"),
)
"""The rows of a task with classes: those of the paper's tables, a ceiling, two floors and variants."""
TABLE = CLASSIFYING[:11]
"""The same without the variants."""
SEGMENTING = (
    *("teacher", "kd-real", "kd-related", "kd-unrelated", "random", "dafl", "dfad"),
    *("supervised", "untrained", "blind", "random-generator", "dfad-plain"),
)
"""The rows of the paper's Table 3, a ceiling, three floors, and DFAD with the generator's loss of classification."""

ANY: dict[str, Any] = {"student_steps": 5, "decays": (0.5, 0.8), "evaluations": 20, "limit": None, "masks": False}
"""Student updates an iteration, shares of the run after which the rates fall, tests on the way, test images, masks."""
LONG: dict[str, Any] = {"updates": 75_000, "decays": (1 / 3, 2 / 3), "evaluations": 300}
FASHION = Settings(
    **ANY,
    task="fashion",
    teacher="fashion16-conv3",
    image=(1, 16, 16),
    classes=10,
    student=("conv3", {"width": 16}),
    generator=("upsampling_generator", {"latent": 64, "width": 16}),
    related="digits",
    unrelated="textures",
    updates=12_000,
    options={"lr": 0.02},
)
DIGITS = FASHION.but(
    task="digits",
    teacher="digits8-conv3",
    image=(1, 8, 8),
    student=("conv3", {"width": 8}),
    generator=("upsampling_generator", {"latent": 32, "width": 16}),
    related="printed_digits",
    unrelated="fashion_mnist",
    updates=5000,
    options={"lr": 0.05},
)
CELLS = FASHION.but(
    task="cells",
    teacher="shapes16-cells",
    classes=32,
    student=("conv4", {"width": 8}),
    related="symbols",
    unrelated="fashion_mnist",
    updates=6000,
    options={"lr": 0.1},
)
MNIST = FASHION.but(
    task="mnist",
    teacher="mnist32-lenet5",
    image=(1, 32, 32),
    student=("lenet5_half", {}),
    generator=("upsampling_generator", {"latent": 100, "width": 64}),
    related="svhn",
    unrelated="fashion_mnist",
    updates=10_000,
    decays=(),
    evaluations=40,
    options={"batch": 512, "lr": 0.01, "weight_decay": 1e-4},
)
CIFAR10 = Settings(
    **FASHION.but(
        task="cifar10",
        teacher="cifar10-resnet34",
        image=(3, 32, 32),
        student=("resnet18_8x", {}),
        generator=("upsampling_generator", {"latent": 256, "width": 64}),
        related="stl10",
        unrelated="svhn",
        updates=125_000,
        decays=(0.2, 0.4),
        evaluations=500,
        options={"batch": 256, "lr": 0.1},
    ),
    crop=4,  # zero border of the real images, cut and mirrored at random as the teacher saw its own
)
CALTECH101 = CIFAR10.but(
    task="caltech101",
    teacher="caltech101-resnet34",
    image=(3, 128, 128),
    classes=101,
    student=("resnet18_imagenet", {}),
    generator=("dcgan_generator", {"latent": 256, "width": 64}),
    **LONG,
    options={"batch": 64, "lr": 0.05},
    crop=8,
)
ROOMS = Settings(
    **FASHION.but(
        task="rooms",
        teacher="rooms32-segmenter",
        image=(3, 32, 32),
        classes=7,
        student=("small_segmenter", {"width": 16}),
        generator=("dcgan_generator", {"latent": 64, "width": 16}),
        related="room_collage",
        unrelated="fashion_mnist",
        updates=3000,
        masks=True,
        options={"batch": 64, "lr": 0.2},
    ),
    decay=0.1,  # factor on the rates
    windows=False,  # whether students get mirrored windows of larger images
    focal=0.0,  # exponent of the focal loss of the student with labels
)
CAMVID = ROOMS.but(
    task="camvid",
    teacher="camvid-deeplabv3",
    image=(3, 128, 128),
    classes=11,
    student=("deeplabv3_mobilenet", {}),
    generator=("dcgan_generator", {"latent": 256, "width": 64}),
    related="cityscapes",
    unrelated="voc2012",
    **LONG,
    windows=True,
    focal=2.0,
    options={"batch": 64, "lr": 0.1},
)

TASKS: dict[str, tuple[Settings, ...]] = {
    "smoke": (
        CELLS.but(updates=100, evaluations=1, limit=1000, options={"lr": 0.02, "batch": 32}),
        FASHION.but(updates=100, evaluations=1, limit=1000, options={"lr": 0.02, "batch": 32}),
        DIGITS.but(updates=500, evaluations=2, options={"lr": 0.05, "batch": 64}),
        ROOMS.but(updates=30, evaluations=1, limit=64, options={"lr": 0.2, "batch": 8}),
    ),
    "laptop": (CELLS, FASHION, DIGITS, ROOMS),
    "colab": (
        MNIST.but(
            generator=("upsampling_generator", {"latent": 100, "width": 16}),
            options={"batch": 128, "lr": 0.01, "weight_decay": 1e-4},
        ),
        CIFAR10.but(
            teacher="cifar10-jpeg-resnet20",
            student=("small_resnet", {"width": 16, "depth_blocks": (1, 1, 1)}),
            generator=("upsampling_generator", {"latent": 256, "width": 16}),
            unrelated="fashion_mnist",
            updates=4500,
            decays=(0.5, 0.8),
            evaluations=18,
            options={"batch": 128, "lr": 0.1},
        ),
    ),
    "paper": (
        MNIST,
        CIFAR10,
        CIFAR10.but(task="cifar100", teacher="cifar100-resnet34-dfad", classes=100),
        CALTECH101,
        CAMVID,
        CAMVID.but(
            task="nyuv2",
            teacher="nyuv2-deeplabv3",
            classes=13,
            related="sunrgbd",
            decay=0.3,
            options={"batch": 64, "lr": 0.1, "weight_decay": 5e-5},
        ),
    ),
}
ROWS: dict[tuple[str, str], tuple[str, ...]] = {
    ("smoke", "cells"): TABLE,
    ("laptop", "cells"): TABLE,
    ("colab", "mnist"): (*TABLE, "dfad-kl"),
    ("colab", "cifar10"): tuple(method for method in TABLE if method != "kd-related"),  # STL-10 is 2.6 GB
}
"""Scale and task → its methods, where these are not all."""

FIXED_IMAGES = ("kd-real", "kd-related", "kd-unrelated", "random", "random-generator", "supervised")
TUNED: dict[tuple[str, str], float] = {
    **{("fashion", method): 0.1 for method in FIXED_IMAGES},
    ("fashion", "dafl"): 0.05,
    **{("rooms", method): 0.4 for method in ("kd-real", "kd-related", "kd-unrelated")},
    ("rooms", "dafl"): 0.1,
}
"""Learning rates other than the task's, which is DFAD's.

Fashion-MNIST: the best of 0.02, 0.05 and 0.1, tried for real images, noise, DAFL and DFAD with a seed that is in no
table and images that the students did not learn from; the other fixed sources and the labelled student take the rate of
real images. Rooms: chosen among 0.1, 0.2 and 0.4 (related and unrelated images 0.2 and 0.4, DAFL 0.1 and 0.2) by the
mean intersection over union after 300 iterations, with seed 100 and on 512 rooms that no network learns from and no
test has. The student with masks was as good with 0.2 as with 0.4.
Cells: 0.1 was the best of 0.02, 0.05 and 0.1 for DFAD and for real images, after 1,000 updates with seed 100, on 2,000
shapes that no network learns from and no table shows."""

CIFAR_DAFL = {"generator_lr": 0.02, "generator_schedule": constant, "weights": (0.05, 5.0, 0.01)}
OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("mnist", "dafl"): {"adam": True, "lr": 2e-3, "weight_decay": 0.0, "generator_lr": 0.2},
    ("cifar10", "dafl"): CIFAR_DAFL,
    ("cifar100", "dafl"): CIFAR_DAFL | {"weights": (0.5, 20.0, 0.1)},
}
"""Options of a rival's own official code, over the task's; but for the batch, which is the same for all."""


def methods(scale: str, task: Settings) -> tuple[str, ...]:
    """The methods of a task at a scale, in the order of running."""
    return ROWS.get((scale, task.task), SEGMENTING if task.masks else CLASSIFYING)


def row(task: Settings, method: str) -> Settings:
    """A task's settings for a method; every method gets as many student updates, "dfad-long" twice as many."""
    options = task.options | OWN.get((task.task, method), {})
    if (task.task, method) in TUNED:
        options["lr"] = TUNED[task.task, method]
    settings = Settings(**task.but(options=options), method=method)
    if method == "supervised":
        return settings.but(student_steps=1)
    if method == "dfad-long":
        return settings.but(updates=2 * task.updates)
    if method == "zskt":  # its own rates, and ten student updates an iteration
        name, arguments = task.generator
        own = {"activation": None, "affine": True} if name == "upsampling_generator" else {}
        options = {name: value for name, value in options.items() if name not in ("lr", "weight_decay")}
        settings = settings.but(student_steps=10, generator=(name, arguments | own), options=options)
        return Settings(**settings, cosine=True) if "crop" in task else settings  # as its code, on photographs
    if (task.task, method) in (("cifar10", "dafl"), ("cifar100", "dafl")):
        return settings.but(decays=(0.4, 0.8))  # of the student, as its code: after 800 and 1,600 of 2,000 epochs
    return settings


class DFADStudy(Study):
    """Chapter 01; a run gives a :class:`~reuselib.dfad.job.DFADResult`."""

    name = "dfad"
    title = "Data-Free Adversarial Distillation"
    live = dict.fromkeys(("laptop", "colab", "paper"), {"updates": 2000, "evaluations": 8})

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Every task of the scale with every method."""
        pairs = ((task, m) for task in TASKS[scale] for m in methods(scale, task))
        return {f"{task.task}-{method}": row(task, method) for task, method in pairs}

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> job.DFADJob:
        """The job of a row: students that segment are taught and tested by their masks."""
        kind = segmentation.SegmentationJob if settings.masks else job.DFADJob
        return kind(settings, seed, **options)

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """The teacher, its images, and those of others where students learn from these."""
        others = {"kd-related": {settings.related}, "kd-unrelated": {settings.unrelated}}
        return {zoo.dataset(settings.teacher)} | others.get(settings.method, set()), {settings.teacher}
