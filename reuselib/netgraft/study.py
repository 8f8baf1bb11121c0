"""Chapter 04: progressive network grafting, its ablations and the other ways to distil with a few images.

A row is ``<task>.<K>-<method>``: K images of each class, without labels. Every method of a task starts from the same
student of the same seed, sees the same images and takes as many updates. Rows without K are floors and ceilings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import data, home, netgraft, nets, report, run
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip
from reuselib.data.image_set import Augment
from reuselib.netgraft.few_shot import share_prefix
from reuselib.netgraft.method import Graft, NetGraft
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised
from reuselib.run.legacy import Chapter, Outcome

SHOTS = (1, 2, 5, 10, 20, 50)
"""Images a class, K."""
FEW = (1, 5, 10)
"""Those of the paper's main table."""

GRAFTING = ("netgraft", "netgraft-pruned", "stage1", "stage2", "whole", "features", "unnormalised")
METHODS = ("netgraft", "kd", "fitnet", "fskd", "cd")
"""The rows of every task at every K."""
PRUNED = ("netgraft-pruned", "kd-pruned")
"""The same from where FSKD and cross distillation begin: the teacher's strongest filters."""
ABLATIONS = ("stage1", "stage2", "whole", "features", "unnormalised")
BOUNDS = ("teacher", "untrained", "supervised", "kd-full")
"""Floors and ceilings: rows without K."""
UNTAUGHT = ("teacher", "untrained")
"""Those of them that train nothing."""
PRUNED_BOUND = "kd-full-pruned"
"""The ceiling of the rows that begin with the teacher's filters; only a plain network can be pruned."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a row, beside the seed.

    Attributes:
        task: name of the task, K included.
        method: one of ``METHODS``, ``PRUNED``, ``ABLATIONS``, ``BOUNDS`` or ``PRUNED_BOUND``.
        teacher: name in the zoo; its images are the task's.
        student: architecture of the student.
        student_arguments: what it is built with, beside classes and channels.
        shots: K, images of each class; 0 where all are used.
        shared: blocks that the student copies from the teacher and never trains.
        batch: images per update.
        draw: ``"replacement"``, or ``"epochs"`` for shuffled passes over the images.
        shift: pixels of zero border for random crops; 0 for none.
        flip: whether to mirror half of the images.
        block_steps: updates of each block grafting, one number for each block that is grafted.
        block_lr: learning rate of the block, for each block grafting.
        adapter_lr: of the 1x1 adapters beside it.
        network_steps: updates of each network grafting, one number for each but the first block.
        network_lr: learning rate of all scions.
        lr: of the methods that do not graft.
        hint: the block at whose output FitNet gives its hint, counted from 0.
        hint_share: share of FitNet's updates that the hint gets.
        full_steps: updates of the ceilings.
        full_batch: images per update of the ceilings.
        watched: test images that are looked at on the way.
        limit: images of the test set that are used at the end, ``None`` for all.
        precision: of the run, chosen by the engine if left out; autocast slows networks this small.
    """

    task: str
    method: str
    teacher: str
    student: str
    student_arguments: dict[str, Any]
    block_steps: tuple[int, ...]
    network_steps: tuple[int, ...]
    shots: int = 0
    shared: int = 0
    batch: int = 32
    draw: str = "replacement"
    shift: int = 2
    flip: bool = True
    block_lr: tuple[float, ...] = (2e-3,)
    adapter_lr: float = 2e-3
    network_lr: float = 2e-3
    lr: float = 2e-3
    hint: int = 2
    hint_share: float = 0.3
    full_steps: int = 4000
    full_batch: int = 64
    watched: int = 1000
    limit: int | None = None
    precision: str | None = "fp32"

    @property
    def total(self) -> int:
        """Updates in all: those of NetGraft, which the other methods get too."""
        return sum(self.block_steps) + sum(self.network_steps)


# --- presets ---------------------------------------------------------------------------------------------------------

STEPS = 250
"""Updates of each graft at the laptop scale: 2,250 in all for five blocks."""

