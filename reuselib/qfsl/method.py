"""Quasi-fully supervised learning: a frozen last layer of class codes, and a loss against the bias to seen classes.

The network has four parts: visual embedding φ (the backbone), bridge θ, scoring by the codes of all classes, which
never change, and the softmax. :class:`SeenTraining` learns from images of seen classes, :class:`QFSL` also from
unlabelled images of unseen ones.

Source: Song et al. 2018 (QFSL); what the paper leaves open follows Morgado & Vasconcelos 2017 (SCoRe), official code,
or is our choice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reuselib import checks, run
from reuselib.data.image_set import Augment
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, unknown
from reuselib.qfsl.codes import Classes, check_labels, class_indices, others
from reuselib.qfsl.losses import Loss, Term, bias_loss, cross_entropy, mean, quasi_fully_supervised
from reuselib.qfsl.samples import Samples, check_finite

SOFTMAXES = ("seen", "all")
BATCH, LR, WEIGHT_DECAY = 32, 1e-2, 5e-4
"""Of training, where nothing else is said."""


def bridge(*widths: int, dropout: float = 0.0, std: float = 0.01) -> nn.Module:
    """The visual-semantic bridge: linear layers with ReLU between them and none at the end, so that codes are signed.

    Args:
        widths: of the features, of hidden layers if any, of the codes.
        dropout: share of the features that training leaves out.
        std: of the initial weights; biases begin at 0.

    Raises:
        ReuseError: there are fewer than two widths.
        BadValue: a width is not above 0, or the dropout would leave nothing.
    """
    if len(widths) < 2:
        raise ReuseError(f"A bridge leads from one width to another, not {widths}. Give features and attributes.")
    for width in widths:
        checks.whole(width=width)
    checks.number(std=std)
    check_dropout(dropout)
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
        layers += [nn.ReLU(), layer] if number else [layer]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def check_dropout(dropout: float) -> None:
    """Refuse a share of features to be left out that leaves none, or is no share; BadValue says so."""
    checks.number(0, 1, dropout=dropout)
    if dropout == 1:
        raise BadValue("dropout must be below 1: it would leave no feature.")


class ZeroShotNetwork(nn.Module):
    """Backbone, bridge and frozen codes: ``s_k(x) = < θ(φ(x)), ψ*(k) >`` for seen and unseen classes alike.

    The embedding of an image is not normalised: its length takes the place of a temperature.

    Args:
        codes: ψ*, (C, m), see :func:`~reuselib.qfsl.codes.class_codes`; kept as a buffer, so that no optimizer sees it.
        bridge: θ, (B, d) to (B, m), see :func:`bridge`.
        backbone: φ, images to features (B, d); ``None`` where features are given.

    Raises:
        ShapeMismatch: the codes are no matrix.
        NonFinite: they hold NaN or infinity.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, bridge: nn.Module, backbone: nn.Module | None = None) -> None:
        super().__init__()
        if codes.ndim != 2 or not codes.numel():
            raise ShapeMismatch(f"codes must be (classes, attributes), not {tuple(codes.shape)}. See class_codes.")
        check_finite(codes=codes)
        self.backbone, self.bridge = backbone, bridge
        self.register_buffer("codes", codes.detach().clone())

    def embed(self, x: Tensor) -> Tensor:
        """The embeddings θ(φ(x)), (B, m)."""
        return self.bridge(x if self.backbone is None else self.backbone(x))

    def score(self, embedded: Tensor) -> Tensor:
        """The scores (B, C) of embeddings (B, m).

        Equation: `qfsl-scores`.
        """
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
        seen: the seen classes; those that the student names as its ``seen``, if left out.
        softmax: ``"seen"`` or ``"all"``: over which classes the loss is taken.
        loss: of scores (B, classes of ``softmax``) and labels, columns of those; one number for each image.
        batch: images per update.
        lr: learning rate of SGD.
        momentum: of SGD.
        backbone_lr: what the rate of the student's ``backbone`` is multiplied by; 0 keeps its weights as they are.
        weight_decay: L2 penalty.
        augment: of the uint8 images, or of the features.
        frozen_statistics: whether batch norm keeps the statistics that it came with.
        seed: of batches and augmentation.
        precision: chosen if left out. Losses are computed in float32.

    Raises:
        DeviceError: images and network are on different devices.
        ShapeMismatch: the network does not take such images, or gives no scores (B, C).
        UnknownName: there is no such softmax.
        BadValue: a number cannot be meant.
        ReuseError: a label is none of a seen class, or no class is unseen.
    """

    fixed: tuple[str, ...] = ()

    def __init__(
        self,
        student: nn.Module,
        images: Samples,
        seen: Classes | None = None,
        *,
        softmax: str = "seen",
        loss: Loss = cross_entropy,
        batch: int = BATCH,
        lr: float = LR,
        momentum: float = 0.9,
        backbone_lr: float = 0.1,
        weight_decay: float = WEIGHT_DECAY,
        augment: Augment | None = None,
        frozen_statistics: bool = False,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        if softmax not in SOFTMAXES:
            raise unknown("softmax", softmax, SOFTMAXES)
        checks.number(above=True, lr=lr)
        checks.number(momentum=momentum, backbone_lr=backbone_lr)
        self.device = run.device_of(student, images=images)
        self.student, self.images = run.on_device(student, self.device), images
        self.loss, self.batch, self.augment = loss, batch, augment
        classes = self._check_fit(images)
        known = class_indices(getattr(student, "seen", None) if seen is None else seen, classes)
        check_labels(None if self.device.type == "meta" else images.labels, known, classes)
        chosen = known if softmax == "seen" else torch.arange(classes)
        column_of = torch.zeros(classes, dtype=torch.int64).index_copy(0, chosen, torch.arange(len(chosen)))
        self.seen, self.unseen = known.to(self.device), others(known, classes).to(self.device)
        self._columns, self._column_of = chosen.to(self.device), column_of.to(self.device)
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        groups = parameter_groups(student, lr, backbone_lr)
        self.optimizer = run.sgd(groups, self.device, momentum=momentum, weight_decay=weight_decay)
        student.train()
        for module in student.modules():
            if frozen_statistics and isinstance(module, _BatchNorm):
                module.eval()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch of images of the seen classes; returns :meth:`losses`."""
        x, y = self.images.sample(self.batch, self.random, self.augment)
        losses = self.losses(x, y)
        self.precision.minimise(losses["loss"], self.optimizer)
        return {name: value.detach() for name, value in losses.items()}

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """``loss``, what a batch is to lower, and its parts if it has any."""
        with self.precision.autocast():
            scores = self.student(x)
        return {"loss": mean(self.labelled(scores.float(), y))}

    def labelled(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The losses (B,) of labelled images, from scores (B, C) and classes (B,)."""
        return self.loss(scores[:, self._columns], self._column_of[labels])

    def _check_fit(self, images: Samples) -> int:
        """The number of classes that the network scores."""
        (scores,) = run.probe(next(iter(images.batches(2)))[0], network=self.student)
        if scores.ndim != 2:
            raise ShapeMismatch(f"The network gives {tuple(scores.shape)}, not scores (images, all classes).")
        return scores.shape[1]


def parameter_groups(student: nn.Module, lr: float, backbone_lr: float) -> list[dict[str, Any]]:
    """What SGD moves, and how fast: the backbone's parameters at ``backbone_lr * lr``, all others at ``lr``.

    A backbone of rate 0 is left out, so that weight decay does not touch it either.
    """
    learning = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    slow = [parameter for name, parameter in learning.items() if name.startswith("backbone.")]
    quick = [parameter for name, parameter in learning.items() if not name.startswith("backbone.")]
    groups = [{"params": quick, "lr": lr}] if quick else []
    return groups + ([{"params": slow, "lr": lr * backbone_lr}] if slow and backbone_lr else [])


class QFSL(SeenTraining):
    """Quasi-fully supervised learning: labelled images of seen classes, unlabelled ones of unseen classes.

    The loss is :func:`~reuselib.qfsl.losses.quasi_fully_supervised`, its softmax over all classes. Both batches pass
    the network as one, so that batch norm sees their mixture. Labels of the unlabelled images are thrown away before
    anything is drawn.

    Args:
        student: as in :class:`SeenTraining`; best trained by it first (a warm start).
        images: labelled, as there.
        unlabelled: images of unseen classes; as many of them per update as labelled ones.
        seen: the seen classes.
        weight: λ.
        term: what the unlabelled images are asked: QFSL's bias loss, or a control.
        options: of :class:`SeenTraining`, but for ``softmax``.

    Raises:
        DeviceError: see :class:`SeenTraining`.
        ShapeMismatch: see :class:`SeenTraining`.
        ReuseError: see :class:`SeenTraining`.

    Example:
        >>> import torch
        >>> from reuselib import qfsl
        >>> attributes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> seen = [0, 1]  # the third class is described, but has no labelled image
        >>> images = qfsl.FeatureSet(torch.randn(20, 4), torch.arange(20) % 2)
        >>> new = qfsl.FeatureSet(torch.randn(20, 4), torch.full((20,), 2))
        >>> codes = qfsl.class_codes(attributes, seen)
        >>> student = qfsl.ZeroShotNetwork(codes, qfsl.bridge(4, 2))
        >>> method = qfsl.QFSL(student, images, new, seen, batch=8)
        >>> sorted(method.step())
        ['loss', 'supervised', 'unlabelled', 'unseen_probability']

    Source: Song et al. 2018 (QFSL).
    """

    def __init__(
        self,
        student: nn.Module,
        images: Samples,
        unlabelled: Samples,
        seen: Classes,
        *,
        weight: float = 1.0,
        term: Term = bias_loss,
        **options: Any,
    ) -> None:
        super().__init__(student, images, seen, softmax="all", **options)
        checks.number(weight=weight)
        run.device_of(student, unlabelled=unlabelled)
        self._check_fit(unlabelled)
        self.unlabelled, self.weight, self.term = unlabelled.unlabelled(), weight, term
        # A generator of its own: with weight 0 the labelled batches are those of SeenTraining.
        self.unlabelled_random = run.generator(self.device, options.get("seed", 0) + 1)

    def step(self) -> dict[str, Tensor]:
        """One update.

        Returns:
            ``loss``, its parts ``supervised`` and ``unlabelled`` (before λ), and ``unseen_probability``, what the
            unlabelled images give the unseen classes on average.
        """
        x, y = self.images.sample(self.batch, self.random, self.augment)
        extra, _ = self.unlabelled.sample(self.batch, self.unlabelled_random, self.augment)
        with self.precision.autocast():
            scores, found = self.student(torch.cat([x, extra])).float().split(self.batch)
        labelled, unlabelled = self.labelled(scores, y), self.term(found, self.unseen)
        loss = quasi_fully_supervised(labelled, unlabelled, self.weight)
        self.precision.minimise(loss, self.optimizer)
        share = (-bias_loss(found.detach(), self.unseen)).exp()
        parts = {"supervised": labelled, "unlabelled": unlabelled, "unseen_probability": share}
        return {"loss": loss.detach()} | {name: mean(value.detach()) for name, value in parts.items()}
