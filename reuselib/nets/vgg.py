"""VGG for small images, with batch norm and one linear layer or plain, and AlexNet in the layout of torchvision."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.nets.layers import Classifier, architecture, averaged, convolution, initialise_convolutions
from reuselib.nets.pretrained import take

WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16_WIDTHS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG16_HALF_WIDTHS = (*VGG16_WIDTHS[:3], (256,) * 3, (256,) * 3)
SYMBOLS_WIDTHS = ((16, 16), (32, 32), (64, 64), (64, 64))
NETGRAFT = {"features": "blocks", "classifier.0": "pool.1", "classifier.1": "pool.2", "classifier.2": "head"}
"""Each part of NetGraft's published teacher, and the same part here."""


@architecture
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
    network = Classifier(_blocks(channels, WIDTHS, pools, True), averaged(), nn.Linear(WIDTHS[-1][-1], classes))
    initialise_convolutions(network)
    return network


@architecture
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
        left = f"halves {size}x{size} pixels, of which {side}x{side} are left"
        raise ReuseError(f"Each of {len(widths)} blocks needs a convolution and {left}. Give fewer or larger images.")
    blocks, norm = _blocks(channels, widths, len(widths), False), [nn.BatchNorm1d(hidden)] if head_norm else []
    pool = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1][-1] * side**2, hidden), *norm)
    network = Classifier(blocks, pool, nn.Linear(hidden, classes), size)
    initialise_convolutions(network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return network


@architecture
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


def take_netgraft_vgg16(network: Classifier, state: Mapping[str, Tensor]) -> None:
    """Put the weights of NetGraft's published teacher, ``vgg16-blockwise-cifar10.pth`` or its twin, into a network.

    Args:
        network: a :func:`vgg16_plain` of as many classes.
        state: that file, read by ``torch.load(..., weights_only=True)``: ``features.<block>.<layer>``, and a
            ``classifier`` of a linear layer, a batch norm and a linear layer.

    Raises:
        ShapeMismatch: the state is that of another architecture, or the network has another number of classes.
    """
    take(network, state, NETGRAFT, (), "Build it with vgg16_plain(classes=...) and give the state of the authors' file")


@architecture
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


def _blocks(channels: int, widths: Sequence[Sequence[int]], pools: int, batch_norm: bool) -> list[nn.Module]:
    """Build blocks of convolutions, each with bias and ReLU; so many of the first blocks end with a pooling."""
    blocks: list[nn.Module] = []
    for index, block in enumerate(widths):
        layers: list[nn.Module] = []
        for before, after in pairwise((widths[index - 1][-1] if index else channels, *block)):
            layers += convolution(before, after, batch_norm=batch_norm, bias=True)
        blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if index < pools else [])))
    return blocks


# --- AlexNet ----------------------------------------------------------------------------------------------------------

ALEXNET_WIDTHS = (64, 192, 384, 256, 256)
ALEXNET_HIDDEN = (4096, 4096)
SHAPES = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # kernel, stride, padding
POOLED = (True, True, False, False, True)
SIDE = 6  # of the maps that the first linear layer sees
TORCHVISION = {f"features.{there}": f"blocks.{here}.0" for here, there in enumerate((0, 3, 6, 8, 10))}
TORCHVISION |= {"classifier.1": "pool.3", "classifier.4": "pool.6", "classifier.6": "head"}
"""Each layer of torchvision's AlexNet, and the same layer here."""


@architecture
def alexnet(
    widths: Sequence[int] = ALEXNET_WIDTHS,
    hidden: Sequence[int] = ALEXNET_HIDDEN,
    classes: int = 1000,
    channels: int = 3,
    dropout: float = 0.5,
) -> Classifier:
    """Build AlexNet's five convolutions and three linear layers, without normalisation, for 224x224 images.

    Its layers are torchvision's; an average pool brings images of another size, of 63 pixels or more, to the same 6x6
    maps. No ReLU works in place, so that what a layer gives before its ReLU can be watched.

    Args:
        widths: channels of the five convolutions.
        hidden: widths of the two hidden linear layers.
        classes: number of logits.
        channels: channels of the images.
        dropout: share of the inputs of each hidden linear layer that is dropped in training.

    Returns:
        A Classifier of five blocks (61,100,840 parameters by default).

    Raises:
        ReuseError: there are not five widths of convolutions and two of linear layers.

    Source: Krizhevsky 2014 ("One weird trick for parallelizing convolutional neural networks"), in torchvision's form.
    """
    if len(widths) != 5 or len(hidden) != 2:
        found = f"{tuple(widths)} and {tuple(hidden)}"
        raise ReuseError(f"AlexNet has 5 widths of convolutions and 2 of hidden linear layers, not {found}.")
    blocks = [
        nn.Sequential(nn.Conv2d(*ends, *shape), nn.ReLU(), *([nn.MaxPool2d(3, stride=2)] if pooled else []))
        for ends, shape, pooled in zip(pairwise((channels, *widths)), SHAPES, POOLED, strict=True)
    ]
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(SIDE), nn.Flatten()]
    for inputs, outputs in pairwise((widths[-1] * SIDE**2, *hidden)):
        layers += [nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.ReLU()]
    return Classifier(blocks, nn.Sequential(*layers), nn.Linear(hidden[1], classes))


def take_torchvision_alexnet(network: Classifier, state: Mapping[str, Tensor]) -> None:
    """Put the weights of torchvision's AlexNet into an :func:`alexnet`, layer by layer as ``TORCHVISION`` pairs them.

    Args:
        network: of torchvision's widths. Its head keeps its own weights where it has another number of classes.
        state: ``torchvision.models.alexnet(...).state_dict()``.

    Raises:
        ShapeMismatch: the state is that of another architecture, or the network has other widths or channels.
    """
    own = state.get("classifier.6.bias", network.head.bias).shape != network.head.bias.shape
    advice = f"Build it with alexnet(widths={ALEXNET_WIDTHS}, hidden={ALEXNET_HIDDEN}, channels=3)"
    take(
        network, state, TORCHVISION, ("head.",) if own else (), f"{advice} and give the state of torchvision's alexnet"
    )
