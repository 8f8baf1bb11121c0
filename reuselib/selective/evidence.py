"""How far an answer is to be trusted, from the defined and the residual attributes of an image.

The prediction is made from the defined attributes alone. Confidences differ in what they read beside it; all give one
number for each image, of which only the order counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from reuselib import checks
from reuselib.errors import ShapeMismatch, unknown
from reuselib.qfsl import check_finite
from reuselib.selective import losses
from reuselib.selective.risk import one_scale, score_margin


@dataclass(frozen=True, eq=False)
class Evidence:
    """What both kinds of attributes say of images, for each candidate class.

    The prediction hangs on the defined part alone, so that every confidence judges the same answers.

    Attributes:
        defined: ``d(x)·ã_u``, float64 (n, T).
        residual: ``r(x)·ρ_u``, float64 (n, T). Scores of a second network for the defined attributes, put here, are
            the control that asks whether the gain is mere ensembling.
        length: ``||r(x)||``, float64 (n,), for cosines.
    """

    defined: Tensor
    residual: Tensor
    length: Tensor

    def __post_init__(self) -> None:
        """Check that the parts are of the same images and candidates."""
        if self.defined.ndim != 2 or self.residual.shape != self.defined.shape or len(self.length) != len(self.defined):
            shapes = [tuple(each.shape) for each in (self.defined, self.residual, self.length)]
            raise ShapeMismatch(f"Defined and residual scores must both be (n, T), and lengths (n,), not {shapes}.")
        check_finite(defined=self.defined, residual=self.residual)

    @classmethod
    def of(cls, defined: Tensor, residual: Tensor, prototypes: Tensor) -> Evidence:
        """Make it of defined scores (n, T), residual attributes (n, q) and prototypes (T, q)."""
        defined, residual, prototypes = defined.double(), residual.double(), prototypes.double()
        if residual.ndim != 2 or prototypes.ndim != 2 or residual.shape[1] != prototypes.shape[1]:
            shapes = f"{tuple(residual.shape)} and {tuple(prototypes.shape)}"
            raise ShapeMismatch(f"Residual attributes must be (n, q), prototypes (T, q), not {shapes}.")
        return cls(defined, residual @ prototypes.T, residual.norm(dim=1))

    @property
    def prediction(self) -> Tensor:
        """The candidate with the largest defined score, int64 (n,)."""
        return losses.answer(self.defined)

    @property
    def cosines(self) -> Tensor:
        """``cos(r(x), ρ_u)``, (n, T)."""
        return self.residual / self.length.clamp(min=1e-12).unsqueeze(1)

    def confidence(self, kind: str = "sum", weight: float = 1.0) -> Tensor:
        """How far each prediction is to be trusted, float64 (n,); only the order matters.

        Args:
            kind: one of ``CONFIDENCES``.
            weight: w of the residual part, where there are two.

        Raises:
            UnknownName: there is no such confidence.
        """
        if kind not in CONFIDENCES:
            raise unknown("confidence", kind, CONFIDENCES)
        checks.number(weight=weight)
        return CONFIDENCES[kind](self, weight)

    def judging(self, scores: Tensor) -> Evidence:
        """The same residual attributes beside the scores (n, T) of another classifier, whose answers are then judged.

        Scores are brought to one scale as in :func:`~reuselib.selective.risk.softmax_confidence`.
        """
        return replace(self, defined=one_scale(scores.to(self.residual.device)))


CONFIDENCES: dict[str, Callable[[Evidence, float], Tensor]] = {
    "defined": lambda given, weight: losses.log_probability(given.prediction, given.defined),
    "margin": lambda given, weight: score_margin(given.defined),
    "residual": lambda given, weight: losses.log_probability(given.prediction, given.residual),
    "sum": lambda given, weight: losses.sum_confidence(given.defined, given.residual, weight),
    "joint": lambda given, weight: losses.joint_confidence(given.defined, given.residual, weight),
    "standardised": lambda given, weight: losses.standardised_confidence(given.defined, given.cosines, weight),
}
"""Name → (evidence, weight) → confidence (n,). The paper's formula is not known; the default is ``"sum"``."""
