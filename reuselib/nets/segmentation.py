"""Networks that decide for every pixel: DeepLabv3 for photographs, and a small encoder-decoder for a laptop."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from reuselib.errors import ShapeMismatch
from reuselib.nets.layers import ImageNetwork, architecture, convolution
from reuselib.nets.pretrained import take

ATROUS_RATES = (12, 24, 32)
"""Dilations of the pyramid's three branches in DFAD's code; torchvision's own are 12, 24 and 36."""
MOBILENET_DILATIONS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 4)
"""Dilation of each block of MobileNetV2 at output stride 8."""
FIRST_DILATED = 6
"""From this block on, counted from 0, no block of MobileNetV2 has a stride."""


class Segmenter(ImageNetwork):
    """An encoder, a decoder, and a 1x1 convolution that gives the logits of every pixel.

    Attributes:
        encoder: maps images (B, channels, H, W) to coarse maps.
        decoder: maps those to features (B, D, h, w), often coarser than the images.
        head: maps the features to logits (B, classes, h, w).
        channels: channels of the images that the network takes.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Conv2d) -> None:
        """Put the parts together; the first layer of the encoder with weights is a convolution."""
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits (B, classes, H, W) of images (B, channels, H, W), bilinearly enlarged where they are coarser.

        Raises:
            ShapeMismatch: the images have other channels.
        """
        self.check(images)
        logits = self.head(self.features(images))
        if logits.shape[2:] == images.shape[2:]:
            return logits
        return functional.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

    def features(self, images: Tensor) -> Tensor:
        """Give what the head sees, (B, D, h, w)."""
        return self.decoder(self.encoder(images))


@architecture
def small_segmenter(width: int = 32, classes: int = 7, channels: int = 3) -> Segmenter:
    """Build a small encoder-decoder: down to a quarter of the size and, by pixel shuffling, up again.

    Args:
        width: channels of the first convolutions, an even number; the student of a teacher has half of its width.
        classes: number of logits of each pixel.
        channels: channels of the images, whose size is free.

    Returns:
        A Segmenter (197,751 parameters by default, 49,919 at half the width).
    """
    wide = 2 * width
    shapes = ((channels, width, 2), (width, width), (width, wide, 2), (wide, wide), (wide, wide))
    encoder = [layer for shape in shapes for layer in convolution(*shape)]
    decoder = [*convolution(wide, 2 * wide), nn.PixelShuffle(2), *convolution(width, wide), nn.PixelShuffle(2)]
    decoder += convolution(width // 2, width // 2)
    return Segmenter(nn.Sequential(*encoder), nn.Sequential(*decoder), nn.Conv2d(width // 2, classes, 1))


@architecture
def deeplabv3_resnet50(classes: int = 21, channels: int = 3) -> Segmenter:
    """Build DeepLabv3 on torchvision's ResNet-50, randomly initialised, at output stride 8.

    Args:
        classes: number of logits of each pixel.
        channels: 3.

    Returns:
        A Segmenter (39,636,299 parameters at 11 classes); in training, half of the pyramid's output is dropped.

    Raises:
        ShapeMismatch: the images have not three channels.

    Source: Chen et al. 2017 (DeepLabv3); DFAD, official code, the teacher of CamVid and NYUv2.
    """
    from torchvision import models  # slow to import, and only large images need it

    _check_colour(channels)
    backbone = models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    parts = [(name, part) for name, part in backbone.named_children() if name not in ("avgpool", "fc")]
    return _deeplab(nn.Sequential(OrderedDict(parts)), 2048, classes)


@architecture
def deeplabv3_mobilenet(classes: int = 21, channels: int = 3) -> Segmenter:
    """Build DeepLabv3 on torchvision's MobileNetV2, randomly initialised, at output stride 8.

    As in DFAD's code, a block pads what it is given, so that its first 1x1 convolution and batch norm see the border
    too; torchvision's pads between that convolution and the depthwise one.

    Args:
        classes: number of logits of each pixel.
        channels: 3.

    Returns:
        A Segmenter (5,111,307 parameters at 11 classes).

    Raises:
        ShapeMismatch: the images have not three channels.

    Source: Chen et al. 2017 (DeepLabv3); DFAD, official code, the student of CamVid and NYUv2.
    """
    from torchvision import models

    _check_colour(channels)
    stem, *blocks = models.mobilenet_v2(weights=None).features[:-1]
    for index, (block, dilation) in enumerate(zip(blocks, MOBILENET_DILATIONS, strict=True)):
        depthwise = block.conv[-3][0]
        depthwise.dilation, depthwise.padding = (dilation, dilation), (0, 0)
        depthwise.stride = (1, 1) if index >= FIRST_DILATED else depthwise.stride
        block.conv.insert(0, nn.ZeroPad2d(dilation))
    features = nn.Sequential(stem, *blocks)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return _deeplab(features, 320, classes)


def _deeplab(encoder: nn.Module, width: int, classes: int) -> Segmenter:
    """Put DeepLabv3's pyramid and head on an encoder with so many channels."""
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    *decoder, head = DeepLabHead(width, classes, ATROUS_RATES)
    return Segmenter(encoder, nn.Sequential(*decoder), head)


def _check_colour(channels: int) -> None:
    if channels != 3:
        raise ShapeMismatch(f"DeepLabv3 takes images of 3 channels, not {channels}. Load them with channels=3.")


def take_torchvision_encoder(network: Segmenter, state: Mapping[str, Tensor]) -> None:
    """Put the weights of a torchvision classifier, all but its own head, into the encoder of a DeepLabv3.

    Args:
        network: its decoder and head stay as they are.
        state: of the classifier whose layers the encoder has, ``resnet50(...).state_dict()`` for instance.

    Raises:
        ShapeMismatch: the state is that of another architecture.
    """
    take(network.encoder, state, own=("fc.",))
