"""The equations of zero-shot classification, one pure function each.

Symbols: ``s`` are scores (B, C), one column for each class; ``p = softmax(s)``; y the label's column; ``Y_t`` the
columns of the unseen (target) classes. A loss of an image is one number for each, (B,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from reuselib.nets.imitation import log_probabilities

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scores (B, S) of the seen classes and labels (B,), columns of the scores → (B,)."""

Term = Callable[[Tensor, Tensor], Tensor]
"""Scores (B, C) of unlabelled images and the columns of the unseen classes → (B,)."""


def mean(losses: Tensor) -> Tensor:
    """The mean over a batch, a scalar; 0, with gradient 0, over an empty one."""
    return losses.sum() / max(len(losses), 1)


def cross_entropy(s: Tensor, y: Tensor) -> Tensor:
    """``L_p = -ln p_y``, (B,).

    Equation: `qfsl-lp`.
    """
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

    Equation: `qfsl-lb`, `qfsl-stable`, `qfsl-gradient`.
    Source: Song et al. 2018 (QFSL).
    """
    s = s.float()
    return s.logsumexp(1) - s[:, unseen].logsumexp(1)


def quasi_fully_supervised(labelled: Tensor, unlabelled: Tensor, weight: float) -> Tensor:
    """QFSL's objective: ``1/N_s sum_i L_p(x_i) + λ/N_t sum_j L_b(x_j)``; weight decay is the optimizer's.

    Args:
        labelled: L_p of images of seen classes, (N_s,).
        unlabelled: L_b of unlabelled images, (N_t,), or what takes its place.
        weight: λ.

    Returns:
        A scalar. A batch without images of one kind counts 0 there.

    Equation: `qfsl-loss`.
    Source: Song et al. 2018 (QFSL).
    """
    return mean(labelled) + weight * mean(unlabelled)


def entropy(s: Tensor, unseen: Tensor | None = None) -> Tensor:
    """``-sum_k p_k ln p_k`` over all classes, from 0 to ln C: a term that does not know which classes are unseen.

    A class that cannot be (a score of minus infinity) counts 0.

    Source: Grandvalet & Bengio 2005; here a control.
    """
    log_p = log_probabilities(s.float())
    return -(log_p.exp() * log_p).sum(1)


def pseudo_labels(s: Tensor, unseen: Tensor | None = None) -> Tensor:
    """``-ln max_k p_k``: the cross-entropy with the class that the network believes in most, taken as given.

    Source: Lee 2013; here a control.
    """
    return -s.float().log_softmax(1).amax(1)


def unseen_pseudo_labels(s: Tensor, unseen: Tensor) -> Tensor:
    """``-ln max_{k in Y_t} p_k``: the same with an unseen class as label; it knows what the bias loss knows."""
    return -s.float().log_softmax(1)[:, unseen].amax(1)


TERMS: dict[str, Term] = {"bias": bias_loss, "entropy": entropy, "pseudo_labels": pseudo_labels}
TERMS["unseen_pseudo_labels"] = unseen_pseudo_labels
"""What unlabelled images can be asked, by name."""
