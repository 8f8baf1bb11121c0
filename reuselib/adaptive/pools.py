"""Pools of trained sources for chapter 06: which images each source sees, and what is left for students and tests."""

from __future__ import annotations

import json
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
from reuselib.nets import MultiHead, zoo
from reuselib.nets.supervised import MultiTaskSupervised

ALL = "all"
"""The one task of a source of classes: its main and its auxiliary classes in one softmax."""

LOADERS = dict(multi_label.MULTI_LABEL)


@dataclass(frozen=True)
class SourcePlan:
    """One source of a pool.

    Attributes:
        tasks: that it learns.
        side: 0 or 1 if it sees few images of the other side of the world; ``None`` if it sees all. For a source of
            classes, its quarter of the auxiliary set, 0 to 3.
    """

    tasks: tuple[str, ...]
    side: int | None = None


@dataclass(frozen=True)
class PoolPlan:
    """Everything that decides a pool of sources and the images that students get, beside the seed.

    Attributes:
        dataset: a set with several labels, or one with classes if there is an auxiliary set.
        sources: of the pool, in order.
        network: architecture of the sources.
        arguments: what it is built with, beside tasks and channels.
        others: architecture and arguments of every second source, if it has another.
        auxiliary: set whose classes the sources know too.
        size: pixels a side, ``None`` for the set's own.
        half: labels of the images of side 0.
        rare: share of the other side's images that a source sees.
        source_images: images set aside for all sources, ``None`` for all the training images, the students' too.
        transfer_images: images for the students, ``None`` for all the training images.
        updates: of each source.
        batch: images per update.
        lr: of SGD with Nesterov momentum.
        weight_decay: of SGD.
        decays: shares of the run after which the rate is multiplied by ``decay``; half a cosine if left out.
        decay: that factor.
        noise: largest standard deviation of the noise on the images.
        crop: whether images are cropped and flipped as photographs are.
        pretrained: whether sources start from torchvision's ImageNet weights.
        kept: whether trained sources are kept on disk for other runs.
    """

    dataset: str
    sources: tuple[SourcePlan, ...]
    network: str = "multi_head_conv"
    arguments: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, dict[str, Any]] | None = None
    auxiliary: str | None = None
    size: int | None = None
    half: tuple[int, ...] = ()
    rare: float = 1.0
    source_images: int | None = None
    transfer_images: int | None = None
    updates: int = 300
    batch: int = 64
    lr: float = 0.05
    weight_decay: float = 5e-4
    decays: tuple[float, ...] | None = None
    decay: float = 0.5
    noise: float = 0.0
    crop: bool = False
    pretrained: bool = False
    kept: bool = False


@dataclass(frozen=True, eq=False)
class World:
    """The images of a pool: three disjoint pieces, unless the plan says that students see the sources' images.

    Attributes:
        lessons: for each source its labelled images, with its tasks alone.
        transfer: images for the students; their targets serve measuring, the ceilings and the oracle.
        test: images that nobody has seen.
        sides: for each transfer image the side of the world, 0 or 1; ``None`` where there are no sides.
    """

    lessons: list[MultiLabelSet]
    transfer: MultiLabelSet
    test: MultiLabelSet
    sides: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Pool:
    """Trained sources and their world.

    Attributes:
        world: the images.
        sources: by name, "s1" onwards, in evaluation mode.
    """

    world: World
    sources: dict[str, MultiHead]


def schedule(updates: int, decays: Sequence[float] | None, decay: float) -> run.Schedule:
    """Half a cosine, or a factor at shares of the run."""
    if decays is None:
        return run.cosine(updates)
    return run.step_decay([round(share * updates) for share in decays], decay)


