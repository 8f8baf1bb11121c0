"""The equations of adaptive amalgamation: who is sure, and what a student learns of a source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.nets.imitation import log_probabilities


def entropy(logits: Tensor) -> Tensor:
    """The entropy ``H = -sum_k p_k log p_k`` of the softmax, in nats, finite for all finite logits.

    Args:
        logits: (..., K).

    Returns:
        float32 (...), between 0 and ``log K``.

    Equation: `adaptive-entropy`.

    Source: Shen et al. 2019 (ICCV). Its code divides exponentials and gives NaN where one under- or overflows.
    """
    log_p = log_probabilities(logits.float(), -1)
    return -(log_p.exp() * log_p).sum(-1)


def select(entropies: Tensor) -> Tensor:
    """The source with the smallest entropy for each image; of equal ones the first.

    Of two sources for a task of two classes, the selected one says what the mean of their logits says: the larger
    margin wins in both. Selection changes hard labels only with more classes or more sources.

    Args:
        entropies: (sources, N).

    Returns:
        int64 (N,), positions of sources.

    Equation: `adaptive-selection`.
    """
    return entropies.argmin(0)


def feature_loss(student: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """``sum_m mean((s_m - t_m)²)`` over the blocks, in float32.

    Args:
        student: encoded maps (B, K, H, W) of each block, at least one.
        source: the same of a source, of the same shapes.

    Equation: `adaptive-features`.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    return torch.stack([F.mse_loss(s.float(), t.float()) for s, t in zip(student, source, strict=True)]).sum()


def logit_loss(scale: Tensor, student: Tensor, source: Tensor) -> Tensor:
    """``mean((a z_S - z_T)²)`` over images and classes, in float32.

    Args:
        scale: a, a scalar.
        student: logits (B, K).
        source: logits (B, K).

    Equation: `adaptive-logits`.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    return F.mse_loss(scale * student.float(), source.float())


def row_norms(weight: Tensor) -> Tensor:
    """The squared L2 norms (K,) of the rows of a 1x1 convolution's weight (K, c, 1, 1)."""
    return weight.float().square().flatten(1).sum(1)


def row_norm_regulariser(weights: Iterable[Tensor]) -> Tensor:
    """``sum_m 1/K_m sum_i (||w_i||² - 1)²``: keeps the encoders from the solution in which all maps are zero.

    Args:
        weights: of the source's encoders, one for each block, (K_m, c_m, 1, 1).

    Equation: `adaptive-regulariser`.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    return torch.stack([(row_norms(weight) - 1).square().mean() for weight in weights]).sum()
