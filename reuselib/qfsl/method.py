"""Quasi-fully supervised learning: a frozen last layer of class codes, and a loss against the bias to seen classes.

The network has four parts: visual embedding φ (the backbone), bridge θ, scoring by the codes of all classes, which
never change, and the softmax. :class:`SeenTraining` learns from images of seen classes, :class:`QFSL` also from
unlabelled images of unseen ones.

Source: Song et al. 2018 (QFSL); what the paper leaves open follows Morgado & Vasconcelos 2017 (SCoRe), official code,
or is our choice.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from reuselib import run
from reuselib.data.image_set import Augment
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, unknown
from reuselib.qfsl import losses
from reuselib.qfsl.codes import Classes, class_indices, others
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier
from reuselib.qfsl.samples import FeatureSet, Samples, standardisation, train

SOFTMAXES = ("seen", "all")


def bridge(*widths: int, dropout: float = 0.0, std: float = 0.01) -> nn.Module:
    """The visual-semantic bridge: linear layers with ReLU between them and none at the end, so that codes are signed.

    Args:
        widths: of the features, of hidden layers if any, of the codes.
        dropout: share of the features that training leaves out.
        std: of the initial weights; biases begin at 0.

    Raises:
        ReuseError: there are fewer than two widths.
    """
    if len(widths) < 2:
        raise ReuseError(f"A bridge leads from one width to another, not {widths}. Give features and attributes.")
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
        layers += [nn.ReLU(), layer] if number else [layer]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class Standardise(nn.Module):
    """``(x - shift) / scale``, fixed: between a backbone and a bridge that learned on standardised features.

    Attributes:
        shift: (d,), a buffer.
        scale: (d,), a buffer.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: Tensor) -> None:
        """Take mean and standard deviation of features (N, d)."""
        super().__init__()
        shift, scale = standardisation(features.detach())
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise features (B, d)."""
        return (x - self.shift) / self.scale


class ZeroShotNetwork(nn.Module):
    """Backbone, bridge and frozen codes: ``s_k(x) = < θ(φ(x)), ψ*(k) >`` for seen and unseen classes alike.

    The embedding of an image is not normalised: its length takes the place of a temperature.

    Attributes:
        backbone: φ, images to features (B, d); ``None`` where features are given.
        bridge: θ, (B, d) to (B, m).
        codes: ψ*, (C, m), a buffer: no optimizer sees it.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, bridge: nn.Module, backbone: nn.Module | None = None) -> None:
        """Put the parts together.

        Args:
            codes: (C, m), see :func:`~reuselib.qfsl.codes.class_codes`.
            bridge: θ, see :func:`bridge`.
            backbone: φ, if the network is to take images.

        Raises:
            ShapeMismatch: the codes are no matrix.
        """
        super().__init__()
        if codes.ndim != 2:
            raise ShapeMismatch(f"codes must be (classes, attributes), not {tuple(codes.shape)}.")
        self.backbone, self.bridge = backbone, bridge
        self.register_buffer("codes", codes.detach().clone())

    def embed(self, x: Tensor) -> Tensor:
        """The embeddings θ(φ(x)), (B, m)."""
        return self.bridge(x if self.backbone is None else self.backbone(x))

    def score(self, embedded: Tensor) -> Tensor:
        """The scores (B, C) of embeddings (B, m).

        Raises:
            ShapeMismatch: they have not the width of the codes.
        """
        if embedded.shape[1:] != self.codes.shape[1:]:
            raise ShapeMismatch(
                f"The bridge gives {tuple(embedded.shape[1:])} numbers for codes of {self.codes.shape[1]} attributes. "
                f"Build it with bridge(features, {self.codes.shape[1]})."
            )
        return embedded @ self.codes.T

    def forward(self, x: Tensor) -> Tensor:
        """The scores of all classes, (B, C)."""
        return self.score(self.embed(x))


