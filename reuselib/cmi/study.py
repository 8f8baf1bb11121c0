"""Chapter 02: Contrastive Model Inversion, the family it belongs to, its floors and its ceilings.

A row is ``<task>-<method>``. Every method of a task makes as many images with as many updates for one teacher; then a
new student learns from the finished set, in the same way for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reuselib import home, run
from reuselib.cmi.invert import invert
from reuselib.cmi.job import CMIJob
from reuselib.cmi.rivals import FAMILY
from reuselib.nets import zoo
from reuselib.report import metrics
from reuselib.run import Settings, Study

PLAIN = ("teacher", "untrained", "supervised", "kd-real", "noise")
"""Rows that invert nothing."""
INVERTING: dict[str, tuple[str, dict[str, float]]] = {
    "untrained-generator": ("inversion", {}),
    **{name: (name, {}) for name in ("dafl", "zskt", "dfad", "dfq", "deepinversion", "adi", "inversion")},
    "cmi-nonadv": ("cmi", {"adversarial": 0.0}),
    "cmi-scratch": ("cmi", {"one_hot": 1.0}),
    "cmi": ("cmi", {}),
    "inversion-adv": ("cmi", {"contrastive": 0.0}),
    "inversion-long": ("inversion", {}),
    "inversion-wide": ("inversion", {}),
    "cmi-soft": ("cmi", {"adversarial": 0.0, "contrastive": 0.2}),
    "cmi-wide": ("cmi", {"adversarial": 0.0}),
}
"""Row → method of the family, and the weights in which the row's protocol differs."""
METHODS = (*PLAIN, *INVERTING)

FASHION = Settings(
    task="fashion",
    teacher="fashion16-resnet",
    judge="fashion16-conv3",  # an independent classifier, for measuring only
    student=("conv4", {"width": 16}),
    batches=16,  # made one after the other
    batch=128,
    image_steps=120,  # updates of the images for each batch
    early=0.0,  # share of the batches made before a student takes part (1: none ever does)
    early_steps=None,  # updates of the images of those batches; as many as of the others if left out
    student_steps=0,  # updates alongside: after each batch, or after each update of a lasting generator
    updates=2000,  # of the student that learns from the finished set
    sizes=(),  # set sizes from which a new student learns, the first images each time; the whole set always
    studio={"latent": 64, "width": 16, "lr": 5e-3},
    memory={"embedding": 64, "bank": 4096, "negatives": 512},
    learning={"batch": 64, "lr": 0.1, "weight_decay": 1e-4},  # of every student
    limit=None,  # test images
)
SHAPES = FASHION.but(
    task="shapes",
    teacher="shapes16-conv4",
    judge="shapes16-judge",
    student=("conv4", {"width": 8}),
    batches=8,
    batch=64,
    image_steps=80,
    updates=800,
    studio=FASHION.studio | {"flip": False},
)
PAPER = Settings(
    **FASHION.but(task="paper", batch=256, studio={"lr": 1e-3}, memory={}, learning={"lr": 0.1, "weight_decay": 1e-4}),
    falls=(0.6, 0.75, 0.9),  # shares of a student's updates on a finished set at which its rate falls to a tenth
    alongside={},  # of a student that learns alongside, where it differs from one that learns afterwards
    curve=(5000, 10_000, 20_000),  # sizes of parts of the set
)
"""What the published pairs have in common, with the schedule of the non-adversarial script."""
CIFAR10 = PAPER.but(
    task="cifar10",
    teacher="cifar10-jpeg-resnet20",
    judge="cifar10-jpeg-resnet56",
    student=("small_resnet", {"width": 16}),
    batches=20,
    image_steps=40,
    updates=1200,
    studio={"latent": 256, "width": 32, "lr": 5e-3},
    memory={"bank": 5120, "negatives": 1024},
    curve=(512, 1536),
)
"""What fits into an hour of one core: 5,120 images, and every method about as long as non-adversarial CMI."""
PAIRS = {
    "r34.r18": ("resnet34", "resnet18_8x"),
    "v11.r18": ("vgg11", "resnet18_8x"),
    "w402.w161": ("wrn40-2", "wrn16_1"),
    "w402.w401": ("wrn40-2", "wrn40_1"),
    "w402.w162": ("wrn40-2", "wrn16_2"),
}
"""Table 1: teacher and student."""


