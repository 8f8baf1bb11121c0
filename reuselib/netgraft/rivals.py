"""The student is a pruned teacher whose layers are mended one by one: FSKD and cross distillation.

Both need plain networks: convolutions and linear layers in a row, with batch norm, ReLU, pooling and flattening
between them. A *unit* is one such layer with all that comes before it up to the layer before, and the batch norm behind
it. What it gives, before the activation, is called its map here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft.few_shot import FewShot, for_each, turn_of
from reuselib.netgraft.hybrid import Scion, blocks_of, through
from reuselib.netgraft.losses import feature_distance

Layer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d
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
    layer: Layer
    norm: Norm | None = None

    def __call__(self, maps: Tensor) -> Tensor:
        """The unit's map of the map of the unit before."""
        maps = self.layer(through(self.before, maps))
        return maps if self.norm is None else self.norm(maps)

    @property
    def width(self) -> int:
        """Channels of the unit's map."""
        return len(self.layer.weight)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (O, I, ...) and bias (O,) of the layer with its batch norm, in evaluation mode, folded into it."""
        weight = self.layer.weight
        bias = weight.new_zeros(len(weight)) if self.layer.bias is None else self.layer.bias
        if (norm := self.norm) is None:
            return weight, bias
        scale = norm.weight / (norm.running_var + norm.eps) ** 0.5  # type: ignore[operator]
        scaled = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        return scaled, (bias - norm.running_mean) * scale + norm.bias  # type: ignore[operator]


def units(network: nn.Module) -> list[Unit]:
    """Take a plain network apart into its units, first to last.

    Raises:
        ReuseError: the network is not plain, or ends in something without weights.
    """
    found: list[Unit] = []
    before: list[nn.Module] = []
    for module in _leaves(blocks_of(network)):
        if isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1:
            found.append(Unit(before, module))
            before = []
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and found and not before and not found[-1].norm:
            _check_norm(module)
            found[-1].norm = module
        elif isinstance(module, BETWEEN):
            before.append(module)
        else:
            raise ReuseError(
                f"Only plain networks can be pruned layer by layer, and a {type(module).__name__} is not plain. They "
                "are rows of convolutions and linear layers, with batch norm behind them, ReLU and pooling between."
            )
    if not found or before:
        raise ReuseError("A plain network must end in a layer with weights. Remove what stands behind its last layer.")
    return found


def _leaves(modules: list[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if isinstance(module, nn.Sequential):
            yield from _leaves(list(module))
        else:
            yield module


def _check_norm(norm: Norm) -> None:
    if not norm.affine or not norm.track_running_stats:
        raise ReuseError(f"{norm} cannot be folded into a layer. Use batch norm with weights and running statistics.")


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
        ReuseError: one of the networks is not plain, or a layer of the student cannot take up a bias.
        ShapeMismatch: the layers do not correspond.

    Source: Li et al. 2020 (FSKD), official code, with the criterion of Li et al. 2017.
    """
    return _prune(units(teacher), units(student))


@torch.no_grad()
def _prune(teacher: list[Unit], student: list[Unit]) -> list[Tensor]:
    _check_pairs(teacher, student)
    kept: list[Tensor] = []
    for own, model in zip(student, teacher, strict=True):
        weight, bias = model.folded()
        norms = weight.flatten(1).abs().sum(1)
        chosen = norms.topk(own.width).indices.sort().values
        weight = weight[chosen]
        if kept:
            # A linear layer behind a flattening sees several positions of each channel.
            channels = teacher[len(kept) - 1].width
            weight = weight.reshape(own.width, channels, -1)[:, kept[-1]]
        own.layer.weight.copy_(weight.reshape(own.layer.weight.shape))
        own.layer.bias.copy_(bias[chosen])  # type: ignore[union-attr]
        if own.norm is not None:
            _make_identity(own.norm)
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


def _make_identity(norm: Norm) -> None:
    norm.reset_parameters()
    norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]


