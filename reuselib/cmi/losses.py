"""The equations of model inversion, one pure function each.

Symbols: ``t = T(x)`` and ``s = S(x)`` are the teacher's and the student's logits (B, C). Every function returns a
scalar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from reuselib.dfad.losses import check_same_shape, information_entropy_loss, kl_divergence
from reuselib.errors import ShapeMismatch
from reuselib.nets.imitation import relative_entropy


def inversion_loss(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the terms that images are made to lower.

    Args:
        values: term → its value.
        weights: term → its weight.

    Source: Fang et al. 2021 (CMI).
    """
    return torch.stack([weights[name] * value for name, value in values.items()]).sum()


def softened_kl(t: Tensor, s: Tensor) -> Tensor:
    """The student's loss in CMI and DeepInversion: KL divergence at temperature 20."""
    return kl_divergence(t, s, 20.0)


def class_prior_loss(t: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the teacher's logits (B, C) with the classes that were asked for, int64 (B,).

    Equation: `cmi-class-prior`.

    Source: Fang et al. 2021 (CMI), Yin et al. 2020 (DeepInversion).
    """
    return F.cross_entropy(t.float(), targets)


def balance_loss(t: Tensor) -> Tensor:
    """``sum_c p_c ln p_c`` of the batch's mean class probabilities: lowest, ``-ln C``, for balanced classes.

    Source: Choi et al. 2020 (DFQ); :func:`information_entropy_loss` is DAFL's, to base 10.
    """
    return information_entropy_loss(t) * math.log(10)


def batch_norm_loss(means: list[Tensor], variances: list[Tensor], layers: Sequence[_BatchNorm]) -> Tensor:
    """How far a batch is from what the teacher's batch norms remember of its training images.

    Computes ``sum_l |mu_l - mean_l|_2 + |var_l - variance_l|_2``. The norms are not squared: each layer pulls with a
    force that does not fade with the distance.

    Args:
        means: of the inputs of each layer over batch and pixels, (C_l,).
        variances: of the same, biased (divided by the count), (C_l,).
        layers: the layers, with their running statistics.

    Equation: `cmi-statistics`.

    Source: Yin et al. 2020 (DeepInversion); Fang et al. 2021 (CMI), official code.
    """
    # linalg.norm has gradient 0 at 0, where a square root has none.
    remembered = [layer.running_mean for layer in layers] + [layer.running_var for layer in layers]
    gaps = [seen - known for seen, known in zip([*means, *variances], remembered, strict=True)]  # type: ignore[operator]
    return torch.stack([torch.linalg.norm(gap) for gap in gaps]).sum()


def masked_disagreement(t: Tensor, s: Tensor) -> Tensor:
    """KL divergence of the student from the teacher where both decide alike, 0 elsewhere; mean over all images.

    The image maker raises it: it seeks images on which the student is unsure, without leaving the region in which both
    networks name the same class.

    Equation: `cmi-adversarial`.

    Source: Fang et al. 2021 (CMI), official code, the decision-adversarial term (there with the sign reversed).
    """
    check_same_shape(t, s)
    divergence = relative_entropy(t.float(), s.float())
    return (divergence * (t.argmax(1) == s.argmax(1))).mean()


def jensen_shannon(t: Tensor, s: Tensor, temperature: float = 3.0) -> Tensor:
    """Half the sum of ``KL(M || P)`` and ``KL(M || Q)``, with M the mean of student's P and teacher's Q.

    All three are clamped to [0.01, 0.99], and M stands on the left, as in the code of Adaptive DeepInversion.

    Source: Yin et al. 2020 (ADI), official code.
    """
    check_same_shape(t, s)
    p, q = (logits.float().div(temperature).softmax(1) for logits in (s, t))
    m, p, q = (probability.clamp(0.01, 0.99) for probability in ((p + q) / 2, p, q))
    return sum(0.5 * (m * (m.log() - x.log())).sum(1).mean() for x in (p, q))  # type: ignore[return-value]


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, summed over four directions, two of them diagonal.

    Args:
        images: (B, C, H, W).

    Source: Yin et al. 2020 (DeepInversion), in the form of CMI's official code.
    """
    pairs = (
        (images[..., :, 1:], images[..., :, :-1]),
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()


def contrastive_loss(anchors: Tensor, keys: Tensor, new: int, temperature: float = 0.1) -> Tensor:
    """Each image should resemble its own other view more than any other image, new or remembered.

    ``-log(exp(a_i k_i / τ) / sum_j exp(a_i k_j / τ))``, averaged over new images and remembered ones apart,
    so that many remembered images do not drown the few new ones. No gradient reaches the keys.

    Args:
        anchors: unit vectors (N + M, D) of one view of every image, the new ones first.
        keys: unit vectors (N + M, D) of another view of the same images.
        new: N ≥ 1; the M ≥ 0 others come from the memory bank.
        temperature: τ.

    Raises:
        ShapeMismatch: anchors and keys differ in shape.

    Equation: `cmi-contrast`.

    Source: Fang et al. 2021 (CMI), contrastive loss.
    """
    if anchors.shape != keys.shape:
        raise ShapeMismatch(f"Every anchor needs one key: {tuple(anchors.shape)} and {tuple(keys.shape)} differ.")
    similarity = anchors.float() @ keys.detach().float().T / temperature
    own = torch.arange(len(anchors), device=anchors.device)
    each = F.cross_entropy(similarity, own, reduction="none")
    return each[:new].mean() + (each[new:].mean() if len(each) > new else 0.0)
