"""How the networks of the zoo are made: what each learns from, its architecture, and its training."""

from dataclasses import dataclass, field
from typing import Any

from reuselib import run


@dataclass(frozen=True)
class Made:
    """What is known of every network of the zoo.

    Attributes:
        dataset: name of an image set (see :func:`reuselib.data.load`), or of one with masks (see
            :func:`reuselib.data.segmentation.load`); the accuracy of a segmentation network is that of pixels.
        size: pixels a side, or ``None`` for the set's own.
        architecture: name of a model (see :func:`reuselib.nets.build`).
        arguments: what the architecture is built with, beside classes and channels.
    """

    dataset: str
    size: int | None
    architecture: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Recipe(Made):
    """How a network of the zoo is trained.

    Attributes:
        iterations: updates.
        warmup: updates of linear warm-up before the cosine.
        decays: updates at which the learning rate falls to a tenth, in place of the cosine.
        options: the options of :class:`~reuselib.nets.supervised.Supervised`, or of
            :class:`~reuselib.nets.supervised.SegmentationTraining`.
        seed: of the initial weights and of the batches.
        encoder: torchvision's name of the classifier whose ImageNet weights a DeepLabv3's encoder starts from, if any.
    """

    iterations: int
    warmup: int = 0
    decays: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    encoder: str | None = None

    def schedule(self) -> run.Schedule:
        """The course of the learning rate."""
        return run.cosine(self.iterations, self.warmup) if self.decays is None else run.step_decay(self.decays)


@dataclass(frozen=True)
class Published(Made):
    """A network that torchvision publishes: fetched and converted instead of trained.

    Attributes:
        source: torchvision's name of the network.
        weights: torchvision's name of its weights.
    """

    source: str
    weights: str


_CIFAR: dict[str, Any] = {"batch": 128, "lr": 0.1, "weight_decay": 5e-4, "crop": 4, "flip": True}
_CMI = (120, 150, 180)  # epochs
_ROBUST: dict[str, Any] = {"lr": 0.1, "weight_decay": 1e-3, "flip": True, "mixup": True, "noise": 0.5}


def _laptop(
    dataset: str, size: int | None, architecture: str, iterations: int, warmup: int = 0, **options: Any
) -> Recipe:
    """A small network with the cosine, minutes on a laptop; ``width`` and ``seed`` are no options of the training."""
    arguments = {"width": options.pop("width")} if "width" in options else {}
    seed, options = options.pop("seed", 0), {"batch": 128} | options
    return Recipe(dataset, size, architecture, arguments, iterations, warmup, None, options, seed)


def _cifar(
    dataset: str,
    architecture: str,
    epochs: int,
    decays: tuple[int, ...] = (),
    updates: int = 390,
    lr: float = 0.1,
    **arguments: Any,
) -> Recipe:
    """The papers' recipe: SGD, batch 128, crops and flips; so many updates an epoch, ``decays`` in epochs."""
    steps, warmup = tuple(updates * epoch for epoch in decays) or None, 0 if decays else updates
    return Recipe(dataset, None, architecture, arguments, updates * epochs, warmup, steps, _CIFAR | {"lr": lr})


