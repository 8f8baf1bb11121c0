"""The later, one-stage algorithm that also goes by the name of layer-wise amalgamation, and plain distillation.

It differs from :mod:`reuselib.layerwise.method` in all but the auto-encoders: everything is learned at once, the
student's own activations flow, the adaptation layers are projections on the side that are thrown away in the end, and
the scores are learned by a KL divergence. Networks may be of any architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.layerwise.autoencoder import AutoEncoder, affine, reconstruction_loss
from reuselib.layerwise.learning import Learning, Stage, Teachers, check_classes, device_of, read_layers
from reuselib.layerwise.method import JointLearning, layerwise_loss
from reuselib.nets.imitation import kl_divergence

Group = tuple[str, tuple[str, ...]]
"""A layer of the student, and the layer of each teacher that it is paired with, by name."""


def amalgamation_loss(adapted: Tensor, code: Tensor) -> Tensor:
    """``L_amal = mean((fam(f_S) - rep)²)`` of one group, in float32; no gradient reaches the code.

    Args:
        adapted: the student's features, projected, (N, C, H, W).
        code: rep, the code of the teachers' features, of the same shape.

    Source: the official code's master of 2020.
    """
    return layerwise_loss(code, adapted)


def separate_reconstruction_loss(features: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> Tensor:
    """``L_rec = sum_t mean((recon_t - f_t)²)`` of one group, in float32: a mean for each teacher.

    Args:
        features: of each teacher, (N, C_t, H, W).
        reconstructions: of the same shapes. With equal channels this is T times
            :func:`~reuselib.layerwise.autoencoder.reconstruction_loss` of the concatenation.

    Source: the official code's master of 2020.
    """
    pairs = zip(features, reconstructions, strict=True)
    return torch.stack([reconstruction_loss(feature, returned) for feature, returned in pairs]).sum()


class GroupBlocks(nn.Module):
    """An auto-encoder of the teachers' features and a projection (FAM) of the student's, for each group.

    Args:
        taught: channels of each teacher's features, for each group.
        learned: channels of the student's features, which are those of the code too.
        spatial: for each group, whether the features are maps.
        fam: whether the student's features are projected.
    """

    def __init__(
        self, taught: Sequence[Sequence[int]], learned: Sequence[int], spatial: Sequence[bool], fam: bool = True
    ) -> None:
        super().__init__()
        self.widths = [list(widths) for widths in taught]
        self.autoencoders = nn.ModuleList(
            AutoEncoder(sum(widths), code, maps) for widths, code, maps in zip(taught, learned, spatial, strict=True)
        )
        self.adapters = nn.ModuleList(
            affine(code, code, maps) if fam else nn.Identity() for code, maps in zip(learned, spatial, strict=True)
        )

    def forward(
        self, taught: Sequence[Sequence[Tensor]], learned: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
        """Give, for each group, the student's projected features, the code, and each teacher's reconstruction."""
        results = []
        for features, own, widths, autoencoder, adapter in zip(
            taught, learned, self.widths, self.autoencoders, self.adapters, strict=True
        ):
            code, returned = autoencoder(torch.cat(list(features), 1))
            results.append((adapter(own), code, list(returned.split(widths, 1))))
        return results


class OneStageAmalgamation(Learning):
    """Student, auto-encoders and projections learn at once: ``L = a L_kd + b L_amal + c L_rec``.

    Args:
        teachers: any networks; left as they were, bit for bit.
        student: any network; learns.
        images: as in :class:`Learning`.
        stage: of both optimizers, one for the student and one for the rest; one learning rate.
        groups: layers that are paired; if left out, all convolutions in the order of definition.
        weights: a, b, c.
        fam: whether the student's features are projected before they are compared.
        seed: of the blocks' initial weights and of the images drawn.
        options: those of :class:`Learning`.

    Raises:
        ReuseError: the networks do not have as many convolutions, and no groups are given.
        UnknownName: a network has no such layer.
        ShapeMismatch: the features of a group differ in size, or the student and the classes do not fit.

    Source: the official code's master of 2020, there with all 20 convolutions of ResNet-18, Adam and a cosine.
    """

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        student: nn.Module,
        images: ImageSet,
        *,
        stage: Stage,
        groups: Sequence[Group] | None = None,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        fam: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(teachers, images, seed=seed, **options)
        device_of(student=student, images=images)
        self.student, self.stage, self.weights = run.on_device(student, self.device), stage, weights
        groups = convolutions(student, list(self.teachers.networks)) if groups is None else groups
        self.own = [name for name, _ in groups]
        self.layers = [names for _, names in groups]
        self.blocks = self._build_blocks(fam, seed)
        learning = (self.student, self.blocks)
        self.optimizers = [stage.optimizer([list(network.parameters())], self.device) for network in learning]
        self.schedulers = [stage.scheduler(optimizer) for optimizer in self.optimizers]
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update of the student and of the blocks.

        Returns:
            ``loss`` and its terms before weighting, summed over the groups: ``kd``, ``amalgamation``,
            ``reconstruction``.
        """
        with torch.no_grad(), self.precision.autocast():
            images = self.draw()
            taught, scores = self.teachers(images, self.layers)
        with self.precision.autocast():
            learned, logits = read_layers(self.student, self.own, images)
            blocks = self.blocks(taught, learned)
        kd = kl_divergence(scores, logits)
        amalgamation = torch.stack([amalgamation_loss(adapted, code) for adapted, code, _ in blocks]).sum()
        pairs = zip(taught, blocks, strict=True)
        reconstruction = torch.stack(
            [separate_reconstruction_loss(features, returned) for features, (_, _, returned) in pairs]
        ).sum()
        terms = (kd, amalgamation, reconstruction)
        loss = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        self.precision.minimise(loss, self.optimizers)
        for scheduler in self.schedulers:
            scheduler.step()
        return {"loss": loss, "kd": kd, "amalgamation": amalgamation, "reconstruction": reconstruction}

    @torch.no_grad()
    def _build_blocks(self, fam: bool, seed: int) -> GroupBlocks:
        """The blocks, once it is known that all groups fit."""
        taught, _ = self.teachers(self.probe(), self.layers)
        with run.frozen(self.student):
            learned, logits = read_layers(self.student, self.own, self.probe())
        check_classes(self.teachers, logits)
        for name, features, own in zip(self.own, taught, learned, strict=True):
            sizes = [tuple(each.shape[2:]) for each in (own, *features)]
            if len(set(sizes)) > 1:
                raise ShapeMismatch(
                    f"The features paired with the student's {name!r} have the sizes {sizes}, the student's first. "
                    "1x1 convolutions change channels, not sizes: give groups of layers with one size."
                )
        with run.seeded(seed):
            blocks = GroupBlocks(
                [[each.shape[1] for each in features] for features in taught],
                [own.shape[1] for own in learned],
                [own.ndim == 4 for own in learned],
                fam,
            )
        return run.on_device(blocks, self.device)


