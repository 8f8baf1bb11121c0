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
from reuselib.errors import ReuseError
from reuselib.layerwise import losses
from reuselib.layerwise.autoencoder import Encoders
from reuselib.layerwise.learning import Learning, Stage
from reuselib.layerwise.method import JointLearning, adapters, paired
from reuselib.layerwise.teachers import Teachers, read_layers

Group = tuple[str, tuple[str, ...]]
"""A layer of the student, and the layer of each teacher that it is paired with, by name."""


class GroupBlocks(nn.Module):
    """What learns beside the student: encoders of the teachers' features, and projections (FAM) of the student's.

    Args:
        encoders: one for each group.
        fam: whether the student's features are projected.
    """

    def __init__(self, encoders: Encoders, fam: bool) -> None:
        super().__init__()
        sizes = [(each.hidden, each.spatial) for each in encoders.amalgams]
        self.encoders, self.adapters = encoders, adapters(sizes, fam)

    def forward(
        self, taught: Sequence[Sequence[Tensor]], learned: Sequence[Tensor]
    ) -> list[tuple[Sequence[Tensor], Tensor, Tensor, Tensor]]:
        """Give, for each group, the teachers' features, their code, the reconstruction, the student's projected."""
        codes, pairs = self.encoders(taught, reconstruct=True)
        adapted = [adapter(each) for adapter, each in zip(self.adapters, learned, strict=True)]
        return list(zip(taught, codes, [returned for ((_, returned),) in pairs], adapted, strict=True))


class OneStageAmalgamation(Learning):
    """Student, auto-encoders and projections learn at once.

    Args:
        teachers: any networks; left as they were, bit for bit.
        student: any network; learns.
        images: unlabelled, on the teachers' device: their labels are never read.
        stage: one learning rate, or one for the student and one for the rest.
        groups: layers that are paired; if left out, all convolutions in the order of definition.
        fam: whether the student's features are projected before they are compared.
        seed: of the blocks' initial weights and of the images drawn.
        options: those of :class:`~reuselib.layerwise.learning.Learning`.

    Raises:
        ReuseError: the networks do not have as many convolutions, and no groups are given.
        UnknownName: a network has no such layer.
        ShapeMismatch: the features of a group differ in size, or the student and the classes do not fit.

    Source: the official code's master of 2020, there with all 20 convolutions of ResNet-18, Adam and a cosine.
    """

    def __init__(
        self,
        teachers: Teachers,
        student: nn.Module,
        images: ImageSet,
        stage: Stage,
        groups: Sequence[Group] | None = None,
        fam: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(teachers, images, seed=seed, student=student, **options)
        self.student = run.on_device(student, self.device)
        groups = convolutions(student, list(teachers.networks)) if groups is None else groups
        self.own = [name for name, _ in groups]
        with run.seeded(seed):
            encoders = paired(teachers, student, images, self.own, [names for _, names in groups])
            self.blocks = run.on_device(GroupBlocks(encoders, fam), self.device)
        self.prepare(stage, [list(network.parameters()) for network in (self.student, self.blocks)])
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update of all that learns; returns what :func:`~reuselib.layerwise.losses.port_loss` does."""
        with torch.no_grad(), self.precision.autocast():
            images = self.draw()
            taught, scores = self.teachers(images, self.blocks.encoders.layers)
        with self.precision.autocast():
            learned, logits = read_layers(self.student, self.own, images)
            groups = self.blocks(taught, learned)
        terms = losses.port_loss(scores, logits, groups)
        self.descend(terms["loss"])
        return terms


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

    It is :class:`OneStageAmalgamation` without its features.

    Args:
        teachers: any networks; left as they were, bit for bit.
        student: any network; learns. One output for each class of the teachers.
        images: unlabelled, on the teachers' device: their labels are never read.
        stage: updates and learning rate.
        options: ``batch``, ``noise``, ``augment``, ``seed`` and ``precision``.

    Example:
        >>> from reuselib import data, layerwise, nets, run
        >>> networks = [nets.conv3(classes=5), nets.conv3(classes=5)]  # yours are trained
        >>> teachers = layerwise.Teachers(networks, layerwise.ClassSets.divide(range(10), 2))
        >>> stage = layerwise.Stage(steps=4, lr=1e-3)
        >>> method = layerwise.AmalgamationKD(teachers, nets.conv3(width=8), data.load("digits"), stage)
        >>> history = run.run(method, updates=stage.steps, progress=False)

    Source: Hinton et al. 2015; the official code's master of 2020, its example of plain distillation.
    """

    def loss(self, scores: Tensor, logits: Tensor) -> Tensor:
        """What is minimised, of the amalgamated scores and the student's logits, both (N, K)."""
        return losses.distillation_loss(scores, logits)
