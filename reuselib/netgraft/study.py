"""Chapter 04: progressive network grafting, its ablations and the other ways to distil with a few images.

A row is ``<task>.<K>-<method>``: K images of each class, without labels. Every method of a task starts from the same
student of the same seed, sees the same images and takes as many updates. Rows without K are floors and ceilings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from reuselib.errors import BadValue
from reuselib.netgraft.job import NetGraftJob
from reuselib.nets import zoo
from reuselib.run import Settings, Study

SHOTS = (1, 2, 5, 10, 20, 50)
"""Images a class, K."""
FEW = (1, 5, 10)
"""Those of the paper's main table."""

METHODS = ("netgraft", "kd", "fitnet", "fskd", "cd")
"""The rows of every task at every K."""
PRUNED = ("netgraft-pruned", "kd-pruned")
"""The same from where FSKD and cross distillation begin: the teacher's strongest filters."""
ABLATIONS = ("stage1", "stage2", "whole", "features", "unnormalised")
BOUNDS = ("teacher", "untrained", "supervised", "kd-full")
"""Floors and ceilings: rows without K."""
PLAIN_BOUNDS = (*BOUNDS, "kd-full-pruned")
"""The same and the ceiling of the rows that begin with the teacher's filters; only a plain network can be pruned."""

TUNED = {
    **dict.fromkeys(("netgraft", "cd", "stage1"), 1e-2),
    **dict.fromkeys(("kd", "fitnet", "stage2", "unnormalised"), 5e-3),
    **dict.fromkeys(("features", "others"), 2e-3),
    **dict.fromkeys((*PRUNED, "kd-full-pruned", "whole"), 1e-3),
}
"""The learning rates of the small scales.

Each is the best of 0.001, 0.002, 0.005 and 0.01 (from the teacher's filters 0.0005 to 0.005) at K = 5, by the sum of
the accuracies on both image sets; seeds of no table, training images set aside. Stage 1 alone has NetGraft's. The
ceilings with random weights were not tuned.
"""

