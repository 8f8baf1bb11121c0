"""Plain convolutional networks, small enough to train in seconds on a laptop, and LeNet-5."""

from torch import nn

from reuselib.nets.layers import Classifier, architecture, averaged, convolution


@architecture
def conv3(width: int = 16, classes: int = 10, channels: int = 1, batch_norm: bool = False) -> Classifier:
    """Build three 3x3 convolutions of width w, 2w, 4w, with max pooling between and average pooling after.

    Args:
        width: channels of the first convolution.
        classes: number of logits.
        channels: channels of the images; their size is free from 4x4 pixels on.
        batch_norm: put a batch norm after each convolution.

    Returns:
        A Classifier with three blocks and 4w features (23,946 parameters by default).

    Example:
        >>> import torch
        >>> from reuselib import nets
        >>> nets.conv3(width=8, classes=7, channels=3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """
    blocks = [
        nn.Sequential(*convolution(channels, width, batch_norm=batch_norm), nn.MaxPool2d(2)),
        nn.Sequential(*convolution(width, 2 * width, batch_norm=batch_norm), nn.MaxPool2d(2)),
        nn.Sequential(*convolution(2 * width, 4 * width, batch_norm=batch_norm)),
    ]
    return Classifier(blocks, averaged(), nn.Linear(4 * width, classes))


@architecture
def conv4(width: int = 16, classes: int = 10, channels: int = 1) -> Classifier:
    """Build four 3x3 convolutions of width w, w, 2w, 4w, each with batch norm and ReLU, with strides 2, 1, 2, 2.

    Its batch norms make it a teacher that can be inverted.

    Args:
        width: channels of the first convolution.
        classes: number of logits.
        channels: channels of the images; their size is free from 8x8 pixels on.

    Returns:
        A Classifier with four blocks and 4w features (26,394 parameters by default).
    """
    widths = (channels, width, width, 2 * width, 4 * width)
    blocks = [nn.Sequential(*convolution(*each)) for each in zip(widths, widths[1:], (2, 1, 2, 2), strict=False)]
    return Classifier(blocks, averaged(), nn.Linear(4 * width, classes))


@architecture
def lenet5(classes: int = 10, channels: int = 1) -> Classifier:
    """Build LeNet-5 with ReLU and max pooling, without batch norm, for 32x32 images (61,706 parameters by default).

    Source: DFAD, official code, the MNIST teacher.
    """
    return _lenet((6, 16, 120), 84, classes, channels)


@architecture
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
