"""The equations of zero-shot classification, one pure function each.

Symbols: ``s`` are scores (B, C), one column for each class; ``p = softmax(s)``; y the label's column; ``Y_t`` the
columns of the unseen (target) classes. Every function returns one number for each image, (B,), unless it says
otherwise; :func:`mean` takes the mean over a batch that may be empty.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scores (B, S) of the seen classes and labels (B,), columns of the scores → (B,)."""

Term = Callable[[Tensor, Tensor], Tensor]
"""Scores (B, C) of unlabelled images and the columns of the unseen classes → (B,)."""


def mean(losses: Tensor) -> Tensor:
    """The mean over a batch, a scalar; 0, with gradient 0, over an empty one."""
    return losses.sum() / max(len(losses), 1)


def cross_entropy(s: Tensor, y: Tensor) -> Tensor:
    """``L_p = -ln p_y``."""
    return F.cross_entropy(s.float(), y, reduction="none")


def bias_loss(s: Tensor, unseen: Tensor) -> Tensor:
    """QFSL's loss of an unlabelled image: ``L_b = -ln sum_{k in Y_t} p_k``.

    Computed as ``logsumexp_k s_k - logsumexp_{k in Y_t} s_k``, so that neither value nor gradient overflows. With
    ``P_T = sum_{k in Y_t} p_k`` the gradient is ``p_k`` for a seen class and ``p_k (1 - 1/P_T)`` for an unseen one: it
    lowers all seen scores and raises the unseen ones in proportion to what the network believes already.

    Args:
        s: (B, C), over seen and unseen classes.
        unseen: int64 (T,), columns.

    Returns:
        (B,), at least 0 up to rounding; it goes to 0 as P_T goes to 1.

    Source: Song et al. 2018 (QFSL).
    """
    s = s.float()
    return s.logsumexp(1) - s[:, unseen].logsumexp(1)


def entropy(s: Tensor, unseen: Tensor | None = None) -> Tensor:
    """``-sum_k p_k ln p_k`` over all classes, from 0 to ln C: a term that does not know which classes are unseen.

    Source: Grandvalet & Bengio 2005; here a control.
    """
    log_p = s.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def pseudo_labels(s: Tensor, unseen: Tensor | None = None) -> Tensor:
    """``-ln max_k p_k``: the cross-entropy with the class that the network believes in most, taken as given.

    Source: Lee 2013; here a control.
    """
    return -s.float().log_softmax(1).amax(1)


def unseen_pseudo_labels(s: Tensor, unseen: Tensor) -> Tensor:
    """``-ln max_{k in Y_t} p_k``: the same with an unseen class as label; it knows what the bias loss knows."""
    return -s.float().log_softmax(1)[:, unseen].amax(1)


TERMS: dict[str, Term] = {
    "bias": bias_loss,
    "entropy": entropy,
    "pseudo_labels": pseudo_labels,
    "unseen_pseudo_labels": unseen_pseudo_labels,
}
"""What unlabelled images can be asked, by name."""


def quasi_fully_supervised(
    s: Tensor, y: Tensor, unlabelled: Tensor, unseen: Tensor, weight: float, term: Term = bias_loss
) -> Tensor:
    """QFSL's objective: ``1/N_s sum_i L_p(x_i) + λ/N_t sum_j L_b(x_j)``; weight decay is the optimizer's.

    Args:
        s: scores (N_s, C) of labelled images of seen classes.
        y: labels (N_s,), columns of the scores.
        unlabelled: scores (N_t, C) of unlabelled images.
        unseen: int64 (T,), columns.
        weight: λ.
        term: what takes the place of the bias loss.

    Returns:
        A scalar. A batch without images of one kind counts 0 there.

    Source: Song et al. 2018 (QFSL).
    """
    return mean(cross_entropy(s, y)) + weight * mean(term(unlabelled, unseen))


def violations(s: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """``[Δ + s_k - s_y]_+`` for every wrong class k, 0 for the right one: (B, S)."""
    s = s.float()
    right = F.one_hot(y, s.shape[1]).bool()
    return (margin + s - s.gather(1, y.unsqueeze(1))).clamp(min=0).masked_fill(right, 0)


def devise_loss(s: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """``sum_{k≠y} [Δ + s_k - s_y]_+``: every class that comes too close counts.

    Source: Frome et al. 2013 (DeViSE); LatEm uses it too.
    """
    return violations(s, y, margin).sum(1)


def sje_loss(s: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """``max_k [Δ(y, k) + s_k - s_y]_+`` with ``Δ(y, y) = 0``: only the worst class counts.

    Source: Akata et al. 2015 (SJE).
    """
    return violations(s, y, margin).amax(1)


def ale_loss(s: Tensor, y: Tensor, margin: float = 1.0) -> Tensor:
    """``(β_r / r) sum_{k≠y} [Δ + s_k - s_y]_+`` with r the classes that violate the margin, ``β_r = sum_{i<=r} 1/i``.

    The factor weighs the first ranks most; it is 0 for r = 0, and no gradient flows through it.

    Source: Akata et al. 2013, 2016 (ALE), after Usunier et al. 2009.
    """
    each = violations(s, y, margin)
    ranks = torch.arange(1, each.shape[1] + 1, device=s.device)
    weights = F.pad((1 / ranks).cumsum(0) / ranks, (1, 0))
    return weights[(each > 0).sum(1)] * each.sum(1)


def squared_hinge(s: Tensor, y: Tensor) -> Tensor:
    """``sum_k [1 - t_k s_k]_+²`` with ``t_k = 1`` for the label, -1 for the others: one class against the rest.

    Source: Changpinyo et al. 2016 (SynC, one versus others).
    """
    signs = 2 * F.one_hot(y, s.shape[1]).to(s.dtype) - 1
    return (1 - signs * s).clamp(min=0).square().sum(1)


def crammer_singer(s: Tensor, y: Tensor) -> Tensor:
    """``max_{k≠y} [1 + s_k - s_y]_+²``, squared so that it is smooth but at ties.

    Source: Crammer & Singer 2001; SynC, not squared.
    """
    right = F.one_hot(y, s.shape[1]).bool()
    worst = s.masked_fill(right, -torch.inf).amax(1)
    return (1 + worst - s.gather(1, y.unsqueeze(1)).squeeze(1)).clamp(min=0).square()
