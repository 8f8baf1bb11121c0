"""How alike two networks see the same images, from their representations alone: RSA, SVCCA, linear CKA.

All take two matrices (n, U) of features, one row per image, the same images in the same order; U may differ. They are
computed in float64 on the CPU and give a float.
"""

import torch
from scipy.stats import rankdata
from torch import Tensor

from reuselib import checks
from reuselib.attribution.losses import finite, square, unit_rows
from reuselib.errors import NonFinite, ShapeMismatch


def matrices(*features: Tensor) -> list[Tensor]:
    """The features as float64 matrices on the CPU, once they are known to fit.

    Raises:
        ShapeMismatch: they are not matrices (n, U) with one n of at least 2.
        NonFinite: they hold NaN or infinity.
    """
    shapes = [tuple(each.shape) for each in features]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ShapeMismatch(f"Features must be (n, U) of the same n images, 2 or more, not {shapes}. Flatten maps.")
    for each in features:
        finite(features=each)
    return [each.detach().cpu().double() for each in features]


def upper(matrix: Tensor) -> Tensor:
    """The entries above the diagonal of a matrix (n, n), row by row: (n (n - 1) / 2,)."""
    square(matrix)
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix[rows, columns]


def ordinal_ranks(values: Tensor) -> Tensor:
    """Ranks 0, 1, 2, … of values (K,), smallest first, int64; equal values keep their order (a stable sort).

    Raises:
        NonFinite: a value is NaN.
    """
    if values.isnan().any():
        raise NonFinite("A value is NaN, and has no rank. Leave out what it comes from.")
    ranks = torch.empty(len(values), dtype=torch.int64)
    ranks[values.cpu().argsort(stable=True)] = torch.arange(len(values))
    return ranks


def spearman_of_ranks(a: Tensor, b: Tensor) -> float:
    """``1 - 6 sum_k (R_k - R'_k)² / (K (K² - 1))`` of two permutations (K,) of 0 … K-1, in [-1, 1].

    Raises:
        ShapeMismatch: they are not of one length of at least two: of two images there is one pair, and no order.

    Source: Song et al. 2020 (DEPARA), the similarity of edges.
    """
    count = len(a)
    if count != len(b) or count < 2:
        lists = f"two lists of {count} and {len(b)} values"
        raise ShapeMismatch(f"{lists} have no rank correlation: give equal ones, those of three images or more.")
    squares = (a - b).double().square().sum()  # K³ / 3 for opposite orders: too large for 32 bits already at K = 2000
    return max(-1.0, 1 - 6 * float(squares) / (count * (count**2 - 1)))


def spearman(a: Tensor, b: Tensor, ties: str = "ordinal") -> float:
    """Rank correlation of two lists of values (K,).

    Args:
        a: one list.
        b: the other.
        ties: ``"ordinal"``: equal values are ranked in their order, as the papers' code does; ``"average"``: they share
            the mean of their ranks, as in SciPy. Without ties both are the same.

    Returns:
        A number in [-1, 1]; nan for ``"average"`` where one list is constant.

    Raises:
        NonFinite: a value is NaN.
        ShapeMismatch: the lists differ in length, or are too short.
        UnknownName: there is no such way with ties.
    """
    checks.known("way with ties", ("ordinal", "average"), ties)
    ranks = ordinal_ranks(a), ordinal_ranks(b)
    if ties == "ordinal" or len(a) != len(b):
        return spearman_of_ranks(*ranks)
    x, y = (torch.from_numpy(rankdata(values.cpu().numpy())) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale else float("nan")


def dissimilarity(features: Tensor, centred: bool = True) -> Tensor:
    """The representational dissimilarities ``1 - Pearson(f_p, f_q)`` of all pairs of images, (n (n - 1) / 2,).

    Args:
        features: (n, U).
        centred: whether the mean over the images is taken off first.

    Returns:
        float64, between 0 and 2. An image whose features are all equal correlates with nothing (1).
    """
    (f,) = matrices(features)
    f = f - f.mean(0) if centred else f
    rows = unit_rows(f - f.mean(1, keepdim=True))
    return 1 - upper(rows @ rows.T)


def rsa(x: Tensor, y: Tensor, centred: bool = True, ties: str = "ordinal") -> float:
    """Representational similarity: the rank correlation of the two networks' dissimilarities.

    Args:
        x: features (n, U) of one network.
        y: features (n, V) of the other.
        centred: whether each unit's mean over the images is taken off first.
        ties: as in :func:`spearman`.

    Source: Dwivedi & Roig 2019; centred as in the official code of DEPARA.
    """
    x, y = matrices(x, y)
    return spearman(dissimilarity(x, centred), dissimilarity(y, centred), ties)


def svcca(x: Tensor, y: Tensor, variance: float = 0.99) -> float:
    """The mean canonical correlation of the two representations, each cut to its directions of largest variance.

    With U_X, U_Y the left singular vectors kept, the correlations are the singular values of ``U_Xᵀ U_Y``; their mean
    is over as many as the smaller representation has directions. It rises to 1 for any features where the kept
    directions are nearly as many as the images: choose the share of variance, or pool the maps, so that they are not.

    Args:
        x: features (n, U) of one network.
        y: features (n, V) of the other.
        variance: the share that the kept directions, as few as can be, must reach, above 0 and at most 1.

    Returns:
        A number between 0 and 1; 0 where one representation is constant.

    Source: Raghu et al. 2017.
    """
    x, y = matrices(x, y)
    kept = [_directions(each, variance) for each in (x, y)]
    if not min(each.shape[1] for each in kept):
        return 0.0
    return float(torch.linalg.svdvals(kept[0].T @ kept[1]).clamp(max=1).mean())


def _directions(features: Tensor, variance: float) -> Tensor:
    """The fewest left singular vectors (n, k) of centred features that reach a share of variance."""
    checks.number(0, 1, above=True, variance=variance)
    u, s, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    rank = int((s > s[0] * len(features) * torch.finfo(s.dtype).eps).sum())
    share = s[:rank].square().cumsum(0) / s.square().sum()
    return u[:, : min(int((share < variance).sum()) + 1, rank)]


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment ``|XᵀY|² / (|XᵀX| |YᵀY|)`` in Frobenius norms, features centred over the images.

    Args:
        x: features (n, U) of one network.
        y: features (n, V) of the other.

    Returns:
        A number between 0 and 1; 0 where one representation is constant.

    Source: Kornblith et al. 2019.
    """
    x, y = (each - each.mean(0) for each in matrices(x, y))
    if min(x.shape[1], y.shape[1]) > len(x):  # the Gram matrices of the images are smaller
        kernels = x @ x.T, y @ y.T
        cross, own = (kernels[0] * kernels[1]).sum(), [kernel.norm() for kernel in kernels]
    else:
        cross, own = (x.T @ y).square().sum(), [(each.T @ each).norm() for each in (x, y)]
    scale = float(own[0] * own[1])
    return float(cross) / scale if scale else 0.0
