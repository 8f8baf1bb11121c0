"""How far an answer is to be trusted, from the defined and the residual attributes of an image.

The prediction is made from the defined attributes alone. Confidences differ in what they read beside it; all give one
number for each image, of which only the order counts.

Source: Song et al. 2018 (ECCV), whose abstract says that the confidence comes from both kinds; the formulas are a
reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from reuselib.errors import ShapeMismatch, unknown
from reuselib.selective.risk import score_spread


@dataclass(frozen=True, eq=False)
class Evidence:
    """What both kinds of attributes say of images, for each candidate class.

    The prediction hangs on the defined part alone, so that every confidence judges the same answers.

    Attributes:
        defined: ``D(x)·ã_u``, float64 (n, T).
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

    @classmethod
    def of(cls, defined: Tensor, residual: Tensor, prototypes: Tensor) -> Evidence:
        """Make it of defined scores (n, T), residual attributes (n, q) and prototypes (T, q)."""
        defined, residual, prototypes = defined.double(), residual.double(), prototypes.double()
        return cls(defined, residual @ prototypes.T, residual.norm(dim=1))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.defined)

    @property
    def prediction(self) -> Tensor:
        """The candidate with the largest defined score, int64 (n,)."""
        return self.defined.argmax(1)

    def at_prediction(self, scores: Tensor) -> Tensor:
        """The entry (n,) of scores (n, T) that belongs to the prediction."""
        return scores.gather(1, self.prediction.unsqueeze(1)).squeeze(1)

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
        return CONFIDENCES[kind](self, weight)

    def judging(self, scores: Tensor, spread: float | None = None, sharpness: float = 3.0) -> Evidence:
        """The same residual attributes beside the scores (n, T) of another classifier, whose answers are then judged.

        Scores are brought to one scale as in :func:`~reuselib.selective.risk.softmax_confidence`.
        """
        scores = scores.detach().to(self.residual.device).double()
        return replace(self, defined=scores * (sharpness / (score_spread(scores) if spread is None else spread)))

    def tempered(self, defined: float = 1.0, residual: float = 1.0) -> Evidence:
        """The same with scores divided by temperatures above 0, such as :func:`temperature` finds; cosines stay."""
        return Evidence(self.defined / defined, self.residual / residual, self.length / residual)


def defined_confidence(evidence: Evidence, weight: float = 0.0) -> Tensor:
    """``log p_d(ŷ|x)``: the log of the largest softmax probability over the candidates; ``weight`` has no meaning."""
    return evidence.at_prediction(evidence.defined.log_softmax(1))


def margin_confidence(evidence: Evidence, weight: float = 0.0) -> Tensor:
    """The largest defined score less the second largest; ``weight`` has no meaning."""
    first, second = evidence.defined.topk(2, dim=1).values.unbind(1)
    return first - second


def residual_confidence(evidence: Evidence, weight: float = 1.0) -> Tensor:
    """``log p_r(ŷ|x)``: what the residual attributes alone say of the prediction; ``weight`` has no meaning."""
    return evidence.at_prediction(evidence.residual.log_softmax(1))


def sum_confidence(evidence: Evidence, weight: float = 1.0) -> Tensor:
    """C1: ``log p_d(ŷ|x) + w log p_r(ŷ|x)``, each a softmax over the candidates; w = 0 leaves the defined part."""
    return defined_confidence(evidence) + weight * residual_confidence(evidence)


def joint_confidence(evidence: Evidence, weight: float = 1.0) -> Tensor:
    """C2: the log of the softmax of ``D(x)·ã_u + w r(x)·ρ_u``, read at the prediction."""
    return evidence.at_prediction((evidence.defined + weight * evidence.residual).log_softmax(1))


def standardised_confidence(evidence: Evidence, weight: float = 1.0) -> Tensor:
    """C3: ``z(log p_d(ŷ)) + w z(cos(r, ρ_ŷ))``, z standardising over the images given: it needs several."""
    cosines = evidence.at_prediction(evidence.residual) / evidence.length.clamp(min=1e-12)
    return _standardised(defined_confidence(evidence)) + weight * _standardised(cosines)


def _standardised(values: Tensor) -> Tensor:
    """Values (n,) with mean 0 and standard deviation 1 (divisor n); all 0 where they are equal."""
    centred = values - values.mean()
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)


CONFIDENCES: dict[str, Callable[[Evidence, float], Tensor]] = {
    "defined": defined_confidence,
    "margin": margin_confidence,
    "residual": residual_confidence,
    "sum": sum_confidence,
    "joint": joint_confidence,
    "standardised": standardised_confidence,
}
"""Name → (evidence, weight) → confidence (n,). The paper's formula is not known; the default is ``"sum"``."""


def temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature with the least cross-entropy of ``softmax(scores / t)``, between 1/1000 and 1000.

    Args:
        scores: (n, T) of classes held out in training, never of the test.
        labels: int64 (n,), positions among them.
    """
    scores, labels = scores.detach().cpu().double(), labels.cpu()
    found = minimize_scalar(
        lambda log: float(F.cross_entropy(scores * 10**-log, labels)), bounds=(-3, 3), method="bounded"
    )
    return float(10**found.x)
