"""Synthesised classifiers: those of unseen classes are mixtures of a few base classifiers (SynC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reuselib.errors import ReuseError, unknown
from reuselib.qfsl import losses
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier
from reuselib.qfsl.samples import minimised

EXACT = "donot_use_mm_for_euclid_dist"  # differences, not products: no digits are lost
HINGES = {"one_vs_rest": losses.squared_hinge, "crammer_singer": losses.crammer_singer}


def similarities(codes: Tensor, bases: Tensor, width: float) -> Tensor:
    """``s_cr = softmax_r(-|a_c - b_r|² / σ²)``: how near each class is to each phantom class, rows of sum 1.

    Args:
        codes: a, (C, m).
        bases: b, (R, m).
        width: σ, above 0.

    Returns:
        (C, R).

    Raises:
        ReuseError: the width is not above 0.

    Source: Changpinyo et al. 2016 (SynC).
    """
    if not width > 0:
        raise ReuseError(f"width must be above 0, not {width}: it is a distance of codes.")
    return (-torch.cdist(codes, bases, compute_mode=EXACT).square() / width**2).softmax(1)


def base_classifiers(features: Tensor, places: Tensor, mixture: Tensor, penalty: float, loss: losses.Loss) -> Tensor:
    """The base classifiers V whose mixtures ``w_c = sum_r s_cr v_r`` classify the seen classes best, in float64.

    Minimises ``1/N sum_i L(x_i Wᵀ, y_i) + penalty/2 sum_c |w_c|²``.

    Args:
        features: (N, d).
        places: int64 (N,), rows of ``mixture``.
        mixture: s of the seen classes, (S, R).
        penalty: above 0.
        loss: of scores (N, S) and places, (N,).

    Returns:
        V, (R, d).

    Raises:
        ReuseError: the penalty is not above 0.

    Source: Changpinyo et al. 2016 (SynC).
    """
    if not penalty > 0:
        raise ReuseError(f"penalty must be above 0, not {penalty}: separable images have no minimum without it.")
    x, s = features.double(), mixture.double()

    def objective(bases: Tensor) -> Tensor:
        weights = s @ bases
        return loss(x @ weights.T, places).mean() + penalty / 2 * weights.square().sum()

    return minimised(objective, x.new_zeros(s.shape[1], x.shape[1]))


@dataclass(eq=False, repr=False, kw_only=True)
class SynC(ZeroShotClassifier):
    """Synthesised classifiers, with one phantom class at each seen class's code.

    Attributes:
        width: σ of :func:`similarities`.
        penalty: on the seen classes' classifiers.
        loss: ``"one_vs_rest"`` or ``"crammer_singer"``, both with squared hinges.
        bases_: V, float64 (S, d).

    Source: Changpinyo et al. 2016.
    """

    width: float = 1.0
    penalty: float = 1e-2
    loss: str = "one_vs_rest"

    def _learn(self, problem: Problem) -> None:
        if self.loss not in HINGES:
            raise unknown("loss", self.loss, HINGES)
        codes = problem.codes.double()
        mixture = similarities(codes, codes[problem.seen], self.width)
        self.bases_ = base_classifiers(
            problem.features, problem.places, mixture[problem.seen], self.penalty, HINGES[self.loss]
        )
        self._columns = (mixture @ self.bases_).T

    def _scores(self, features: Tensor) -> Tensor:
        return features.double() @ self._columns
