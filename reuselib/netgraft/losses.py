"""The equations of progressive network grafting and of the methods that it is compared with, one pure function each.

Symbols: ``u = T(x)`` are the teacher's logits (B, C), ``v`` those of the hybrid or of the student. Distances of logits
are summed over the batch; to Adam a sum and a mean are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import checks
from reuselib.nets.imitation import check_same_shape, kl_divergence, mean_squared_error

Loss = Callable[[Tensor, Tensor], Tensor]
"""The teacher's output and the learner's → a scalar."""


def normalised_logits_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """The loss of NetGraft: the squared distance of the logits, each scaled to unit length.

    Computes ``sum_i | v_i/|v_i| - u_i/|u_i| |^2``, which is ``sum_i 2 (1 - cos(u_i, v_i))``: from 0 to 4 per image. The
    scale of the logits, which differs between architectures, plays no part.

    Equation: `netgraft-loss`.

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

    Equation: `netgraft-hint`.

    Source: Romero et al. 2015 (FitNets), up to a constant factor.
    """
    return mean_squared_error(teacher, student)


def soft_targets(teacher: Tensor, student: Tensor) -> Tensor:
    """Knowledge distillation's loss: the KL divergence of the logits (B, C) softened at temperature 4.

    Equation: `netgraft-kd`.

    Source: Hinton et al. 2015; the temperature is our choice.
    """
    return kl_divergence(teacher, student, temperature=4.0)


def cross_distance(
    layer: Callable[[Tensor], Tensor], teacher_input: Tensor, student_input: Tensor, target: Tensor, mu: float = 0.6
) -> Tensor:
    """The loss of cross distillation for one layer of the student.

    ``mu |F_T(h_T) - F_S(h_T)|^2 + (1 - mu) |F_T(h_T) - F_S(h_S)|^2``, both means. The first term imitates the teacher's
    layer on the teacher's input; the second corrects the errors that come in with the student's own.

    Equation: `netgraft-cd`.

    Args:
        layer: F_S.
        teacher_input: h_T, the channels that the student has.
        student_input: h_S, of the same shape.
        target: F_T(h_T), likewise.
        mu: share of the imitation, 0 to 1.

    Source: Bai et al. 2020 (cross distillation), from memory.
    """
    imitation = feature_distance(target, layer(teacher_input))
    correction = feature_distance(target, layer(student_input))
    return mu * imitation + (1 - mu) * correction


def least_squares(student_maps: Tensor, teacher_maps: Tensor, ridge: float = 1e-3) -> Tensor:
    """The 1x1 matrix that turns the student's maps into the teacher's, as near to the identity as can be.

    Minimises ``|M X - Y|^2 + lambda |M - I|^2`` where the columns of X and Y are pixels of all images, and lambda is
    ``ridge`` times the mean square of X's rows. Where there are fewer pixels than channels, the rest of M is the
    identity.

    Equation: `netgraft-fskd`.

    Args:
        student_maps: X, (B, C, H, W) or (B, C).
        teacher_maps: Y, of the same shape.
        ridge: how much the identity weighs; above 0.

    Returns:
        M, (C, C), in float32 at least.

    Raises:
        ShapeMismatch: the shapes differ.
        BadValue: the ridge is not above 0.

    Source: Li et al. 2020 (FSKD); the ridge is ours.
    """
    check_same_shape(teacher_maps, student_maps)
    checks.number(above=True, ridge=ridge)  # without one the matrix may be undetermined
    x, y = _rows(student_maps), _rows(teacher_maps)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    gram = x.T @ x
    # The tiny constant keeps a layer whose maps are all zero solvable.
    weight = ridge * gram.diagonal().mean() + torch.finfo(x.dtype).tiny
    correction = torch.linalg.solve_ex(gram + weight * identity, x.T @ (y - x)).result
    return identity + correction.T


def affine_least_squares(student_maps: Tensor, teacher_maps: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """:func:`least_squares` of the centred maps, and a bias, which costs nothing: M (C, C) and b (C,)."""
    s_mean, t_mean = (_rows(maps).mean(0) for maps in (student_maps, teacher_maps))
    shape = (1, -1, *[1] * (student_maps.ndim - 2))
    matrix = least_squares(student_maps - s_mean.view(shape), teacher_maps - t_mean.view(shape), ridge)
    return matrix, t_mean - matrix @ s_mean


def _rows(maps: Tensor) -> Tensor:
    """Maps (B, C, ...) as one row of C numbers for each pixel, in float32 at least."""
    rows = maps.movedim(1, -1).flatten(0, -2)
    return rows if rows.dtype == torch.float64 else rows.float()
