"""The shape that all classifiers of this library share: blocks, pool, head."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reuselib.errors import ShapeMismatch


class Classifier(nn.Module):
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
        self.channels = next(m.in_channels for m in self.blocks.modules() if isinstance(m, nn.Conv2d))

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits (B, classes) of images (B, channels, H, W)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Give the penultimate features (B, D): what the head sees."""
        self._check(images)
        return self.pool(self.blocks(images))

    def activations(self, images: Tensor) -> list[Tensor]:
        """Give the output of every block, first to last."""
        self._check(images)
        outputs = []
        for block in self.blocks:
            images = block(images)
            outputs.append(images)
        return outputs

    def _check(self, images: Tensor) -> None:
        """Raise ShapeMismatch for images that the network cannot take; reads shapes only."""
        side = self.size or "any"
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ShapeMismatch(
                f"this network takes images of shape (batch, {self.channels}, {side}, {side}), "
                f"not {tuple(images.shape)}. Load the images with channels={self.channels} "
                f"or build the network with channels={images.shape[1] if images.ndim == 4 else '...'}."
            )
        if self.size and images.shape[2:] != torch.Size((self.size, self.size)):
            height, width = images.shape[2:]
            raise ShapeMismatch(
                f"this network takes images of {side}x{side} pixels, not {height}x{width}. "
                f"Load the images with size={side}."
            )
