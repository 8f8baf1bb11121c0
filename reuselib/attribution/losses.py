"""The paper's equations: from attributions to maps, from maps to the affinities of networks.

Source: Song et al. 2019 (NeurIPS); those marked so are extensions of ours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import checks
from reuselib.errors import NonFinite, ShapeMismatch


def finite(**values: Tensor) -> None:
    """Raise NonFinite, by its name, for what cannot be ranked: it holds NaN or infinity."""
    for name, value in values.items():
        if not value.is_meta and not value.isfinite().all():
            raise NonFinite(f"The {name} hold NaN or infinity: leave that network out, or look at the images.")


def square(matrix: Tensor) -> None:
    """Raise ShapeMismatch for what is no square matrix."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ShapeMismatch(f"The matrix must be square, a row and a column for each, not {tuple(matrix.shape)}.")


def slope(a: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``g(z) = f(z) / (z + ε s(z))``: what ε-LRP takes for the derivative of a nonlinearity ``a = f(z)``; s(0) is 1.

    Equation: `attribution-lrp`.

    Source: Ancona et al. 2018, proposition 1.
    """
    return a / torch.where(z >= 0, z + epsilon, z - epsilon)


def channel_mean(attributions: Tensor) -> Tensor:
    """The signed mean over the channels: (n, C, H, W) → (n, H, W). For model selection."""
    return attributions.mean(1)


def absolute_channel_mean(attributions: Tensor) -> Tensor:
    """The mean of absolute values over the channels: (n, C, H, W) → (n, H, W). For layer selection (DEPARA)."""
    return attributions.abs().mean(1)


def pooled(side: int) -> Callable[[Tensor], Tensor]:
    """:func:`channel_mean`, then the mean over squares of ``side`` x ``side`` pixels; an extension of ours."""
    checks.whole(side=side)
    return lambda attributions: F.avg_pool2d(channel_mean(attributions), side)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (n, d) scaled to length one; rows of zeros stay zeros. In float32 at least; no square can underflow."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    largest = rows.abs().amax(1, keepdim=True)
    return F.normalize(rows / torch.where(largest > 0, largest, 1))


def normalised(maps: Tensor) -> Tensor:
    """Maps (n, ...) as vectors of length one, (n, d); a map of zeros stays zero, so that its cosines are 0."""
    return unit_rows(maps.flatten(1))


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of each image's two maps, float64 (n,) on the CPU, of vectors (n, d) of :func:`normalised`."""
    return torch.linalg.vecdot(a, b).cpu().double().clamp(-1, 1)


def affinity(a: Tensor, b: Tensor) -> float:
    """``S_ab``, the mean over the probes of the cosines of two networks' maps, in [-1, 1].

    Equation: `attribution-affinity`.

    Args:
        a: maps of one network, (n, d), as :func:`normalised` gives them.
        b: maps of the other, of the same images in the same order.

    Raises:
        ShapeMismatch: they are not maps of one size, not of the same number of images, or of no image.
        NonFinite: a map holds NaN.
    """
    if a.shape != b.shape or not len(a):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ShapeMismatch(f"Maps {shapes} cannot be compared: bring all maps of all probes to one size (reduce=...).")
    found = cosines(a, b).mean()
    finite(maps=found)
    return float(found)


def distance(affinity: Tensor) -> Tensor:
    """``d = 1 / S``, the paper's distance; infinite where S is not above 0, where it would be meaningless.

    It gives the order of S, reversed, and is for reading only: rank by S.
    """
    return torch.where(affinity > 0, 1 / affinity, torch.inf)


def without_shared(maps: Tensor, networks: Tensor | None = None) -> Tensor:
    """Maps minus the mean map of all networks, image by image: what each has of its own. An extension of ours.

    Equation: `attribution-centred`.

    Args:
        maps: (N, n, ...) or (n, ...); affinities of the result depend on which networks there are.
        networks: maps (N, n, ...) of the networks over which the mean is taken; ``maps`` if left out.
    """
    return maps - (maps if networks is None else networks).mean(0)


def pairwise(
    kept: Sequence[Any], compare: Callable[[Any, Any], float], own: float = 1.0, known: Tensor | None = None
) -> Tensor:
    """The symmetric matrix of a comparison.

    Args:
        kept: what is known of each of N networks.
        compare: of two of them → how alike they are.
        own: on the diagonal.
        known: the matrix of the first networks, which is not worked out again.

    Returns:
        float64 (N, N).
    """
    found = torch.eye(len(kept), dtype=torch.float64) * own
    start = 0 if known is None else len(known)
    if known is not None:
        found[:start, :start] = known
    for i, a in enumerate(kept[start:], start):
        for j, b in enumerate(kept[:i]):
            found[i, j] = found[j, i] = compare(a, b)
    return found


def affinity_matrix(maps: Tensor | Sequence[Tensor]) -> Tensor:
    """The affinities of networks, float64 (N, N), from their maps (N, n, ...) or a list of N tensors (n, ...).

    Example:
        >>> import torch
        >>> from reuselib import attribution
        >>> maps = torch.eye(4).reshape(4, 2, 2)  # four probes, a pixel lit in each
        >>> attribution.affinity_matrix([maps, 2 * maps, -maps])
        tensor([[ 1.,  1., -1.],
                [ 1.,  1., -1.],
                [-1., -1.,  1.]], dtype=torch.float64)
    """
    return pairwise([normalised(each) for each in maps], affinity)
