"""VGG with batch norm for small images: one linear layer after a global average pool."""

from itertools import pairwise

from torch import nn

from reuselib.errors import ReuseError
from reuselib.models.classifier import Classifier

WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def vgg11_bn(classes: int = 10, channels: int = 3, pools: int = 3) -> Classifier:
    """Build the eight convolutions of VGG-11, each with batch norm and ReLU, in five blocks.

    Args:
        classes: number of logits.
        channels: channels of the images.
        pools: how many of the first blocks end with a 2x2 max pooling: 3 for 32x32 images, 4 for 64x64.

    Returns:
        A Classifier with five blocks and 512 features (9,231,114 parameters at 10 classes; 8 batch norms with
        2,752 channels in all).

    Raises:
        ReuseError: there are not so many blocks.

    Source: Simonyan & Zisserman 2015; the form without hidden linear layers is that of the CMI code.
    """
    if not 0 <= pools <= len(WIDTHS):
        raise ReuseError(f"pools must be 0 to {len(WIDTHS)}, one for each block, not {pools}.")
    blocks: list[nn.Module] = []
    inputs = channels
    for index, widths in enumerate(WIDTHS):
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if index < pools else [])))
        inputs = widths[-1]
    network = Classifier(blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(inputs, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network
