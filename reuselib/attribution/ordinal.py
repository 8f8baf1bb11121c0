"""From losses that cannot be compared to affinities that can: the ordinal normalisation of Taskonomy (AHP).

Source: Zamir et al. 2018, after the analytic hierarchy process.
"""

import torch
from torch import Tensor

from reuselib import checks
from reuselib.attribution.losses import finite, square
from reuselib.errors import ReuseError, ShapeMismatch

CLIP = 0.001


def wins(losses: Tensor) -> Tensor:
    """How often each source beats each other one.

    Args:
        losses: (sources, images): of the transfers to one target, each on the same held-out images.

    Returns:
        W, float64 (sources, sources): ``W_ij`` is the share of images on which source i has a lower loss than source
        j; a tie counts half for both, so that ``W + Wᵀ = 1`` and the diagonal is one half.

    Raises:
        ShapeMismatch: this is no matrix with at least one image.
        NonFinite: a loss is NaN or infinite. A loss below zero is none the worse: only the order counts.
    """
    if losses.ndim != 2 or not losses.numel():
        raise ShapeMismatch(f"losses must be (sources, images), not {tuple(losses.shape)}.")
    finite(losses=losses)
    a, b = losses.unsqueeze(1), losses.unsqueeze(0)
    return (a < b).double().mean(2) + (a == b).double().mean(2) / 2


def odds(wins: Tensor, clip: float = CLIP) -> Tensor:
    """``W'_ij = W_ij / W_ji``, how many times better source i is than source j, of shares clipped to [clip, 1 - clip].

    Args:
        wins: W (sources, sources), as :func:`wins` gives it.
        clip: above 0 and below one half.

    Raises:
        BadValue: it is not.
        ShapeMismatch: W is not square.
    """
    checks.number(0, 0.5, above=True, clip=clip)
    square(wins)
    clipped = wins.double().clamp(clip, 1 - clip)
    return clipped / clipped.T


def principal(matrix: Tensor, tolerance: float = 1e-13, iterations: int = 100_000) -> Tensor:
    """The eigenvector of the largest eigenvalue of a positive matrix, by power iteration; it is positive and sums to 1.

    Args:
        matrix: (n, n), every entry above 0.
        tolerance: largest relative change of an entry at which to stop.
        iterations: at most.

    Returns:
        float64 (n,).

    Raises:
        ShapeMismatch: the matrix is not square.
        ReuseError: an entry is not finite and above 0, or the iteration does not settle.
    """
    square(matrix)
    matrix = matrix.double()
    if not ((matrix > 0) & matrix.isfinite()).all():
        raise ReuseError("Only a matrix of positive entries has a positive principal eigenvector: clip the wins first.")
    vector = torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64, device=matrix.device)
    for _ in range(iterations):
        before, vector = vector, matrix @ vector
        vector = vector / vector.sum()
        if ((vector - before).abs() <= tolerance * vector).all():
            return vector
    raise ReuseError(f"Power iteration did not settle in {iterations} steps. Give a larger tolerance.")


def ahp(losses: Tensor, clip: float = CLIP) -> Tensor:
    """The affinities of the sources of one target: the principal eigenvector of the odds of their wins.

    Only who wins where counts: any increasing map of the losses of an image leaves it as it is.

    Equation: `attribution-ahp`.

    Args:
        losses: (sources, images), as in :func:`wins`.
        clip: as in :func:`odds`.

    Returns:
        float64 (sources,), above 0, sums to 1; a larger one transfers better.
    """
    return principal(odds(wins(losses), clip))


def affinities(losses: Tensor, clip: float = CLIP) -> Tensor:
    """:func:`ahp` for every target: losses (targets, sources, images) → affinities, float64 (targets, sources)."""
    return torch.stack([ahp(each, clip) for each in losses])