def published(dataset: str, short: str, pair: str, batches: int = 196, updates: int = 78_400) -> Settings:
    """A pair of Table 1, or Tiny-ImageNet of the abstract, with the budget of the protocol's own scripts."""
    teacher, student = PAIRS[pair]
    judge = "vgg11" if teacher == "resnet34" else "resnet34"  # independent
    return PAPER.but(
        task=f"{short}.{pair}",
        teacher=f"{dataset}-{teacher}",
        judge=f"{dataset}-{judge}",
        student=(student, {}),
        batches=batches,
        image_steps=500,
        updates=updates,
    )


TASKS: dict[str, tuple[Settings, ...]] = {
    "smoke": (SHAPES.but(batches=4, batch=16, image_steps=4, updates=20, limit=200),),
    "laptop": (FASHION, SHAPES, SHAPES.but(task="cells", teacher="shapes16-cells")),
    "colab": (CIFAR10,),
    "paper": (
        *(published(*names, pair) for names in (("cifar10", "c10"), ("cifar100", "c100")) for pair in PAIRS),
        published("tiny-imagenet", "tiny", "r34.r18", 300, 120_000),
    ),
}
LASTING_LR = {"dafl": 5e-3, "zskt": 1e-3, "dfad": 1e-3, "dfq": 5e-3}
"""The better of 0.001 and 0.005 on Fashion-MNIST, by the student of the finished set: short runs, a seed of no table,
training images set aside. A generator made anew had 0.001, 0.005 and 0.02 to choose from, pixels 0.03, 0.1 and 0.3."""
EARLY = {"adi": 0.0, "cmi-scratch": 0.0, "cmi": 0.75, "inversion-adv": 0.75}
"""Rows with an adversary that learns from a pool → the share of the batches made before it takes part."""
SIZED = ("inversion", "cmi-nonadv", "deepinversion", "kd-real")
"""Rows whose students also learn from parts of the set."""


def row(task: Settings, method: str) -> Settings:
    """A task's settings for a method.

    A student that learns from a pool takes ``task.updates`` updates, spread over the batches after which it learns. One
    that learns from a lasting generator takes five (DFQ: ten) after every update of it; there are fewer of those than
    of other images, so that a run takes about as long as CMI's. A quarter of CMI's images are adversarial.
    """
    family, weights = INVERTING.get(method, ("", {}))
    settings = Settings(**task, method=method, family=family, weights=weights)
    if method in SIZED:
        whole = task.batches * task.batch
        curve = task.get("curve", (64, 128, 256, 512, 1024))
        settings = settings.but(sizes=tuple(size for size in curve if size < whole))
    canvas = FAMILY[family].canvas if family else ""
    if canvas == "lasting":
        share, steps = (0.4, 10) if method == "dfq" else (2 / 3, 5)
        studio = task.studio | {"lr": LASTING_LR[method]}
        image_steps = max(1, round(task.image_steps * share))
        return settings.but(student_steps=steps, studio=studio, image_steps=image_steps)
    if canvas == "pixels":
        settings = settings.but(studio=task.studio | {"lr": 0.1})
    if method in EARLY:
        late = task.batches * (1 - EARLY[method])
        return settings.but(early=EARLY[method], student_steps=round(task.updates / late))
    changed = {
        "untrained-generator": {"image_steps": 1},  # the best iterate is chosen before the update
        "inversion-long": {"image_steps": 2 * task.image_steps},
        **dict.fromkeys(("inversion-wide", "cmi-wide"), {"batch": 4 * task.batch, "batches": task.batches // 4}),
    }
    return settings.but(**changed.get(method, {}))


SHARED: dict[str, Any] = {"studio": {"lr": 1e-3}, "alongside": {"batch": 256}}
"""Of every lasting generator in the official scripts: its rate, and a student's batch as large as the generator's."""
SCRIPTS: dict[str, dict[str, Any]] = {
    "cmi": {"batches": 236, "early": 196 / 236, "early_steps": 500, "image_steps": 200, "student_steps": 2000},
    "cmi-scratch": {"batches": 200, "image_steps": 200, "student_steps": 400},
    "deepinversion": {"image_steps": 1000},
    "adi": {"image_steps": 1000, "student_steps": 400},
    **dict.fromkeys(("zskt", "dfad"), SHARED | {"batches": 200, "image_steps": 80}),
    "dafl": SHARED | {"batches": 200, "image_steps": 80, "studio": {"lr": 1e-3, "latent": 512}},
    "dfq": SHARED | {"batches": 200, "image_steps": 40},
}
"""The batches and updates of the official scripts, where they differ from method to method."""
SCRIPTS["inversion-adv"] = SCRIPTS["cmi"]
NARROW = SHARED | {"image_steps": 15, "studio": CIFAR10.studio | {"lr": 1e-3}}
EQUAL_TIME: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("deepinversion", "adi"), {"image_steps": 80}),
    **dict.fromkeys(("zskt", "dfad"), NARROW),
    "dafl": NARROW | {"studio": NARROW["studio"] | {"latent": 512}},
    "dfq": NARROW | {"image_steps": 9},
}
"""At `colab`: as many updates as take about the time of CMI's, which passes the teacher twice; the scripts' rates."""
ONLY_SMALL = ("cmi-soft", "inversion-wide", "cmi-wide")
"""Rows that answer questions of the small images."""


