"""Layer-wise amalgamation in three stages, as in the paper's first code: encode, learn layer by layer, learn jointly.

All features are pre-activations: the outputs of convolutions and linear layers, before the ReLU that follows. Teachers
and student must be sequential networks with as many layers of the same kind and size; their widths may differ. The
later one-stage algorithm of the same name is in :mod:`reuselib.layerwise.rivals`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.layerwise import losses
from reuselib.layerwise.autoencoder import Amalgam, Encoders, Entering, affine, direct, solve
from reuselib.layerwise.learning import Learning, Stage
from reuselib.layerwise.losses import unexplained_variance
from reuselib.layerwise.teachers import Teachers, read_layers
from reuselib.nets import chain_of

SOLVE_ON = 5000
"""Images that the closed form reads, at most."""


# --- what fits -------------------------------------------------------------------------------------------------------


def make_encoders(
    teachers: Teachers, student: nn.Module, images: ImageSet, entering: Entering | None = None, seed: int = 0
) -> Encoders:
    """Encoders from all features of the teachers to the widths of a student, once it is known that they fit.

    Args:
        teachers: sequential networks.
        student: a sequential network with as many layers; it is left as it is.
        images: two of them are shown to the networks.
        entering: who enters when; all teachers at once if left out.
        seed: of the initial weights.

    Raises:
        ReuseError: a network is not sequential.
        ShapeMismatch: the networks differ in the number, the kind or the size of their layers, or the student does
            not have one output for each class.
    """
    chains = [chain_of(network) for network in (student, *teachers.networks)]
    own, *kinds = [[type(link.layer).__name__ for link in links] for links in chains]
    for number, kind in enumerate(kinds, 1):
        if kind != own:
            raise ShapeMismatch(
                f"Teacher {number} has the layers {', '.join(kind)}, the student {', '.join(own)}. Layers are paired "
                "one by one: build all networks with the same layers (widths may differ), or use OneStageAmalgamation "
                "with groups."
            )
    names, *layers = [[link.name for link in links[:-1]] for links in chains]
    with run.seeded(seed):
        return paired(teachers, student, images, names, list(zip(*layers, strict=True)), entering)


@torch.no_grad()
def paired(
    teachers: Teachers,
    student: nn.Module,
    images: ImageSet,
    names: Sequence[str] = (),
    layers: Sequence[Sequence[str]] = (),
    entering: Entering | None = None,
) -> Encoders:
    """Encoders of some layers of the teachers to the widths of the student's layers that they are paired with.

    Args:
        teachers: any networks.
        student: any network; it is left as it is.
        images: two of them are shown to the networks.
        names: of the student's layers.
        layers: for each of these, the layer of each teacher.
        entering: who enters when; all teachers at once if left out.

    Raises:
        UnknownName: a network has no such layer.
        ReuseError: ``entering`` does not name each teacher once.
        ShapeMismatch: maps differ in size, a network does not take such images, or the student does not have one
            output for each class.
        ReuseError: a network gives more than one tensor.
        NonFinite: a network gives NaN or infinity, which would be learned silently.
        BadValue: there are no images.
    """
    checks.some(ImageSet, images=images)
    probe, classes = images.normalised(images.images[:2]), len(teachers.classes.union)
    run.probe(probe, student=student, **teachers.named)
    features, _ = teachers(probe, layers)
    with run.frozen(student):
        own, logits = read_layers(student, names, probe)
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ShapeMismatch(
            f"The student gives outputs of shape {tuple(logits.shape)}, its teachers know {classes} classes "
            f"together. Build it with classes={classes}."
        )
    for name, expected, found in zip(names, own, features, strict=True):
        sizes = ["x".join(map(str, maps.shape[2:])) for maps in (expected, *found)]
        if len(set(sizes)) > 1:
            raise ShapeMismatch(
                f"At the student's layer {name!r} the student has maps of {sizes[0]} pixels, the teachers of "
                f"{sizes[1:]}. 1x1 convolutions change channels, not sizes: build all with the same strides and "
                "poolings, or give groups of layers of one size."
            )
    count = len(teachers.networks)
    entering = direct(count) if entering is None else entering
    if sorted(chain.from_iterable(entering)) != list(range(count)):
        raise ReuseError(f"Each of {count} teachers, counted from 0, must enter once, not {entering}.")
    amalgams = [
        Amalgam([each.shape[1] for each in found], mine.shape[1], mine.ndim == 4, entering)
        for found, mine in zip(features, own, strict=True)
    ]
    return run.on_device(Encoders(layers, amalgams), images.device)


# --- stage A ---------------------------------------------------------------------------------------------------------


class FeatureLearning(Learning):
    """Stage A: every layer's auto-encoder learns to give the teachers' features back, each for itself.

    Args:
        teachers: left as they were, bit for bit.
        encoders: learn; see :func:`make_encoders`.
        images: unlabelled, on the teachers' device: their labels are never read.
        stage: one learning rate, or one for each layer but the last.
        options: those of :class:`~reuselib.layerwise.learning.Learning`.

    Source: Shen et al. 2019 (AAAI), feature amalgamation.
    """

    def __init__(self, teachers: Teachers, encoders: Encoders, images: ImageSet, stage: Stage, **options: Any) -> None:
        super().__init__(teachers, images, encoders=encoders, **options)
        self.encoders = encoders
        self.prepare(stage, [list(each.parameters()) for each in encoders.amalgams])
        encoders.train()

    def step(self) -> dict[str, Tensor]:
        """One update of all auto-encoders.

        Returns:
            ``unexplained_1``, … for each layer, the mean share of the variance that its auto-encoders lose.
        """
        with torch.no_grad(), self.precision.autocast():
            features, _ = self.teachers(self.draw(), self.encoders.layers)
        with self.precision.autocast():
            _, layers = self.encoders(features, reconstruct=True)
        # Each term has parameters of its own, so that the sum is as many independent problems.
        self.descend(torch.stack([losses.reconstruction_loss(*pair) for pairs in layers for pair in pairs]).sum())
        with torch.no_grad():
            lost = [torch.stack([unexplained_variance(*pair) for pair in pairs]).mean() for pairs in layers]
        return {f"unexplained_{number}": share for number, share in enumerate(lost, 1)}


# --- stage B ---------------------------------------------------------------------------------------------------------


def adapters(sizes: Iterable[tuple[int, bool]], fam: bool) -> nn.ModuleList:
    """Feature adaptation layers (FAM) for features of these channels, maps or not; identities without adaptation."""
    return nn.ModuleList(affine(width, width, spatial) if fam else nn.Identity() for width, spatial in sizes)


class AdaptedStudent(nn.Module):
    """A sequential student with a feature adaptation layer (FAM) behind each of its layers but the last.

    The adaptation layer stands before the ReLU, which would destroy part of a code that was never meant to be
    rectified. It is affine, so that it can be merged into its layer in the end.

    Args:
        student: the plain network, whose layers are used in place.
        fam: whether there are adaptation layers.

    Attributes:
        adapters: 1x1 convolutions and linear layers, newly initialised; identities without adaptation.
        links: the student's layers.

    Raises:
        ReuseError: the student is not sequential, or nothing can be merged into one of its layers.

    Source: Shen et al. 2019 (AAAI), layer-wise parameter learning.
    """

    def __init__(self, student: nn.Module, fam: bool = True) -> None:
        super().__init__()
        self.student, self.links = student, chain_of(student)
        for link in self.links[:-1] if fam else ():
            losses.check_mergeable(link.layer, f"Layer {link.name!r}")
        self.adapters = adapters([(link.width, link.spatial) for link in self.links[:-1]], fam)

    def forward(self, images: Tensor, codes: Sequence[Tensor]) -> list[Tensor]:
        """Give the output of each layer when it is fed with the code of the layer before (teacher forcing).

        Args:
            images: (N, C, H, W), which the first layer sees.
            codes: the amalgamated features of all layers but the last.
        """
        inputs = [images, *(adapter(code) for adapter, code in zip(self.adapters, codes, strict=True))]
        return [link(each) for link, each in zip(self.links, inputs, strict=True)]

    def alone(self, images: Tensor) -> list[Tensor]:
        """Give the output of each layer when it is fed by the layer before, the adaptation layers in their places."""
        outputs: list[Tensor] = []
        for link, adapter in zip(self.links, [nn.Identity(), *self.adapters], strict=True):
            outputs.append(link(adapter(outputs[-1] if outputs else images)))
        return outputs

    def through(self, images: Tensor) -> Tensor:
        """Give the logits (N, K) of the student on its own activations."""
        return self.alone(images)[-1]

    @torch.no_grad()
    def merge(self) -> None:
        """Fold every adaptation layer into the student, which keeps its topology; what stays behind is the identity."""
        for link, adapter in zip(self.links, self.adapters, strict=False):
            if isinstance(adapter, nn.Conv2d | nn.Linear):
                link.layer.load_state_dict(losses.merge(adapter, link.layer).state_dict())
                identity = torch.eye(link.width, device=adapter.weight.device)
                adapter.weight.copy_(identity.view_as(adapter.weight))
                adapter.bias.zero_()  # type: ignore[union-attr]

    def merged(self) -> nn.Module:
        """A copy of the student with the adaptation layers folded in; nothing else changes."""
        adapted = copy.deepcopy(self)
        adapted.merge()
        return adapted.student

    def layer_parameters(self) -> list[list[nn.Parameter]]:
        """The parameters that each layer's loss reaches: its own, and those of the adaptation layer before it."""
        before = [nn.Identity(), *self.adapters]
        parts = [(adapter, link.between, link.layer) for adapter, link in zip(before, self.links, strict=True)]
        return [[parameter for part in each for parameter in part.parameters()] for each in parts]


