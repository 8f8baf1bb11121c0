"""What many architectures share: their names, segments, initial weights, and the classifier: blocks, pool, head.

The order of construction is the order of the random draws.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import BadValue, ShapeMismatch

P = ParamSpec("P")
Network = TypeVar("Network", bound=nn.Module)
Shape = tuple[int, int, int]
"""Channels, height and width."""

MODELS: dict[str, Callable[..., nn.Module]] = {}


def architecture(build: Callable[P, Network]) -> Callable[P, Network]:
    """Make a constructor known by its name, and let it look, when it is called, at what it is given.

    Raises:
        BadValue: a width, a depth or a number of classes is no whole number from 1 on, an image is not (C, H, W), or a
            share does not lie between 0 and 1.
        UnknownName: there is no such option; the message gives the nearest.
    """
    signature = inspect.signature(build)
    parameters = signature.parameters

    @functools.wraps(build)
    def checked(*arguments: P.args, **options: P.kwargs) -> Network:
        checks.known(f"option of {build.__name__}", parameters, *options)
        for name, value in signature.bind(*arguments, **options).arguments.items():
            if (kind := parameters[name].annotation) is float:
                checks.number(0, 1, **{name: value})
            elif kind not in (bool, int, str, str | None) and not isinstance(value, list | tuple | Mapping):
                raise BadValue(f"{name} must be a sequence of whole numbers, not {value!r}.")
            elif kind not in (bool, str, str | None):
                checks.sizes(**{name: value})
        return build(*arguments, **options)

    MODELS[build.__name__] = checked
    return checked


class ImageNetwork(nn.Module):
    """Base of networks for images: their first layer with weights is a convolution.

    Attributes:
        size: height and width that the network insists on, or ``None`` where any size will do.
    """

    size: int | None = None

    @property
    def channels(self) -> int:
        """Channels of the images that the network takes."""
        return next(module.in_channels for module in self.modules() if isinstance(module, nn.Conv2d))

    def check(self, images: Tensor) -> None:
        """Raise ShapeMismatch or BadValue for images that the network cannot take; reads shapes and types only."""
        weight = next(module.weight for module in self.modules() if isinstance(module, nn.Conv2d))
        if not images.is_floating_point() or (
            images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type)
        ):
            wanted = f"this network takes {weight.dtype} images, not {images.dtype}"
            raise BadValue(f"{wanted}. Give normalised images, and networks in single precision (network.float()).")
        channels, side, found = self.channels, self.size or "any", tuple(images.shape)
        if images.ndim != 4 or images.shape[1] != channels:
            wanted = f"this network takes images of shape (batch, {channels}, {side}, {side}), not {found}"
            fitting = f"channels={found[-3]}" if len(found) > 2 else "their channels"
            raise ShapeMismatch(f"{wanted}. Load the images with channels={channels}, or build it with {fitting}.")
        if self.size and found[2:] != (side, side):
            wanted = f"this network takes images of {side}x{side} pixels, not {found[2]}x{found[3]}"
            raise ShapeMismatch(f"{wanted}. Load the images with size={side}.")


class Classifier(ImageNetwork):
    """A network made of convolutional blocks, a pooling trunk and one linear head.

    Attributes:
        blocks: convolutional stages, first to last.
        pool: turns the last block's maps into one feature vector of length D per image.
        head: linear map from the D features to the logits.
        channels: channels of the images that the network takes.
        size: height and width of those images, or None where any size will do.
    """

    def __init__(self, blocks: Iterable[nn.Module], pool: nn.Module, head: nn.Linear, size: int | None = None) -> None:
        """Put the parts together.

        Args:
            blocks: convolutional stages, first to last; the first layer with weights is a convolution.
            pool: maps (B, c, h, w) to (B, D).
            head: maps (B, D) to (B, classes).
            size: height and width that the network insists on, if any.
        """
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.pool = pool
        self.head = head
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits (B, classes) of images (B, channels, H, W)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Give the penultimate features (B, D): what the head sees."""
        self.check(images)
        return self.pool(self.blocks(images))


def convolution(
    inputs: int, outputs: int, stride: int = 1, *, batch_norm: bool = True, bias: bool | None = None
) -> list[nn.Module]:
    """A 3x3 convolution, batch norm and ReLU; height and width become those divided by the stride.

    Args:
        inputs: channels.
        outputs: channels.
        stride: of the convolution.
        batch_norm: whether there is one.
        bias: whether the convolution has one; if left out, where there is no batch norm.
    """
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not batch_norm if bias is None else bias)
    return [first, *norm, nn.ReLU()]


def repeated(
    block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, depth: int, stride: int
) -> list[nn.Module]:
    """So many residual blocks; the first has the stride and changes the channels."""
    return [block(outputs if index else inputs, outputs, 1 if index else stride) for index in range(depth)]


def averaged() -> nn.Sequential:
    """The mean of each channel over all places: (B, C, H, W) becomes (B, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def initialise_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions Kaiming normal (fan-out), and set their biases to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
