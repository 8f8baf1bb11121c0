"""Folding: the adapters between two scions are linear, so they vanish in the first layers of the later one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import singledispatch
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.netgraft.hybrid import Scion, blocks_of
from reuselib.nets.resnet import BasicBlock

Entry = nn.Conv2d | nn.Linear
KEEP = "Keep the adapters, or take another student."


@torch.no_grad()
def fold(student: nn.Module, scions: Sequence[Scion], shared: int = 0) -> nn.Module:
    """Give the plain student that computes what the chain of its scions computes.

    With adapters without bias it computes the same up to rounding. With biases it does so where no zero padding is
    seen: in the interior of a map, not at its border.

    Args:
        student: what the scions were made of; it is not changed.
        scions: of blocks ``shared``, ``shared + 1``, … to the last.
        shared: how many of the first blocks have no scion.

    Returns:
        A copy of the student, with exactly its parameters and buffers, into which the adapters are folded.

    Raises:
        ReuseError: a block does not begin with layers that can take up the adapters.

    Source: Shen et al. 2021 (NetGraft), removal of the adapters; the formulas are ours.
    """
    folded = copy.deepcopy(student)
    for (before, after), block in zip(pairwise(scions), blocks_of(folded)[shared + 1 :], strict=True):
        matrix, shift = meeting(before.out_of, after.into)
        for entry in entries(block) or _no_entry(block):
            absorb(entry, matrix, shift)
    return folded


def meeting(first: nn.Module, second: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """The one linear map that two adapters make: ``M = W2 W1`` and ``c = W2 b1 + b2``, ``None`` where there is none.

    Raises:
        ReuseError: an adapter is neither a convolution nor a linear layer nor an identity.
    """
    matrix: Tensor | None = None
    shift: Tensor | None = None
    for layer in (first, second):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.flatten(1)
            matrix = weight if matrix is None else weight @ matrix
            shift = layer.bias if shift is None else F.linear(shift, weight, layer.bias)
        elif not isinstance(layer, nn.Identity):
            raise ReuseError(f"An adapter is a 1x1 convolution, a linear layer or an identity, not a {layer}. {KEEP}")
    return matrix, shift


def absorb(entry: Entry, matrix: Tensor | None, shift: Tensor | None) -> None:
    """Change a layer so that it does to x what it did to ``M x + c``.

    ``W'[o, j] = sum_i W[o, i] M[i, j]`` at every position, and ``b'[o] = b[o] + sum_i W[o, i] c[i]`` summed over
    positions.

    Args:
        entry: a convolution, or a linear layer that sees C channels at one or more positions, channel by channel.
        matrix: M, (C, C); ``None`` for the identity.
        shift: c, (C,); ``None`` for zero.

    Raises:
        ReuseError: there is a shift, and the layer has no bias.
    """
    if matrix is None:
        return
    weight = entry.weight.reshape(len(entry.weight), len(matrix), -1)
    if shift is not None:
        if entry.bias is None:
            raise ReuseError(
                f"Adapters with biases cannot be folded into {entry}, which has none. Graft with bias=False."
            )
        entry.bias.add_(torch.einsum("oip,i->o", weight, shift))
    entry.weight.copy_(torch.einsum("oip,ij->ojp", weight, matrix).reshape(entry.weight.shape))


@singledispatch
def entries(block: nn.Module) -> list[Entry]:
    """The layers that see a block's input first; folding changes them. Register another kind of block here.

    Args:
        block: a sequence of layers, a convolution, a linear layer, or a residual block of this library or of
            torchvision. Flattening, average pooling, dropout and identities are passed over.

    Returns:
        The layers, none for a block that has no weights.

    Raises:
        ReuseError: the block begins with something that is not linear, has an identity for a shortcut, or is unknown.
    """
    parts = dict(block.named_children())
    if "conv1" in parts and hasattr(block, "downsample"):  # torchvision's, which is slow to import
        return _residual(block, parts["conv1"], parts.get("downsample", nn.Identity()))
    raise ReuseError(
        f"Adapters cannot be folded into a block that begins with {type(block).__name__}; it must begin with a "
        f"convolution or a linear layer. {KEEP}"
    )


@entries.register
def _(block: nn.Sequential) -> list[Entry]:
    return next((found for member in block if (found := entries(member))), [])


@entries.register
def _(block: nn.Conv2d) -> list[Entry]:
    if block.groups != 1:
        raise ReuseError(f"Adapters cannot be folded into a convolution with {block.groups} groups. {KEEP}")
    return [block]


@entries.register
def _(block: nn.Linear) -> list[Entry]:
    return [block]


@entries.register(nn.Flatten)
@entries.register(nn.Identity)
@entries.register(nn.Dropout)
@entries.register(nn.Dropout2d)
@entries.register(nn.AvgPool2d)
@entries.register(nn.AdaptiveAvgPool2d)
def _(block: nn.Module) -> list[Entry]:
    return []


@entries.register
def _(block: BasicBlock) -> list[Entry]:
    return _residual(block, block.residual, block.shortcut)


def _no_entry(block: nn.Module) -> list[Entry]:
    raise ReuseError(f"A block without weights, {block}, cannot take up adapters. Join it to the block behind it.")


def _residual(block: nn.Module, way: nn.Module, shortcut: nn.Module) -> list[Entry]:
    if not (beside := entries(shortcut)):
        raise ReuseError(
            f"Adapters cannot be folded into a {type(block).__name__} whose shortcut is an identity. Cut the network "
            "into blocks where the size or the width changes, so that the shortcut is a convolution."
        )
    return entries(way) + beside