class LayerLearning(Learning):
    """Stage B: every layer of the student learns the amalgamated features from those of the layer before.

    The layers' problems are independent: each is fed by the teachers, not by the student's own activations. Dropout
    is off, since the targets are values to be met.

    Args:
        teachers: left as they were, bit for bit.
        encoders: as stage A leaves them; frozen.
        student: a sequential network, which learns.
        images: unlabelled, on the teachers' device: their labels are never read.
        stage: one learning rate, or one for each layer.
        fam: whether adaptation layers stand behind the student's layers.
        seed: of their initial weights and of the images drawn.
        options: those of :class:`~reuselib.layerwise.learning.Learning`.

    Raises:
        ReuseError: the student is not sequential, or nothing can be merged into one of its layers.

    Source: Shen et al. 2019 (AAAI), layer-wise parameter learning.
    """

    fixed = ("teachers", "encoders")

    def __init__(
        self,
        teachers: Teachers,
        encoders: Encoders,
        student: nn.Module,
        images: ImageSet,
        stage: Stage,
        fam: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(teachers, images, seed=seed, encoders=encoders, student=student, **options)
        with run.seeded(seed):
            adapted = AdaptedStudent(student, fam)
        self.encoders, self.adapted = encoders, run.on_device(adapted, self.device)
        self.dropouts = [module for module in student.modules() if isinstance(module, _DropoutNd)]
        self.prepare(stage, self.adapted.layer_parameters())
        self.adapted.train()

    def step(self) -> dict[str, Tensor]:
        """One update of all layers.

        Returns:
            ``nmse_1``, … for each layer, its squared error over the variance of its target.
        """
        with run.frozen(self.encoders, *self.dropouts):
            with torch.no_grad(), self.precision.autocast():
                images = self.draw()
                features, scores = self.teachers(images, self.encoders.layers)
                codes, _ = self.encoders(features)
            with self.precision.autocast():
                outputs = self.adapted(images, codes)
            pairs = list(zip([*codes, scores], outputs, strict=True))
            self.descend(torch.stack([losses.layerwise_loss(*pair) for pair in pairs]).sum())
        with torch.no_grad():
            errors = [unexplained_variance(*pair) for pair in pairs]
        return {f"nmse_{number}": error for number, error in enumerate(errors, 1)}


# --- stage C ---------------------------------------------------------------------------------------------------------


class JointLearning(Learning):
    """Stage C: the whole student learns the amalgamated scores, end to end. Alone it is the baseline "joint only".

    The student is in training mode: a dropout in it is on.

    Args:
        teachers: any networks; left as they were, bit for bit.
        student: learns; any network.
        images: unlabelled, on the teachers' device: their labels are never read.
        stage: one learning rate.
        options: those of :class:`~reuselib.layerwise.learning.Learning`.

    Raises:
        ShapeMismatch: the student does not have one output for each class of the teachers, or a network does not take
            these images.

    Source: Shen et al. 2019 (AAAI), joint parameter learning.
    """

    def __init__(self, teachers: Teachers, student: nn.Module, images: ImageSet, stage: Stage, **options: Any) -> None:
        super().__init__(teachers, images, student=student, **options)
        paired(teachers, student, images)
        self.student = run.on_device(student, self.device)
        self.prepare(stage, [list(student.parameters())])
        student.train()

    def loss(self, scores: Tensor, logits: Tensor) -> Tensor:
        """What is minimised, of the amalgamated scores and the student's logits, both (N, K)."""
        return losses.joint_loss(scores, logits)

    def step(self) -> dict[str, Tensor]:
        """One update of the student; returns ``loss``."""
        with torch.no_grad(), self.precision.autocast():
            images = self.draw()
            _, scores = self.teachers(images)
        with self.precision.autocast():
            logits = self.student(images)
        loss = self.loss(scores, logits)
        self.descend(loss)
        return {"loss": loss}


# --- all of it -------------------------------------------------------------------------------------------------------


class LayerwiseAmalgamation(run.Method):
    """One student from several teachers: stage A, stage B, the merge, stage C, one after the other.

    The iteration says which stage it is. The student is merged as stage C begins; :meth:`merged` gives the plain
    network at any time. A round should not straddle two stages: ``steps_per_round`` divides all of them at first.

    Attributes:
        lengths: updates of the three stages.
        total: all of them.
        joint_from: the iteration at which stage C begins.

    Args:
        teachers: sequential networks; left as they were, bit for bit.
        student: a sequential network with as many layers of the same kind and size, and a bias in each; learns.
        images: unlabelled: their labels are never read.
        layers: stage B.
        joint: stage C; no steps for layer-wise learning alone.
        encoding: stage A; left out, the auto-encoders get their optimum in closed form when this is built.
        fam: whether there are adaptation layers.
        entering: who enters when, one teacher after the other (IFA); all at once (DFA) if left out.
        seed: of new weights and of all that is drawn.
        options: those of :class:`~reuselib.layerwise.learning.Learning`.

    Raises:
        ReuseError: a network is not sequential, or nothing can be merged into the student's layers.
        ShapeMismatch: the networks do not fit layer by layer, or the student and the classes.
        DeviceError: networks and images are on different devices.

    Example:
        >>> from torch import nn
        >>> from reuselib import data, layerwise, run
        >>> def build(width: int, classes: int) -> nn.Module:
        ...     layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes)
        ...     return nn.Sequential(nn.Flatten(), *layers)
        >>> networks = [build(16, 5), build(16, 5)]  # yours are trained
        >>> sets = layerwise.ClassSets.divide(range(10), 2)
        >>> teachers = layerwise.Teachers(networks, sets)
        >>> student, images = build(24, 10), data.load("digits")
        >>> stage = layerwise.Stage(steps=4)
        >>> method = layerwise.LayerwiseAmalgamation(
        ...     teachers, student, images, layers=stage, joint=stage
        ... )
        >>> history = run.run(method, updates=method.total, progress=False)
        >>> student = method.merged()

    Source: Shen et al. 2019 (AAAI), in the form of v0.1 of the official code.
    """

    fixed = ("teachers",)

    def __init__(
        self,
        teachers: Teachers,
        student: nn.Module,
        images: ImageSet,
        layers: Stage,
        joint: Stage,
        encoding: Stage | None = None,
        fam: bool = True,
        entering: Entering | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        run.device_of(teachers=teachers, student=student, images=images)
        self.teachers, self.encoders = teachers, make_encoders(teachers, student, images, entering, seed)
        if encoding is None:
            with run.threads():
                solve(self.encoders, teachers, images.take(min(SOLVE_ON, len(images)), seed))
        seeds = [3 * seed + number for number in range(3)]
        shared = (teachers, self.encoders)
        self.encoding = (
            None if encoding is None else FeatureLearning(*shared, images, encoding, seed=seeds[0], **options)
        )
        self.layerwise = LayerLearning(*shared, student, images, layers, fam, seeds[1], **options)
        self.joint = JointLearning(teachers, student, images, joint, seed=seeds[2], **options)
        # What several stages hold is saved in a checkpoint once.
        self.joint.fixed = ("teachers", "student")
        if self.encoding:
            self.encoding.fixed = ("teachers", "encoders")
        self.lengths = [encoding.steps if encoding else 0, layers.steps, joint.steps]
        self.layers_from, self.joint_from, self.total = accumulate(self.lengths)
        self.steps_per_round = run.divisor(math.gcd(*self.lengths), 50)

    @property
    def student(self) -> nn.Module:
        """The plain student, as it was given; without its adaptation layers until stage C begins."""
        return self.joint.student

    def step(self) -> dict[str, Tensor]:
        """One update of the stage whose turn it is; returns what that stage returns."""
        if self.encoding and self.iteration < self.layers_from:
            return self.encoding.step()
        if self.iteration < self.joint_from:
            return self.layerwise.step()
        if self.iteration == self.joint_from:
            self.layerwise.adapted.merge()
        return self.joint.step()

    def merged(self) -> nn.Module:
        """A copy of the student with the adaptation layers folded in: the network to use."""
        return self.layerwise.adapted.merged()

    @torch.no_grad()
    def layer_errors(self, images: Tensor) -> list[list[float]]:
        """Each layer's squared error over the variance of its target, fed with the codes and fed by the layer before.

        Args:
            images: (N, C, H, W), normalised.
        """
        adapted = self.layerwise.adapted
        with run.frozen(adapted, self.encoders):
            features, scores = self.teachers(images, self.encoders.layers)
            codes, _ = self.encoders(features)
            sides = [adapted(images, codes), adapted.alone(images)]
        targets = [*codes, scores]
        return [[float(unexplained_variance(*pair)) for pair in zip(targets, side, strict=True)] for side in sides]
