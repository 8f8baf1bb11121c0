"""Embeddings with a closed form: ESZSL and SAE.

Here images are rows: features X (N, d), codes of the seen classes A (S, m). In float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.errors import ReuseError, unknown
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier

PROJECTIONS = ("to_codes", "to_features")


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

    Raises:
        ReuseError: a weight is not above 0, so that there may be no inverse.

    Source: Romera-Paredes & Torr 2015 (ESZSL).
    """
    if not (gamma > 0 and lam > 0):
        raise ReuseError(f"gamma and lam must be above 0, not {gamma} and {lam}: they make the inverses exist.")
    x, a = features.double(), codes.double()
    y = 2 * F.one_hot(places, len(a)).double() - 1
    left, right = x.T @ x, a.T @ a
    left.diagonal().add_(gamma)
    right.diagonal().add_(lam)
    middle = torch.linalg.solve(left, x.T @ y @ a)
    return torch.linalg.solve(right, middle.T).T  # right is symmetric


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

    Raises:
        ReuseError: λ is not above 0.

    Source: Kodirov et al. 2017 (SAE).
    """
    if not lam > 0:
        raise ReuseError(f"lam must be above 0, not {lam}: it weighs the encoder.")
    x, z = features.double(), codes.double()
    a, u = torch.linalg.eigh(z.T @ z)
    b, v = torch.linalg.eigh(lam * (x.T @ x))
    sums = a.clamp(min=0).unsqueeze(1) + b.clamp(min=0)
    solved = (1 + lam) * (u.T @ (z.T @ x) @ v) / sums
    free = sums <= sums.max() * max(sums.shape) * torch.finfo(sums.dtype).eps
    return u @ solved.masked_fill(free, 0) @ v.T


@dataclass(eq=False, repr=False, kw_only=True)
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


@dataclass(eq=False, repr=False, kw_only=True)
class SAE(ZeroShotClassifier):
    """Semantic autoencoder: the features of an image are to be had back from its class's code.

    Attributes:
        lam: weight of the encoder against the decoder.
        projection: where image and class are compared, by cosine: ``"to_codes"``: Wx with the code; ``"to_features"``:
            x with Wᵀ times the code.
        weights_: W, float64 (m, d).

    Source: Kodirov et al. 2017.
    """

    lam: float = 1.0
    projection: str = "to_codes"

    def _learn(self, problem: Problem) -> None:
        if self.projection not in PROJECTIONS:
            raise unknown("projection", self.projection, PROJECTIONS)
        self.weights_ = sae(problem.features, problem.codes[problem.labels], self.lam)
        self._codes = problem.codes.double()

    def _scores(self, features: Tensor) -> Tensor:
        x, codes = features.double(), self._codes
        if self.projection == "to_codes":
            x = x @ self.weights_.T
        else:
            codes = codes @ self.weights_
        return F.normalize(x) @ F.normalize(codes).T