HALVED: dict[str, Any] = {"widths": ((8, 8), (16, 16), (32, 32), (32, 32)), "hidden": 16, "head_norm": False}
HALVED_LATE: dict[str, Any] = {"widths": ((16, 16), (32, 32), (32, 32), (32, 32)), "hidden": 16, "head_norm": False}
SYMBOLS = Config(
    "symbols", "netgraft", "symbols16-vgg", "plain_vgg", HALVED, block_steps=(STEPS,) * 5, network_steps=(STEPS,) * 4
)
FASHION = replace(SYMBOLS, task="fashion", teacher="fashion16-vgg")
RESIDUAL = replace(
    SYMBOLS,
    task="residual",
    teacher="fashion16-resnet",
    student="small_resnet",
    student_arguments={"width": 8},
    block_steps=(STEPS,) * 4,
    network_steps=(STEPS,) * 3,
    hint=1,
)


def with_prefix(task: Config, student_arguments: dict[str, Any], shared: int) -> Config:
    """The task with the student's first blocks copied from the teacher, and fewer blocks to graft."""
    return replace(
        task,
        task=f"{task.task}-prefix",
        student_arguments=student_arguments,
        shared=shared,
        block_steps=task.block_steps[shared:],
        network_steps=task.network_steps[shared:],
    )


CIFAR10 = Config(
    "cifar10",
    "netgraft",
    "cifar10-vgg16",
    "vgg16_plain_half",
    {},
    block_steps=(200,) * 6,
    network_steps=(200,) * 5,
    draw="epochs",
    batch=64,
    shift=4,
    block_lr=(2.5e-4,),
    adapter_lr=2.5e-3,
    network_lr=1e-4,
    lr=1e-3,
    hint=3,
    full_steps=40_000,
    full_batch=128,
    watched=2000,
    precision=None,
)
CIFAR10_PREFIX = replace(with_prefix(CIFAR10, {}, 3), block_steps=(200, 120, 120), network_steps=(200, 200))
CIFAR100_PREFIX = replace(
    CIFAR10_PREFIX,
    task="cifar100-prefix",
    teacher="cifar100-vgg16",
    block_lr=(2.5e-4, 1e-3, 1e-3),
    adapter_lr=1e-3,
    block_steps=(1000, 200, 200),
    network_steps=(150, 150),
)
IMAGENET = Config(
    "imagenet",
    "netgraft",
    "imagenet-resnet34",
    "resnet18_imagenet",
    {},
    block_steps=(785,) * 5,
    network_steps=(785,) * 4,
    draw="epochs",
    batch=64,
    shift=16,
    block_lr=(1e-4,),
    adapter_lr=1e-4,
    network_lr=1e-4,
    lr=1e-3,
    hint=1,
    watched=500,
    precision=None,
)
"""ILSVRC-2012: nothing is published of its schedule; this one is ours, 5 + 5 passes over ten images a class."""


def at_shots(task: Config, shots: int) -> Config:
    """The task with K images a class, all else unchanged."""
    return replace(task, task=f"{task.task}.{shots}", shots=shots)


