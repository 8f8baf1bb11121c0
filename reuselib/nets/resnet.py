"""Residual networks: small ones for a laptop, wide ones for 32x32 images, and torchvision's for larger images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.nets.layers import Classifier, architecture, averaged, convolution, initialise_convolutions, repeated


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, added and rectified."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Build the block; where the shape changes, the shortcut is a 1x1 convolution with batch norm."""
        super().__init__()
        self.residual = nn.Sequential(*convolution(inputs, outputs, stride), *convolution(outputs, outputs)[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu: nn.Module = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return self.relu(self.residual(maps) + self.shortcut(maps))


class PreActivationBlock(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Build the block; where the channels change, the shortcut is a 1x1 convolution of the first activation."""
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(*convolution(inputs, outputs, stride), convolution(outputs, outputs)[0])
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        active = self.activate(maps)
        return self.residual(active) + (maps if self.shortcut is None else self.shortcut(active))


@architecture
def small_resnet(
    depth_blocks: Sequence[int] = (1, 1, 1), width: int = 16, classes: int = 10, channels: int = 1
) -> Classifier:
    """Build a residual network without an early max pool, for small images.

    Args:
        depth_blocks: basic blocks in each stage. (1, 1, 1) has 8 layers with weights, (2, 2, 2) has 14.
        width: channels of the stem and of the first stage; each later stage doubles them.
        classes: number of logits.
        channels: channels of the images.

    Returns:
        A Classifier with one block per stage (the stem belongs to the first); each stage after the first
        halves height and width.
    """
    widths = [width, *(width * 2**stage for stage in range(len(depth_blocks)))]
    stages = []
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        stem = [] if stage else convolution(channels, width)
        blocks = repeated(BasicBlock, inputs, outputs, depth_blocks[stage], stride=2 if stage else 1)
        stages.append(nn.Sequential(*stem, *blocks))
    network = Classifier(stages, averaged(), nn.Linear(widths[-1], classes))
    initialise_convolutions(network)
    return network


@architecture
def resnet34_8x(classes: int = 10, channels: int = 3) -> Classifier:
    """Build ResNet-34 for 32x32 images, downsampling by 8 (21,282,122 parameters at 10 classes).

    Source: DFAD, official code, the CIFAR teacher.
    """
    return small_resnet((3, 4, 6, 3), 64, classes, channels)


@architecture
def resnet18_8x(classes: int = 10, channels: int = 3) -> Classifier:
    """Build ResNet-18 for 32x32 images, downsampling by 8 (11,173,962 parameters at 10 classes).

    Source: DFAD, official code, the CIFAR student.
    """
    return small_resnet((2, 2, 2, 2), 64, classes, channels)


@architecture
def resnet34_imagenet(classes: int = 101, channels: int = 3) -> Classifier:
    """Wrap torchvision's ResNet-34, randomly initialised, with its own number of outputs.

    Source: DFAD, official code, the Caltech101 teacher at 128x128 pixels.
    """
    return _torchvision("resnet34", classes, channels)


@architecture
def resnet18_imagenet(classes: int = 101, channels: int = 3) -> Classifier:
    """Wrap torchvision's ResNet-18, randomly initialised, with its own number of outputs.

    Source: DFAD, official code, the Caltech101 student at 128x128 pixels.
    """
    return _torchvision("resnet18", classes, channels)


def _torchvision(name: str, classes: int, channels: int) -> Classifier:
    from torchvision import models  # slow to import, and only the large images need it

    network = models.get_model(name, weights=None, num_classes=classes)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    stem = (network.conv1, network.bn1, network.relu, network.maxpool)
    blocks = [nn.Sequential(*stem, *network.layer1), network.layer2, network.layer3, network.layer4]
    return Classifier(blocks, nn.Sequential(network.avgpool, nn.Flatten()), network.fc)


def wide_resnet(depth: int, factor: int, classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-depth-factor: a stem of 16 channels and three groups of pre-activation blocks.

    Args:
        depth: layers with weights on the longest way; 4 more than a multiple of 6.
        factor: the groups have 16, 32 and 64 times as many channels; the second and third halve height and width.
        classes: number of logits.
        channels: channels of the images.

    Returns:
        A Classifier with one block per group; the stem belongs to the first, the last batch norm to the third.

    Raises:
        ReuseError: no such depth.

    Source: Zagoruyko & Komodakis 2016, without dropout, with the shortcuts of ZSKT's code.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ReuseError(f"a wide ResNet has 6n + 4 layers, not {depth}. Take 10, 16, 22, 28, 34 or 40.")
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    groups = [
        nn.Sequential(*repeated(PreActivationBlock, inputs, outputs, (depth - 4) // 6, stride=2 if stage else 1))
        for stage, (inputs, outputs) in enumerate(pairwise(widths))
    ]
    groups[0].insert(0, stem)
    groups[2].extend([nn.BatchNorm2d(widths[-1]), nn.ReLU()])
    network = Classifier(groups, averaged(), nn.Linear(widths[-1], classes))
    initialise_convolutions(network)
    nn.init.zeros_(network.head.bias)
    return network


@architecture
def wrn16_1(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-16-1 (175,066 parameters at 10 classes)."""
    return wide_resnet(16, 1, classes, channels)


@architecture
def wrn16_2(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-16-2 (691,674 parameters at 10 classes)."""
    return wide_resnet(16, 2, classes, channels)


@architecture
def wrn40_1(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-40-1 (563,930 parameters at 10 classes)."""
    return wide_resnet(40, 1, classes, channels)


@architecture
def wrn40_2(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-40-2 (2,243,546 parameters at 10 classes; 37 batch norms with 2,704 channels in all)."""
    return wide_resnet(40, 2, classes, channels)
