"""Folding: the adapters between two scions are linear, so they vanish in the first layers of the later one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.errors import ReuseError
from reuselib.netgraft.hybrid import Scion, blocks_of
from reuselib.nets.resnet import BasicBlock

Entry = nn.Conv2d | nn.Linear
PASSED = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""What adapters pass: it treats all channels alike, and a sum of channels as the sum of what it makes of each."""


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
        if not (found := entries(block)):
            raise ReuseError(f"A block without weights, {block}, cannot take up adapters. Join it to the block behind.")
        for entry in found:
            absorb(entry, before.out_of, after.into)
    return folded


def absorb(entry: Entry, out_of: nn.Module, into: nn.Module) -> None:
    """Change a layer so that it does to x what it did behind two adapters that meet, to ``M x + c``.

    With ``M = W2 W1`` and ``c = W2 b1 + b2``, ``W'[o, j] = sum_i W[o, i] M[i, j]`` at every position, and ``b'[o] =
    b[o] + sum_i W[o, i] c[i]`` summed over positions.

    Equation: `netgraft-fold`.

    Args:
        entry: a convolution, or a linear layer that sees C channels at one or more positions, channel by channel.
        out_of: the adapter behind the earlier block: a 1x1 convolution, a linear layer or an identity.
        into: the one before the later block, likewise.

    Raises:
        ReuseError: an adapter has a bias, and the layer has none; or it is of another kind.
    """
    matrix, shift = meeting(out_of, into)
    if matrix is None:
        return
    weight = entry.weight.reshape(len(entry.weight), len(matrix), -1)
    if shift is not None:
        if entry.bias is None:
            raise ReuseError(f"Adapters with biases cannot be folded into {entry}, which has none. Use bias=False.")
        entry.bias.add_(torch.einsum("oip,i->o", weight, shift))
    entry.weight.copy_(torch.einsum("oip,ij->ojp", weight, matrix).reshape(entry.weight.shape))


def meeting(out_of: nn.Module, into: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """M and c of two adapters, ``None`` where there is none."""
    matrix: Tensor | None = None
    shift: Tensor | None = None
    for layer in (out_of, into):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.flatten(1)
            matrix = weight if matrix is None else weight @ matrix
            shift = layer.bias if shift is None else F.linear(shift, weight, layer.bias)
        elif not isinstance(layer, nn.Identity):
            raise ReuseError(f"An adapter is a 1x1 convolution, a linear layer or an identity, not a {layer}.")
    return matrix, shift


def entries(block: nn.Module) -> list[Entry]:
    """The layers that see a block's input first; folding changes them.

    Args:
        block: a sequence of layers, a convolution, a linear layer, or a residual block of this library or of
            torchvision. Flattening, average pooling, dropout and identities are passed over.

    Returns:
        The layers, none for a block that has no weights.

    Raises:
        ReuseError: the block begins with something that is not linear, has an identity for a shortcut, or is unknown.
    """
    if isinstance(block, nn.Linear) or (isinstance(block, nn.Conv2d) and block.groups == 1):
        return [block]
    if isinstance(block, PASSED):
        return []
    if isinstance(block, nn.Sequential):
        return next((found for member in block if (found := entries(member))), [])
    ways: list[Any] = [block.residual, block.shortcut] if isinstance(block, BasicBlock) else []
    if hasattr(block, "downsample"):  # torchvision's, which is slow to import
        ways = [block.conv1, block.downsample or nn.Identity()]
    if ways and (beside := entries(ways[1])):
        return entries(ways[0]) + beside
    if ways:
        raise ReuseError(
            f"Adapters cannot be folded into a {type(block).__name__} whose shortcut is an identity. Cut the network "
            "into blocks where the size or the width changes, so that the shortcut is a convolution."
        )
    raise ReuseError(
        f"Adapters cannot be folded into a block that begins with {block}; it must begin with a convolution without "
        "groups or a linear layer. Keep the adapters, or take another student."
    )
