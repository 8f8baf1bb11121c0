"""The equations of progressive network grafting, one pure function each.

Symbols: ``u = T(x)`` are the teacher's logits (B, C), ``v`` those of the hybrid or of the student. Distances of logits
are summed over the batch; to Adam a sum and a mean are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from reuselib.nets.imitation import check_same_shape, kl_divergence, mean_squared_error

Loss = Callable[[Tensor, Tensor], Tensor]
"""The teacher's output and the learner's → a scalar."""


def normalised_logits_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """The loss of NetGraft: the squared distance of the logits, each scaled to unit length.

    Computes ``sum_i | v_i/|v_i| - u_i/|u_i| |^2``, which is ``sum_i 2 (1 - cos(u_i, v_i))``: from 0 to 4 per image. The
    scale of the logits, which differs between architectures, plays no part.

    Args:
        teacher: u, (B, C).
        student: v, (B, C).

    Returns:
        A scalar, the sum over the batch.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Shen et al. 2021 (NetGraft), official code.
    """
    check_same_shape(teacher, student)
    return (F.normalize(student.float(), dim=1) - F.normalize(teacher.float(), dim=1)).square().sum()


def logits_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """``sum_i |v_i - u_i|^2``: the same without scaling to unit length."""
    check_same_shape(teacher, student)
    return (student.float() - teacher.float()).square().sum()


def feature_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """The mean squared difference of two maps, (B, C, H, W) or (B, C): what local targets and hints are compared by.

    Source: Romero et al. 2015 (FitNets), up to a constant factor.
    """
    return mean_squared_error(teacher, student)


def soft_targets(teacher: Tensor, student: Tensor) -> Tensor:
    """Knowledge distillation's loss: the KL divergence of the logits (B, C) softened at temperature 4.

    Source: Hinton et al. 2015; the temperature is our choice.
    """
    return kl_divergence(teacher, student, temperature=4.0)
