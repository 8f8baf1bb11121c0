"""Linear classifiers from a closed form or a convex minimum: ESZSL, SAE and SynC, in float64.

Images are rows: features X (N, d), codes of the seen classes A (S, m).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.qfsl.estimator import Problem, SharedFit, ZeroShotClassifier
from reuselib.qfsl.rivals import convex
from reuselib.qfsl.samples import solved

EXACT = "donot_use_mm_for_euclid_dist"  # differences, not products: no digits are lost


def eszsl(features: Tensor, places: Tensor, codes: Tensor, gamma: float, lam: float) -> Tensor:
    """The minimum of ``|X W Aᵀ - Y|² + γ |W Aᵀ|² + λ |X W|² + γλ |W|²`` with Y = 1 for the label, -1 for the others.

    ``W = (XᵀX + γI)⁻¹ Xᵀ Y A (AᵀA + λI)⁻¹``.

    Args:
        features: X, (N, d).
        places: int64 (N,), the row of ``codes`` of each image.
        codes: A, (S, m).
        gamma: γ, above 0.
        lam: λ, above 0.

    Returns:
        W, float64 (d, m); the score of class k is ``xᵀ W a_k``.

    Equation: `qfsl-eszsl`.
    Source: Romera-Paredes & Torr 2015 (ESZSL).
    """
    x, a = features.double(), codes.double()
    y = 2 * F.one_hot(places, len(a)).double() - 1
    middle = solved(x.T @ x, x.T @ y @ a, gamma)
    return solved(a.T @ a, middle.T, lam).T  # its first matrix is symmetric


def sae(features: Tensor, codes: Tensor, lam: float) -> Tensor:
    """The minimum of ``|X - Z W|² + λ |X Wᵀ - Z|²``: an encoder W and a decoder Wᵀ between features and codes.

    It solves the Sylvester equation ``(ZᵀZ) W + W (λ XᵀX) = (1 + λ) ZᵀX``. Both factors are symmetric, so that in
    their eigenvectors it falls apart into numbers; where it leaves one free, that is set to 0.

    Args:
        features: X, (N, d).
        codes: Z, (N, m), the code of each image's class.
        lam: λ, above 0.

    Returns:
        W, float64 (m, d); ``W x`` is the code that the features tell of.

    Source: Kodirov et al. 2017 (SAE).
    """
    x, z = features.double(), codes.double()
    a, u = torch.linalg.eigh(z.T @ z)
    b, v = torch.linalg.eigh(lam * (x.T @ x))
    sums = a.clamp(min=0).unsqueeze(1) + b.clamp(min=0)
    solved = (1 + lam) * (u.T @ (z.T @ x) @ v) / sums
    free = sums <= sums.max() * max(sums.shape) * torch.finfo(sums.dtype).eps
    return u @ solved.masked_fill(free, 0) @ v.T


class ESZSL(ZeroShotClassifier):
    """Embarrassingly simple zero-shot learning: ridge regression on both sides of a compatibility.

    Attributes:
        gamma: weight on the features' side.
        lam: weight on the attributes' side.
        weights_: W, float64 (d, m).

    Source: Romera-Paredes & Torr 2015.
    """

    gamma: float = 100.0
    lam: float = 1.0

    def _learn(self, problem: Problem) -> None:
        self.weights_ = eszsl(problem.features, problem.places, problem.codes[problem.seen], self.gamma, self.lam)
        self._columns = self.weights_ @ problem.codes.double().T

    def _scores(self, features: Tensor) -> Tensor:
        return features.double() @ self._columns


class SAE(SharedFit):
    """Semantic autoencoder: the features of an image are to be had back from its class's code.

    Attributes:
        lam: weight of the encoder against the decoder.
        projection: where image and class are compared, by cosine: ``"to_codes"``: Wx with the code; ``"to_features"``:
            x with Wᵀ times the code.
        weights_: W, float64 (m, d).

    Source: Kodirov et al. 2017.
    """

    choices: ClassVar = {"projection": ("to_codes", "to_features")}
    varied: ClassVar = ("projection",)

    lam: float = 1.0
    projection: str = "to_codes"

    @classmethod
    def _learn_all(cls, alike: Sequence[SAE], problem: Problem) -> None:
        weights = sae(problem.features, problem.codes[problem.labels], alike[0].lam)
        for each in alike:
            each.weights_, each._codes = weights, problem.codes.double()

    def _scores(self, features: Tensor) -> Tensor:
        x, codes = features.double(), self._codes
        if self.projection == "to_codes":
            x = x @ self.weights_.T
        else:
            codes = codes @ self.weights_
        return F.normalize(x) @ F.normalize(codes).T


def similarities(codes: Tensor, bases: Tensor, width: float) -> Tensor:
    """``s_cr = softmax_r(-|a_c - b_r|² / σ²)``: how near each class is to each phantom class, rows of sum 1.

    Args:
        codes: a, (C, m).
        bases: b, (R, m).
        width: σ, above 0.

    Returns:
        (C, R).

    Source: Changpinyo et al. 2016 (SynC).
    """
    return (-torch.cdist(codes, bases, compute_mode=EXACT).square() / width**2).softmax(1)


def base_classifiers(features: Tensor, places: Tensor, mixture: Tensor, penalties: Sequence[float]) -> list[Tensor]:
    """The base classifiers V whose mixtures ``w_c = sum_r s_cr v_r`` classify the seen classes best, in float64.

    Minimises ``1/N sum_i L(x_i Wᵀ, y_i) + penalty/2 sum_c |w_c|²`` with the squared hinge of one class against the
    rest, ``L(z, y) = sum_k [1 - t_k z_k]_+²`` with ``t_k = 1`` for the label, -1 for the others.

    Args:
        features: (N, d).
        places: int64 (N,), rows of ``mixture``.
        mixture: s of the seen classes, (S, R).
        penalties: each above 0.

    Returns:
        V for each penalty, (R, d).

    Source: Changpinyo et al. 2016 (SynC, one versus others).
    """
    (x, back), s = convex.span(features.double()), mixture.double()
    signs = 2 * F.one_hot(places, len(s)).to(s.dtype) - 1

    def loss(z: Tensor) -> Tensor:
        return (1 - signs * z).clamp(min=0).square().sum(1).mean()

    start = x.new_zeros(s.shape[1], x.shape[1])
    found = convex.classifiers(x, lambda bases: (s @ bases, None), loss, penalties, start)
    return found if back is None else [bases @ back.T for bases in found]


class SynC(SharedFit):
    """Synthesised classifiers, with one phantom class at each seen class's code.

    Attributes:
        width: σ of :func:`similarities`.
        penalty: on the seen classes' classifiers.
        bases_: V, float64 (S, d).

    Source: Changpinyo et al. 2016.
    """

    varied: ClassVar = ("penalty",)

    width: float = 1.0
    penalty: float = 1e-2

    @classmethod
    def _learn_all(cls, alike: Sequence[SynC], problem: Problem) -> None:
        codes = problem.codes.double()
        mixture = similarities(codes, codes[problem.seen], alike[0].width)
        penalties = [each.penalty for each in alike]
        found = base_classifiers(problem.features, problem.places, mixture[problem.seen], penalties)
        for each, bases in zip(alike, found, strict=True):
            each.bases_, each._columns = bases, (mixture @ bases).T

    def _scores(self, features: Tensor) -> Tensor:
        return features.double() @ self._columns