HALVED: dict[str, Any] = {"widths": ((8, 8), (16, 16), (32, 32), (32, 32)), "hidden": 16, "head_norm": False}
HALVED_LATE: dict[str, Any] = HALVED | {"widths": ((16, 16), (32, 32), (32, 32), (32, 32))}
SYMBOLS = Settings(
    task="symbols",
    method="netgraft",
    teacher="symbols16-vgg",  # its images are the task's
    student=("plain_vgg", HALVED),
    shots=0,  # K; 0 for all training images
    shared=0,  # blocks that every student copies from the teacher and never trains
    block_steps=(250,) * 5,  # updates of each block grafting, at published settings of ten images passes over them
    network_steps=(250,) * 4,  # of each network grafting
    lr=TUNED,  # of each method
    block_lr=None,  # of block grafting, where it is another
    adapter_lr=None,  # of the adapters there, where it is another
    scaled=0,  # classes, where batch, rates of block grafting and updates follow K as in the official code
    options={"batch": 32},  # of every method
    padding=2,  # pixels of random shifts; half of the images are mirrored
    hint=2,  # the block behind which FitNet gives its hint
    full={"batch": 64},  # options of the ceilings
    full_steps=4000,
    watched=1000,  # test images that are looked at on the way
    limit=None,  # of those at the end
    precision="fp32",  # autocast slows networks this small
)
FASHION = SYMBOLS.but(task="fashion", teacher="fashion16-vgg")
RESIDUAL = SYMBOLS.but(
    task="residual",
    teacher="fashion16-resnet",
    student=("small_resnet", {"width": 8}),
    block_steps=(250,) * 4,
    network_steps=(250,) * 3,
    hint=1,
)
SMOKE = SYMBOLS.but(
    block_steps=(3,) * 5, network_steps=(3,) * 4, options={"batch": 8}, full_steps=10, watched=100, limit=200
)
OPEN_RATES = {"cifar10.shared": {"others": 1e-3}, "cifar10": {"others": 1e-3}}
"""Task → rates that are not chosen yet.

The official code has rates for NetGraft alone, on three shared blocks, at K = 10: stage 1 with 0.00025 for each block
and 0.0025 for the adapters on CIFAR-10, with 0.00025, 0.001 and 0.001 and with 0.001 on CIFAR-100, all times K / 10;
stage 2 with 0.0001 at every K. None is known for the rivals, nor for any method where nothing is shared; there the
official rates turn the order of the methods around. ``reuselib choose netgraft`` is to choose these, see
:meth:`NetGraftStudy.choose`.
"""
OFFICIAL = Settings(
    **SYMBOLS.but(
        task="cifar10.shared",
        teacher="cifar10-vgg16",
        student=("vgg16_plain_half", {}),
        shared=3,
        block_steps=(100, 60, 60),
        network_steps=(100, 100),
        lr=OPEN_RATES["cifar10.shared"] | {"netgraft": 1e-4},
        block_lr=(2.5e-4,) * 3,
        adapter_lr=2.5e-3,
        scaled=10,
        options={"batch": 64, "epochs": True},
        padding=4,
        hint=3,
        full={"batch": 128},
        full_steps=40_000,
        watched=2000,
        precision=None,
    ),
    bias=True,  # of the adapters, which then stay in place: they cannot be folded exactly
)
"""CIFAR-10 with the official code's networks, three shared blocks, rates and adapters."""
CIFAR10 = OFFICIAL.but(task="cifar10", shared=0, block_steps=(100,) * 6, network_steps=(100,) * 5).but(
    lr=OPEN_RATES["cifar10"], block_lr=None, adapter_lr=None
)
CIFAR100_SHARED = OFFICIAL.but(task="cifar100.shared", teacher="cifar100-vgg16", scaled=100).but(
    block_lr=(2.5e-4, 1e-3, 1e-3), adapter_lr=1e-3, block_steps=(1000, 200, 200), network_steps=(150, 150)
)
# ILSVRC-2012: nothing is published of its schedule; this one is ours, 5 + 5 passes over ten images a class.
IMAGENET = CIFAR10.but(task="imagenet", teacher="imagenet-resnet34", student=("resnet18_imagenet", {})).but(
    block_steps=(785,) * 5, network_steps=(785,) * 4, lr=OFFICIAL.lr, scaled=0, bias=False
)
IMAGENET = IMAGENET.but(padding=16, hint=1, watched=500)


def with_prefix(task: Settings) -> Settings:
    """A small task with the student's first two blocks copied from the teacher, and fewer blocks to graft."""
    steps = {name: task[name][2:] for name in ("block_steps", "network_steps")}
    return task.but(task=f"{task.task}-prefix", student=("plain_vgg", HALVED_LATE), shared=2, **steps)


SLOW = {"lr": 2e-3, "block_lr": 1e-2}
"""Of NetGraft with a second stage at a fifth of its first one's rate."""

Rows = list[tuple[tuple[int, ...], tuple[str, ...]]]
"""Values of K, and the methods that run at each."""
PREFIXED: Rows = [(SHOTS, METHODS), (FEW, PRUNED), ((0,), PLAIN_BOUNDS)]
OTHERS: Rows = [(FEW, ("netgraft", "kd", "fitnet"))]
PUBLISHED: Rows = [((*range(1, 11), 20, 50), METHODS), ((0,), BOUNDS)]


