"""What chapters 09 and 10 are measured on: attribute worlds, digits, clothes, photographs, and the benchmarks.

The photographs of CIFAR-10 are described by attributes that people wrote. Their features are those of a network that
learned ImageNet, which has all ten classes: a leak that the protocol of zero-shot learning forbids. What it is worth
shows the task "seen", whose features come from networks that learned the seen classes of their split alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from reuselib import checks, data, home, run
from reuselib.data import files
from reuselib.data.attributes import CIFAR_BODY, SEGMENTS, ZeroShotSet
from reuselib.data.attributes.human import FASHION_TRAITS
from reuselib.data.augment import crop_and_flip
from reuselib.errors import DamagedFile, unknown
from reuselib.nets import efficientnet, taps
from reuselib.nets.pretrained import torchvision_weights
from reuselib.nets.supervised import Supervised
from reuselib.worlds.attributes import AttributeWorld, WorldPlan

FIRST_WORLD = 3
"""The world of seed 0: on worlds 0 to 2 the proportions of the shapes were chosen."""
SPLITS = 12
"""Random splits of ten classes that make up one seed of a task with real images: there are 120 for ten seeds."""
REAL = ("digits", "segments", "fashion")
PHOTOGRAPHS = ("cifar", "body", "seen")
"""CIFAR-10 (JPEG) by an ImageNet network; the same with the attributes of an animal's body alone; by the seen classes'
networks."""
LEARNED = ("world", "seen")
"""Tasks whose features are those of a network that is trained here, in the precision of the device."""
CIFAR_IMAGES = 300, 100  # of each class, of the training and of the test images
EPOCHS = 4  # of a network through all training images of its seven seen classes
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
    network = trained_backbone(world.images("auxiliary"), world.seed, epochs)
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


def trained_backbone(images: data.ImageSet, seed: int, epochs: int, **options: Any) -> nn.Module:
    """Train a network on images, and leave off its last layer; ``options`` are those of the training.

    In a world they are of the auxiliary classes: no image of any class, seen or unseen, has a part in it.
    """
    updates = epochs * len(images) // BATCH
    with run.seeded(seed):
        network = backbone(len(images.classes)).to(images.device)
    options = {"batch": BATCH, "lr": RATE, "weight_decay": 0.0, "adam": True, "seed": seed} | options
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


@functools.lru_cache(maxsize=4)
def photograph_sets(task: str, seed: int, splits: int, epochs: int, where: str) -> tuple[ZeroShotSet, ...]:
    """The random splits of one seed, those of :func:`real_sets`: photographs of CIFAR-10 with 24 attributes.

    Args:
        task: one of ``PHOTOGRAPHS``.
        seed: 0 to 9 for twelve splits.
        splits: how many.
        epochs: passes of each network through the images of its seen classes, where the task is "seen".
        where: the device.

    Raises:
        MissingFile: images, or the package of the ImageNet network, are not there.
    """
    parts, found = photographs(), []
    for number in range(splits * seed, splits * (seed + 1)):
        unseen = data.attributes.unseen_places(number)
        features = seen_features(number, unseen, epochs, where) if task == "seen" else imagenet_features(where)
        each = data.attributes.cifar10(parts, features, number)
        found.append((each.only(range(CIFAR_BODY)) if task == "body" else each).to(where))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def photographs() -> tuple[data.ImageSet, data.ImageSet]:
    """As many training and as many test images of each class as ``CIFAR_IMAGES`` says."""
    train, test = (
        data.load("cifar10-jpeg", split).per_class(count, seed=0)
        for split, count in zip(files.SPLITS, CIFAR_IMAGES, strict=True)
    )
    return train, test


@functools.lru_cache(maxsize=1)
def imagenet_features(where: str) -> Tensor:
    """Of all :func:`photographs` by EfficientNet-Lite0, enlarged to the size of its training: (N, 1280) on the CPU."""

    def make() -> Tensor:
        network, found = efficientnet.load(0, where), []
        mean, std = (values[0] for values in efficientnet.NORMALISATION)
        with torch.no_grad(), taps.penultimate(network) as features:
            for x in torch.cat([part.images for part in photographs()]).split(50):
                sizes = (efficientnet.SIZES[0],) * 2
                large = F.interpolate(x.to(where).float() / 255, sizes, mode="bilinear", antialias=True)
                network((large - mean) / std)
                found.append(features.value.float().cpu())
        return torch.cat(found)

    return kept("efficientnet-lite0", make)


def seen_features(number: int, unseen: Tensor, epochs: int, where: str) -> Tensor:
    """Of all :func:`photographs` by a small network that learned the seen classes of a split: (N, 128) on the CPU.

    It learned all their training images, and no image of an unseen class has a part in it.
    """

    def make() -> Tensor:
        every = data.load("cifar10-jpeg", "train")
        seen = torch.tensor([place for place in range(len(every.classes)) if place not in unseen.tolist()])
        images = every.subset(torch.isin(every.labels, seen))
        names = tuple(every.classes[place] for place in seen.tolist())
        images = replace(images, labels=torch.searchsorted(seen, images.labels), classes=names).to(where)
        network = trained_backbone(images, number, epochs, augment=crop_and_flip)
        return torch.cat([features_of(network, part.to(where)).cpu() for part in photographs()])

    return kept(f"seen-{number}-{epochs}", make)


def kept(name: str, make: Callable[[], Tensor]) -> Tensor:
    """Features (N, d) of all :func:`photographs`, made once for a data room.

    Raises:
        DamagedFile: the file there holds something else.
    """
    path = files.downloads("features", f"cifar10-jpeg-{name}-{'-'.join(map(str, CIFAR_IMAGES))}.safetensors")
    if not path.is_file():
        home.write_atomic(path, save({"features": make().contiguous()}))
    try:
        found = load(path.read_bytes())["features"]
    except (SafetensorError, KeyError) as error:
        raise DamagedFile(path, f"it holds no features ({error})", "delete it: they are made again") from error
    if len(found) != sum(map(len, photographs())):
        raise DamagedFile(path, "it holds features of other images", "delete it: they are made again")
    return found


@functools.lru_cache(maxsize=1)
def benchmark(name: str, where: str) -> ZeroShotSet:
    """A published benchmark with ResNet-101 features, on a device; read once in a process."""
    return data.attributes.gbu(*published(name)).to(where)


def published(name: str) -> tuple[str, str]:
    """The benchmark and the split of a task: "awa2" is AwA2 in its proposed split, "awa2ss" in the standard one."""
    return name.removesuffix("ss").upper(), "ss" if name.endswith("ss") else "ps"


def opened(name: str, settings: run.Settings, seed: int, where: str) -> tuple[ZeroShotSet, ...]:
    """The splits of one seed of a task, with features and attributes.

    Raises:
        MissingFile: a benchmark, images or a network are not there.
        UnknownName: there is no such benchmark.
    """
    if name == "world":
        return (world_task(seed, settings.plan, settings.epochs, where).data,)
    if name in PHOTOGRAPHS:
        return photograph_sets(name, seed, settings.splits, settings.get("epochs", 0), where)
    return real_sets(name, seed, settings.splits, where) if name in REAL else (benchmark(name, where),)


def image_sets(task: str) -> set[str]:
    """What a task reads: image sets, a network of a package; a benchmark is one itself, a world is drawn."""
    read = {"world": set[str](), "digits": {"digits"}, "segments": {"digits"}, "fashion": {"fashion_mnist"}}
    read |= {name: {"cifar10-jpeg"} | ({"efficientnet_lite"} if name != "seen" else set()) for name in PHOTOGRAPHS}
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
