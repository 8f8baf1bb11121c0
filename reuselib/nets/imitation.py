"""Losses of imitation that several parts share, one pure function each.

Symbols: ``t = T(x)`` and ``s = S(x)`` are what teacher and student make of the same images, in most cases logits
(B, C). Every function returns a scalar unless it says otherwise.
"""

import warnings

import torch
from torch import Tensor

from reuselib.errors import ShapeMismatch


def mean_squared_error(t: Tensor, s: Tensor) -> Tensor:
    """The mean squared difference of the logits, the milder alternative that DFAD compares with."""
    check_same_shape(t, s)
    return (t.float() - s.float()).square().mean()


def kl_divergence(t: Tensor, s: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(softmax(t/τ) || softmax(s/τ)) τ²``, summed over classes, averaged over everything else.

    Source: Hinton et al. 2015; the discrepancy of ZSKT and the student's loss of DAFL, with τ = 1; of CMI with τ = 20.
    """
    check_same_shape(t, s)
    softened = (logits.float().div(temperature) for logits in (t, s))
    return relative_entropy(*softened).mean() * temperature**2


def relative_entropy(t: Tensor, s: Tensor) -> Tensor:
    """``sum_c p_c (ln p_c - ln q_c)`` of the softmax p of t and q of s, (B, C, ...) → (B, ...); p = 0 adds 0."""
    log_p = log_probabilities(t)
    p = log_p.exp()
    return (p * (log_p - s.log_softmax(1).masked_fill(p == 0, 0))).sum(1)


def log_probabilities(logits: Tensor, dim: int = 1) -> Tensor:
    """The log-softmax, with the lowest finite number for -inf: p ln p is 0 where p is 0, not NaN."""
    return logits.log_softmax(dim).clamp(min=torch.finfo(logits.dtype).min)


def check_same_shape(t: Tensor, s: Tensor) -> None:
    """Raise ShapeMismatch unless teacher and student give outputs of one shape."""
    if t.shape != s.shape:
        raise ShapeMismatch(
            f"Teacher and student disagree on the shape of their outputs: {tuple(t.shape)} and {tuple(s.shape)}. "
            "They need the same number of classes (and, for segmentation, the same output size)."
        )


def warn_of_probabilities(t: Tensor) -> None:
    """Warn where a teacher's outputs (B, C, ...) are probabilities: every loss here applies the softmax itself."""
    sums = t.sum(1).float()
    if not t.is_meta and (t >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        warnings.warn(
            "The teacher gives probabilities, not logits: they are positive and sum to 1. Leave its last softmax out.",
            stacklevel=5,
        )
