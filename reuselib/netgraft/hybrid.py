"""Hybrids: a trained network in which blocks of another one, with 1x1 adapters, take the place of its own.

Blocks are counted from 0. The last one is the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.nets import Classifier

Blocks = nn.Module | Sequence[nn.Module]
"""A network that :func:`blocks_of` can take apart."""


def blocks_of(network: Blocks) -> list[nn.Module]:
    """Take a network apart into the blocks that are grafted; nothing is copied.

    Args:
        network: a :class:`~reuselib.nets.Classifier`, whose pool and head together are the last block; or an
            ``nn.Sequential``, an ``nn.ModuleList`` or a list, whose members are the blocks.

    Returns:
        The blocks, first to last.

    Raises:
        ReuseError: the network is of another kind.
    """
    if isinstance(network, Classifier):
        return [*network.blocks, nn.Sequential(network.pool, network.head)]
    if isinstance(network, nn.Sequential | nn.ModuleList | Sequence):
        return list(network)
    raise ReuseError(
        f"{type(network).__name__} cannot be taken apart into blocks. Wrap its parts in an nn.Sequential, one member "
        "for each block, the classifier last."
    )


def through(blocks: Iterable[Callable[[Tensor], Tensor]], maps: Tensor) -> Tensor:
    """Pass maps through blocks, one after the other."""
    for block in blocks:
        maps = block(maps)
    return maps


class Scion(nn.Module):
    """A student's block between two adapters, so that it fits where a block of the teacher stood.

    Args:
        block: the student's block.
        into: teacher's width → student's; left out where the widths are the same.
        out_of: student's width → teacher's; left out likewise.

    Source: Shen et al. 2021 (NetGraft), the wrapped block H_l.
    """

    def __init__(self, block: nn.Module, into: nn.Module | None = None, out_of: nn.Module | None = None) -> None:
        super().__init__()
        self.into = nn.Identity() if into is None else into
        self.block = block
        self.out_of = nn.Identity() if out_of is None else out_of

    def forward(self, maps: Tensor) -> Tensor:
        """Map the teacher's maps before the block to what stands for the teacher's maps behind it.

        Equation: `netgraft-scion`.
        """
        return self.out_of(self.block(self.into(maps)))

    def adapters(self) -> list[nn.Parameter]:
        """The parameters of both adapters."""
        return [*self.into.parameters(), *self.out_of.parameters()]


class Hybrid(nn.Module):
    """The teacher with scions in the place of some of its blocks.

    The teacher does not notice: only the scions are parts of this module, whose parameters and mode are theirs.

    Args:
        teacher: what :func:`blocks_of` takes apart.
        scions: by the index of the block that each stands for.

    Attributes:
        stock: the teacher's own blocks.
        first: index of the first scion; the number of blocks if there is none.
        last: index of the last scion; -1 if there is none.

    Source: Shen et al. 2021 (NetGraft), T_l^B (one scion) and T_l^N (the first l).
    """

    def __init__(self, teacher: Blocks, scions: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stock = blocks_of(teacher)
        count = len(self.stock)
        self.scions = nn.ModuleDict({str(index): scions[index] for index in sorted(scions)})
        self.grafted = [scions.get(index, block) for index, block in enumerate(self.stock)]
        self.first, self.last = min(scions, default=count), max(scions, default=-1)

    @property
    def remaining(self) -> tuple[int, ...]:
        """The blocks of the teacher that are still called."""
        return tuple(index for index in range(len(self.stock)) if str(index) not in self.scions)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits (B, classes) of images; the teacher's blocks run in evaluation mode, and stay unchanged."""
        with run.frozen(*self.stock):
            return self.rest(self.prefix(images))

    def prefix(self, images: Tensor) -> Tensor:
        """What the teacher makes of images before the first scion."""
        return through(self.stock[: self.first], images)

    def rest(self, maps: Tensor, until: int | None = None) -> Tensor:
        """What the scions and the teacher's later blocks make of the prefix's maps, before ``until`` or to the end.

        Equation: `netgraft-hybrid`, `netgraft-chain`.
        """
        return through(self.grafted[self.first : until], maps)

    def target(self, maps: Tensor, until: int | None = None) -> Tensor:
        """What the teacher itself makes of the prefix's maps, before block ``until`` or to the end."""
        return through(self.stock[self.first : until], maps)


def make_scions(
    teacher: nn.Module, student: nn.Module, images: Tensor, *, shared: int = 0, bias: bool = False
) -> list[Scion]:
    """Wrap the student's blocks in adapters, so that each fits into the teacher.

    The adapters are 1x1 convolutions (linear layers where the maps have no height and width) at the boundaries between
    two scions, initialised Kaiming normal (fan-out) from the global random state. The blocks are not copied.

    Args:
        teacher: what :func:`blocks_of` takes apart.
        student: likewise; as many blocks.
        images: a few normalised images, from which widths are read.
        shared: how many of the first blocks both networks have in common; they get no scion.
        bias: whether the adapters have biases. They then cannot be folded exactly into a convolution that pads.

    Returns:
        The scions of blocks ``shared``, ``shared + 1``, …

    Raises:
        ShapeMismatch: the networks differ in the number of blocks or in the size of the maps between them.

    Example:
        >>> from reuselib import data, netgraft, nets
        >>> from reuselib.nets import zoo
        >>> images = data.load("digits").take(1, seed=0)
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> len(netgraft.make_scions(teacher, student, images.normalised(images.images)))
        4

    Source: Shen et al. 2021 (NetGraft), the adaption modules.
    """
    of_teacher, of_student = maps_of(teacher, images), maps_of(student, images)
    blocks = blocks_of(student)
    if len(of_teacher) != len(blocks):
        raise ShapeMismatch(
            f"The teacher has {len(of_teacher)} blocks, the student {len(blocks)}. Group the layers of one of them, so "
            "that both have as many."
        )
    scions = []
    for index in range(shared, len(blocks)):
        into = adapter(of_teacher[index - 1], of_student[index - 1], bias) if index > shared else None
        out_of = adapter(of_student[index], of_teacher[index], bias) if index < len(blocks) - 1 else None
        scions.append(Scion(blocks[index], into, out_of))
    return scions


@torch.no_grad()
def maps_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    """What each block makes of images, first to last, in evaluation mode."""
    with run.frozen(network):
        return list(accumulate(blocks_of(network), lambda maps, block: block(maps), initial=images))[1:]


def adapter(source: Tensor, target: Tensor, bias: bool = False) -> nn.Conv2d | nn.Linear:
    """A 1x1 convolution, or a linear layer where maps have no height and width, from one map's width to another's.

    Raises:
        ShapeMismatch: the maps differ in height or width.
    """
    if source.shape[2:] != target.shape[2:]:
        raise ShapeMismatch(
            f"Maps of {tuple(source.shape[2:])} and of {tuple(target.shape[2:])} pixels meet behind a block, and no "
            "adapter changes their size. Choose a student that shrinks the image where the teacher does."
        )
    widths = source.shape[1], target.shape[1]
    kind: dict[str, Any] = {"bias": bias, "dtype": source.dtype}
    layer = nn.Conv2d(*widths, 1, **kind) if source.ndim == 4 else nn.Linear(*widths, **kind)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return run.on_device(layer, source.device)