def convolutions(student: nn.Module, teachers: Sequence[nn.Module]) -> list[Group]:
    """Pair all convolutions of the networks in the order of definition.

    Raises:
        ReuseError: they do not have as many.
    """
    names = [
        [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
        for network in (student, *teachers)
    ]
    counts = [len(each) for each in names]
    if len(set(counts)) > 1 or not counts[0]:
        raise ReuseError(
            f"The student has {counts[0]} convolutions, its teachers {counts[1:]}: they cannot be paired one by one. "
            "Give groups: for each a layer of the student and one of every teacher."
        )
    return [(own, tuple(theirs)) for own, *theirs in zip(*names, strict=True)]


class AmalgamationKD(JointLearning):
    """Plain distillation from several teachers: the KL divergence from the softmax of their scores side by side.

    The arguments are those of :class:`~reuselib.layerwise.method.JointLearning`, but for ``loss``. It is
    :class:`OneStageAmalgamation` with the weights 1, 0, 0.

    Source: Hinton et al. 2015; the official code's master of 2020, its example of plain distillation, with τ = 1.
    """

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        student: nn.Module,
        images: ImageSet,
        *,
        stage: Stage,
        **options: Any,
    ) -> None:
        super().__init__(teachers, student, images, stage=stage, loss=kl_divergence, **options)