def as_published(task: Config, shots: int, classes: int) -> Config:
    """The official settings at K images a class: batch and rates of block grafting in proportion to K.

    The steps of ``task`` are epochs but for CIFAR-10, where an epoch is two updates for every K. The rate of network
    grafting is the same for every K, as in the official code.
    """
    factor, batch = shots / 10, int(64 * shots / 10)
    updates = -(-shots * classes // batch) if classes > 10 else 1
    return replace(
        at_shots(task, shots),
        batch=batch,
        block_lr=tuple(factor * lr for lr in task.block_lr),
        adapter_lr=factor * task.adapter_lr,
        block_steps=tuple(updates * steps for steps in task.block_steps),
        network_steps=tuple(updates * steps for steps in task.network_steps),
    )


TUNED = {
    "netgraft": 1e-2,
    "kd": 5e-3,
    "fitnet": 5e-3,
    "cd": 1e-2,
    **dict.fromkeys((*PRUNED, PRUNED_BOUND), 1e-3),
    "stage1": 1e-2,
    "stage2": 5e-3,
    "whole": 1e-3,
    "features": 2e-3,
    "unnormalised": 5e-3,
}
"""The learning rates of the small scales.

Each is the best of 0.001, 0.002, 0.005 and 0.01 (from the teacher's filters 0.0005 to 0.005) at K = 5, by the sum of
the accuracies on both image sets; seeds of no table, training images set aside. Stage 1 alone has NetGraft's.
"""


def _tuned(task: Config, methods: tuple[str, ...]) -> Iterator[Config]:
    for config in _rows(task, methods):
        lr = TUNED.get(config.method)
        rates = {} if lr is None else {"lr": lr, "block_lr": (lr,), "adapter_lr": lr, "network_lr": lr}
        yield replace(config, **rates)  # type: ignore[arg-type]


def _rows(task: Config, methods: tuple[str, ...]) -> Iterator[Config]:
    return (replace(task, method=method) for method in methods)


def _laptop() -> Iterator[Config]:
    for task in (FASHION, SYMBOLS):
        for each in (task, with_prefix(task, HALVED_LATE, 2)):
            for shots in SHOTS:
                methods: tuple[str, ...] = METHODS
                if shots in FEW:
                    methods += PRUNED + (ABLATIONS if each is task else ())
                yield from _tuned(at_shots(each, shots), methods)
            yield from _tuned(each, (*BOUNDS, PRUNED_BOUND))
    for shots in FEW:
        yield from _tuned(at_shots(RESIDUAL, shots), ("netgraft", "kd", "fitnet"))
    yield from _tuned(RESIDUAL, BOUNDS)


def _smoke() -> Iterator[Config]:
    task = replace(
        SYMBOLS, block_steps=(3,) * 5, network_steps=(3,) * 4, batch=8, full_steps=10, watched=100, limit=200
    )
    for shots in (1, 5):
        yield from _tuned(at_shots(task, shots), METHODS + PRUNED + ABLATIONS)
    yield from _tuned(task, (*BOUNDS, PRUNED_BOUND))


def _colab() -> Iterator[Config]:
    short: dict[str, Any] = {"teacher": "cifar10-vgg16-short", "full_steps": 8000}
    for task in (CIFAR10, CIFAR10_PREFIX):
        for shots in FEW:
            yield from _rows(replace(as_published(task, shots, 10), **short), METHODS)
        yield from _rows(replace(task, **short), BOUNDS)


def _paper() -> Iterator[Config]:
    shots = (*range(1, 11), 20, 50)
    for task, classes in ((CIFAR10_PREFIX, 10), (CIFAR10, 10), (CIFAR100_PREFIX, 100)):
        for each in shots:
            yield from _rows(as_published(task, each, classes), METHODS)
        yield from _rows(task, BOUNDS)
    for each in FEW:
        yield from _rows(at_shots(IMAGENET, each), ("netgraft", "kd", "fitnet"))
    yield replace(IMAGENET, method="teacher")


SCALES: dict[str, Callable[[], Iterator[Config]]] = {
    "smoke": _smoke,
    "laptop": _laptop,
    "colab": _colab,
    "paper": _paper,
}


class Grafting(Chapter):
    """Chapter 04.

    A run keeps ``teacher``, ``student`` (plain, adapters folded), ``test``, ``bench`` and ``method``, the finished
    method; that is ``None`` where nothing is trained, and elsewhere ``images``, the few, are kept too.
    """

    name = "netgraft"
    title = "Progressive network grafting"

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """Every task of the scale at every K with its methods."""
        return {f"{config.task}-{config.method}": config for config in SCALES[scale]()}

    def perform(self, config: Config, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Distil one student and measure it."""
        bench = Bench(config, seed)
        method = bench.method()
        history = run.History()
        if method is not None:
            history = bench.drive(method, checkpoint=checkpoint, progress=progress, title=title)
        metrics = bench.measure(method, history)
        kept = {name: getattr(bench, name) for name in ("teacher", "student", "test")}
        kept |= {"bench": bench, "method": method}
        if method is not None:
            kept["images"] = bench.images
        return Outcome(metrics, history, bench.device, bench.precision, kept, curves=("loss", "accuracy", "gap"))


@lru_cache(maxsize=4)
def _images(room: Path, teacher: str, split: str, device: str) -> ImageSet:
    """The images that a teacher was made for; ``room`` keeps two data rooms apart."""
    return zoo.images(teacher, split, device)


@lru_cache(maxsize=32)
def _few(room: Path, dataset: str, size: int | None, shots: int, seed: int) -> ImageSet:
    return data.load_few(dataset, shots, seed, size=size)


class Bench:
    """What the rows of a task share with one seed: teacher, student, the few images, and how they are measured.

    Args:
        config: of the row.
        seed: of the student, of the images drawn, of batches and augmentation.
        device: chosen by the engine if left out.
    """

    def __init__(self, config: Config, seed: int, device: str | None = None) -> None:
        self.config, self.seed, self.device = config, seed, run.device(device)
        self.precision = run.precision(self.device, config.precision).name
        self.teacher = zoo.load(config.teacher, self.device)
        self.student = build_student(config, zoo.card(config.teacher), seed, self.device)
        share_prefix(self.teacher, self.student, config.shared)

    @cached_property
    def test(self) -> ImageSet:
        """The test images of the teacher's data."""
        images = _images(home.path(), self.config.teacher, "test", str(self.device))
        return images if self.config.limit is None else images.subset(slice(self.config.limit))

    @cached_property
    def images(self) -> ImageSet:
        """K images of each class, a new draw for every seed; all training images where there is no K."""
        card = zoo.card(self.config.teacher)
        if not self.config.shots:
            return _images(home.path(), self.config.teacher, "train", str(self.device))
        return _few(home.path(), card["dataset"], card["size"], self.config.shots, self.seed).to(self.device)

    @cached_property
    def watched(self) -> ImageSet:
        """The test images that are looked at on the way."""
        return self.test.subset(slice(self.config.watched))

    def method(self) -> run.Method | None:
        """The row's method, ready to run; ``None`` for a row that trains nothing."""
        if self.config.method in UNTAUGHT:
            return None  # the training images of the largest set cannot be loaded
        return build_method(self.config, self.teacher, self.student, self.images, self.seed)

    def drive(self, method: run.Method, **options: Any) -> run.History:
        """Run the method, a round or several for each graft, and look at what stands at the end of every graft."""
        borders = borders_of(self.config, method)
        method.steps_per_round = _round(borders)
        rounds = borders[-1] // method.steps_per_round
        return run.run(
            method,
            rounds,
            evaluate=partial(self.watch, method, set(borders)),
            settings=f"{report.config_hash(self.config)} seed {self.seed}",
            **options,
        )

    def watch(self, method: run.Method, borders: set[int]) -> dict[str, float]:
        """At the end of a graft: the accuracy of its network, and its loss on test images less that on the few."""
        if method.iteration not in borders:
            return {}
        network = self.student
        if isinstance(method, NetGraft):
            network = method.hybrid(method.graft_of(method.iteration - 1).blocks)
        accuracy, loss = self._look(network, "watched")
        return {"accuracy": accuracy, "gap": loss - self._look(network, "few")[1]}

    @torch.no_grad()
    def _look(self, network: nn.Module, images: str) -> tuple[float, float]:
        """Accuracy, and NetGraft's loss per image, without augmentation."""
        x, labels, target = self._seen[images]
        with run.frozen(network):
            logits = network(x)
        loss = netgraft.normalised_logits_distance(target, logits) / len(x)
        return float((logits.argmax(1) == labels).float().mean()), float(loss)

    @cached_property
    @torch.no_grad()
    def _seen(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """The test images looked at on the way, and some of the few: images, labels, the teacher's logits."""
        seen = {}
        for name, images in (("watched", self.watched), ("few", self.images.subset(slice(500)))):
            x = images.normalised(images.images)
            seen[name] = x, images.labels, self.teacher(x)
        return seen

    def measure(self, method: run.Method | None, history: run.History) -> dict[str, float]:
        """The accuracy of the plain student, and what the grafts showed on the way; replaces the student by it."""
        result: dict[str, float] = {}
        if isinstance(method, NetGraft):
            unfolded = method.hybrid(tuple(range(self.config.shared, method.count)))
            self.student = method.folded()
            result |= self._folding(unfolded) | self._grafts(method, history)
        elif self.config.method == "kd":
            result |= self._early(history)
        shown = self.teacher if self.config.method == "teacher" else self.student
        return {
            "accuracy": run.accuracy(shown, self.test),
            "agreement": self._agreement(shown),
            "parameters": nets.parameter_count(shown),
        } | result

    @torch.no_grad()
    def _folding(self, unfolded: nn.Module) -> dict[str, float]:
        """The largest difference that folding makes to a logit, relative to the largest logit, also in digits."""
        with run.frozen(unfolded, self.student):
            before, after = (
                torch.cat([network(x) for x, _ in self.watched.batches()]) for network in (unfolded, self.student)
            )
        error = float((before - after).abs().max() / before.abs().max())
        return {
            "unfolded_accuracy": run.accuracy(unfolded, self.test),
            "fold_error": error,
            "fold_digits": -math.log10(max(error, 1e-16)),
        }

    def _grafts(self, method: NetGraft, history: run.History) -> dict[str, float]:
        """What stood at the end of each block grafting, and what the block saves."""
        ends, accuracies = history.curve("accuracy")
        _, gaps = history.curve("gap")
        reports = [
            (method.graft_of(int(end) - 1).blocks, accuracy, gap)
            for end, accuracy, gap in zip(ends, accuracies, gaps, strict=True)
        ]
        single = {blocks[0]: (accuracy, gap) for blocks, accuracy, gap in reports if len(blocks) == 1}
        if self.config.method == "whole":
            return self._early(history)
        if len(single) < len(method.scions):
            return {}
        result = {f"graft_{block + 1}": accuracy for block, (accuracy, _) in single.items()}
        for block in single:
            old, new = (
                nets.parameter_count(netgraft.blocks_of(network)[block]) for network in (self.teacher, self.student)
            )
            result[f"saved_{block + 1}"] = 1 - new / old
        means = torch.tensor(list(single.values())).mean(0).tolist()
        return result | {"early_accuracy": means[0], "early_gap": means[1]}

    def _early(self, history: run.History) -> dict[str, float]:
        """What the whole student was after as many updates as one block gets."""
        _, accuracies = history.curve("accuracy")
        _, gaps = history.curve("gap")
        return {"early_accuracy": accuracies[0], "early_gap": gaps[0]}

    @torch.no_grad()
    def _agreement(self, network: nn.Module) -> float:
        """Share of test images for which network and teacher choose the same class."""
        with run.frozen(network):
            same = [(network(x).argmax(1) == self.teacher(x).argmax(1)).float().sum() for x, _ in self.test.batches()]
        return float(torch.stack(same).sum()) / len(self.test)


def build_student(config: Config, card: Mapping[str, Any], seed: int, where: torch.device) -> nn.Module:
    """The student of this seed, untrained: the same one for every method and every K."""
    with run.seeded(seed):
        student = nets.build(
            config.student, classes=len(card["classes"]), channels=card["image"][0], **config.student_arguments
        )
    return run.on_device(student, where)


def build_plan(config: Config) -> list[Graft]:
    """The grafts of a row: which scions learn, for how long, how fast.

    The ablations spread as many updates over fewer grafts.
    """
    shared, count = config.shared, config.shared + len(config.block_steps)
    grafts = count - shared
    equal = partial(_spread, config.total)
    lrs = {"lr": config.block_lr if len(config.block_lr) > 1 else config.block_lr[0], "adapter_lr": config.adapter_lr}
    if config.method == "whole":
        return [Graft(tuple(range(shared, count)), config.total, config.network_lr)]
    if config.method == "stage1":
        return netgraft.block_grafting(count, equal(grafts), shared=shared, **lrs)
    if config.method == "stage2":
        steps = equal(grafts)
        first = Graft((shared,), steps[0], config.network_lr)
        return [first, *netgraft.network_grafting(count, steps[1:], config.network_lr, shared=shared)]
    return [
        *netgraft.block_grafting(count, config.block_steps, shared=shared, **lrs),
        *netgraft.network_grafting(count, config.network_steps, config.network_lr, shared=shared),
    ]


def _spread(total: int, parts: int) -> tuple[int, ...]:
    """As equal parts as whole numbers can be."""
    return tuple(total * (i + 1) // parts - total * i // parts for i in range(parts))


def build_method(
    config: Config, teacher: nn.Module, student: nn.Module, images: ImageSet, seed: int
) -> run.Method | None:
    """The method of a row on given networks and images."""
    options: dict[str, Any] = {
        "batch": config.batch,
        "draw": config.draw,
        "shared": config.shared,
        "seed": seed,
        "augment": augment(config),
        "precision": config.precision,
    }
    if config.method in GRAFTING:
        loss = netgraft.logits_distance if config.method == "unnormalised" else None
        local = config.method == "features"
        method = NetGraft(teacher, student, images, build_plan(config), loss=loss, local=local, **options)
        if config.method == "netgraft-pruned":
            netgraft.start_pruned(teacher, method.scions, netgraft.prune(teacher, student), config.shared)
        return method
    if config.method == "supervised":
        return Supervised(
            student,
            images,
            adam=True,
            batch=config.full_batch,
            lr=config.lr,
            weight_decay=0.0,
            crop=config.shift,
            flip=config.flip,
            seed=seed,
            precision=config.precision,
        )
    if config.method == PRUNED_BOUND:
        netgraft.prune(teacher, student)
    if config.method in ("kd-full", PRUNED_BOUND):
        options |= {"batch": config.full_batch, "steps": config.full_steps}
        return netgraft.KnowledgeDistillation(teacher, student, images, lr=config.lr, **options)
    return _few_shot(config, teacher, student, images, options) if config.shots else None


def _few_shot(
    config: Config, teacher: nn.Module, student: nn.Module, images: ImageSet, options: dict[str, Any]
) -> run.Method:
    """The methods that NetGraft is compared with, each with as many updates in all as it; FSKD takes none."""
    if config.method == "fskd":
        return netgraft.FSKD(teacher, student, images, **options | {"augment": None})
    if config.method == "cd":
        layers = sum(map(netgraft.layer_count, netgraft.blocks_of(student)[config.shared :]))
        steps = _spread(config.total, layers)
        return netgraft.CrossDistillation(teacher, student, images, steps=steps, lr=config.lr, **options)
    options |= {"lr": config.lr, "steps": config.total}
    if config.method == "kd-pruned":
        netgraft.prune(teacher, student)
    if config.method == "fitnet":
        hint_steps = round(config.hint_share * config.total)
        return netgraft.FitNet(teacher, student, images, hint=config.hint, hint_steps=hint_steps, **options)
    return netgraft.KnowledgeDistillation(teacher, student, images, **options)


def augment(config: Config) -> Augment | None:
    """Random crops and mirror images, as the configuration says."""
    if not config.shift and not config.flip:
        return None
    return partial(crop_and_flip, padding=config.shift, flip=config.flip)


def borders_of(config: Config, method: run.Method) -> list[int]:
    """Updates after which something is looked at: the ends of the grafts, or where NetGraft's first graft would end."""
    if isinstance(method, NetGraft) and config.method != "whole":
        return list(accumulate(graft.steps for graft in method.plan))
    if isinstance(method, NetGraft) or (config.method == "kd" and config.shots):
        first, total = config.block_steps[0], config.total
        return sorted({*range(first, total, first), total})
    return [getattr(method, "total", None) or config.full_steps]


def _round(borders: list[int]) -> int:
    """Updates between two reports: the most, up to 50, that meet every border."""
    common = math.gcd(*borders)
    return next(n for n in range(min(50, common), 0, -1) if common % n == 0)
