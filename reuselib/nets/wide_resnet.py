"""Wide residual networks for 32x32 images, the pairs that data-free distillation is compared on."""

from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.nets.classifier import Classifier


class PreActivationBlock(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Build the block; where the channels change, the shortcut is a 1x1 convolution of the first activation."""
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        active = self.activate(maps)
        return self.residual(active) + (maps if self.shortcut is None else self.shortcut(active))


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
    stages: list[nn.Module] = []
    inputs = 16
    for stage in range(3):
        outputs = 16 * factor * 2**stage
        layers: list[nn.Module] = [] if stage else [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
        for index in range((depth - 4) // 6):
            layers.append(PreActivationBlock(inputs, outputs, stride=2 if stage and not index else 1))
            inputs = outputs
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if stage == 2 else []
        stages.append(nn.Sequential(*layers))
    network = Classifier(stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(inputs, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(network.head.bias)
    return network


def wrn16_1(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-16-1 (175,066 parameters at 10 classes)."""
    return wide_resnet(16, 1, classes, channels)


def wrn16_2(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-16-2 (691,674 parameters at 10 classes)."""
    return wide_resnet(16, 2, classes, channels)


def wrn40_1(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-40-1 (563,930 parameters at 10 classes)."""
    return wide_resnet(40, 1, classes, channels)


def wrn40_2(classes: int = 10, channels: int = 3) -> Classifier:
    """Build WRN-40-2 (2,243,546 parameters at 10 classes; 37 batch norms with 2,704 channels in all)."""
    return wide_resnet(40, 2, classes, channels)
