"""What chapters 09 and 10 are measured on: attribute worlds with a backbone, digits, clothes, and the benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from reuselib import checks, data, run
from reuselib.data.attributes import SEGMENTS, ZeroShotSet
from reuselib.data.attributes.human import FASHION_TRAITS
from reuselib.errors import unknown
from reuselib.nets.pretrained import torchvision_weights
from reuselib.nets.supervised import Supervised
from reuselib.worlds.attributes import AttributeWorld, WorldPlan

FIRST_WORLD = 3
"""The world of seed 0: on worlds 0 to 2 the proportions of the shapes were chosen."""
SPLITS = 12
"""Random splits of ten classes that make up one seed of a task with real images: there are 120 for ten seeds."""
REAL = ("digits", "segments", "fashion")
FASHION_IMAGES = 100  # of each class, of the training and of the test images
WIDTHS, FEATURES = (24, 48, 64), 128
"""Of the backbone's convolutions, and of its last layer but one."""
BATCH, RATE = 64, 4e-3
"""Auxiliary images per update of the backbone; the highest rate of Adam on one cycle."""


@dataclass(frozen=True, eq=False)
class WorldTask:
    """A world, and what its backbone makes of it.

    Attributes:
        world: the attribute world.
        backbone: φ, images to features, in evaluation mode; a copy is to be trained, never this one.
        data: images, raw features and the attributes of the plan.
    """

    world: AttributeWorld
    backbone: nn.Module
    data: ZeroShotSet

    def annotated(self, regime: str) -> ZeroShotSet:
        """The same images and features with the attributes of another regime."""
        names = self.world.attribute_names(regime)
        return replace(self.data, attributes=self.world.attributes(regime), attribute_names=names)


def world_task(seed: int, plan: Mapping[str, Any], epochs: int, device: str | torch.device | None = None) -> WorldTask:
    """The world of a record's seed, with its backbone: trained once in a process, whatever the regime.

    Args:
        seed: of the record; the world's is larger by ``FIRST_WORLD``.
        plan: of the world, fields of :class:`~reuselib.worlds.attributes.WorldPlan`.
        epochs: passes of the backbone through the auxiliary images.
        device: chosen if left out.

    Raises:
        UnknownName: the plan has no such field.
        BadValue: a number cannot be meant.
    """
    checks.whole(epochs=epochs)
    for name in plan:
        if name not in WorldPlan.__dataclass_fields__:
            raise unknown("field of a world's plan", name, WorldPlan.__dataclass_fields__)
    wanted = WorldPlan(**plan)
    task = _world_task(seed + FIRST_WORLD, replace(wanted, annotated="full"), epochs, str(run.device(device)))
    return replace(task, data=task.annotated(wanted.annotated))


@functools.lru_cache(maxsize=3)
def _world_task(seed: int, plan: WorldPlan, epochs: int, where: str) -> WorldTask:
    world = AttributeWorld(seed, plan, where)
    network = trained_backbone(world, epochs)
    found = world.zero_shot()
    assert found.images is not None
    return WorldTask(world, network, found.with_features(features_of(network, found.images)))


def backbone(classes: int) -> nn.Sequential:
    """The stand-in for a network pretrained on ImageNet, with initial weights: 3×32×32 images to logits.

    Its first part gives the features: three convolutions with batch norm and pooling, and a linear layer.
    """
    blocks = [
        nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))
        for inputs, outputs in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)
    ]
    pool = nn.Sequential(nn.Flatten(), nn.Linear(16 * WIDTHS[-1], FEATURES), nn.ReLU())
    return nn.Sequential(nn.Sequential(nn.Sequential(*blocks), pool), nn.Linear(FEATURES, classes))


def trained_backbone(world: AttributeWorld, epochs: int) -> nn.Module:
    """Train a network on the auxiliary classes of a world, and leave off its last layer.

    No image of any class, seen or unseen, has a part in it.
    """
    images = world.images("auxiliary")
    updates = epochs * len(images) // BATCH
    with run.seeded(world.seed):
        network = backbone(len(images.classes)).to(world.device)
    options: dict[str, Any] = {"batch": BATCH, "lr": RATE, "weight_decay": 0.0, "adam": True, "seed": world.seed}
    method = Supervised(network, images, schedule=run.one_cycle(updates), **options)
    run.run(method, updates=updates, progress=False)
    return network[0].eval()


@torch.no_grad()
def features_of(network: nn.Module, images: data.ImageSet, batch: int = 500) -> Tensor:
    """What a network in evaluation mode makes of all images, float32 (N, d)."""
    return torch.cat([network(x).float() for x, _ in images.batches(batch)])


@functools.lru_cache(maxsize=4)
def real_sets(task: str, seed: int, splits: int, where: str) -> tuple[ZeroShotSet, ...]:
    """The random splits of one seed: digits with 16 attributes, with their seven segments alone, or clothes with 14.

    Seeds have different splits, digits and clothes the same places among their ten classes. Made once in a process.

    Args:
        task: one of ``REAL``.
        seed: 0 to 9 for twelve splits.
        splits: how many.
        where: the device.

    Raises:
        UnknownName: there is no such task.
        BadValue: the seed is below 0, or there is no split.
    """
    if task not in REAL:
        raise unknown("task with real images", task, REAL)
    checks.whole(0, seed=seed)
    checks.whole(splits=splits)
    return tuple(_real_set(task, number).to(where) for number in range(splits * seed, splits * (seed + 1)))


def _real_set(task: str, number: int) -> ZeroShotSet:
    found = data.attributes.digits(number)
    if task == "fashion":
        names = [tuple(FASHION_TRAITS)[place] for place in found.unseen.tolist()]
        return data.attributes.fashion(names, FASHION_IMAGES, seed=number)
    return found.only(range(SEGMENTS)) if task == "segments" else found


@functools.lru_cache(maxsize=1)
def benchmark(name: str, where: str) -> ZeroShotSet:
    """A published benchmark in its proposed split with ResNet-101 features, on a device; read once in a process."""
    return data.attributes.gbu(name.upper(), "ps").to(where)


def opened(name: str, settings: run.Settings, seed: int, where: str) -> tuple[ZeroShotSet, ...]:
    """The splits of one seed of a task, with features and attributes: a world, real images, or a benchmark.

    Raises:
        MissingFile: a benchmark was not brought.
        UnknownName: there is no such benchmark.
    """
    if name == "world":
        return (world_task(seed, settings.plan, settings.epochs, where).data,)
    return real_sets(name, seed, settings.splits, where) if name in REAL else (benchmark(name, where),)


def image_sets(task: str) -> set[str]:
    """The image sets that a task reads: a benchmark is one itself, a world is drawn."""
    read = {"world": set[str](), "digits": {"digits"}, "segments": {"digits"}, "fashion": {"fashion_mnist"}}
    return read.get(task, {task})


def resnet101(where: torch.device) -> nn.Module:
    """torchvision's ResNet-101 with its first ImageNet weights, images to 2,048 features; blank on ``meta``.

    Raises:
        ReuseError: the weights could not be fetched.
    """
    network = torchvision.models.resnet101()
    if where.type != "meta":
        network.load_state_dict(torchvision_weights("resnet101"))
    network.fc = nn.Identity()
    return run.on_device(network, where)
