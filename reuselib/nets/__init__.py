"""Networks by name: classifiers, generators, and taps to look inside any of them."""

# ruff: noqa: F401

from typing import Any

from torch import nn

from reuselib import checks
from reuselib.nets.chain import chain_of, works_in_place
from reuselib.nets.conv import conv3, conv4, lenet5, lenet5_half
from reuselib.nets.encoder_decoder import (
    TaskNetwork,
    dense_decoder,
    readout,
    residual_room_encoder,
    room_encoder,
    task_network,
    vector_head,
)
from reuselib.nets.generators import (
    Discriminator,
    Generator,
    dcgan_discriminator,
    dcgan_generator,
    deconvolution_generator,
    inversion_generator,
    latent_of,
    reinitialise,
    upsampling_generator,
)
from reuselib.nets.layers import MODELS, Classifier
from reuselib.nets.multi_head import (
    MultiHead,
    first_classes,
    multi_head_conv,
    multi_head_residual,
    multi_head_resnet18,
    take_torchvision_resnet18,
)
from reuselib.nets.resnet import (
    resnet18_8x,
    resnet18_imagenet,
    resnet34_8x,
    resnet34_imagenet,
    small_resnet,
    wrn16_1,
    wrn16_2,
    wrn40_1,
    wrn40_2,
)
from reuselib.nets.segmentation import Segmenter, deeplabv3_mobilenet, deeplabv3_resnet50, small_segmenter
from reuselib.nets.taps import penultimate, tap
from reuselib.nets.vgg import (
    alexnet,
    plain_vgg,
    take_netgraft_vgg16,
    take_torchvision_alexnet,
    vgg11_bn,
    vgg16_plain,
    vgg16_plain_half,
)


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network by its name, as a card or a config names it.

    Args:
        name: a key of `MODELS`.
        arguments: what that constructor takes.

    Raises:
        UnknownName: there is no such network or option; the message gives the nearest name.
    """
    checks.known("network", MODELS, name)
    return MODELS[name](**arguments)


def parameter_count(model: nn.Module) -> int:
    """Count the scalars in the network's parameters, buffers left out."""
    return sum(parameter.numel() for parameter in model.parameters())