def _check_pairs(teacher: list[Unit], student: list[Unit]) -> None:
    if len(teacher) != len(student):
        raise ShapeMismatch(
            f"The teacher has {len(teacher)} layers with weights, the student {len(student)}. Prune to a student of "
            "the same depth."
        )
    for index, (t, s) in enumerate(zip(teacher, student, strict=True)):
        if type(t.layer) is not type(s.layer) or _geometry(t.layer) != _geometry(s.layer):
            raise ShapeMismatch(
                f"Layer {index} is {t.layer} in the teacher, {s.layer} in the student. Give both one kind and kernel."
            )
        if s.width > t.width or (index == len(teacher) - 1 and s.width != t.width):
            raise ShapeMismatch(
                f"Layer {index} has {t.width} filters in the teacher, {s.width} in the student. Give the student no "
                "more than the teacher, and as many in the last layer."
            )
        before = (teacher[index - 1].width, student[index - 1].width) if index else (1, 1)
        of_each = [unit.layer.weight[0].numel() // width for unit, width in zip((t, s), before, strict=True)]
        if of_each[0] != of_each[1]:
            raise ShapeMismatch(
                f"Layer {index} has {of_each[0]} weights for each channel in the teacher, {of_each[1]} in the student. "
                "Build both for images of one shape."
            )
        if s.layer.bias is None:
            raise ReuseError(f"Layer {index} of the student, {s.layer}, has no bias. Build it with bias=True.")


def _geometry(layer: Layer) -> tuple[Any, ...]:
    return (layer.kernel_size, layer.stride, layer.padding, layer.dilation) if isinstance(layer, nn.Conv2d) else ()


def least_squares(student_maps: Tensor, teacher_maps: Tensor, ridge: float = 1e-3) -> Tensor:
    """The 1x1 matrix that turns the student's maps into the teacher's, as near to the identity as can be.

    Minimises ``|M X - Y|^2 + lambda |M - I|^2`` where the columns of X and Y are pixels of all images, and lambda is
    ``ridge`` times the mean square of X's rows. Where there are fewer pixels than channels, the rest of M is the
    identity.

    Args:
        student_maps: X, (B, C, H, W) or (B, C).
        teacher_maps: Y, of the same shape.
        ridge: how much the identity weighs; above 0.

    Returns:
        M, (C, C), in float32 at least.

    Raises:
        ShapeMismatch: the shapes differ.
        ReuseError: the ridge is not above 0.

    Source: Li et al. 2020 (FSKD); the ridge is ours.
    """
    if student_maps.shape != teacher_maps.shape:
        raise ShapeMismatch(
            f"Maps of shapes {tuple(student_maps.shape)} and {tuple(teacher_maps.shape)} cannot be matched. Choose the "
            "teacher's kept channels first."
        )
    if ridge <= 0:
        raise ReuseError(f"A ridge of {ridge} leaves the matrix undetermined. Give a number above 0.")
    x, y = _rows(student_maps), _rows(teacher_maps)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    gram = x.T @ x
    # The tiny constant keeps a layer whose maps are all zero solvable.
    weight = ridge * gram.diagonal().mean() + torch.finfo(x.dtype).tiny
    correction = torch.linalg.solve_ex(gram + weight * identity, x.T @ (y - x)).result
    return identity + correction.T


def _rows(maps: Tensor) -> Tensor:
    """Maps (B, C, ...) as one row of C numbers for each pixel, in float32 at least."""
    rows = maps.movedim(1, -1).flatten(0, -2)
    return rows if rows.dtype == torch.float64 else rows.float()


class Layerwise(FewShot):
    """What both methods share: a student pruned from the teacher, in evaluation mode, and its units.

    Args:
        teacher: a plain network.
        student: likewise; its weights are replaced by the teacher's strongest filters (:func:`prune`).
        images: as in :class:`FewShot`.
        options: the options of :class:`FewShot`. The layers of shared blocks are not mended.

    Raises:
        ReuseError: as :func:`prune` and :class:`FewShot`.
        ShapeMismatch: as :func:`prune` and :class:`FewShot`.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, images: ImageSet, **options: Any) -> None:
        super().__init__(teacher, student, images, **options)
        self.kept = _prune(units(teacher), units(student))
        self.student.eval()
        self.first = sum(map(layer_count, blocks_of(student)[: self.shared]))
        self.layers = len(self.kept) - self.first

    def inputs(self, network: nn.Module, index: int, images: Tensor) -> Tensor:
        """What a network's unit sees: the map of the unit before, or the images."""
        return through(units(network)[:index], images)  # type: ignore[arg-type]


class FSKD(Layerwise):
    """Few-sample knowledge distillation: each layer of a pruned student is mended by one least-squares solution.

    A step takes one layer. With all images, not augmented, it finds the matrix and the bias that turn the student's
    map, made by the layers mended before, into the teacher's kept channels; both are absorbed into the layer.

    Args:
        teacher: as in :class:`Layerwise`.
        student: as in :class:`Layerwise`.
        images: as in :class:`FewShot`.
        ridge: as in :func:`least_squares`.
        options: the options of :class:`FewShot`; ``batch`` images are passed through the networks at a time, nothing is
            drawn or augmented, and float32 is used throughout.

    Attributes:
        total: layers to mend.

    Source: Li et al. 2020 (FSKD), official code.
    """

    steps_per_round = 1

    def __init__(
        self, teacher: nn.Module, student: nn.Module, images: ImageSet, *, ridge: float = 1e-3, **options: Any
    ) -> None:
        super().__init__(teacher, student, images, **options)
        self.ridge, self.total = ridge, self.layers

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Mend the next layer.

        Returns:
            ``loss``: mean squared distance of its map from the teacher's, before the step.
        """
        index = self.first + turn_of(self.iteration, [1] * self.layers)
        with run.frozen(self.teacher):
            s = self._maps(self.student, index)
            t = self._maps(self.teacher, index)[:, self.kept[index]]
        matrix, bias = affine_least_squares(s, t, self.ridge)
        layer = units(self.student)[index].layer
        layer.weight.copy_((matrix @ layer.weight.flatten(1)).view_as(layer.weight))
        layer.bias.copy_(matrix @ layer.bias + bias)  # type: ignore[operator, union-attr]
        return {"loss": feature_distance(t, s)}

    def _maps(self, network: nn.Module, index: int) -> Tensor:
        return torch.cat([self.inputs(network, index + 1, images) for images, _ in self.images.batches(self.batch)])


def affine_least_squares(student_maps: Tensor, teacher_maps: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """:func:`least_squares` of the centred maps, and a bias, which costs nothing: M (C, C) and b (C,)."""
    s_mean, t_mean = (_rows(maps).mean(0) for maps in (student_maps, teacher_maps))
    shape = (1, -1, *[1] * (student_maps.ndim - 2))
    matrix = least_squares(student_maps - s_mean.view(shape), teacher_maps - t_mean.view(shape), ridge)
    return matrix, t_mean - matrix @ s_mean


def cross_distance(layer: Any, teacher_input: Tensor, student_input: Tensor, target: Tensor, mu: float = 0.6) -> Tensor:
    """The loss of cross distillation for one layer of the student.

    ``mu |F_T(h_T) - F_S(h_T)|^2 + (1 - mu) |F_T(h_T) - F_S(h_S)|^2``, both means. The first term imitates the teacher's
    layer on the teacher's input; the second corrects the errors that come in with the student's own.

    Args:
        layer: F_S.
        teacher_input: h_T, the channels that the student has.
        student_input: h_S, of the same shape.
        target: F_T(h_T), likewise.
        mu: share of the imitation, 0 to 1.

    Source: Bai et al. 2020 (cross distillation), from memory.
    """
    imitation = feature_distance(target, layer(teacher_input))
    correction = feature_distance(target, layer(student_input))
    return mu * imitation + (1 - mu) * correction


class CrossDistillation(Layerwise):
    """Cross distillation: each layer of a pruned student is mended by Adam, on the teacher's and on its own inputs.

    Args:
        teacher: as in :class:`Layerwise`.
        student: as in :class:`Layerwise`.
        images: as in :class:`FewShot`.
        steps: updates of each layer, one number for all or one for each layer that is mended.
        lr: learning rate of Adam, of which each layer has its own.
        mu: as in :func:`cross_distance`.
        options: the options of :class:`FewShot`.

    Attributes:
        total: updates of all layers.

    Raises:
        ReuseError: there is another number of steps than of layers; and the errors of :class:`Layerwise`.

    Source: Bai et al. 2020 (cross distillation), from memory; here without its proximal pruning.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        *,
        steps: int | Sequence[int] = 100,
        lr: float = 1e-3,
        mu: float = 0.6,
        **options: Any,
    ) -> None:
        super().__init__(teacher, student, images, **options)
        self.mu, self.steps = mu, for_each(self.layers, steps)
        self.total = sum(self.steps)
        self.optimizers = [
            run.adam(unit.layer.parameters(), self.device, lr=lr) for unit in units(student)[self.first :]
        ]

    def step(self) -> dict[str, Tensor]:
        """One update of the layer whose turn it is.

        Returns:
            ``loss``, as it was before the update.
        """
        turn = turn_of(self.iteration, self.steps)
        index = self.first + turn
        with run.frozen(self.teacher):
            with self.precision.autocast():
                with torch.no_grad():
                    images = self.draw()
                    h_t = self.inputs(self.teacher, index, images)
                    h_s = self.inputs(self.student, index, images)
                    target = units(self.teacher)[index](h_t)[:, self.kept[index]]
                    h_t = h_t[:, self.kept[index - 1]] if index else h_t
                loss = cross_distance(units(self.student)[index], h_t, h_s, target, self.mu)
            self.precision.minimise(loss, self.optimizers[turn])
        return {"loss": loss.detach()}
