"""Layer-wise amalgamation in three stages, as in the paper's first code: encode, learn layer by layer, learn jointly.

All features are pre-activations: the outputs of convolutions and linear layers, before the ReLU that follows. Teachers
and student must be sequential networks with as many layers of the same kind and size; their widths may differ. The
later one-stage algorithm of the same name is in :mod:`reuselib.layerwise.rivals`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from reuselib import run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.layerwise import autoencoder
from reuselib.layerwise.autoencoder import Amalgam, Encoders, affine, reconstruction_loss, unexplained_variance
from reuselib.layerwise.learning import Learning, Stage, Teachers, as_teachers, check_classes, device_of, read_layers
from reuselib.nets import Link, chain_of
from reuselib.nets.imitation import mean_squared_error

Layer = nn.Conv2d | nn.Linear
LAYERS = Stage(1000, 5e-3)
JOINT = Stage(1000, 1e-3)

# --- equations -------------------------------------------------------------------------------------------------------


def layerwise_loss(target: Tensor, output: Tensor) -> Tensor:
    """``L_lw = mean((G - F_a)²)`` over all elements, in float32; no gradient reaches the target.

    Args:
        target: F_a, the amalgamated features of a layer, (N, C, H, W) or (N, C); for the last layer the scores (N, K).
        output: G, what the student's layer makes of the amalgamated features of the layer before.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Shen et al. 2019 (AAAI), layer-wise parameter learning.
    """
    return mean_squared_error(target.detach(), output)


def joint_loss(scores: Tensor, logits: Tensor) -> Tensor:
    """``L_joint = mean((z_S - z)²)`` over images and classes: no softmax, no temperature, in float32.

    Args:
        scores: z, the amalgamated scores of the teachers, (N, K).
        logits: z_S, the student's, (N, K).

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Shen et al. 2019 (AAAI), joint parameter learning; v0.1 of the official code.
    """
    return mean_squared_error(scores, logits)


@torch.no_grad()
def merge(adapter: Layer, layer: Layer) -> Layer:
    """Fold an adapter into the layer before it: ``merge(A, S)(x) = A(S(x))``, both being affine.

    ``W[i] = sum_j A[i, j] W_S[j]`` and ``b = A b_S + a``.

    Args:
        adapter: a 1x1 convolution or a linear layer.
        layer: a convolution of any stride and padding, or a linear layer; it is left as it is.

    Returns:
        A layer of the kind of ``layer``.

    Raises:
        ReuseError: the layer has several groups or no bias.
        ShapeMismatch: the adapter does not take the layer's channels.

    Source: Shen et al. 2019 (AAAI); v0.1 of the official code.
    """
    _check_mergeable(layer)
    matrix = adapter.weight.flatten(1)
    if matrix.shape[1] != len(layer.weight):
        raise ShapeMismatch(f"An adapter of {matrix.shape[1]} channels does not fit {len(layer.weight)}.")
    merged = copy.deepcopy(layer)
    merged.weight = nn.Parameter(torch.einsum("ij,j...->i...", matrix, layer.weight))
    merged.bias = nn.Parameter(matrix @ layer.bias + adapter.bias)  # type: ignore[operator]
    return merged


def _check_mergeable(layer: Layer, name: str = "A layer") -> None:
    if getattr(layer, "groups", 1) != 1 or layer.bias is None:
        raise ReuseError(
            f"{name} has several groups or no bias, so that nothing can be merged into it. Build the student with "
            "bias=True and groups=1, or learn without adaptation layers (fam=False)."
        )


# --- stage A ---------------------------------------------------------------------------------------------------------


class FeatureLearning(Learning):
    """Stage A: every layer's auto-encoder learns to give the teachers' features back, each for itself.

    Args:
        teachers: as in :class:`Learning`.
        encoders: learn; see :func:`make_encoders`.
        images: as in :class:`Learning`.
        stage: one learning rate, or one for each layer but the last.
        options: those of :class:`Learning`.

    Source: Shen et al. 2019 (AAAI), feature amalgamation.
    """

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        encoders: Encoders,
        images: ImageSet,
        *,
        stage: Stage,
        **options: Any,
    ) -> None:
        super().__init__(teachers, images, **options)
        device_of(encoders=encoders, images=images)
        self.encoders, self.stage = encoders, stage
        self.optimizer = stage.optimizer([list(each.parameters()) for each in encoders.amalgams], self.device)
        self.scheduler = stage.scheduler(self.optimizer)
        encoders.train()

    def step(self) -> dict[str, Tensor]:
        """One update of all auto-encoders.

        Returns:
            ``unexplained_1``, … for each layer: the mean share of the variance that its auto-encoders lose.
        """
        with torch.no_grad(), self.precision.autocast():
            features, _ = self.teachers(self.draw(), self.encoders.layers)
        with self.precision.autocast():
            _, layers = self.encoders(features, reconstruct=True)
        losses = [reconstruction_loss(given, returned) for pairs in layers for given, returned in pairs]
        # Each term has parameters of its own, so that the sum is as many independent problems.
        self.precision.minimise(torch.stack(losses).sum(), self.optimizer)
        self.scheduler.step()
        with torch.no_grad():
            lost = [torch.stack([unexplained_variance(*pair) for pair in pairs]).mean() for pairs in layers]
        return {f"unexplained_{number}": share for number, share in enumerate(lost, 1)}


def make_encoders(
    teachers: Teachers,
    student: nn.Module,
    images: ImageSet,
    *,
    incremental: bool = False,
    order: Sequence[int] | None = None,
    seed: int = 0,
) -> Encoders:
    """Encoders from all features of the teachers to the widths of a student, once it is known that they fit.

    Args:
        teachers: sequential networks.
        student: a sequential network with as many layers; it is left as it is.
        images: two of them are shown to the networks.
        incremental: whether teachers are amalgamated one after the other, not at once.
        order: in which, first to last, counted from 0; as they stand if left out.
        seed: of the initial weights.

    Raises:
        ReuseError: a network is not sequential, or the order does not name each teacher once.
        ShapeMismatch: the networks differ in the number, the kind or the size of their layers, or the student does
            not have one output for each class.
    """
    count = len(teachers.networks)
    order = range(count) if order is None else order
    if sorted(order) != list(range(count)):
        raise ReuseError(f"The order of {count} teachers must name 0 to {count - 1} once each, not {list(order)}.")
    entering = autoencoder.incremental(order) if incremental else autoencoder.direct(count)
    chains = [chain_of(network) for network in (*teachers.networks, student)]
    _check_layers(chains)
    layers = [[link.name for link in links] for links in zip(*chains[:-1], strict=True)][:-1]
    features = _check_sizes(teachers, student, chains[-1], layers, images)
    widths = [[each.shape[1] for each in of_layer] for of_layer in features]
    with run.seeded(seed):
        links = chains[-1][:-1]
        amalgams = [Amalgam(w, link.width, link.spatial, entering) for w, link in zip(widths, links, strict=True)]
    return run.on_device(Encoders(layers, amalgams), images.device)


def _check_layers(chains: Sequence[Sequence[Link]]) -> None:
    """Compare the networks layer by layer; the last one is the student."""
    kinds = [[type(link.layer).__name__ for link in links] for links in chains]
    for number, kind in enumerate(kinds[:-1], 1):
        if kind != kinds[-1]:
            raise ShapeMismatch(
                f"Teacher {number} has the layers {', '.join(kind)}, the student {', '.join(kinds[-1])}. Layers are "
                "paired one by one: build all networks with the same layers (widths may differ), or use "
                "OneStageAmalgamation with groups."
            )


def _check_sizes(
    teachers: Teachers, student: nn.Module, links: Sequence[Link], layers: Sequence[Sequence[str]], images: ImageSet
) -> list[list[Tensor]]:
    """The teachers' features of two images, once they are known to have the sizes of the student's."""
    probe = images.normalised(images.images[:2])
    features, _ = teachers(probe, layers)
    with run.frozen(student), torch.no_grad():
        own, logits = read_layers(student, [link.name for link in links[:-1]], probe)
    check_classes(teachers, logits)
    for link, expected, found in zip(links, own, features, strict=False):
        for number, each in enumerate(found, 1):
            if each.shape[2:] != expected.shape[2:]:
                sizes = ["x".join(map(str, maps.shape[2:])) for maps in (each, expected)]
                raise ShapeMismatch(
                    f"At the student's layer {link.name!r} teacher {number} has maps of {sizes[0]} pixels, the student "
                    f"of {sizes[1]}. 1x1 convolutions change channels, not sizes: build all with the same strides and "
                    "poolings."
                )
    return features


# --- stage B ---------------------------------------------------------------------------------------------------------


class AdaptedStudent(nn.Module):
    """A sequential student with a feature adaptation layer (FAM) behind each of its layers but the last.

    The adaptation layer stands before the ReLU, which would destroy part of a code that was never meant to be
    rectified. It is affine, so that it can be merged into its layer in the end.

    Attributes:
        student: the plain network, whose layers are used in place.
        adapters: 1x1 convolutions and linear layers, newly initialised; identities without adaptation.
        links: the student's layers.

    Source: Shen et al. 2019 (AAAI), layer-wise parameter learning.
    """

    def __init__(self, student: nn.Module, fam: bool = True) -> None:
        """Take the student apart.

        Args:
            student: changed when this is trained.
            fam: whether there are adaptation layers.

        Raises:
            ReuseError: the student is not sequential, or nothing can be merged into one of its layers.
        """
        super().__init__()
        self.student, self.links = student, chain_of(student)
        for link in self.links[:-1] if fam else ():
            _check_mergeable(link.layer, f"Layer {link.name!r}")
        self.adapters = nn.ModuleList(
            affine(link.width, link.width, link.spatial) if fam else nn.Identity() for link in self.links[:-1]
        )

    def forward(self, images: Tensor, codes: Sequence[Tensor]) -> list[Tensor]:
        """Give the output of each layer when it is fed with the code of the layer before (teacher forcing).

        Args:
            images: (N, C, H, W), which the first layer sees.
            codes: the amalgamated features of all layers but the last.
        """
        inputs = [images, *(adapter(code) for adapter, code in zip(self.adapters, codes, strict=True))]
        return [link(each) for link, each in zip(self.links, inputs, strict=True)]

    def through(self, images: Tensor) -> Tensor:
        """Give the logits (N, K) of the student on its own activations, the adaptation layers in their places."""
        for link, adapter in zip(self.links, [*self.adapters, nn.Identity()], strict=True):
            images = adapter(link(images))
        return images

    @torch.no_grad()
    def merge(self) -> None:
        """Fold every adaptation layer into the student, which keeps its topology; what stays behind is the identity."""
        for link, adapter in zip(self.links, self.adapters, strict=False):
            if isinstance(adapter, nn.Conv2d | nn.Linear):
                link.layer.load_state_dict(merge(adapter, link.layer).state_dict())
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
        teachers: as in :class:`Learning`.
        encoders: as stage A leaves them; frozen.
        student: a sequential network, which learns.
        images: as in :class:`Learning`.
        stage: one learning rate, or one for each layer.
        fam: whether adaptation layers stand behind the student's layers.
        seed: of their initial weights and of the images drawn.
        options: those of :class:`Learning`.

    Raises:
        ReuseError: the student is not sequential, or nothing can be merged into one of its layers.

    Source: Shen et al. 2019 (AAAI), layer-wise parameter learning.
    """

    fixed = ("teachers", "encoders")

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        encoders: Encoders,
        student: nn.Module,
        images: ImageSet,
        *,
        stage: Stage,
        fam: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(teachers, images, seed=seed, **options)
        device_of(encoders=encoders, student=student, images=images)
        with run.seeded(seed):
            adapted = AdaptedStudent(student, fam)
        self.encoders, self.stage, self.adapted = encoders, stage, run.on_device(adapted, self.device)
        self.dropouts = [module for module in student.modules() if isinstance(module, _DropoutNd)]
        self.optimizer = stage.optimizer(self.adapted.layer_parameters(), self.device)
        self.scheduler = stage.scheduler(self.optimizer)
        self.adapted.train()

    def step(self) -> dict[str, Tensor]:
        """One update of all layers.

        Returns:
            ``nmse_1``, … for each layer: its squared error over the variance of its target.
        """
        with run.frozen(self.encoders, *self.dropouts):
            with torch.no_grad(), self.precision.autocast():
                images = self.draw()
                features, scores = self.teachers(images, self.encoders.layers)
                codes, _ = self.encoders(features)
            with self.precision.autocast():
                outputs = self.adapted(images, codes)
            targets = [*codes, scores]
            losses = [layerwise_loss(target, output) for target, output in zip(targets, outputs, strict=True)]
            self.precision.minimise(torch.stack(losses).sum(), self.optimizer)
        self.scheduler.step()
        with torch.no_grad():
            errors = [unexplained_variance(target, output) for target, output in zip(targets, outputs, strict=True)]
        return {f"nmse_{number}": error for number, error in enumerate(errors, 1)}


