"""Pruning a plain network to its strongest filters, where FSKD, cross distillation and a pruned scion begin.

A plain network is a row of convolutions and linear layers, with batch norm, ReLU, pooling and flattening between them.
A *unit* is one such layer with all that comes before it up to the layer before, and the batch norm behind it. What it
gives, before the activation, is called its map here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft.hybrid import Scion, blocks_of, through

BETWEEN = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Identity)


@dataclass
class Unit:
    """A layer with weights, what comes before it, and the batch norm behind it.

    Attributes:
        before: modules that keep the channels apart.
        layer: convolution or linear layer.
        norm: its batch norm, if any.
    """

    before: list[nn.Module]
    layer: nn.Conv2d | nn.Linear
    norm: Any = None

    def __call__(self, maps: Tensor) -> Tensor:
        """The unit's map of the map of the unit before."""
        maps = self.layer(through(self.before, maps))
        return maps if self.norm is None else self.norm(maps)

    @property
    def width(self) -> int:
        """Channels of the unit's map."""
        return len(self.layer.weight)

    def form(self, inputs: int) -> tuple[Any, ...]:
        """What must be alike for filters to be copied; ``inputs`` is the number of channels that the layer sees."""
        shape = (getattr(self.layer, name, None) for name in ("kernel_size", "stride", "padding", "dilation"))
        return type(self.layer).__name__, *shape, self.layer.weight[0].numel() // inputs

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (O, I, ...) and bias (O,) of the layer with its batch norm, in evaluation mode, folded into it."""
        weight = self.layer.weight
        bias = weight.new_zeros(len(weight)) if self.layer.bias is None else self.layer.bias
        if (norm := self.norm) is None:
            return weight, bias
        scale = norm.weight / (norm.running_var + norm.eps) ** 0.5
        return weight * scale.view(-1, *[1] * (weight.ndim - 1)), (bias - norm.running_mean) * scale + norm.bias


def units(network: nn.Module) -> list[Unit]:
    """Take a plain network apart into its units, first to last.

    Raises:
        ReuseError: the network is not plain, or ends in something without weights.
    """
    found: list[Unit] = []
    before: list[nn.Module] = []
    parts = [part for block in blocks_of(network) for _, part in block.named_modules(remove_duplicate=False)]
    for module in (part for part in parts if not isinstance(part, nn.Sequential)):
        foldable = isinstance(module, _BatchNorm) and module.affine and module.track_running_stats
        if isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1:
            found.append(Unit(before, module))
            before = []
        elif foldable and found and not before and not found[-1].norm:
            found[-1].norm = module
        elif isinstance(module, BETWEEN):
            before.append(module)
        else:
            raise ReuseError(
                f"Only plain networks can be pruned layer by layer, and {module} is not plain. They are rows of "
                "convolutions and linear layers, with batch norm of weights and running statistics behind them, ReLU "
                "and pooling between."
            )
    if not found or before:
        raise ReuseError("A plain network must end in a layer with weights. Remove what stands behind its last layer.")
    return found


@torch.no_grad()
def prune(teacher: nn.Module, student: nn.Module) -> list[Tensor]:
    """Copy the strongest filters of a plain teacher into a narrower student.

    In each layer the filters with the largest L1 norms stay, in their order, as many as the student is wide; of each
    filter the channels stay that are left of the layer before. Batch norm is folded into the layer before it; where the
    student has one, it becomes an identity.

    Args:
        teacher: a plain network; see :func:`units`.
        student: likewise, with the same layers, none of them wider.

    Returns:
        For each layer, the indices of the teacher's channels that stayed, ascending.

    Raises:
        ReuseError: one of the networks is not plain.
        ShapeMismatch: the layers do not correspond.

    Example:
        >>> from reuselib import netgraft, nets
        >>> from reuselib.nets import zoo
        >>> kept = netgraft.prune(zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8))
        >>> [len(channels) for channels in kept]
        [8, 16, 32, 10]

    Source: Li et al. 2020 (FSKD), official code, with the criterion of Li et al. 2017.
    """
    models, owns = units(teacher), units(student)
    _check_pairs(models, owns)
    kept: list[Tensor] = []
    for own, model in zip(owns, models, strict=True):
        weight, bias = model.folded()
        chosen = weight.flatten(1).abs().sum(1).topk(own.width).indices.sort().values
        weight = weight[chosen]
        if kept:
            # A linear layer behind a flattening sees several positions of each channel.
            weight = weight.reshape(own.width, models[len(kept) - 1].width, -1)[:, kept[-1]]
        own.layer.weight.copy_(weight.reshape(own.layer.weight.shape))
        own.layer.bias.copy_(bias[chosen])  # type: ignore[union-attr]
        if own.norm is not None:
            own.norm.reset_parameters()
            own.norm.running_var.fill_(1 - own.norm.eps)
        kept.append(chosen)
    return kept


@torch.no_grad()
def start_pruned(teacher: nn.Module, scions: Sequence[Scion], kept: Sequence[Tensor], shared: int = 0) -> None:
    """Let the adapters of a pruned student's scions begin as a choice of channels.

    Those into a block hand on the channels that stayed; those out of it put its maps back in their places and leave the
    others zero. So every scion begins as a part of the teacher's block.

    Args:
        teacher: a plain network.
        scions: of blocks ``shared``, ``shared + 1``, … to the last.
        kept: what :func:`prune` returned.
        shared: how many of the first blocks have no scion.

    Example:
        >>> from reuselib import data, netgraft, nets
        >>> from reuselib.nets import zoo
        >>> images = data.load("digits").take(1, seed=0)
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> scions = netgraft.make_scions(teacher, student, images.normalised(images.images))
        >>> netgraft.start_pruned(teacher, scions, netgraft.prune(teacher, student))

    Source: ours; it lets grafting begin where FSKD and cross distillation do.
    """
    ends = list(accumulate(layer_count(block) for block in blocks_of(teacher)))
    for index, (before, after) in enumerate(pairwise(scions)):
        chosen = kept[ends[shared + index] - 1]
        out_of, into = (adapter.weight.flatten(1) for adapter in (before.out_of, after.into))  # type: ignore[operator]
        choice = torch.eye(len(out_of), dtype=out_of.dtype, device=out_of.device)[:, chosen]
        out_of.copy_(choice)
        into.copy_(choice.T)


def layer_count(network: nn.Module) -> int:
    """How many convolutions and linear layers a network or a block has."""
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())


def _check_pairs(teacher: list[Unit], student: list[Unit]) -> None:
    if len(teacher) != len(student):
        raise ShapeMismatch(
            f"The teacher has {len(teacher)} layers with weights, the student {len(student)}. Prune to a student of "
            "the same depth."
        )
    inputs, last = (1, 1), len(teacher) - 1
    for index, (t, s) in enumerate(zip(teacher, student, strict=True)):
        narrower = s.width <= t.width if index < last else s.width == t.width
        if not narrower or t.form(inputs[0]) != s.form(inputs[1]) or s.layer.bias is None:
            raise ShapeMismatch(
                f"Layer {index} is {t.layer} in the teacher, {s.layer} in the student. Give both one kind and kernel, "
                "the student a bias and no more filters, in the last layer as many, and images of one shape to both."
            )
        inputs = t.width, s.width
