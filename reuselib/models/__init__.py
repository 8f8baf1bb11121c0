"""Networks by name: classifiers, generators, and taps to look inside any of them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from reuselib.errors import unknown
from reuselib.models.classifier import Classifier
from reuselib.models.conv import conv3
from reuselib.models.generators import Generator, dcgan_generator, upsampling_generator
from reuselib.models.lenet import lenet5, lenet5_half
from reuselib.models.resnet import (
    resnet18_8x,
    resnet18_imagenet,
    resnet34_8x,
    resnet34_imagenet,
    small_resnet,
)
from reuselib.models.taps import Penultimate, penultimate, tap

MODELS: dict[str, Callable[..., nn.Module]] = {
    constructor.__name__: constructor
    for constructor in (
        conv3,
        lenet5,
        lenet5_half,
        small_resnet,
        resnet34_8x,
        resnet18_8x,
        resnet34_imagenet,
        resnet18_imagenet,
        upsampling_generator,
        dcgan_generator,
    )
}

__all__ = [
    "MODELS",
    "Classifier",
    "Generator",
    "Penultimate",
    "build",
    "conv3",
    "dcgan_generator",
    "lenet5",
    "lenet5_half",
    "parameter_count",
    "penultimate",
    "resnet18_8x",
    "resnet18_imagenet",
    "resnet34_8x",
    "resnet34_imagenet",
    "small_resnet",
    "tap",
    "upsampling_generator",
]


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network by its name, as a card or a config names it.

    Args:
        name: a key of `MODELS`.
        arguments: what that constructor takes.

    Raises:
        UnknownName: there is no such network; the message gives the nearest name.
    """
    if name not in MODELS:
        raise unknown("network", name, MODELS)
    return MODELS[name](**arguments)


def parameter_count(model: nn.Module) -> int:
    """Count the scalars in the network's parameters, buffers left out."""
    return sum(parameter.numel() for parameter in model.parameters())
