"""ESZSL and SAE against their normal equations, autograd, SciPy and slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from scipy.linalg import solve_sylvester
from torch import Tensor

from reuselib.errors import ReuseError, UnknownName
from reuselib.qfsl import ESZSL, SAE, eszsl, sae


def problem(images: int = 30, width: int = 5, classes: int = 4, attributes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    features, codes = torch.randn(images, width).double(), torch.randn(classes, attributes).double()
    return features, torch.arange(images) % classes, codes


def test_eszsl_is_the_published_formula() -> None:
    features, places, codes = problem()
    x, a = features.numpy().T, codes.numpy().T  # columns are images and classes, as published
    y = np.where(np.arange(4) == places.numpy()[:, None], 1.0, -1.0)
    left, right = np.linalg.inv(x @ x.T + 2.0 * np.eye(5)), np.linalg.inv(a @ a.T + 0.5 * np.eye(3))
    np.testing.assert_allclose(eszsl(features, places, codes, 2.0, 0.5).numpy(), left @ x @ y @ a.T @ right, atol=1e-10)


def test_eszsl_is_the_minimum_of_its_objective() -> None:
    features, places, codes = problem()
    w = eszsl(features, places, codes, 2.0, 0.5).requires_grad_()
    y = 2 * F.one_hot(places, 4).double() - 1
    fitted, by_class, by_image = features @ w @ codes.T - y, w @ codes.T, features @ w
    loss = (fitted**2).sum() + 2 * (by_class**2).sum() + 0.5 * (by_image**2).sum() + 2 * 0.5 * (w**2).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-9


def test_eszsl_solves_its_normal_equations_written_out() -> None:
    features, places, codes = problem()
    y = 2 * F.one_hot(places, 4).double() - 1
    left = features.T @ features + 2 * torch.eye(5).double()
    right = codes.T @ codes + 0.5 * torch.eye(3).double()
    slow = torch.linalg.solve(torch.kron(left, right), (features.T @ y @ codes).flatten()).reshape(5, 3)
    torch.testing.assert_close(eszsl(features, places, codes, 2.0, 0.5), slow)


@pytest.mark.parametrize("lam", [0.1, 1.0, 50.0])
def test_sae_is_what_scipy_finds(lam: float) -> None:
    features, places, codes = problem()
    x, z = features.numpy().T, codes[places].numpy().T
    expected = solve_sylvester(z @ z.T, lam * x @ x.T, (1 + lam) * z @ x.T)
    np.testing.assert_allclose(sae(features, codes[places], lam).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("width", "classes", "attributes"), [(5, 4, 3), (5, 4, 6), (40, 3, 9)])
def test_sae_solves_its_equation_even_where_it_has_many_solutions(width: int, classes: int, attributes: int) -> None:
    features, places, codes = problem(30, width, classes, attributes)
    z, lam = codes[places], 0.7
    w = sae(features, z, lam)
    residual = z.T @ z @ w + lam * w @ features.T @ features - (1 + lam) * z.T @ features
    assert w.isfinite().all() and residual.abs().max() < 1e-8
    w.requires_grad_()
    loss = ((features - z @ w) ** 2).sum() + lam * ((features @ w.T - z) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-8


def test_scores_of_the_classifiers() -> None:
    toy = zeroshot_toys.toy()
    classifier = zeroshot_toys.fitted("eszsl", toy, scaling="none", codes="raw")
    w = eszsl(toy.train, torch.searchsorted(toy.seen, toy.train_labels), toy.attributes[toy.seen], 1.0, 1.0)
    torch.testing.assert_close(classifier.decision_function(toy.new), toy.new.double() @ w @ toy.attributes.double().T)
    w = sae(toy.train, toy.attributes[toy.train_labels], 1.0)
    for name, pairs in {"sae": lambda x, a: (w @ x, a), "sae-to-features": lambda x, a: (x, w.T @ a)}.items():
        scores = zeroshot_toys.fitted(name, toy, scaling="none", codes="raw").decision_function(toy.new)
        for i, k in ((0, 0), (3, 5), (11, 8)):
            x, a = pairs(toy.new[i].double(), toy.attributes[k].double())
            assert scores[i, k].item() == pytest.approx(float(x @ a / (x.norm() * a.norm())), abs=1e-9)


@pytest.mark.parametrize("classifier", [ESZSL(gamma=0.0), ESZSL(lam=-1.0), SAE(lam=0.0)])
def test_weights_that_leave_no_inverse_are_refused(classifier: ESZSL | SAE) -> None:
    toy = zeroshot_toys.toy()
    with pytest.raises(ReuseError, match="must be above 0"):
        classifier.fit(toy.train, toy.train_labels, toy.attributes)


def test_an_unknown_projection_is_refused() -> None:
    toy = zeroshot_toys.toy()
    with pytest.raises(UnknownName, match="Did you mean 'to_codes'"):
        SAE(projection="to_code").fit(toy.train, toy.train_labels, toy.attributes)
