"""The equations of data-free distillation, one pure function each.

Symbols: ``t = T(x)`` and ``s = S(x)`` are the teacher's and the student's logits, (B, C) for classification or
(B, C, H, W) for segmentation. Every function returns a scalar unless it says otherwise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.errors import ShapeMismatch
from reuselib.nets.imitation import check_same_shape as check_same_shape
from reuselib.nets.imitation import kl_divergence as kl_divergence
from reuselib.nets.imitation import log_probabilities
from reuselib.nets.imitation import mean_squared_error as mean_squared_error


def mean_absolute_error(t: Tensor, s: Tensor) -> Tensor:
    """The discrepancy of DFAD: the mean absolute difference of the logits.

    Computes ``1/n * sum |t - s|`` with ``n`` the number of elements, so that batch and classes are both averaged.

    Args:
        t: teacher's logits, (B, C) or (B, C, H, W).
        s: student's logits, of the same shape.

    Returns:
        A scalar ≥ 0.

    Raises:
        ShapeMismatch: the shapes differ.

    Equation: `dfad-discrepancy`.

    Source: Fang et al. 2019 (DFAD), model discrepancy.
    """
    check_same_shape(t, s)
    return (t.float() - s.float()).abs().mean()


def negative(discrepancy: Tensor) -> Tensor:
    """The generator's loss for classification, ``-D``: seek images on which the two networks disagree."""
    return -discrepancy


def negative_log(discrepancy: Tensor) -> Tensor:
    """The generator's loss for segmentation, ``-log(D + 1)``: its gradient is that of ``-D`` divided by ``D + 1``.

    Equation: `dfad-generation`.

    Example:
        >>> import torch
        >>> from reuselib import dfad
        >>> dfad.losses.negative_log(torch.tensor(0.0)).item()
        -0.0
    """
    return -torch.log1p(discrepancy)


def pixel_rows(t: Tensor) -> Tensor:
    """Make every pixel a case of its own: (B, C, H, W) → (B·H·W, C); logits (B, C) stay as they are.

    With it the losses of classification, written for one decision for each image, hold for one for each pixel.
    """
    return t.movedim(1, -1).flatten(0, -2)


def one_hot_loss(t: Tensor) -> Tensor:
    """Cross-entropy of the teacher's logits (B, C) with its own decision: small when the teacher is sure.

    Source: Chen et al. 2019 (DAFL).
    """
    return F.cross_entropy(t.float(), t.argmax(1))


def information_entropy_loss(t: Tensor) -> Tensor:
    """``sum_c p_c log10 p_c`` of the batch's mean class probabilities: lowest, ``-log10 C``, for balanced classes.

    Source: Chen et al. 2019 (DAFL); logarithm to base 10 as in its code.
    """
    log_mean = log_probabilities(t.float()).logsumexp(0) - math.log(t.shape[0])
    return (log_mean.exp() * log_mean).sum() / math.log(10)


def activation_loss(features: Tensor) -> Tensor:
    """``-mean |f|`` of the teacher's penultimate features (B, D): real images excite them strongly.

    Source: Chen et al. 2019 (DAFL).
    """
    return -features.float().abs().mean()


def attention_map(activation: Tensor) -> Tensor:
    """Where a layer looks: channel-mean of squares, flattened and scaled to unit length, (B, C, H, W) → (B, H*W).

    Source: Zagoruyko & Komodakis 2017; used by Micaelli & Storkey 2019 (ZSKT).
    """
    return F.normalize(activation.float().square().mean(1).flatten(1), dim=1)


def attention_transfer(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum over layers of the mean squared difference of the attention maps.

    Args:
        teacher: activations, each (B, C, H, W).
        student: activations of the same layers; channels may differ, sizes may not.

    Raises:
        ShapeMismatch: the maps of a layer have different sizes.
    """
    total = torch.zeros((), device=student[0].device)
    for a, b in zip(teacher, student, strict=True):
        if a.shape[2:] != b.shape[2:]:
            raise ShapeMismatch(
                f"Attention maps of {tuple(a.shape[2:])} and {tuple(b.shape[2:])} pixels cannot be compared. "
                "Choose layers of the same size, or set the attention weight to 0."
            )
        total = total + (attention_map(a) - attention_map(b)).square().mean()
    return total
