"""LeNet-5 and its half-width student, for images of 32x32 pixels."""

from torch import nn

from reuselib.nets.classifier import Classifier


def lenet5(classes: int = 10, channels: int = 1) -> Classifier:
    """Build LeNet-5 with ReLU and max pooling, without batch norm (61,706 parameters by default).

    Source: DFAD, official code, the MNIST teacher.
    """
    return _lenet((6, 16, 120), 84, classes, channels)


def lenet5_half(classes: int = 10, channels: int = 1) -> Classifier:
    """Build LeNet-5 with every layer at half its width (15,738 parameters by default).

    Source: DFAD, official code, the MNIST student.
    """
    return _lenet((3, 8, 60), 42, classes, channels)


def _lenet(widths: tuple[int, int, int], hidden: int, classes: int, channels: int) -> Classifier:
    first, second, third = widths
    blocks = [
        nn.Sequential(nn.Conv2d(channels, first, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(second, third, 5), nn.ReLU()),
    ]
    pool = nn.Sequential(nn.Flatten(), nn.Linear(third, hidden), nn.ReLU())
    return Classifier(blocks, pool, nn.Linear(hidden, classes), size=32)