def tasks(scale: str) -> list[tuple[Settings, Rows]]:
    """The tasks of a scale, each with its rows."""
    if scale == "smoke":
        return [(SMOKE, [((1, 5), METHODS + PRUNED + ABLATIONS), ((0,), PLAIN_BOUNDS)])]
    if scale == "laptop":
        plain = [*PREFIXED, (FEW, ABLATIONS)]
        pairs = [((task, plain), (with_prefix(task), PREFIXED)) for task in (FASHION, SYMBOLS)]
        slow: Rows = [((50,), ("netgraft-slow",))]
        return [*chain.from_iterable(pairs), (RESIDUAL, [*OTHERS, ((0,), BOUNDS)]), (FASHION, slow)]
    if scale == "colab":
        jpeg = {"teacher": "cifar10-jpeg-vgg16", "full_steps": 1500, "watched": 1000}
        rows: Rows = [((1, 5), METHODS), ((0,), ("teacher", "untrained"))]
        return [(OFFICIAL.but(**jpeg), [(FEW, METHODS), ((0,), BOUNDS)]), (CIFAR10.but(**jpeg), rows)]
    published = [(task, PUBLISHED) for task in (OFFICIAL, CIFAR10, CIFAR100_SHARED)]
    return [*published, (IMAGENET, [*OTHERS, ((0,), ("teacher",))])]


def row(task: Settings, method: str, shots: int) -> Settings:
    """A task's settings for a method at K images a class.

    At the published settings the batch and the rates of block grafting grow in proportion to K, as in the official
    code; the rate of network grafting is the same for every K.
    """
    settings = task.but(method=method, lr=task.lr.get(method, task.lr["others"]))
    if method == "netgraft-slow":
        settings = settings.but(**SLOW)
    if shots:
        settings = settings.but(task=f"{task.task}.{shots}", shots=shots)
    if not shots or not task.scaled:
        return settings
    factor, batch = shots / 10, int(64 * shots / 10)
    updates = -(-shots * task.scaled // batch)  # in one pass over the images
    return settings.but(
        options={**task.options, "batch": batch},
        block_lr=task.block_lr and tuple(factor * rate for rate in task.block_lr),
        adapter_lr=task.adapter_lr and factor * task.adapter_lr,
        block_steps=tuple(updates * passes for passes in task.block_steps),
        network_steps=tuple(updates * passes for passes in task.network_steps),
    )


GRID = (3e-4, 1e-3, 3e-3)
"""The rates that :meth:`NetGraftStudy.choose` tries."""
TRIED = 1000
"""What it adds to its seed: no table has such seeds."""


def leaves_rate_open(settings: Settings) -> bool:
    """Whether a row's rate is to be chosen: FSKD has none, and NetGraft's is official where three blocks are shared."""
    official = settings.method == "netgraft" and settings.block_lr is not None
    return settings.shots > 0 and settings.method != "fskd" and not official


class NetGraftStudy(Study):
    """Chapter 04; a run gives a :class:`~reuselib.netgraft.job.NetGraftResult`."""

    name = "netgraft"
    title = "Progressive network grafting"
    jobs = NetGraftJob

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Every task of the scale at every K with its methods."""
        each = (
            row(task, m, k) for task, rows in tasks(scale) for shots, methods in rows for k in shots for m in methods
        )
        return {f"{settings.task}-{settings.method}": settings for settings in each}

    def choose(self, rows: Iterable[str] | None = None, seed: int = 0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Try the rates of ``GRID`` on 2,000 training images set aside, with a seed of no table.

        Args:
            rows: those at K = 5 that leave their rate open, if left out.
            seed: of the few images and of the student; ``TRIED`` is added.

        Yields:
            A row, and its rates with their accuracies, the best first: that is to take the place of ``OPEN_RATES``.

        Raises:
            UnknownName: there is no such row.
            BadValue: a row has no rate to choose.
        """
        open_rows = [row for row, each in self.settings.items() if each.shots == 5 and leaves_rate_open(each)]
        for row in map(self.row, rows or open_rows):
            settings, found = self.settings[row], []
            if not leaves_rate_open(settings):
                raise BadValue(f"{row} chooses no rate: it has none, or the official one. Fix: name another row")
            for rate in GRID:
                job = NetGraftJob(settings.but(lr=rate), TRIED + seed, progress=True, title=f"{row}, rate {rate}")
                found.append({"lr": rate, "accuracy": round(job.aside(2000).result().metrics["accuracy"], 4)})
            yield row, sorted(found, key=lambda each: -each["accuracy"])

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """The teacher and its images."""
        return {zoo.dataset(settings.teacher)}, {settings.teacher}
