"""Networks by name: classifiers, generators, and taps to look inside any of them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from reuselib.errors import unknown
from reuselib.nets.alexnet import alexnet, take_torchvision_alexnet
from reuselib.nets.chain import Link, chain_of, works_in_place
from reuselib.nets.classifier import Classifier
from reuselib.nets.conv import conv3, conv4
from reuselib.nets.encoder_decoder import (
    TaskNetwork,
    dense_decoder,
    readout,
    residual_room_encoder,
    room_encoder,
    task_network,
    vector_head,
)
from reuselib.nets.gan import Discriminator, dcgan_discriminator, deconvolution_generator
from reuselib.nets.generators import Generator, dcgan_generator, inversion_generator, reinitialise, upsampling_generator
from reuselib.nets.lenet import lenet5, lenet5_half
from reuselib.nets.multi_head import (
    MultiHead,
    first_classes,
    multi_head_conv,
    multi_head_residual,
    multi_head_resnet18,
    take_torchvision_resnet18,
)
from reuselib.nets.resnet import resnet18_8x, resnet18_imagenet, resnet34_8x, resnet34_imagenet, small_resnet
from reuselib.nets.segmentation import Segmenter, deeplabv3_mobilenet, deeplabv3_resnet50, small_segmenter
from reuselib.nets.taps import Penultimate, penultimate, tap
from reuselib.nets.vgg import plain_vgg, vgg11_bn, vgg16_plain, vgg16_plain_half
from reuselib.nets.wide_resnet import wrn16_1, wrn16_2, wrn40_1, wrn40_2

MODELS: dict[str, Callable[..., nn.Module]] = {
    constructor.__name__: constructor
    for constructor in (
        conv3,
        conv4,
        lenet5,
        lenet5_half,
        small_resnet,
        resnet34_8x,
        resnet18_8x,
        resnet34_imagenet,
        resnet18_imagenet,
        wrn16_1,
        wrn16_2,
        wrn40_1,
        wrn40_2,
        alexnet,
        vgg11_bn,
        plain_vgg,
        vgg16_plain,
        vgg16_plain_half,
        multi_head_conv,
        multi_head_residual,
        multi_head_resnet18,
        room_encoder,
        residual_room_encoder,
        dense_decoder,
        vector_head,
        task_network,
        readout,
        small_segmenter,
        deeplabv3_resnet50,
        deeplabv3_mobilenet,
        upsampling_generator,
        dcgan_generator,
        inversion_generator,
        deconvolution_generator,
        dcgan_discriminator,
    )
}

__all__ = [
    "MODELS",
    "Classifier",
    "Discriminator",
    "Generator",
    "Link",
    "MultiHead",
    "Penultimate",
    "Segmenter",
    "TaskNetwork",
    "alexnet",
    "build",
    "chain_of",
    "conv3",
    "conv4",
    "dcgan_discriminator",
    "dcgan_generator",
    "deconvolution_generator",
    "deeplabv3_mobilenet",
    "deeplabv3_resnet50",
    "dense_decoder",
    "first_classes",
    "inversion_generator",
    "lenet5",
    "lenet5_half",
    "multi_head_conv",
    "multi_head_residual",
    "multi_head_resnet18",
    "parameter_count",
    "penultimate",
    "plain_vgg",
    "readout",
    "reinitialise",
    "residual_room_encoder",
    "resnet18_8x",
    "resnet18_imagenet",
    "resnet34_8x",
    "resnet34_imagenet",
    "room_encoder",
    "small_resnet",
    "small_segmenter",
    "take_torchvision_alexnet",
    "take_torchvision_resnet18",
    "tap",
    "task_network",
    "upsampling_generator",
    "vector_head",
    "vgg11_bn",
    "vgg16_plain",
    "vgg16_plain_half",
    "wrn16_1",
    "wrn16_2",
    "wrn40_1",
    "wrn40_2",
    "works_in_place",
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