def pictures(
    teacher: str = "cifar10-jpeg-resnet56",
    judge: str = "cifar10-jpeg-resnet20",
    *,
    label: int = 7,
    each: int = 20,
    lengths: Sequence[int] = (1, 10, 40, 100, 250),
    seed: int = 0,
    **sizes: Any,
) -> list[Path]:
    """Make the chapter's pictures of a teacher's training images, in the data room's ``pictures/cmi``.

    As committed, in an hour of one core: ``python -c "from reuselib.cmi.study import pictures; pictures()"``.

    Args:
        teacher: is inverted.
        judge: in whose features real images are near.
        label: of the class that is shown often.
        each: images of every class, all of one batch.
        lengths: updates after which a class is shown, ascending.
        seed: of noise, weights and views.
        sizes: as in :func:`~reuselib.cmi.invert`.

    Returns:
        Three files, ten images a row: ``contrast.png``, ``each`` of the class with the contrast, then without;
        ``forming.png``, the first of every class after each length; ``neighbours.png``, and the real ones nearest.
    """
    network, other = zoo.load(teacher), zoo.load(judge)
    real = zoo.images(teacher, "train", run.device())
    labels = [y for y in range(len(real.classes)) for _ in range(each)]
    sizes = {"width": 48, "latent": 256, "lr": 3e-3} | sizes
    options: dict[str, Any] = {"labels": labels, "count": len(labels), "seed": seed, "sizes": sizes}
    options |= {"image": real.shape, "mean": real.mean, "std": real.std}
    made = {steps: invert(network, image_steps=steps, **options) for steps in lengths}
    plain = invert(network, method="inversion", image_steps=lengths[-1], **options)
    features = [
        metrics.features_of(other, x.normalised(x.images))
        for x in (made[lengths[-1]].subset(slice(None, None, each)), real)
    ]
    near = real.images[metrics.nearest(*features)]
    shown = slice(label * each, (label + 1) * each)
    sheets = {
        "contrast": [made[lengths[-1]].images[shown], plain.images[shown]],
        "forming": [images.images[::each] for images in made.values()],
        "neighbours": [made[lengths[-1]].images[::each], near],
    }
    room = home.path("pictures", "cmi")
    return [run.write_sheet(room / f"{name}.png", torch.cat(rows), across=10) for name, rows in sheets.items()]


class CMIStudy(Study):
    """Chapter 02; a run gives a :class:`~reuselib.cmi.job.CMIResult`."""

    jobs = CMIJob
    name = "cmi"
    title = "Contrastive Model Inversion"
    live = {
        "laptop": {"batches": 4, "image_steps": 60, "updates": 600, "sizes": ()},
        **dict.fromkeys(("colab", "paper"), {"batches": 2, "image_steps": 50, "updates": 300, "sizes": ()}),
    }

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Every task of the scale with every method."""
        own = {"paper": SCRIPTS, "colab": EQUAL_TIME}.get(scale, {})
        return {
            f"{task.task}-{method}": row(task, method).but(**own.get(method, {}))
            for task in TASKS[scale]
            for method in METHODS
            if scale != "colab" or method not in ONLY_SMALL
        }

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """The teacher, its images, and the judge."""
        return {zoo.dataset(settings.teacher)}, {settings.teacher, settings.judge}