class SeenTraining(run.Method):
    """A network learns from images of the seen classes alone, by SGD.

    With the softmax over the seen classes this is QFSL-minus (a), the usual inductive model; over all classes it is
    QFSL-minus (b), where the unseen classes are negatives of every image.

    Args:
        student: gives scores (B, C) of all classes, see :class:`ZeroShotNetwork`.
        images: an image set or a :class:`FeatureSet` on the network's device; its labels are columns of the scores.
        seen: the seen classes.
        softmax: ``"seen"`` or ``"all"``: over which classes the loss is taken.
        loss: of scores (B, classes of ``softmax``) and labels, columns of those; one number for each image.
        batch: images per update.
        lr: learning rate of SGD.
        momentum: of SGD.
        backbone_lr: what the rate of the student's ``backbone`` is multiplied by; 0 keeps its weights as they are.
        weight_decay: L2 penalty.
        schedule: iteration → factor on the learning rate.
        augment: of the uint8 images, or of the features.
        frozen_statistics: whether batch norm keeps the statistics that it came with.
        seed: of batches and augmentation.
        precision: chosen by the engine if left out. Losses are computed in float32.

    Raises:
        DeviceError: images and network are on different devices.
        ShapeMismatch: the network does not take such images, or gives no scores (B, C).
        UnknownName: there is no such softmax.
        ReuseError: a label is none of a seen class, or no class is unseen.
    """

    transductive: ClassVar[bool] = False
    fixed: tuple[str, ...] = ()

    def __init__(
        self,
        student: nn.Module,
        images: Samples,
        seen: Classes,
        *,
        softmax: str = "seen",
        loss: losses.Loss = losses.cross_entropy,
        batch: int = 32,
        lr: float = 1e-2,
        momentum: float = 0.9,
        backbone_lr: float = 0.1,
        weight_decay: float = 5e-4,
        schedule: run.Schedule = run.constant,
        augment: Augment | None = None,
        frozen_statistics: bool = False,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        if softmax not in SOFTMAXES:
            raise unknown("softmax", softmax, SOFTMAXES)
        self.device = next(student.parameters()).device
        self.student, self.images = run.on_device(student, self.device), images
        self.softmax, self.loss, self.batch, self.augment = softmax, loss, batch, augment
        classes = self._check_fit(images, "images")
        known = class_indices(seen, classes)
        self._check_labels(images, known)
        self._set_classes(known, classes)
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        groups = parameter_groups(student, lr, backbone_lr)
        options: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.optimizer = run.sgd(groups, self.device, **options)  # type: ignore[arg-type]
        self.scheduler = LambdaLR(self.optimizer, schedule)
        student.train()
        for module in student.modules():
            if frozen_statistics and isinstance(module, _BatchNorm):
                module.eval()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch of images of the seen classes; returns ``loss``."""
        x, y = self.images.sample(self.batch, self.random, self.augment)
        with self.precision.autocast():
            scores = self.student(x)
        loss = self.supervised(scores.float(), y)
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss.detach()}

    def supervised(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of labelled images, from scores (B, C) and classes (B,)."""
        return losses.mean(self.loss(scores[:, self._columns], self._column_of[labels]))

    def _set_classes(self, known: Tensor, classes: int) -> None:
        chosen = torch.arange(classes) if self.softmax == "all" else known
        column_of = torch.zeros(classes, dtype=torch.int64).index_copy(0, chosen, torch.arange(len(chosen)))
        self.seen, self.unseen = known.to(self.device), others(known, classes).to(self.device)
        self._columns, self._column_of = chosen.to(self.device), column_of.to(self.device)
        if not len(self.unseen):
            raise ReuseError("All classes are seen. Give codes of at least one class that is not.")

    @torch.no_grad()
    def _check_fit(self, images: Samples, name: str) -> int:
        """The number of classes that the network scores."""
        if images.device != self.device:
            raise DeviceError(f"{name} are on {images.device}, the network on {self.device}. Use .to(device).")
        x, _ = next(iter(images.batches(2)))
        with run.frozen(self.student):
            try:
                scores = self.student(x)
            except RuntimeError as error:
                raise ShapeMismatch(f"{name} {tuple(x.shape[1:])} do not fit the network ({error}).") from error
        if scores.ndim != 2:
            raise ShapeMismatch(f"The network gives {tuple(scores.shape)}, not scores (images, all classes).")
        return scores.shape[1]

    def _check_labels(self, images: Samples, known: Tensor) -> None:
        if self.device.type == "meta":
            return
        there = images.labels.unique().cpu()
        if len(odd := there[~torch.isin(there, known)]):
            raise ReuseError(
                f"There are labels of classes {odd.tolist()[:8]}, which are not seen: leave those images out. A "
                "label is a column of the scores, a row of the codes."
            )


def parameter_groups(student: nn.Module, lr: float, backbone_lr: float) -> list[dict[str, Any]]:
    """What SGD moves, and how fast: the backbone's parameters at ``backbone_lr * lr``, all others at ``lr``.

    A backbone of rate 0 is left out, so that weight decay does not touch it either.
    """
    inner = getattr(student, "backbone", None)
    slow = [p for p in inner.parameters() if p.requires_grad] if isinstance(inner, nn.Module) else []
    own = {id(parameter) for parameter in slow}
    quick = [p for p in student.parameters() if p.requires_grad and id(p) not in own]
    groups = [{"params": quick, "lr": lr}] if quick else []
    return groups + ([{"params": slow, "lr": lr * backbone_lr}] if slow and backbone_lr else [])


class QFSL(SeenTraining):
    """Quasi-fully supervised learning: labelled images of seen classes, unlabelled ones of unseen classes.

    The loss is :func:`~reuselib.qfsl.losses.quasi_fully_supervised`, its softmax over all classes. Labels of the
    unlabelled images are thrown away before anything is drawn.

    Args:
        student: as in :class:`SeenTraining`; best trained by it first (a warm start).
        images: labelled, as there.
        unlabelled: images of unseen classes.
        seen: the seen classes.
        weight: λ.
        term: what the unlabelled images are asked: QFSL's bias loss, or a control.
        unlabelled_batch: of them per update; as many as labelled ones if left out.
        joint: whether both batches pass the network as one, so that batch norm sees their mixture.
        options: of :class:`SeenTraining`, but for ``softmax``.

    Raises:
        DeviceError: see :class:`SeenTraining`.
        ShapeMismatch: see :class:`SeenTraining`.
        ReuseError: see :class:`SeenTraining`.

    Source: Song et al. 2018 (QFSL).
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self,
        student: nn.Module,
        images: Samples,
        unlabelled: Samples,
        seen: Classes,
        *,
        weight: float = 1.0,
        term: losses.Term = losses.bias_loss,
        unlabelled_batch: int | None = None,
        joint: bool = True,
        **options: Any,
    ) -> None:
        if "softmax" in options:
            raise ReuseError("QFSL's softmax is over all classes: leave softmax out.")
        super().__init__(student, images, seen, softmax="all", **options)
        self._check_fit(unlabelled, "unlabelled images")
        self.unlabelled = unlabelled.unlabelled()
        self.weight, self.term, self.joint = weight, term, joint
        self.unlabelled_batch = self.batch if unlabelled_batch is None else unlabelled_batch
        # A generator of its own: with weight 0 the labelled batches are those of SeenTraining.
        self.unlabelled_random = run.generator(self.device, options.get("seed", 0) + 1)

    def step(self) -> dict[str, Tensor]:
        """One update.

        Returns:
            ``loss``, its parts ``supervised`` and ``unlabelled`` (before λ), and ``unseen_probability``, what the
            unlabelled images give the unseen classes on average.
        """
        x, y = self.images.sample(self.batch, self.random, self.augment)
        extra, _ = self.unlabelled.sample(self.unlabelled_batch, self.unlabelled_random, self.augment)
        with self.precision.autocast():
            if self.joint:
                scores, found = self.student(torch.cat([x, extra])).split([len(x), len(extra)])
            else:
                scores, found = self.student(x), self.student(extra)
        supervised, asked = self.supervised(scores.float(), y), losses.mean(self.term(found.float(), self.unseen))
        loss = supervised + self.weight * asked
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        share = losses.mean((-losses.bias_loss(found.detach(), self.unseen)).exp())
        parts = {"loss": loss, "supervised": supervised, "unlabelled": asked, "unseen_probability": share}
        return {name: value.detach() for name, value in parts.items()}


@dataclass(eq=False, repr=False, kw_only=True)
class TrainedClassifier(ZeroShotClassifier):
    """A classifier of given features that is a network; subclasses say which, and the method by which it learns.

    Attributes:
        steps: updates.
        lr: learning rate.
        weight_decay: L2 penalty.
        batch: images per update.
        seed: of initial weights and batches.
        network_: the network.
    """

    steps: int = 1500
    lr: float = 1e-2
    weight_decay: float = 5e-4
    batch: int = 32
    seed: int = 0

    def _learn(self, problem: Problem) -> None:
        with run.seeded(self.seed):
            self.network_ = self._network(problem).to(problem.features.device)
            train(self._method(problem), self.steps)
        self.network_.eval()

    def _network(self, problem: Problem) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} has no network: use one of its subclasses.")

    def _method(self, problem: Problem) -> SeenTraining:
        raise NotImplementedError(f"{type(self).__name__} does not learn: use one of its subclasses.")

    def _options(self) -> dict[str, Any]:
        names = ("lr", "weight_decay", "batch", "seed")
        return {name: getattr(self, name) for name in names} | {"precision": "fp32"}

    def _scores(self, features: Tensor) -> Tensor:
        return self.network_(features)


@dataclass(eq=False, repr=False, kw_only=True)
class SeenClassifier(TrainedClassifier):
    """QFSL-minus on given features: a bridge learns from the seen classes alone, see :class:`SeenTraining`.

    Attributes:
        softmax: ``"seen"`` for QFSL-minus (a), ``"all"`` for (b).
        hidden: widths of hidden layers of the bridge.
        steps: updates.
        lr: learning rate.
        weight_decay: L2 penalty.
        batch: images per update.
        dropout: share of the features left out.
        seed: of initial weights and batches.
        network_: the :class:`ZeroShotNetwork`.
    """

    softmax: str = "seen"
    hidden: Sequence[int] = ()
    dropout: float = 0.0

    def _bridge(self, problem: Problem) -> nn.Module:
        return bridge(problem.features.shape[1], *self.hidden, problem.codes.shape[1], dropout=self.dropout)

    def _network(self, problem: Problem) -> ZeroShotNetwork:
        return ZeroShotNetwork(problem.codes, self._bridge(problem))

    def _method(self, problem: Problem) -> SeenTraining:
        images = FeatureSet(problem.features, problem.labels)
        return SeenTraining(self.network_, images, problem.seen, softmax=self.softmax, **self._options())


@dataclass(eq=False, repr=False, kw_only=True)
class QFSLClassifier(SeenClassifier):
    """QFSL on given features: a warm start on the seen classes, then :class:`QFSL` with the unlabelled features.

    Attributes:
        weight: λ.
        term: a key of ``losses.TERMS``: ``"bias"`` for QFSL; ``"entropy"``, ``"pseudo_labels"`` and
            ``"unseen_pseudo_labels"`` are controls.
        steps: updates of the warm start, over the softmax of ``softmax``; 0 for none.
        unlabelled_steps: updates with unlabelled features.
        start: a classifier fitted on the same features, whose network takes the place of the warm start.
    """

    transductive: ClassVar[bool] = True

    weight: float = 1.0
    term: str = "bias"
    unlabelled_steps: int = 400
    start: SeenClassifier | None = None

    def _learn(self, problem: Problem) -> None:
        if self.term not in losses.TERMS:
            raise unknown("term", self.term, losses.TERMS)
        if self.start is None:
            super()._learn(problem)
        else:
            self.network_ = copy.deepcopy(self.start.network_)
        assert problem.unlabelled is not None
        where = problem.features.device
        extra = FeatureSet(problem.unlabelled, torch.zeros(len(problem.unlabelled), dtype=torch.int64, device=where))
        with run.seeded(self.seed + 1):
            method = QFSL(
                self.network_,
                FeatureSet(problem.features, problem.labels),
                extra,
                problem.seen,
                weight=self.weight,
                term=losses.TERMS[self.term],
                **self._options() | {"seed": self.seed + 1},
            )
            train(method, self.unlabelled_steps)
        self.network_.eval()
