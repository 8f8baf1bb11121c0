"""Residual networks: for 32x32 images, small ones for a laptop, and torchvision's for larger images."""

from collections.abc import Sequence

from torch import Tensor, nn

from reuselib.nets.classifier import Classifier


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, added and rectified."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Build the block; where the shape changes, the shortcut is a 1x1 convolution with batch norm."""
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return self.relu(self.residual(maps) + self.shortcut(maps))


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
    stages: list[nn.Module] = []
    inputs = width
    for stage, depth in enumerate(depth_blocks):
        outputs = width * 2**stage
        layers: list[nn.Module] = [] if stage else _stem(channels, width)
        for index in range(depth):
            layers.append(BasicBlock(inputs, outputs, stride=2 if stage and not index else 1))
            inputs = outputs
        stages.append(nn.Sequential(*layers))
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Classifier(stages, pool, nn.Linear(inputs, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _stem(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def resnet34_8x(classes: int = 10, channels: int = 3) -> Classifier:
    """Build ResNet-34 for 32x32 images, downsampling by 8 (21,282,122 parameters at 10 classes).

    Source: DFAD, official code, the CIFAR teacher.
    """
    return small_resnet((3, 4, 6, 3), 64, classes, channels)


def resnet18_8x(classes: int = 10, channels: int = 3) -> Classifier:
    """Build ResNet-18 for 32x32 images, downsampling by 8 (11,173,962 parameters at 10 classes).

    Source: DFAD, official code, the CIFAR student.
    """
    return small_resnet((2, 2, 2, 2), 64, classes, channels)


def resnet34_imagenet(classes: int = 101, channels: int = 3) -> Classifier:
    """Wrap torchvision's ResNet-34, randomly initialised, with its own number of outputs.

    Source: DFAD, official code, the Caltech101 teacher at 128x128 pixels.
    """
    return _torchvision("resnet34", classes, channels)


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
