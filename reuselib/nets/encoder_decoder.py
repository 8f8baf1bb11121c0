"""The networks of the miniature rooms: an encoder to a small representation, and a decoder of the task's kind."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import ReuseError
from reuselib.nets.layers import ImageNetwork, architecture, convolution
from reuselib.nets.resnet import BasicBlock

WIDTHS = (24, 32, 48, 48, 48, 8)
STRIDES = (2, 1, 2, 1, 1, 1)
CODE = WIDTHS[-1]
SIDE = 8


@architecture
def room_encoder(widths: Sequence[int] = WIDTHS, strides: Sequence[int] = STRIDES, channels: int = 3) -> nn.Sequential:
    """Build the encoder of the zoo of rooms: 3x3 convolutions, each with batch norm and ReLU.

    Args:
        widths: channels of the convolutions; the last is that of the representation.
        strides: as many; their product is what height and width shrink by.
        channels: channels of the images.

    Returns:
        One block per convolution; images (B, 3, 32, 32) become (B, 8, 8, 8), no entry below zero (66,728 parameters).
    """
    if len(widths) != len(strides):
        raise ReuseError(f"{len(widths)} widths need as many strides, not {len(strides)}.")
    blocks = zip((channels, *widths[:-1]), widths, strides, strict=True)
    return nn.Sequential(*(nn.Sequential(*convolution(*block)) for block in blocks))


@architecture
def residual_room_encoder(width: int = 22, code: int = CODE, channels: int = 3) -> nn.Sequential:
    """Build an encoder of another architecture, whose representation has the same shape.

    Args:
        width: channels of the first convolution; the two residual blocks have twice as many.
        code: channels of the representation.
        channels: channels of the images.

    Returns:
        Four blocks; images (B, 3, 32, 32) become (B, 8, 8, 8), no entry below zero (66,214 parameters).
    """
    return nn.Sequential(
        nn.Sequential(*convolution(channels, width, stride=2)),
        BasicBlock(width, 2 * width, stride=2),
        BasicBlock(2 * width, 2 * width),
        nn.Sequential(*convolution(2 * width, code)),
    )


@architecture
def dense_decoder(outputs: int, inputs: int = CODE) -> nn.Sequential:
    """Build a decoder that gives a label for each pixel, by two pixel shuffles.

    Args:
        outputs: channels of the label, C.
        inputs: channels of what is decoded.

    Returns:
        Maps (B, inputs, h, w) become (B, C, 4h, 4w), any real number (12,071 parameters for three channels).
    """
    first, second, last = convolution(inputs, 64), convolution(16, 48), nn.Conv2d(12, outputs, 3, padding=1)
    return nn.Sequential(*first, nn.PixelShuffle(2), *second, nn.PixelShuffle(2), last)


@architecture
def vector_head(outputs: int, inputs: int = CODE, side: int = SIDE) -> nn.Sequential:
    """Build a head that gives one vector for each image: class scores, or numbers such as a pose.

    Args:
        outputs: numbers wanted, or classes.
        inputs: channels of what is read.
        side: its height and width.

    Returns:
        Maps (B, inputs, side, side) become (B, outputs) (67,081 parameters for nine numbers); in training, .3 of the
        128 hidden units are dropped.
    """
    hidden = [nn.Linear(inputs * side * side, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, outputs))


ENCODERS: dict[str, Callable[..., nn.Sequential]] = {"plain": room_encoder, "residual": residual_room_encoder}


class TaskNetwork(ImageNetwork):
    """A network for one task: an encoder, whose output is its representation, and a decoder.

    Attributes:
        encoder: images → representation.
        decoder: representation → the task's answer.
        channels: channels of the images that the network takes.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Put the parts together; the encoder's first layer with weights is a convolution."""
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor) -> Tensor:
        """Give the answer for images (B, channels, H, W)."""
        return self.decoder(self.represent(images))

    def represent(self, images: Tensor) -> Tensor:
        """Give the representation, (B, 8, 8, 8) for images of 32x32 pixels: all that other tasks may reuse."""
        self.check(images)
        return self.encoder(images)


@architecture
def task_network(outputs: int, dense: bool = True, encoder: str = "plain", channels: int = 3) -> TaskNetwork:
    """Build a network for one task of the rooms.

    Args:
        outputs: channels of a label for each pixel, or numbers of a vector.
        dense: whether the label is one for each pixel.
        encoder: ``"plain"`` (:func:`room_encoder`) or ``"residual"`` (:func:`residual_room_encoder`).
        channels: channels of the images.

    Raises:
        UnknownName: there is no such encoder.
    """
    checks.known("encoder", ENCODERS, encoder)
    return TaskNetwork(ENCODERS[encoder](channels=channels), dense_decoder(outputs) if dense else vector_head(outputs))


@architecture
def readout(outputs: int, dense: bool = True, inputs: int = CODE, width: int = 16) -> nn.Sequential:
    """Build what a transfer trains on a frozen representation: a batch norm, two convolutions, a fresh decoder.

    Args:
        outputs: channels of a label for each pixel, or numbers of a vector.
        dense: whether the label is one for each pixel.
        inputs: channels of the representation.
        width: channels of the two convolutions.

    Returns:
        Representations (B, 8, 8, 8) become (B, outputs, 32, 32) or (B, outputs).

    Source: after Zamir et al. 2018 (Taskonomy), whose readout has two such streams side by side.
    """
    trunk = [nn.BatchNorm2d(inputs), *convolution(inputs, width), *convolution(width, width)]
    return nn.Sequential(*trunk, dense_decoder(outputs, width) if dense else vector_head(outputs, width))
