"""How good and how varied a set of images is, from the features of a network that had no part in making them.

And how good a segmentation is, from the counts of its confusion matrix.

All functions on sets of features take matrices (N, D), one row per image, and give a float. Feature space is not pixel
space: name the network whenever you report one of these. NaN and infinity are refused as `NonFinite`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import checks
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The Fréchet distance between two Gaussians with the means and covariances of the features.

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)``. With Inception-v3 features it is called FID; with any other network's it
    is another scale and must not be called so. Biased upwards for small sets: compare equal counts only.

    Args:
        real: (N, D), at least two rows.
        fake: (M, D), at least two rows.

    Returns:
        A number ≥ 0, up to rounding.

    Raises:
        ShapeMismatch: the features are not two matrices of one width.

    Source: Dowson & Landau 1982; for generators, Heusel et al. 2017.
    """
    a, b = _features(real, fake)
    shift = a.mean(0) - b.mean(0)
    # With C = RᵀR the eigenvalues of C1 C2 are the squared singular
    # values of R1 R2ᵀ: no root of a rounding error.
    (first, n), (second, m) = ((x - x.mean(0), len(x)) for x in (a, b))
    first = torch.linalg.qr(first, mode="r").R / (n - 1) ** 0.5
    second = torch.linalg.qr(second, mode="r").R / (m - 1) ** 0.5
    cross = torch.linalg.svdvals(first @ second.T).sum()
    total = shift.square().sum() + first.square().sum() + second.square().sum()
    return float(total - 2 * cross)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel ``(x·y / D + 1)³`` (KID, if on Inception features).

    Unlike the Fréchet distance its expectation does not depend on the counts; it can be a little below zero.

    Args:
        real: (N, D), at least two rows.
        fake: (M, D), at least two rows.

    Raises:
        ShapeMismatch: the features are not two matrices of one width.

    Source: Bińkowski et al. 2018.
    """
    a, b = _features(real, fake)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        gram = kernel(x, x)
        return (gram.sum() - gram.trace()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def mean_distance(features: Tensor) -> float:
    """Mean Euclidean distance of all pairs of rows: the spread of a set. Noise can have a large one too.

    Raises:
        ShapeMismatch: there are fewer than two rows.
    """
    (x,) = _features(features)
    return sum(float(block.sum()) for block in _distances(x, x)) / (len(x) * (len(x) - 1))


def cosine_diversity(features: Tensor) -> float:
    """``1 - mean cos(v_i, v_j)`` over all pairs of different rows: 0 for a set of one direction, 1 for unrelated ones.

    Raises:
        ShapeMismatch: there are fewer than two rows.
    """
    (x,) = _features(features)
    unit = F.normalize(x)
    count = len(unit)
    # sum of all pairs = |sum of vectors|²; the pairs of a vector with itself go.
    return float(1 - (unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def coverage(real: Tensor, fake: Tensor, neighbours: int = 5) -> float:
    """Share of real images that have a fake in their ball, whose radius is the distance to the k-th nearest other real.

    Args:
        real: (N, D), more rows than neighbours.
        fake: (M, D), at least two rows.
        neighbours: k, at least 1.

    Raises:
        ShapeMismatch: the features are not two matrices of one width.
        BadValue: there are not more real images than neighbours.

    Source: Naeem et al. 2020.
    """
    a, b = _features(real, fake)
    closest = torch.cat([block.amin(1) for block in _distances(a, b)])
    return float((closest <= _radii(a, neighbours)).double().mean())


def recall(real: Tensor, fake: Tensor, neighbours: int = 5) -> float:
    """Share of real images in the ball of some fake, whose radius is the distance to its k-th nearest other fake.

    Args:
        real: (N, D), at least two rows.
        fake: (M, D), more rows than neighbours.
        neighbours: k, at least 1.

    Raises:
        ShapeMismatch: the features are not two matrices of one width.
        BadValue: there are not more fakes than neighbours.

    Source: Kynkäänniemi et al. 2019.
    """
    a, b = _features(real, fake)
    radii = _radii(b, neighbours)
    inside = torch.cat([(block <= radii).any(1) for block in _distances(a, b)])
    return float(inside.double().mean())


def nearest(queries: Tensor, references: Tensor) -> Tensor:
    """For each query, the position of the reference with the smallest Euclidean distance.

    Args:
        queries: (N, D).
        references: (M, D), on the device of the queries, at least one row.

    Returns:
        int64 (N,).

    Raises:
        ShapeMismatch: these are not two matrices of one width, or there is no reference.
        NonFinite: one holds NaN or infinity.
    """
    shapes = tuple(queries.shape), tuple(references.shape)
    if queries.ndim != 2 or references.ndim != 2 or shapes[0][1] != shapes[1][1] or not len(references):
        raise ShapeMismatch(f"Queries (N, D) and references (M, D) need one D and M of at least 1, not {shapes}.")
    _check_finite(queries, references)
    return torch.cat([block.argmin(1) for block in _distances(queries, references)])


def effective_number(labels: Tensor, classes: int) -> float:
    """How many classes are in even use: the exponential of the entropy of the label shares, 1 to ``classes``.

    Args:
        labels: int64 (N,), at least one, from 0 to ``classes - 1``.
        classes: how many there are.

    Raises:
        ShapeMismatch: there are no labels, or one is out of range.
    """
    checks.whole(classes=classes)
    whole = not labels.is_floating_point() and labels.ndim == 1
    if not whole or not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ShapeMismatch(f"Labels must be (N,) with N of at least 1 and values below classes={classes}.")
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return float(torch.special.entr(share).sum().exp())


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """Count pixels by their true and their predicted class; matrices of several batches may be added up.

    Nothing is read off the device, so that a whole test set costs one wait.

    Args:
        predictions: int64 of any shape, from 0 to ``classes - 1``.
        labels: int64 of the same shape; pixels with the label ``ignore`` are left out.
        classes: how many there are, C.
        ignore: the label of pixels that are not counted.

    Returns:
        int64 (C, C) on the device of the predictions; rows are true classes, columns predicted ones.

    Raises:
        ShapeMismatch: predictions and labels have different shapes, or a class is out of range. On a GPU the latter
            stops the program, at the next wait for it.
    """
    checks.whole(classes=classes)
    if predictions.shape != labels.shape or predictions.is_floating_point() or labels.is_floating_point():
        found = " and ".join(f"{tuple(each.shape)} {each.dtype}" for each in (predictions, labels))
        raise ShapeMismatch(f"Every pixel needs one predicted and one true class, in int64: {found} do not fit.")
    counted = labels != ignore
    outside = (labels < 0) | (labels >= classes) | (predictions < 0) | (predictions >= classes)
    if labels.device.type == "cpu" and (counted & outside).any():
        raise ShapeMismatch(
            f"A label or a prediction is none of the {classes} classes, nor {ignore}, which is ignored."
        )
    # One bin more for what is ignored; on a GPU what is outside stops the program, as it has none.
    pair = torch.where(counted, labels * classes + predictions, classes**2)
    pair = torch.where(counted & outside, classes**2 + 1, pair).flatten()
    counts = torch.zeros(classes**2 + 1, dtype=torch.int64, device=pair.device)
    return counts.scatter_add_(0, pair, torch.ones_like(pair))[:-1].view(classes, classes)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """``TP / (TP + FP + FN)`` of every class, NaN for a class that is neither there nor predicted.

    Args:
        confusion: (C, C) counts, true classes in rows.

    Returns:
        float64 (C,), on the device of the counts.

    Equation: `dfad-iou`.
    """
    both = confusion.diagonal().double()
    return both / (confusion.sum(0) + confusion.sum(1) - both)


def mean_iou(confusion: Tensor) -> float:
    """The mean intersection over union of the classes that are there or predicted, 0 to 1.

    Args:
        confusion: (C, C) counts, true classes in rows.

    Raises:
        ReuseError: no pixel was counted.
        ShapeMismatch: these are no counts.
    """
    if confusion.ndim != 2 or len(set(confusion.shape)) > 1 or not (confusion >= 0).all():
        raise ShapeMismatch(f"Counts must be (C, C) and at least 0: take those of confusion_matrix, not {confusion}.")
    if not confusion.any():
        raise ReuseError("No pixel was counted: all labels are ignored, or there is no image.")
    return float(intersection_over_union(confusion).nanmean())


@torch.no_grad()
def features_of(network: nn.Module, images: Tensor, batch: int = 1000) -> Tensor:
    """The features (N, D) of a network, in evaluation mode; the mode of each of its layers comes back.

    Args:
        network: has a method ``features``, as every classifier of this library.
        images: normalised for that network and on its device, (N, C, H, W).
        batch: images at a time.

    Returns:
        float32, on the device of the network.

    Raises:
        ReuseError: the network has no such method.
        ShapeMismatch: it does not take such images.
    """
    checks.whole(batch=batch)
    features = getattr(network, "features", None)
    if not callable(features) or isinstance(features, nn.Module):
        raise ReuseError(f"{type(network).__name__} has no method features(images). Use nets.penultimate instead.")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        return torch.cat([features(part).float() for part in images.split(batch)])
    finally:
        for module, training in modes.items():
            module.training = training


def _features(*sets: Tensor) -> list[Tensor]:
    """The feature matrices as float64 on the CPU, once they are known to fit."""
    shapes = [tuple(getattr(features, "shape", ())) for features in sets]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or len({shape[-1] for shape in shapes}) > 1:
        raise ShapeMismatch(f"Features must be matrices (N, D) of one D with N of at least 2, not {shapes}.")
    _check_finite(*sets)
    return [features.detach().cpu().double() for features in sets]


def _check_finite(*sets: Tensor) -> None:
    if not all(features.isfinite().all() for features in sets):
        raise NonFinite("Features hold NaN or infinity: look at the images, or at the network that read them.")


def _distances(queries: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Euclidean distances (n, M) of the queries, a few hundred rows at a time."""
    for part in queries.split(500):
        # The faster way, by matrix products, makes the distance of equal rows a small number in place of zero.
        yield torch.cdist(part, references, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Each point's distance (N,) to its k-th nearest other point."""
    checks.whole(1, len(points) - 1, neighbours=neighbours)
    # The nearest of all is the point itself, at distance zero.
    return torch.cat([block.kthvalue(neighbours + 1, dim=1).values for block in _distances(points, points)])
