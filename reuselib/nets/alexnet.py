"""AlexNet in the layout of torchvision, so that its weights fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.nets.classifier import Classifier

WIDTHS = (64, 192, 384, 256, 256)
HIDDEN = (4096, 4096)
SHAPES = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # kernel, stride, padding
POOLED = (True, True, False, False, True)
SIDE = 6  # of the maps that the first linear layer sees


def alexnet(
    widths: Sequence[int] = WIDTHS,
    hidden: Sequence[int] = HIDDEN,
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
    if len(widths) != len(WIDTHS) or len(hidden) != len(HIDDEN):
        raise ReuseError(
            f"AlexNet has {len(WIDTHS)} widths of convolutions and {len(HIDDEN)} of hidden linear layers, "
            f"not {tuple(widths)} and {tuple(hidden)}."
        )
    blocks, inputs = [], channels
    for outputs, (kernel, stride, padding), pooled in zip(widths, SHAPES, POOLED, strict=True):
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
        blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(3, stride=2)] if pooled else [])))
        inputs = outputs
    trunk = nn.Sequential(
        nn.AdaptiveAvgPool2d(SIDE),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(inputs * SIDE * SIDE, hidden[0]),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden[0], hidden[1]),
        nn.ReLU(),
    )
    return Classifier(blocks, trunk, nn.Linear(hidden[1], classes))


TORCHVISION = {
    "features.0": "blocks.0.0",
    "features.3": "blocks.1.0",
    "features.6": "blocks.2.0",
    "features.8": "blocks.3.0",
    "features.10": "blocks.4.0",
    "classifier.1": "pool.3",
    "classifier.4": "pool.6",
    "classifier.6": "head",
}
"""Each layer of torchvision's AlexNet, and the same layer here."""


def take_torchvision_alexnet(network: Classifier, state: Mapping[str, Tensor]) -> None:
    """Put the weights of torchvision's AlexNet into an :func:`alexnet`, layer by layer as ``TORCHVISION`` pairs them.

    Args:
        network: of torchvision's widths. Its head keeps its own weights where it has another number of classes.
        state: ``torchvision.models.alexnet(...).state_dict()``.

    Raises:
        ShapeMismatch: the state is that of another architecture, or the network has other widths or channels.
    """
    own = network.state_dict()
    names = (key.rpartition(".") for key in state)
    renamed = {
        f"{TORCHVISION.get(layer, layer)}.{kind}": value
        for (layer, _, kind), value in zip(names, state.values(), strict=True)
    }
    kept = {key for key, value in renamed.items() if key.startswith("head.") and value.shape[0] != own[key].shape[0]}
    wanted = {key: value.shape for key, value in own.items() if key not in kept}
    taken = {key: value for key, value in renamed.items() if key not in kept}
    if {key: value.shape for key, value in taken.items()} != wanted:
        raise ShapeMismatch(
            f"these weights do not fit this network. Build it with alexnet(widths={WIDTHS}, hidden={HIDDEN}, "
            "channels=3) and give the state of torchvision's alexnet."
        )
    network.load_state_dict(taken, strict=False)