def _deeplab(dataset: str, images: int, lr: float) -> Recipe:
    """DFAD's recipe: 200 epochs of batches of 16, the rate to a tenth after 100, from ImageNet weights."""
    updates, options = -(-images // 16), {"batch": 16, "lr": lr, "weight_decay": 5e-4}
    options |= {"window": 128, "flip": True, "focal": 2.0}
    decays = (100 * updates,)
    return Recipe(dataset, None, "deeplabv3_resnet50", {}, 200 * updates, 0, decays, options, encoder="resnet50")


RECIPES: dict[str, Recipe | Published] = {
    "digits8-conv3": _laptop("digits", None, "conv3", 600, width=16, batch=64, lr=0.05),
    "fashion16-conv3": _laptop("fashion_mnist", 16, "conv3", 8000, 400, width=32, **_ROBUST),
    "fashion32-lenet5": _laptop("fashion_mnist", 32, "lenet5", 6000, 400, lr=0.05, flip=True),
    "fashion28-resnet": _laptop("fashion_mnist", None, "small_resnet", 10000, 500, width=16, lr=0.1, flip=True, crop=2),
    "fashion16-resnet": _laptop("fashion_mnist", 16, "small_resnet", 8000, 400, width=16, lr=0.1, flip=True, crop=1),
    "shapes16-conv4": _laptop("shapes", 16, "conv4", 1500, width=16, batch=64, lr=0.05),
    "shapes16-cells": _laptop("shape_cells", 16, "conv4", 3000, width=16, batch=64, lr=0.05),
    "shapes16-judge": _laptop("shape_cells", 16, "conv4", 3000, width=16, seed=1, batch=64, lr=0.05),
    "fashion16-vgg": _laptop("fashion_mnist", 16, "plain_vgg", 8000, 400, lr=0.05, flip=True, crop=1),
    "symbols16-vgg": _laptop("symbols", 16, "plain_vgg", 3000, 100, batch=64, lr=0.05, flip=True, crop=2),
    "rooms32-segmenter": _laptop("rooms", None, "small_segmenter", 4000, 200, width=32, batch=64, **_ROBUST),
    "mnist32-lenet5": Recipe(
        "mnist", 32, "lenet5", {}, 2340, decays=(), options={"batch": 256, "lr": 0.01, "weight_decay": 1e-4}
    ),
    # CIFAR-10 (JPEG): the teachers of the recorded `colab` scale, hours of one core.
    "cifar10-jpeg-resnet20": _cifar("cifar10-jpeg", "small_resnet", 20, depth_blocks=(3, 3, 3), width=16),
    "cifar10-jpeg-resnet56": _cifar("cifar10-jpeg", "small_resnet", 12, depth_blocks=(9, 9, 9), width=16),
    "cifar10-jpeg-vgg16": _cifar("cifar10-jpeg", "vgg16_plain", 16, lr=0.02),
    "cifar10-resnet34": _cifar("cifar10", "resnet34_8x", 200, (80, 160)),
    "cifar10-resnet18": _cifar("cifar10", "resnet18_8x", 30),
    "cifar10-wrn16-2": _cifar("cifar10", "wrn16_2", 30),
    "cifar100-resnet34": _cifar("cifar100", "resnet34_8x", 200, (80, 160)),
    "cifar100-resnet34-dfad": _cifar("cifar100_dfad", "resnet34_8x", 200, (80, 160)),  # normalised as CIFAR-10
    # CMI's schedule with DAFL's weight decay: users of CMI's own 1e-4 fell short of its published teachers.
    "cifar10-wrn40-2": _cifar("cifar10", "wrn40_2", 200, _CMI),
    "cifar10-vgg11": _cifar("cifar10", "vgg11_bn", 200, _CMI),
    "cifar100-wrn40-2": _cifar("cifar100", "wrn40_2", 200, _CMI),
    "cifar100-vgg11": _cifar("cifar100", "vgg11_bn", 200, _CMI),
    # Thirteen convolutions without batch norm: tried on Fashion-MNIST, the loss grew again above a rate of 0.03.
    "cifar10-vgg16": _cifar("cifar10", "vgg16_plain", 200, lr=0.02),
    "cifar100-vgg16": _cifar("cifar100", "vgg16_plain", 200, lr=0.02),
    "tiny-imagenet-vgg11": _cifar("tiny_imagenet", "vgg11_bn", 200, _CMI, updates=781, pools=4),
    "tiny-imagenet-resnet34": _cifar("tiny_imagenet", "resnet34_8x", 200, _CMI, updates=781),
    "caltech101-resnet34": Recipe(
        "caltech101", None, "resnet34_imagenet", {}, 8100, 0, (2700, 5400), _CIFAR | {"crop": 8}
    ),
    "imagenet-resnet34": Published("imagenet", None, "resnet34_imagenet", {}, "resnet34", "IMAGENET1K_V1"),
    "camvid-deeplabv3": _deeplab("camvid", images=367, lr=0.1),
    "nyuv2-deeplabv3": _deeplab("nyuv2", images=795, lr=0.05),
}
