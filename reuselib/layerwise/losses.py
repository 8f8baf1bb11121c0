"""The equations of layer-wise amalgamation: the best code, the scores, what each stage minimises, and the merge."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.nets import imitation

Layer = nn.Conv2d | nn.Linear


# --- features --------------------------------------------------------------------------------------------------------


def reconstruction_loss(features: Tensor, reconstruction: Tensor) -> Tensor:
    """``L_fa = mean((F' - F)²)`` over all elements of the concatenated features, in float32.

    Args:
        features: F, (N, C, H, W) or (N, C).
        reconstruction: F', of the same shape.

    Equation: `layerwise-features`.

    Source: Shen et al. 2019 (AAAI), feature amalgamation; v0.1 of the official code.
    """
    return F.mse_loss(reconstruction.float(), features.float())


def principal_components(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions of largest variance.

    The least ``L_fa`` of an auto-encoder with a code of this length is the sum of the other eigenvalues over C.

    Args:
        covariance: (C, C).
        count: how many.

    Returns:
        All eigenvalues (C,), largest first, and the components (count, C), orthonormal rows; rows of zeros where
        more are asked for than there are.

    Equation: `layerwise-optimum`.
    """
    values, vectors = torch.linalg.eigh(covariance)
    components = vectors.flip(1).T[:count]
    return values.flip(0), F.pad(components, (0, 0, 0, count - len(components)))


def unexplained_variance(target: Tensor, output: Tensor) -> Tensor:
    """The squared error over the variance of the target: 0 if all is explained, 1 for the mean of every channel.

    Args:
        target: (N, C, H, W) or (N, C).
        output: of the same shape.
    """
    wanted = rows(target)
    # The mean square less the square of the mean: one pass, where subtracting the mean first would make a copy.
    spread = wanted.square().mean() - wanted.mean(0).square().mean()
    return reconstruction_loss(target, output) / spread.clamp_min(torch.finfo(spread.dtype).tiny)


def rows(features: Tensor) -> Tensor:
    """Maps (N, C, H, W) or vectors (N, C) as one vector for each pixel, (M, C), in single precision at least."""
    return features.to(torch.promote_types(features.dtype, torch.float32)).movedim(1, -1).flatten(0, -2)


# --- layers ----------------------------------------------------------------------------------------------------------


def layerwise_loss(target: Tensor, output: Tensor) -> Tensor:
    """``L_lw = mean((G - F_a)²)`` over all elements, in float32; no gradient reaches the target.

    Args:
        target: F_a, the amalgamated features of a layer, (N, C, H, W) or (N, C); for the last layer the scores (N, K).
        output: G, what the student's layer makes of the amalgamated features of the layer before.

    Raises:
        ShapeMismatch: the shapes differ.

    Equation: `layerwise-layers`.

    Source: Shen et al. 2019 (AAAI), layer-wise parameter learning.
    """
    return imitation.mean_squared_error(target.detach(), output)


@torch.no_grad()
def merge(adapter: Layer, layer: Layer) -> Layer:
    """Fold an adapter into the layer before it: ``merge(A, S)(x) = A(S(x))``, both being affine.

    ``W[i] = sum_j A[i, j] W_S[j]`` and ``b = A b_S + a``.

    Args:
        adapter: a 1x1 convolution or a linear layer.
        layer: a convolution of any stride and padding, or a linear layer; it is left as it is.

    Returns:
        A layer of the kind of ``layer``.

    Raises:
        ReuseError: the layer has several groups or no bias.
        ShapeMismatch: the adapter does not take the layer's channels.

    Equation: `layerwise-merge`.

    Source: Shen et al. 2019 (AAAI); v0.1 of the official code.
    """
    check_mergeable(layer)
    matrix = adapter.weight.flatten(1)
    if matrix.shape[1] != len(layer.weight):
        raise ShapeMismatch(f"An adapter of {matrix.shape[1]} channels does not fit {len(layer.weight)}.")
    merged = copy.deepcopy(layer)
    merged.weight = nn.Parameter(torch.einsum("ij,j...->i...", matrix, layer.weight))
    merged.bias = nn.Parameter(matrix @ layer.bias + adapter.bias)  # type: ignore[operator]
    return merged


def check_mergeable(layer: Layer, name: str = "A layer") -> None:
    """Raise ReuseError unless an adapter can be folded into a layer."""
    if getattr(layer, "groups", 1) != 1 or layer.bias is None:
        raise ReuseError(
            f"{name} has several groups or no bias, so that nothing can be merged into it. Build the student with "
            "bias=True and groups=1, or learn without adaptation layers (fam=False)."
        )


# --- scores ----------------------------------------------------------------------------------------------------------


def amalgamated_scores(scores: Sequence[Tensor], columns: Tensor, counts: Tensor, log_softmax: bool = False) -> Tensor:
    """The teachers' scores side by side; a class that several know gets the mean of theirs.

    Args:
        scores: logits of each teacher, (N, K_t).
        columns: int64 (sum of K_t,), the student's column of each of these scores.
        counts: (K,), how many teachers know each of the student's classes.
        log_softmax: whether each teacher's logits are replaced by their log-softmax first, which puts the teachers on
            one scale.

    Returns:
        float32 (N, K).

    Equation: `layerwise-scores`.

    Source: Shen et al. 2019 (AAAI), score amalgamation, for disjoint classes with raw logits; the mean is our choice.
    """
    joined = torch.cat([z.float().log_softmax(1) if log_softmax else z.float() for z in scores], 1)
    return joined.new_zeros(len(joined), len(counts)).index_add(1, columns, joined) / counts


def joint_loss(scores: Tensor, logits: Tensor) -> Tensor:
    """``L_joint = mean((z_S - z)²)`` over images and classes: no softmax, no temperature, in float32.

    Args:
        scores: z, the amalgamated scores of the teachers, (N, K).
        logits: z_S, the student's, (N, K).

    Raises:
        ShapeMismatch: the shapes differ.

    Equation: `layerwise-joint`.

    Source: Shen et al. 2019 (AAAI), joint parameter learning; v0.1 of the official code.
    """
    return imitation.mean_squared_error(scores, logits)


def distillation_loss(scores: Tensor, logits: Tensor) -> Tensor:
    """``L_KD = KL(softmax(z) || softmax(z_S))``, summed over classes, averaged over images, in float32.

    Args:
        scores: z, the amalgamated scores of the teachers, (N, K).
        logits: z_S, the student's, (N, K).

    Raises:
        ShapeMismatch: the shapes differ.

    Equation: `layerwise-kd`.

    Source: Hinton et al. 2015, with τ = 1.
    """
    return imitation.kl_divergence(scores, logits)


# --- the port of 2020 ------------------------------------------------------------------------------------------------


def separate_reconstruction_loss(features: Sequence[Tensor], reconstruction: Tensor) -> Tensor:
    """``sum_t mean((recon_t - f_t)²)`` of one group, in float32: a mean for each teacher.

    Args:
        features: of each teacher, (N, C_t, H, W).
        reconstruction: of all, (N, sum of C_t, H, W). With equal channels the loss is T times
            :func:`reconstruction_loss` of the concatenation.
    """
    parts = reconstruction.split([each.shape[1] for each in features], 1)
    return torch.stack([reconstruction_loss(*pair) for pair in zip(features, parts, strict=True)]).sum()


def port_loss(
    scores: Tensor, logits: Tensor, groups: Sequence[tuple[Sequence[Tensor], Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """``L = L_kd + sum_g mean((fam(f_S) - rep)²) + sum_g sum_t mean((recon_t - f_t)²)``; no gradient reaches ``rep``.

    Args:
        scores: the amalgamated scores of the teachers, (N, K).
        logits: the student's, (N, K).
        groups: for each, the features of each teacher, their code ``rep``, their reconstruction, and the student's
            projected features.

    Returns:
        ``loss``, and its terms ``kd``, ``amalgamation`` and ``reconstruction``.

    Equation: `layerwise-port`.

    Source: the official code's master of 2020.
    """
    terms = {
        "kd": distillation_loss(scores, logits),
        "amalgamation": torch.stack([layerwise_loss(code, adapted) for _, code, _, adapted in groups]).sum(),
        "reconstruction": torch.stack([separate_reconstruction_loss(f, back) for f, _, back, _ in groups]).sum(),
    }
    return {"loss": torch.stack(list(terms.values())).sum()} | terms