# --- stage C ---------------------------------------------------------------------------------------------------------


class JointLearning(Learning):
    """Stage C: the whole student learns the amalgamated scores, end to end. Alone it is the baseline "joint only".

    The student is in training mode: a dropout in it is on.

    Args:
        teachers: as in :class:`Learning`; any networks.
        student: learns; any network.
        images: as in :class:`Learning`.
        stage: one learning rate.
        loss: of the amalgamated scores and the student's logits, both (N, K).
        options: those of :class:`Learning`.

    Raises:
        ShapeMismatch: the student does not have one output for each class of the teachers, or a network does not take
            these images.

    Source: Shen et al. 2019 (AAAI), joint parameter learning.
    """

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        student: nn.Module,
        images: ImageSet,
        *,
        stage: Stage,
        loss: Callable[[Tensor, Tensor], Tensor] = joint_loss,
        **options: Any,
    ) -> None:
        super().__init__(teachers, images, **options)
        device_of(student=student, images=images)
        self.student, self.stage, self.loss = run.on_device(student, self.device), stage, loss
        self._check_fit()
        self.optimizer = stage.optimizer([list(student.parameters())], self.device)
        self.scheduler = stage.scheduler(self.optimizer)
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update of the student; returns ``loss``."""
        with torch.no_grad(), self.precision.autocast():
            images = self.draw()
            _, scores = self.teachers(images)
        with self.precision.autocast():
            logits = self.student(images)
        loss = self.loss(scores, logits)
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss}

    @torch.no_grad()
    def _check_fit(self) -> None:
        self.teachers(self.probe())
        with run.frozen(self.student):
            _, logits = read_layers(self.student, (), self.probe())
        check_classes(self.teachers, logits)


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
        encoding: stage A; left out, the auto-encoders get their optimum in closed form when this is built.
        layers: stage B.
        joint: stage C; no steps for layer-wise learning alone.
        fam: whether there are adaptation layers.
        incremental: whether teachers are amalgamated one after the other (IFA), not at once (DFA).
        order: in which, counted from 0.
        solve_on: images that the closed form reads, at most.
        seed: of new weights and of all that is drawn.
        options: those of :class:`~reuselib.layerwise.learning.Learning`.

    Raises:
        ReuseError: a network is not sequential, or nothing can be merged into the student's layers.
        ShapeMismatch: the networks do not fit layer by layer, or the student and the classes.
        DeviceError: networks and images are on different devices.

    Source: Shen et al. 2019 (AAAI), in the form of v0.1 of the official code.
    """

    fixed = ("teachers",)

    def __init__(
        self,
        teachers: Teachers | Sequence[nn.Module],
        student: nn.Module,
        images: ImageSet,
        *,
        encoding: Stage | None = None,
        layers: Stage = LAYERS,
        joint: Stage = JOINT,
        fam: bool = True,
        incremental: bool = False,
        order: Sequence[int] | None = None,
        solve_on: int = 5000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.teachers = as_teachers(teachers)
        device_of(teachers=self.teachers, student=student, images=images)
        self.encoders = make_encoders(self.teachers, student, images, incremental=incremental, order=order, seed=seed)
        if encoding is None:
            with run.threads():
                autoencoder.solve(self.encoders, self.teachers, images.take(min(solve_on, len(images)), seed))
        parts = (self.teachers, self.encoders)
        streams = [3 * seed + number for number in range(3)]
        self.encoding = (
            None if encoding is None else FeatureLearning(*parts, images, stage=encoding, seed=streams[0], **options)
        )
        self.layerwise = LayerLearning(*parts, student, images, stage=layers, fam=fam, seed=streams[1], **options)
        self.joint = JointLearning(self.teachers, student, images, stage=joint, seed=streams[2], **options)
        # What several stages hold is saved in a checkpoint once.
        for stage, shared in ((self.encoding, "encoders"), (self.joint, "student")):
            if stage is not None:
                stage.fixed = ("teachers", shared)
        self.lengths = [encoding.steps if encoding else 0, layers.steps, joint.steps]
        self.layers_from, self.joint_from, self.total = self.lengths[0], sum(self.lengths[:2]), sum(self.lengths)
        divisor = math.gcd(*self.lengths)
        self.steps_per_round = max(n for n in range(1, min(50, divisor) + 1) if divisor % n == 0) if divisor else 1

    @property
    def student(self) -> nn.Module:
        """The plain student, as it was given; without its adaptation layers until stage C begins."""
        return self.joint.student

    def step(self) -> dict[str, Tensor]:
        """One update of the stage whose turn it is; returns what that stage returns."""
        if self.encoding is not None and self.iteration < self.layers_from:
            return self.encoding.step()
        if self.iteration < self.joint_from:
            return self.layerwise.step()
        if self.iteration == self.joint_from:
            self.layerwise.adapted.merge()
        return self.joint.step()

    def merged(self) -> nn.Module:
        """A copy of the student with the adaptation layers folded in: the network to use."""
        return self.layerwise.adapted.merged()
