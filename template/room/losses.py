"""The equations of knowledge distillation, one pure function each."""

from __future__ import annotations

from torch import Tensor

from reuselib.nets.imitation import kl_divergence


def soft_target_loss(t: Tensor, s: Tensor, temperature: float) -> Tensor:
    """How far the student's softened answers are from the teacher's: ``KL(softmax(t/τ) || softmax(s/τ)) τ²``.

    Args:
        t: teacher's logits, (B, C).
        s: student's logits, (B, C).
        temperature: τ > 0.

    Returns:
        A scalar ≥ 0.

    Raises:
        ShapeMismatch: the shapes differ.

    Equation: `hinton-loss`.

    Source: Hinton et al. 2015.
    """
    return kl_divergence(t, s, temperature)
