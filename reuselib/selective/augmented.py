"""A network with defined and residual attributes, and how it learns them from seen classes.

Defined attributes are those that people gave the classes; residual ones the network finds itself, with prototypes of
the seen classes. What "residual" means in the loss is not known of the paper, so three readings are here.

Source: Song et al. 2018 (ECCV), whose abstract says that both are learned jointly; the losses are a reconstruction.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.errors import ReuseError, unknown
from reuselib.qfsl.codes import Classes, class_indices
from reuselib.qfsl.losses import cross_entropy, mean
from reuselib.qfsl.method import SeenTraining, ZeroShotNetwork, bridge
from reuselib.qfsl.samples import Samples

TASKS = ("own", "remainder", "decorrelated")
"""What the residual attributes learn: the classes by themselves (R1), what the defined ones miss (R2), and that without
being correlated with them (R3). Which is the paper's is not known."""


def residual_loss(defined: Tensor, residual: Tensor, y: Tensor, task: str = "own") -> Tensor:
    """Cross-entropy over the seen classes, by the residual attributes alone or on top of the defined ones.

    Args:
        defined: ``D(x)·ã_k``, (B, S); no gradient flows into it.
        residual: ``r(x)·ρ_k``, (B, S).
        y: int64 (B,), positions among the seen classes.
        task: one of ``TASKS``; the last two differ by :func:`decorrelation` only.

    Returns:
        One number for each image, (B,).
    """
    return cross_entropy(residual if task == "own" else defined.detach() + residual, y)


def decorrelation(attributes: Tensor, residual: Tensor) -> Tensor:
    """``||C||²_F / (m q)``, C the correlations over the batch between defined and residual attributes.

    Args:
        attributes: D(x), (B, m); no gradient flows into it.
        residual: r(x), (B, q).

    Returns:
        A scalar in [0, 1]: 0 where none is correlated with any. A constant column counts as uncorrelated.
    """
    a, b = (F.normalize(each - each.mean(0), dim=0) for each in (attributes.detach(), residual))
    return (a.T @ b).square().mean()


class AugmentedNetwork(ZeroShotNetwork):
    """A zero-shot network with a second head: residual attributes r(x), and their prototypes of seen classes.

    The scores of the network are those of the defined attributes alone.

    Attributes:
        residual: features → q attributes.
        prototypes: R, (S, q), learned; only the directions of its rows count.
        seen: the seen classes, S of them.
    """

    def __init__(
        self, codes: Tensor, seen: Classes, features: int, width: int = 16, backbone: nn.Module | None = None
    ) -> None:
        """Build the heads.

        Args:
            codes: (C, m), of all classes.
            seen: the seen classes, in the order of the prototypes.
            features: of an image.
            width: q, the number of residual attributes.
            backbone: φ, images to features, if the network is to take images.

        Raises:
            ReuseError: there is no residual attribute; or a seen class does not exist.
            ShapeMismatch: the codes are no matrix.
        """
        super().__init__(codes, bridge(features, codes.shape[-1]), backbone)
        if width < 1:
            raise ReuseError(f"There must be at least one residual attribute, not {width}.")
        self.seen: tuple[int, ...] = tuple(class_indices(seen, len(codes)).tolist())
        self.residual = bridge(features, width)
        self.prototypes = nn.Parameter(0.1 * torch.randn(len(self.seen), width))

    def features(self, x: Tensor) -> Tensor:
        """The features φ(x), (B, D)."""
        return x if self.backbone is None else self.backbone(x)

    def residual_scores(self, residual: Tensor) -> Tensor:
        """The scores ``r(x)·ρ_k`` of the seen classes, (B, S), of residual attributes (B, q)."""
        return residual @ F.normalize(self.prototypes, dim=1).T


class AugmentedTraining(SeenTraining):
    """Both heads learn the seen classes by SGD: ``L = L_def + β L_res (+ η decorrelation)``. No unseen image occurs.

    Args:
        student: learns.
        images: as in :class:`SeenTraining`: images, or features where the student has no backbone.
        task: what the residual attributes learn, one of ``TASKS``.
        beta: weight of their loss; 0 leaves the defined attributes alone, the direct ablation.
        eta: weight of the decorrelation, where the task has one.
        dropout: share of the features that are set to 0 in each update, the same ones for both heads.
        batch: images per update.
        backbone_lr: as in :class:`SeenTraining`; 0 keeps the backbone as it is, in evaluation mode.
        options: of :class:`SeenTraining`, but for ``seen`` and ``softmax``.

    Raises:
        UnknownName: there is no such task.
        DeviceError: see :class:`SeenTraining`.
        ShapeMismatch: see :class:`SeenTraining`.
        ReuseError: see :class:`SeenTraining`; or the dropout would leave nothing.

    Source: a reconstruction of Song et al. 2018 (ECCV); only the order of its parts is the paper's.
    """

    student: AugmentedNetwork

    def __init__(
        self,
        student: AugmentedNetwork,
        images: Samples,
        *,
        task: str = "own",
        beta: float = 1.0,
        eta: float = 1.0,
        dropout: float = 0.2,
        batch: int = 64,
        backbone_lr: float = 0.0,
        **options: Any,
    ) -> None:
        if task not in TASKS:
            raise unknown("task of the residual attributes", task, TASKS)
        if not 0 <= dropout < 1:
            raise ReuseError(f"A dropout is at least 0 and below 1, not {dropout}.")
        super().__init__(student, images, student.seen, batch=batch, backbone_lr=backbone_lr, **options)
        self.task, self.beta, self.eta, self.dropout = task, beta, eta, dropout
        self.tuned = backbone_lr > 0
        if student.backbone is not None and not self.tuned:
            student.backbone.eval()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch.

        Returns:
            ``loss``, and its parts before they are weighed: ``defined``, ``residual``, ``decorrelation``.
        """
        x, labels = self.images.sample(self.batch, self.random, self.augment)
        y = self._column_of[labels]
        with self.precision.autocast():
            with torch.set_grad_enabled(self.tuned):
                features = self.student.features(x)
            kept = torch.rand(features.shape, device=self.device, generator=self.random) >= self.dropout
            features = features * kept / (1 - self.dropout)
            attributes, residual = self.student.bridge(features).float(), self.student.residual(features).float()
        defined = self.student.score(attributes)[:, self._columns]
        parts = {
            "defined": mean(cross_entropy(defined, y)),
            "residual": mean(residual_loss(defined, self.student.residual_scores(residual), y, self.task)),
            "decorrelation": decorrelation(attributes, residual),
        }
        eta = self.eta if self.task == "decorrelated" else 0.0
        loss = parts["defined"] + self.beta * parts["residual"] + eta * parts["decorrelation"]
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {name: value.detach() for name, value in {"loss": loss, **parts}.items()}