def as_photographs(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Crop uint8 images at random to 81 to 100 % of the area, stretch them back and mirror half of them.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    return augment.resized_crop(images.float(), generator, scale=(0.81, 1.0)).round().byte()


# --- worlds ----------------------------------------------------------------------------------------------------------


def attribute_world(plan: PoolPlan, seed: int, where: torch.device) -> World:
    """A world of images with several labels each; the seed draws the pieces."""
    if plan.dataset not in LOADERS:
        raise unknown("set with several labels", plan.dataset, LOADERS)
    load, sized = LOADERS[plan.dataset], {} if plan.size is None else {"size": plan.size}
    training, test = (load(split, **sized).to(where) for split in ("train", "test"))
    mine, transfer = _pieces(training, plan, seed)
    lessons = [
        _skewed(mine, plan, source.side, 1000 * seed + number).only(*source.tasks)
        for number, source in enumerate(plan.sources)
    ]
    return World(lessons, transfer, test, _sides(transfer.images, plan.half) if plan.half else None)


def _pieces(training: MultiLabelSet, plan: PoolPlan, seed: int) -> tuple[MultiLabelSet, MultiLabelSet]:
    """The sources' images and the students': disjoint if the plan counts the sources' images."""
    count = plan.transfer_images or len(training)
    if plan.source_images is None:
        return training, training if plan.transfer_images is None else training.take(count, seed)
    if count + plan.source_images > len(training):
        raise ReuseError(
            f"{training.name} has {len(training)} images, not {plan.source_images} for sources and {count} for "
            "students. Ask for fewer."
        )
    drawn = training.take(count + plan.source_images, seed)
    return drawn.subset(slice(count, None)), drawn.subset(slice(count))


def _sides(images: ImageSet, half: Sequence[int]) -> Tensor:
    """The side, 0 or 1, of each image: 0 if its label is one of ``half``."""
    known = torch.ones(len(images.classes), dtype=torch.int64, device=images.device)
    known[list(half)] = 0
    return known[images.labels]


def _skewed(images: MultiLabelSet, plan: PoolPlan, side: int | None, seed: int) -> MultiLabelSet:
    """The images of one side, and a random share of those of the other."""
    if side is None or plan.rare >= 1:
        return images
    drawn = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
    return images.subset((_sides(images.images, plan.half) == side) | (drawn < plan.rare))


def class_parts(count: int, parts: int) -> list[list[int]]:
    """Split classes at random, but always in the same way, into equal parts; the last one takes what is left over.

    Source: Shen et al. 2019 (ICCV), official code, but for the order before shuffling, which is sorted here.
    """
    order = list(range(count))
    random.Random(0).shuffle(order)
    size = round(count / parts)
    return [order[size * k : size * (k + 1) if k < parts - 1 else None] for k in range(parts)]


def part_name(part: int) -> str:
    """The task of telling apart the main classes of one part, 0 or 1."""
    return f"part {part + 1}"


def class_world(plan: PoolPlan, where: torch.device) -> World:
    """A world of classes in two parts, each a task: images of the other part are not asked.

    A source learns one part of the main classes and a quarter of the auxiliary set's, as one task.
    """
    main, test, other = (
        data.load(name, split, size=plan.size).to(where)
        for name, split in ((plan.dataset, "train"), (plan.dataset, "test"), (cast(str, plan.auxiliary), "train"))
    )
    halves, quarters = class_parts(len(main.classes), 2), class_parts(len(other.classes), 4)
    tasks = {part_name(k): [main.classes[label] for label in half] for k, half in enumerate(halves)}
    table = {
        part_name(k): [half.index(label) if label in half else -1 for label in range(len(main.classes))]
        for k, half in enumerate(halves)
    }
    lessons = []
    for source in plan.sources:
        part = list(tasks).index(source.tasks[0])
        lessons.append(_two_parts(main, halves[part], other, quarters[cast(int, source.side)]))
    transfer, held_out = (multi_label.from_classes(images, tasks, table) for images in (main, test))
    return World(lessons, transfer, held_out)


def _two_parts(main: ImageSet, first: list[int], other: ImageSet, second: list[int]) -> MultiLabelSet:
    """Some classes of one set and then some of another, as one task."""
    pixels, labels = [], []
    names: list[str] = []
    for images, wanted in ((main, first), (other, second)):
        table = torch.full((len(images.classes),), -1, device=images.device)
        table[wanted] = torch.arange(len(wanted), device=images.device) + len(names)
        found = table[images.labels]
        pixels.append(images.images[found >= 0])
        labels.append(found[found >= 0])
        names += [images.classes[label] for label in wanted]
    joined = replace(
        main,
        name=f"{main.name} and {other.name}",
        images=torch.cat(pixels),
        labels=torch.cat(labels),
        classes=tuple(names),
    )
    return MultiLabelSet(joined, joined.labels.unsqueeze(1), {ALL: joined.classes})


def build_world(plan: PoolPlan, seed: int, where: torch.device) -> World:
    """The images of a plan."""
    return attribute_world(plan, seed, where) if plan.auxiliary is None else class_world(plan, where)


# --- sources ---------------------------------------------------------------------------------------------------------


def build_network(name: str, arguments: dict[str, Any], tasks: dict[str, int], channels: int) -> MultiHead:
    """A network with heads, by name."""
    return cast(MultiHead, nets.build(name, tasks=tasks, channels=channels, **arguments))


def imagenet_weights() -> dict[str, Tensor]:
    """torchvision's ResNet-18, trained on ImageNet.

    Raises:
        ReuseError: it could not be fetched.
    """
    from torchvision.models import ResNet18_Weights

    try:
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise ReuseError(
            f"torchvision's ResNet-18 could not be fetched ({error}). Connect to the network once, or run a row with "
            "networks that start from random weights."
        ) from error


@dataclass(frozen=True)
class _Key:
    """What decides a pool, by a hash of its plan; the plan itself cannot be hashed, and the bars decide nothing."""

    room: Path
    plan_hash: str
    seed: int
    device: str
    plan: PoolPlan = field(compare=False)
    progress: bool = field(compare=False)


def trained_pool(plan: PoolPlan, seed: int, where: torch.device, progress: bool = False) -> Pool:
    """Train the sources of a plan, or give those that this process has trained already.

    Args:
        plan: of the pool.
        seed: of the pieces, of initial weights and of batches.
        where: the device.
        progress: whether to show bars.
    """
    return _trained_pool(_Key(home.root(), report.config_hash(plan), seed, str(where), plan, progress))


@lru_cache(maxsize=2)
def _trained_pool(key: _Key) -> Pool:
    world = build_world(key.plan, key.seed, torch.device(key.device))
    sources = {f"s{k + 1}": _train(key, world, k) for k in range(len(world.lessons))}
    return Pool(world, sources)


def _train(key: _Key, world: World, number: int) -> MultiHead:
    plan, images, seed = key.plan, world.lessons[number], 1000 * key.seed + number
    name, arguments = (plan.network, plan.arguments) if plan.others is None or number % 2 == 0 else plan.others
    with run.seeded(seed):
        network = build_network(name, arguments, images.classes, images.shape[0])
    if plan.pretrained:
        nets.take_torchvision_resnet18(network, imagenet_weights())
    run.on_device(network, images.device)
    made_by = {"plan": key.plan_hash, "seed": key.seed, "source": number}
    pool = f"pools/{key.plan_hash[:16]}-seed{key.seed}"
    piece = zoo.Piece(f"{pool}/s{number + 1}", plan.kept, "reuselib run adaptive")
    if piece.has():
        piece.load(network, made_by)
    else:
        method = MultiTaskSupervised(
            network,
            images,
            batch=plan.batch,
            lr=plan.lr,
            weight_decay=plan.weight_decay,
            noise=plan.noise,
            seed=seed,
            schedule=schedule(plan.updates, plan.decays, plan.decay),
            augment=as_photographs if plan.crop else None,
        )
        history = run.run(
            method,
            updates=plan.updates,
            report_every=100,
            checkpoint=piece.checkpoint,
            settings=json.dumps(made_by),
            progress=key.progress,
            title=f"source {number + 1} of {len(plan.sources)}",
        )
        piece.save(network, history, recipe=made_by)
    if plan.auxiliary is not None:
        part = plan.sources[number].tasks[0]
        network = nets.first_classes(network, ALL, len(world.transfer.tasks[part]), part)
    return network.eval().requires_grad_(False)
