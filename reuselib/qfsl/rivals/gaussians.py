"""Each class a Gaussian of the features; those of unseen classes are regressed from attributes (GFZSL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from reuselib.qfsl.estimator import Problem, SharedFit
from reuselib.qfsl.samples import solved

FLOOR = 0.01
"""Added to every variance; standardised features have variance 1 over all classes."""


def gaussians(features: Tensor, places: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean and variance, plus ``FLOOR``, of every feature in every class, float64 (S, d) each.

    Args:
        features: (N, d).
        places: int64 (N,), classes, each with an image.
        classes: S.
    """
    x = features.double()
    counts = x.new_zeros(classes, 1).index_add(0, places, x.new_ones(len(x), 1))
    means = x.new_zeros(classes, x.shape[1]).index_add(0, places, x) / counts
    squares = x.new_zeros(means.shape).index_add(0, places, (x - means[places]).square())
    return means, squares / counts + FLOOR


def log_density(features: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """``ln N(x; μ_c, diag σ_c²)`` of features (n, d) for every class (C, d): (n, C)."""
    x, precision = features.to(means.dtype), 1 / variances
    mahalanobis = x.square() @ precision.T - 2 * x @ (means * precision).T + (means.square() * precision).sum(1)
    return -0.5 * (mahalanobis + variances.log().sum(1) + x.shape[1] * math.log(2 * math.pi))


def kernel_matrix(a: Tensor, b: Tensor, kernel: str) -> Tensor:
    """``aᵀb`` or ``exp(-|a - b|² / 2)`` of codes (C, m) and (S, m): (C, S)."""
    if kernel == "linear":
        return a @ b.T
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distances.square() / 2).exp()


def expectation_maximisation(
    features: Tensor, means: Tensor, variances: Tensor, rounds: int = 10, prior: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Refine Gaussians on unlabelled features, none of which is known to be of which class.

    Each round takes the classes' responsibilities ``r_ic ∝ π_c N(x_i; μ_c, σ_c²)``, then weighted means, variances and
    shares π. The Gaussians that it began with count as ``prior`` images each, so that no class dies out.

    Args:
        features: (M, d).
        means: of the unseen classes, float64 (T, d).
        variances: likewise.
        rounds: how many.
        prior: above 0, lest a class without images have no Gaussian.

    Returns:
        Means and variances, (T, d).

    Source: Verma & Rai 2017, transductive; the prior is our choice.
    """
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


class GFZSL(SharedFit):
    """A generative framework: class-conditional Gaussians, means and log-variances regressed by kernel ridge.

    Seen classes keep the Gaussians of their images. Targets are regressed less their mean over the seen classes, so
    that a class unlike all seen ones gets that mean (our choice).

    Attributes:
        kernel: ``"rbf"`` or ``"linear"``, of codes.
        ridge: strength of the penalty.
        means_: float64 (C, d).
        variances_: float64 (C, d).

    Source: Verma & Rai 2017.
    """

    choices: ClassVar = {"kernel": ("linear", "rbf")}
    varied: ClassVar = ("kernel", "ridge")

    kernel: str = "rbf"
    ridge: float = 0.1

    @classmethod
    def _learn_all(cls, alike: Sequence[GFZSL], problem: Problem) -> None:
        own = gaussians(problem.features, problem.places, len(problem.seen))
        for each in alike:
            each._regress(problem, *own)

    def _regress(self, problem: Problem, means: Tensor, variances: Tensor) -> None:
        codes, seen, unseen = problem.codes.double(), problem.seen, problem.unseen
        known, new = (kernel_matrix(codes[each], codes[seen], self.kernel) for each in (seen, unseen))
        targets = torch.cat([means, variances.log()], 1)
        centre = targets.mean(0)
        found = centre + new @ solved(known, targets - centre, self.ridge)
        made, logs = found.chunk(2, dim=1)
        refined = self._refined(problem, made, logs.exp())
        count = len(codes)
        self.means_, self.variances_ = (
            own.new_empty(count, own.shape[1]).index_copy(0, seen, own).index_copy(0, unseen, made)
            for own, made in zip((means, variances), refined, strict=True)
        )

    def _refined(self, problem: Problem, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        return means, variances

    def _scores(self, features: Tensor) -> Tensor:
        return log_density(features, self.means_, self.variances_)


class TransductiveGFZSL(GFZSL):
    """GFZSL, its Gaussians of unseen classes refined on unlabelled features by :func:`expectation_maximisation`.

    Source: Verma & Rai 2017.
    """

    transductive: ClassVar[bool] = True

    def _refined(self, problem: Problem, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        return expectation_maximisation(problem.unlabelled, means, variances)
