"""Pools of trained sources for chapter 06: which images each source sees, and what is left for students and tests.

A plan is :class:`~reuselib.run.Settings`; see ``SHAPES`` in :mod:`reuselib.adaptive.study` for its entries.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from reuselib import data, home, nets, report, run
from reuselib.data import ImageSet, MultiLabelSet, augment, multi_label
from reuselib.errors import ReuseError, unknown
from reuselib.layerwise import joined, relabelled
from reuselib.nets import MultiHead, blank, pretrained, zoo
from reuselib.nets.supervised import MultiTaskSupervised

ALL = "all"
"""The one task of a source of classes: its main and its auxiliary classes in one softmax."""
PARTS = ("part 1", "part 2")
"""The tasks of telling apart the main classes of either part."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The images of a plan, in three disjoint pieces unless it says that students see the sources' images; the sources.

    Attributes:
        lessons: for each source its labelled images, with its tasks alone.
        transfer: images for the students; their targets serve measuring, the ceilings and the oracle.
        test: images that nobody has seen.
        sides: for each transfer image the side of the world, 0 or 1; ``None`` where there are no sides.
        sources: trained, in evaluation mode, by name, "s1" onwards; none in a pool of images alone.
    """

    lessons: list[MultiLabelSet]
    transfer: MultiLabelSet
    test: MultiLabelSet
    sides: Tensor | None = None
    sources: dict[str, MultiHead] = field(default_factory=dict)


# --- images ----------------------------------------------------------------------------------------------------------


def pool_images(plan: run.Settings, seed: int, where: torch.device) -> Pool:
    """The images of a plan; on ``meta`` as many as there are, without content."""
    if where.type == "meta":
        return blank_images(plan)
    return attribute_images(plan, seed, where) if plan.auxiliary is None else class_images(plan, where)


@lru_cache(maxsize=2)  # the training and the test images of one set: those of CelebA take 27.5 GB
def _labelled(room: Path, dataset: str, split: str, size: int | None, where: torch.device) -> MultiLabelSet:
    """A set with several labels, drawn or read once in a process; ``room`` keeps two data rooms apart."""
    if dataset not in multi_label.MULTI_LABEL:
        raise unknown("set with several labels", dataset, multi_label.MULTI_LABEL)
    return multi_label.MULTI_LABEL[dataset](split, **({} if size is None else {"size": size})).to(where)


def attribute_images(plan: run.Settings, seed: int, where: torch.device) -> Pool:
    """Images with several labels each; the seed draws the pieces.

    Raises:
        UnknownName: there is no such set.
        ReuseError: it has not as many images as are asked for.
    """
    room, splits = home.root(), ("train", "test")
    training, test = (_labelled(room, plan.dataset, split, plan.size, where) for split in splits)
    count, own = plan.transfer_images or len(training), plan.source_images
    mine, transfer = training, training if plan.transfer_images is None else training.take(count, seed)
    if own is not None:
        if count + own > len(training):
            raise ReuseError(
                f"{training.name} has {len(training)} images, not {own} for sources and {count} for students. "
                "Ask for fewer."
            )
        drawn = training.take(count + own, seed)
        mine, transfer = drawn.subset(slice(count, None)), drawn.subset(slice(count))
    lessons = [_lesson(mine, plan, number, seed) for number in range(len(plan.sources))]
    return Pool(lessons, transfer, test, side_of(transfer.images, plan.half) if plan.half else None)


def side_of(images: ImageSet, half: Sequence[int]) -> Tensor:
    """The side of the world, 0 or 1, of each image: 0 if its label is one of ``half``."""
    return (~torch.isin(images.labels, torch.tensor(half, device=images.device))).long()


def _lesson(images: MultiLabelSet, plan: run.Settings, number: int, seed: int) -> MultiLabelSet:
    """What a source learns: images of its side of the world that ask about its tasks; of some, labels drawn anew."""
    (tasks, side), random = plan.sources[number], torch.Generator().manual_seed(seed)
    lesson = _skewed(images, plan, side, 1000 * seed + number).only(*tasks)
    asked = (lesson.targets >= 0).any(1)
    lesson = lesson if bool(asked.all()) else lesson.subset(asked)
    if share := plan.get("wrong", {}).get(number):
        columns = [torch.randint(k, (len(lesson),), generator=random) for k in lesson.classes.values()]
        anew = (torch.rand(lesson.targets.shape, generator=random) < share).to(lesson.device) & (lesson.targets >= 0)
        drawn = torch.stack(columns, 1).to(lesson.device)
        lesson = replace(lesson, targets=torch.where(anew, drawn, lesson.targets))
    return lesson


def _skewed(images: MultiLabelSet, plan: run.Settings, side: int | None, seed: int) -> MultiLabelSet:
    """The images of one side, and a random share of those of the other."""
    if side is None or plan.rare >= 1:
        return images
    drawn = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
    return images.subset((side_of(images.images, plan.half) == side) | (drawn < plan.rare))


def class_parts(count: int, parts: int) -> list[list[int]]:
    """Split classes at random, but always in the same way, into equal parts; the last one takes what is left over.

    Source: Shen et al. 2019 (ICCV), official code, but for the order before shuffling, which is sorted here.
    """
    order = list(range(count))
    random.Random(0).shuffle(order)
    size = round(count / parts)
    return [order[size * k : size * (k + 1) if k < parts - 1 else None] for k in range(parts)]


def class_images(plan: run.Settings, where: torch.device) -> Pool:
    """Images with classes in two parts, each a task: images of the other part are not asked.

    A source learns one part of the main classes and a quarter of the auxiliary set's, as one task.
    """
    main, test, other = (
        data.load(name, split, size=plan.size).to(where)
        for name, split in ((plan.dataset, "train"), (plan.dataset, "test"), (plan.auxiliary, "train"))
    )
    halves, quarters = class_parts(len(main.classes), 2), class_parts(len(other.classes), 4)
    tasks = {task: [main.classes[label] for label in half] for task, half in zip(PARTS, halves, strict=True)}
    table = {
        task: [half.index(label) if label in half else -1 for label in range(len(main.classes))]
        for task, half in zip(PARTS, halves, strict=True)
    }
    lessons = [
        _two_parts(main, halves[PARTS.index(task)], other, quarters[quarter]) for (task,), quarter in plan.sources
    ]
    transfer, held_out = (multi_label.from_classes(images, tasks, table) for images in (main, test))
    return Pool(lessons, transfer, held_out)


def _two_parts(main: ImageSet, first: list[int], other: ImageSet, second: list[int]) -> MultiLabelSet:
    """Some classes of one set and then some of another, as one task."""
    images = joined([relabelled(main, first), relabelled(other, second)])
    return MultiLabelSet(images, images.labels.unsqueeze(1), {ALL: images.classes})


def blank_images(plan: run.Settings) -> Pool:
    """Images on ``meta``, where only shapes and numbers of classes matter; an attribute has two classes."""
    images = blank.images(plan.dataset, plan.size, plan.transfer_images)

    def labelled(classes: dict[str, int]) -> MultiLabelSet:
        targets = torch.zeros(len(images), len(classes), dtype=torch.int64, device="meta")
        return MultiLabelSet(images, targets, {task: tuple(map(str, range(n))) for task, n in classes.items()})

    if plan.auxiliary is None:
        everything = labelled(
            {task: len(multi_label.CIFAR_KINDS.get(task, "01")) for tasks, _ in plan.sources for task in tasks}
        )
        return Pool([everything.only(*tasks) for tasks, _ in plan.sources], everything, everything)
    half, quarter = blank.SPACES[plan.dataset].classes // 2, blank.SPACES[plan.auxiliary].classes // 4
    everything = labelled(dict.fromkeys(PARTS, half))
    return Pool([labelled({ALL: half + quarter}) for _ in plan.sources], everything, everything)


# --- sources ---------------------------------------------------------------------------------------------------------


def schedule(updates: int, decays: Sequence[float] | None) -> run.Schedule:
    """The rates of sources and students: half a cosine, or halved at some shares of the run."""
    return run.cosine(updates) if decays is None else run.step_decay([round(x * updates) for x in decays], 0.5)


def as_photographs(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Crop uint8 images at random to 81 to 100 % of the area, stretch them back and mirror half of them.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    return augment.resized_crop(images.float(), generator, scale=(0.81, 1.0)).round().byte()


def build(network: tuple[str, dict[str, Any]], images: MultiLabelSet, tasks: dict[str, int]) -> MultiHead:
    """A network with heads for some images, by its name and arguments; nothing is computed on ``meta``."""
    with torch.device("meta" if images.device.type == "meta" else "cpu"):
        return cast(MultiHead, nets.build(network[0], tasks=tasks, channels=images.shape[0], **network[1]))


def untaught(plan: run.Settings, images: Pool, seed: int, number: int) -> MultiHead:
    """A source that has learned nothing yet; every second one may have another architecture."""
    network = plan.network if plan.others is None or number % 2 == 0 else plan.others
    lesson = images.lessons[number]
    with run.seeded(1000 * seed + number):
        source = build(network, lesson, lesson.classes)
    return run.on_device(source, lesson.device)


def teaching(plan: run.Settings, images: Pool, seed: int, number: int, source: MultiHead) -> MultiTaskSupervised:
    """The training of a source with labels."""
    options: dict[str, Any] = {"schedule": schedule(plan.updates, plan.decays), "seed": 1000 * seed + number}
    options["augment"] = as_photographs if plan.crop else None
    return MultiTaskSupervised(source, images.lessons[number], **options, **plan.options)


def trained_pool(plan: run.Settings, seed: int, where: torch.device, progress: bool = False) -> Pool:
    """The images of a plan, and its sources: trained unless this process, or another that keeps them, has done so.

    Args:
        plan: of the pool.
        seed: of the pieces, of initial weights and of batches.
        where: the device.
        progress: whether to show bars.
    """
    images = pool_images(plan, seed, where)
    sources = {f"s{k + 1}": _trained(plan, images, seed, k, progress) for k in range(len(plan.sources))}
    return replace(images, sources=sources)


def _trained(plan: run.Settings, images: Pool, seed: int, number: int, progress: bool) -> MultiHead:
    source = untaught(plan, images, seed, number)
    if not images.transfer.images.images.is_meta:
        recipe = {"plan": report.config_hash(plan.plain()), "draw": seed, "source": number}
        name = f"pools/{recipe['plan'][:16]}-seed{seed}/s{number + 1}"  # type: ignore[index]

        def teach() -> MultiTaskSupervised:
            if plan.pretrained:
                nets.take_torchvision_resnet18(source, pretrained.torchvision_weights("resnet18"))
            return teaching(plan, images, seed, number, source)

        title = f"source {number + 1} of {len(plan.sources)}"
        options = {"updates": plan.updates, "report_every": 100, "progress": progress, "title": title}
        piece = zoo.Piece(name, plan.kept, "reuselib run adaptive at the scale of this row")
        source = cast(MultiHead, piece.trained(untaught(plan, images, seed, number), recipe, teach, **options))
    if plan.auxiliary is not None:
        task = plan.sources[number][0][0]
        source = nets.first_classes(source, ALL, len(images.transfer.tasks[task]), task)
    return source.eval().requires_grad_(False)
