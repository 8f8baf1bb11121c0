"""VGG for small images: with batch norm and one linear layer, or plain, with a hidden linear layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from reuselib.errors import ReuseError
from reuselib.nets.classifier import Classifier

WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG16_HALF_WIDTHS = (*VGG16_WIDTHS[:3], (256,) * 3, (256,) * 3)
SYMBOLS_WIDTHS = ((16, 16), (32, 32), (64, 64), (64, 64))


def vgg11_bn(classes: int = 10, channels: int = 3, pools: int = 3) -> Classifier:
    """Build the eight convolutions of VGG-11, each with batch norm and ReLU, in five blocks.

    Args:
        classes: number of logits.
        channels: channels of the images.
        pools: how many of the first blocks end with a 2x2 max pooling: 3 for 32x32 images, 4 for 64x64.

    Returns:
        A Classifier with five blocks and 512 features (9,231,114 parameters at 10 classes; 8 batch norms with
        2,752 channels in all).

    Raises:
        ReuseError: there are not so many blocks.

    Source: Simonyan & Zisserman 2015; the form without hidden linear layers is that of the CMI code.
    """
    if not 0 <= pools <= len(WIDTHS):
        raise ReuseError(f"pools must be 0 to {len(WIDTHS)}, one for each block, not {pools}.")
    blocks: list[nn.Module] = []
    inputs = channels
    for index, widths in enumerate(WIDTHS):
        blocks.append(_block(inputs, widths, batch_norm=True, pool=index < pools))
        inputs = widths[-1]
    network = Classifier(blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(inputs, classes))
    _initialise_convolutions(network)
    return network


def plain_vgg(
    widths: Sequence[Sequence[int]] = SYMBOLS_WIDTHS,
    hidden: int = 32,
    classes: int = 10,
    channels: int = 1,
    size: int = 16,
    head_norm: bool = True,
) -> Classifier:
    """Build a VGG without batch norm in its blocks: 3x3 convolutions with bias and ReLU, then a 2x2 max pooling.

    The classifier is two linear layers with nothing but the batch norm between them: the first belongs to the
    pool, the second is the head.

    Args:
        widths: channels of the convolutions, block by block.
        hidden: outputs of the first linear layer.
        classes: number of logits.
        channels: channels of the images.
        size: height and width of the images; each block halves them.
        head_norm: put a BatchNorm1d between the linear layers.

    Returns:
        A Classifier with ``hidden`` features (148,122 parameters by default). Convolutions start Kaiming normal
        (fan-out), linear layers normal with deviation 0.01, biases at zero.

    Raises:
        ReuseError: a block is empty, or there are so many that nothing is left of the image.

    Source: Shen et al. 2021 (NetGraft), official code.
    """
    side = size // 2 ** len(widths)
    if not all(widths) or not side:
        raise ReuseError(
            f"Each of the {len(widths)} blocks needs a convolution and halves {size}x{size} pixels, of which "
            f"{side}x{side} are left. Give fewer blocks or larger images."
        )
    blocks: list[nn.Module] = []
    inputs = channels
    for block in widths:
        blocks.append(_block(inputs, block, batch_norm=False, pool=True))
        inputs = block[-1]
    norm = [nn.BatchNorm1d(hidden)] if head_norm else []
    pool = nn.Sequential(nn.Flatten(), nn.Linear(inputs * side**2, hidden), *norm)
    network = Classifier(blocks, pool, nn.Linear(hidden, classes), size)
    _initialise_convolutions(network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return network


def vgg16_plain(classes: int = 10, channels: int = 3) -> Classifier:
    """Build NetGraft's CIFAR teacher: VGG-16 without batch norm in its blocks, for 32x32 images.

    Args:
        classes: number of logits.
        channels: channels of the images.

    Returns:
        A Classifier with five blocks and 512 features (14,983,498 parameters at 10 classes, 15,029,668 at 100).

    Source: Shen et al. 2021 (NetGraft), official code.
    """
    return plain_vgg(VGG16_WIDTHS, 512, classes, channels, size=32)


def vgg16_plain_half(classes: int = 10, channels: int = 3) -> Classifier:
    """Build NetGraft's CIFAR student: `vgg16_plain` with 256 channels in blocks 4 and 5 and no batch norm at all.

    Args:
        classes: number of logits.
        channels: channels of the images.

    Returns:
        A Classifier with five blocks and 512 features (5,412,682 parameters at 10 classes, 5,458,852 at 100).

    Source: Shen et al. 2021 (NetGraft), official code.
    """
    return plain_vgg(VGG16_HALF_WIDTHS, 512, classes, channels, size=32, head_norm=False)


def _block(inputs: int, widths: Sequence[int], batch_norm: bool, pool: bool) -> nn.Sequential:
    """Build one block: its convolutions, each with ReLU, and its pooling."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *widths)):
        norm = [nn.BatchNorm2d(after)] if batch_norm else []
        layers += [nn.Conv2d(before, after, 3, padding=1), *norm, nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def _initialise_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
