"""What chapters 09 and 10 are measured on: attribute worlds with a backbone, digits, clothes, and the benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reuselib import data, nets, run
from reuselib.data.attributes import SEGMENTS, ZeroShotSet
from reuselib.data.attributes.human import FASHION_TRAITS
from reuselib.errors import unknown
from reuselib.nets.supervised import Supervised
from reuselib.worlds.attributes import AttributeWorld, WorldPlan

FIRST_WORLD = 3
"""The world of seed 0: on worlds 0 to 2 the proportions of the shapes were chosen."""
SPLITS = 12
"""Random splits of ten classes that make up one seed of a task with real images."""
REAL = ("digits", "segments", "fashion")
FASHION_IMAGES = 100  # of each class, of the training and of the test images


@dataclass(frozen=True)
class BackbonePlan:
    """The stand-in for a network pretrained on ImageNet: it learns the auxiliary classes of a world.

    Attributes:
        widths: of the three convolutions.
        features: of its last layer but one.
        epochs: passes through the auxiliary images.
        batch: images per update.
        lr: highest rate of Adam on one cycle.
    """

    widths: tuple[int, int, int] = (24, 48, 64)
    features: int = 128
    epochs: int = 10
    batch: int = 64
    lr: float = 4e-3

    def build(self, classes: int) -> nets.Classifier:
        """The network with initial weights: three convolutions with batch norm and pooling, and two linear layers."""
        blocks = [
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))
            for inputs, outputs in zip((3, *self.widths[:-1]), self.widths, strict=True)
        ]
        pool = nn.Sequential(nn.Flatten(), nn.Linear(16 * self.widths[-1], self.features), nn.ReLU())
        return nets.Classifier(blocks, pool, nn.Linear(self.features, classes), size=32)


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


def world_task(seed: int, plan: WorldPlan, backbone: BackbonePlan, device: str | None = None) -> WorldTask:
    """The world of a record's seed, with its backbone: trained once in a process, whatever the regime.

    Args:
        seed: of the record; the world's is larger by ``FIRST_WORLD``.
        plan: of the world.
        backbone: how the backbone learns.
        device: chosen by the engine if left out.
    """
    where = run.device(device)
    task = _world_task(seed + FIRST_WORLD, replace(plan, annotated="full"), backbone, str(where))
    return replace(task, data=task.annotated(plan.annotated))


@functools.lru_cache(maxsize=3)
def _world_task(seed: int, plan: WorldPlan, backbone: BackbonePlan, where: str) -> WorldTask:
    world = AttributeWorld(seed, plan, where)
    network = trained_backbone(world, backbone)
    found = world.zero_shot()
    assert found.images is not None
    return WorldTask(world, network, found.with_features(features_of(network, found.images)))


def trained_backbone(world: AttributeWorld, plan: BackbonePlan) -> nn.Module:
    """Train a network on the auxiliary classes of a world, and leave off its last layer.

    No image of any class, seen or unseen, has a part in it.
    """
    images, updates = world.images("auxiliary"), plan.epochs * world.images("auxiliary").labels.numel() // plan.batch
    with run.seeded(world.seed):
        network = plan.build(len(images.classes)).to(world.device)
    method = Supervised(
        network,
        images,
        batch=plan.batch,
        lr=plan.lr,
        weight_decay=0.0,
        adam=True,
        schedule=run.one_cycle(updates),
        seed=world.seed,
    )
    method.steps_per_round = updates
    run.run(method, 1, progress=False)
    return nn.Sequential(network.blocks, network.pool).eval()


@torch.no_grad()
def features_of(network: nn.Module, images: data.ImageSet, batch: int = 500) -> Tensor:
    """What a network in evaluation mode makes of all images, float32 (N, d)."""
    return torch.cat([network(x).float() for x, _ in images.batches(batch)])


def real_tasks(task: str, seed: int, splits: int = SPLITS) -> Iterator[ZeroShotSet]:
    """The random splits of one seed: digits with 16 attributes, with their seven segments alone, or clothes with 14.

    Seeds have different splits, digits and clothes the same places among their ten classes.

    Args:
        task: one of ``REAL``.
        seed: 0 to 9 for twelve splits: there are 120 ways to choose three classes of ten.
        splits: how many.

    Raises:
        UnknownName: there is no such task.
    """
    if task not in REAL:
        raise unknown("task with real images", task, REAL)
    for number in range(splits * seed, splits * (seed + 1)):
        found = data.attributes.digits(number)
        if task == "segments":
            found = found.only(range(SEGMENTS))
        if task == "fashion":
            names = [tuple(FASHION_TRAITS)[place] for place in found.unseen.tolist()]
            found = data.attributes.fashion(names, FASHION_IMAGES, seed=number)
        yield found


@functools.lru_cache(maxsize=4)
def real_sets(task: str, seed: int, splits: int, where: str) -> tuple[ZeroShotSet, ...]:
    """The same on a device, made once in a process."""
    return tuple(found.to(where) for found in real_tasks(task, seed, splits))


@functools.lru_cache(maxsize=1)
def benchmark(name: str, split: str = "ps") -> ZeroShotSet:
    """One of the published benchmarks with its ResNet-101 features, on the engine's device; read once in a process."""
    return data.attributes.gbu(name.upper(), split).to(run.device())
