"""The equations of selective zero-shot classification, one pure function each.

Symbols: d(x) are the defined attributes of an image, (B, m), r(x) its residual ones, (B, q); ã_k are codes, ρ_k
residual prototypes of classes. What the losses and the confidences are in the paper is not known: of the loss of
residual attributes three readings are here, of the confidence three too.

Source: Song et al. 2018 (ECCV), whose abstract says that both kinds are learned jointly and that the confidence comes
from both; the formulas are a reconstruction.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from reuselib import checks
from reuselib.qfsl import losses, solved

TASKS = ("own", "remainder", "decorrelated")
"""What the residual attributes learn: the classes by themselves (R1), what the defined ones miss (R2), and that without
being correlated with them (R3). Which is the paper's is not known."""


# --- training ---------------------------------------------------------------------------------------------------------


def defined_loss(defined: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy over the seen classes by the defined attributes, a scalar.

    Args:
        defined: ``d(x)·ã_k``, (B, S).
        y: int64 (B,), positions among the seen classes.

    Equation: `selective-ldef`.
    """
    return losses.mean(losses.cross_entropy(defined, y))


def residual_loss(defined: Tensor, residual: Tensor, y: Tensor, task: str = "own") -> Tensor:
    """Cross-entropy over the seen classes, by the residual attributes alone or on top of the defined ones, a scalar.

    Args:
        defined: ``d(x)·ã_k``, (B, S); no gradient flows into it.
        residual: ``r(x)·ρ_k``, (B, S).
        y: int64 (B,), positions among the seen classes.
        task: one of ``TASKS``; the last two differ by :func:`decorrelation` only.
    """
    return losses.mean(losses.cross_entropy(residual if task == "own" else defined.detach() + residual, y))


def decorrelation(attributes: Tensor, residual: Tensor) -> Tensor:
    """``||C||²_F / (m q)``, C the correlations over the batch between defined and residual attributes.

    Args:
        attributes: d(x), (B, m); no gradient flows into it.
        residual: r(x), (B, q).

    Returns:
        A scalar in [0, 1], 0 where none is correlated with any. A constant column counts as uncorrelated.
    """
    a, b = (F.normalize(each - each.mean(0), dim=0) for each in (attributes.detach(), residual))
    return (a.T @ b).square().mean()


def augmented_loss(defined: Tensor, residual: Tensor, decorrelation: Tensor, beta: float, eta: float) -> Tensor:
    """``L = L_def + β L_res + η ||C||²_F / (m q)``, a scalar; η is 0 but for R3.

    Equation: `selective-loss`.
    """
    return defined + beta * residual + eta * decorrelation


# --- prototypes of unseen classes -------------------------------------------------------------------------------------


def ridge_weights(unseen: Tensor, seen: Tensor, kappa: float = 1.0) -> Tensor:
    """``B = argmin ||A_u - B A_s||² + κ ||B||² = A_u A_sᵀ (A_s A_sᵀ + κ I)⁻¹``: unseen codes as sums of seen ones.

    :func:`synthesised` makes the same sums of prototypes.

    Args:
        unseen: A_u, (T, m).
        seen: A_s, (S, m).
        kappa: κ, above 0; near-duplicate codes, and fewer attributes than seen classes, need it.

    Returns:
        float64 (T, S).

    Raises:
        BadValue: κ is not above 0.

    Equation: `selective-ridge`.
    """
    checks.number(above=True, kappa=kappa)
    unseen, seen = unseen.double(), seen.double()
    return solved(seen @ seen.T, seen @ unseen.T, kappa).T


def similarity_weights(unseen: Tensor, seen: Tensor, sharpness: float = 5.0) -> Tensor:
    """Softmax over the seen classes of ``sharpness × ã_u·ã_k``, float64 (T, S): positive weights, as ConSE has them."""
    return (sharpness * unseen.double() @ seen.double().T).softmax(1)


def synthesised(weights: Tensor, prototypes: Tensor) -> Tensor:
    """``ρ_u = normalise(B ρ_s)``: rows of length one, (T, q), of weights (T, S) and prototypes (S, q) of any length."""
    rows = F.normalize(prototypes, dim=1)
    return F.normalize(weights.to(rows.dtype) @ rows, dim=1)


# --- answers and confidences: scores d(x)·ã_u and r(x)·ρ_u of the candidates, (n, T) ----------------------------------


def answer(defined: Tensor) -> Tensor:
    """``ŷ``, the candidate with the largest defined score, int64 (n,): residual attributes have no part in it.

    Equation: `selective-answer`.
    """
    return defined.argmax(1)


def at(answers: Tensor, scores: Tensor) -> Tensor:
    """The entry (n,) of scores (n, T) that belongs to the answer."""
    return scores.gather(1, answers.unsqueeze(1)).squeeze(1)


def log_probability(answers: Tensor, scores: Tensor) -> Tensor:
    """``ln p(ŷ|x)`` of a softmax over the candidates, (n,)."""
    return at(answers, scores.log_softmax(1))


def sum_confidence(defined: Tensor, residual: Tensor, weight: float) -> Tensor:
    """C1: ``ln p_d(ŷ|x) + w ln p_r(ŷ|x)``, (n,), each a softmax over the candidates; w = 0 leaves the defined part.

    Equation: `selective-sum`.
    """
    answers = answer(defined)
    return log_probability(answers, defined) + weight * log_probability(answers, residual)


def joint_confidence(defined: Tensor, residual: Tensor, weight: float) -> Tensor:
    """C2: the log of the softmax of ``d(x)·ã_u + w r(x)·ρ_u``, read at the answer, (n,).

    Equation: `selective-joint`.
    """
    return log_probability(answer(defined), defined + weight * residual)


def standardised_confidence(defined: Tensor, cosines: Tensor, weight: float) -> Tensor:
    """C3: ``z(ln p_d(ŷ)) + w z(cos(r, ρ_ŷ))``, (n,), z standardising over the images given: it needs several.

    Equation: `selective-standardised`.
    """
    answers = answer(defined)
    return _standardised(log_probability(answers, defined)) + weight * _standardised(at(answers, cosines))


def _standardised(values: Tensor) -> Tensor:
    """Values (n,) with mean 0 and standard deviation 1 (divisor n); all 0 where they are equal."""
    centred = values - values.mean()
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)
