"""Each class a Gaussian of the features; those of unseen classes are regressed from attributes (GFZSL)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reuselib.errors import ReuseError, unknown
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier

KERNELS = ("linear", "rbf")


def gaussians(features: Tensor, places: Tensor, classes: int, floor: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of every feature in every class, float64 (S, d) each.

    Args:
        features: (N, d).
        places: int64 (N,), classes, each with an image.
        classes: S.
        floor: added to every variance, so that a feature which never changes within a class has one.
    """
    x = features.double()
    counts = x.new_zeros(classes, 1).index_add(0, places, x.new_ones(len(x), 1))
    means = x.new_zeros(classes, x.shape[1]).index_add(0, places, x) / counts
    squares = x.new_zeros(means.shape).index_add(0, places, (x - means[places]).square())
    return means, squares / counts + floor


def log_density(features: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """``ln N(x; μ_c, diag σ_c²)`` of features (n, d) for every class (C, d): (n, C)."""
    x, precision = features.to(means.dtype), 1 / variances
    mahalanobis = x.square() @ precision.T - 2 * x @ (means * precision).T + (means.square() * precision).sum(1)
    return -0.5 * (mahalanobis + variances.log().sum(1) + x.shape[1] * math.log(2 * math.pi))


def kernel_matrix(a: Tensor, b: Tensor, kernel: str, width: float) -> Tensor:
    """``aᵀb`` or ``exp(-|a - b|² / (2 width²))`` of codes (C, m) and (S, m): (C, S)."""
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if kernel == "linear":
        return a @ b.T
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distances.square() / (2 * width**2)).exp()


def kernel_ridge(known: Tensor, targets: Tensor, strength: float) -> Tensor:
    """``α = (K + strength I)⁻¹ T``, so that K(new, known) α predicts.

    Args:
        known: K, (S, S).
        targets: T, (S, d).
        strength: above 0.

    Raises:
        ReuseError: the strength is not above 0.
    """
    if not strength > 0:
        raise ReuseError(f"ridge must be above 0, not {strength}: it makes the inverse exist.")
    return torch.linalg.solve(known + strength * torch.eye(len(known), dtype=known.dtype, device=known.device), targets)


def expectation_maximisation(
    features: Tensor, means: Tensor, variances: Tensor, rounds: int, prior: float
) -> tuple[Tensor, Tensor]:
    """Refine Gaussians on unlabelled features, none of which is known to be of which class.

    Each round takes the classes' responsibilities ``r_ic ∝ π_c N(x_i; μ_c, σ_c²)``, then weighted means, variances and
    shares π. The Gaussians that it began with count as ``prior`` images each, so that no class dies out.

    Args:
        features: (M, d).
        means: of the unseen classes, float64 (T, d).
        variances: likewise.
        rounds: how many.
        prior: above 0.

    Returns:
        Means and variances, (T, d).

    Raises:
        ReuseError: the prior is not above 0.

    Source: Verma & Rai 2017, transductive; the prior is our choice.
    """
    if not prior > 0:
        raise ReuseError(f"prior must be above 0, not {prior}: a class without images would have no Gaussian.")
    x, first = features.to(means.dtype), (means, variances)
    shares = means.new_full((len(means),), 1 / len(means))
    for _ in range(rounds):
        r = (log_density(x, means, variances) + shares.log()).softmax(1)
        weight = r.sum(0).unsqueeze(1) + prior
        shares = weight.flatten() / weight.sum()
        means = (r.T @ x + prior * first[0]) / weight
        spread = torch.stack([row @ (x - mean).square() for row, mean in zip(r.T, means, strict=True)])
        variances = (spread + prior * first[1]) / weight
    return means, variances


@dataclass(eq=False, repr=False, kw_only=True)
class GFZSL(ZeroShotClassifier):
    """A generative framework: class-conditional Gaussians, means and log-variances regressed by kernel ridge.

    Seen classes keep the Gaussians of their images. Targets are regressed less their mean over the seen classes, so
    that a class unlike all seen ones gets that mean (our choice).

    Attributes:
        kernel: ``"rbf"`` or ``"linear"``, of codes.
        width: of the radial kernel.
        ridge: strength of the penalty.
        floor: added to every variance; features have variance 1 over all classes if scaled.
        means_: float64 (C, d).
        variances_: float64 (C, d).

    Source: Verma & Rai 2017.
    """

    kernel: str = "rbf"
    width: float = 1.0
    ridge: float = 0.1
    floor: float = 0.01

    def _learn(self, problem: Problem) -> None:
        codes, seen, unseen = problem.codes.double(), problem.seen, problem.unseen
        if not (self.floor > 0 and self.width > 0):
            raise ReuseError(f"floor and width must be above 0, not {self.floor} and {self.width}.")
        means, variances = gaussians(problem.features, problem.places, len(seen), self.floor)
        known = kernel_matrix(codes[seen], codes[seen], self.kernel, self.width)
        new = kernel_matrix(codes[unseen], codes[seen], self.kernel, self.width)
        targets = torch.cat([means, variances.log()], 1)
        centre = targets.mean(0)
        found = centre + new @ kernel_ridge(known, targets - centre, self.ridge)
        new_means, logs = found.chunk(2, dim=1)
        refined = self._refined(problem, new_means, logs.exp())
        count = len(codes)
        self.means_, self.variances_ = (
            own.new_empty(count, own.shape[1]).index_copy(0, seen, own).index_copy(0, unseen, made)
            for own, made in zip((means, variances), refined, strict=True)
        )

    def _refined(self, problem: Problem, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        return means, variances

    def _scores(self, features: Tensor) -> Tensor:
        return log_density(features, self.means_, self.variances_)


@dataclass(eq=False, repr=False, kw_only=True)
class TransductiveGFZSL(GFZSL):
    """GFZSL, its Gaussians of unseen classes refined on unlabelled features by :func:`expectation_maximisation`.

    Attributes:
        rounds: of expectation and maximisation.
        prior: how many images the regressed Gaussians count as.

    Source: Verma & Rai 2017.
    """

    transductive: ClassVar[bool] = True

    rounds: int = 10
    prior: float = 1.0

    def _refined(self, problem: Problem, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        assert problem.unlabelled is not None
        return expectation_maximisation(problem.unlabelled, means, variances, self.rounds, self.prior)
