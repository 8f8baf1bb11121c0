"""Plain convolutional networks, small enough to train in seconds on a laptop."""

from torch import nn

from reuselib.nets.classifier import Classifier


def conv3(width: int = 16, classes: int = 10, channels: int = 1, batch_norm: bool = False) -> Classifier:
    """Build three 3x3 convolutions of width w, 2w, 4w, with max pooling between and average pooling after.

    Args:
        width: channels of the first convolution.
        classes: number of logits.
        channels: channels of the images; their size is free from 4x4 pixels on.
        batch_norm: put a batch norm after each convolution.

    Returns:
        A Classifier with three blocks and 4w features (23,946 parameters by default).
    """
    blocks = [
        nn.Sequential(*_convolution(channels, width, batch_norm), nn.MaxPool2d(2)),
        nn.Sequential(*_convolution(width, 2 * width, batch_norm), nn.MaxPool2d(2)),
        nn.Sequential(*_convolution(2 * width, 4 * width, batch_norm)),
    ]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(blocks, pool, nn.Linear(4 * width, classes))


def _convolution(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [convolution, nn.ReLU()]


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
    blocks = [
        nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        for inputs, outputs, stride in zip(widths[:-1], widths[1:], (2, 1, 2, 2), strict=True)
    ]
    return Classifier(blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4 * width, classes))
