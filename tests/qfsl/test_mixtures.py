"""SynC's mixtures of classifiers and GFZSL's Gaussians: by hand, against scikit-learn and SciPy, and by slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import zeroshot_toys
from scipy.stats import norm
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import LinearSVC

from reuselib.errors import ReuseError, UnknownName
from reuselib.qfsl import (
    GFZSL,
    SynC,
    TransductiveGFZSL,
    base_classifiers,
    expectation_maximisation,
    log_density,
    losses,
    similarities,
)
from reuselib.qfsl.rivals import gaussians
from reuselib.qfsl.rivals.gaussians import kernel_matrix, kernel_ridge

TOY = zeroshot_toys.toy()
PLACES = torch.searchsorted(TOY.seen, TOY.train_labels)


# --- SynC -------------------------------------------------------------------------------------------------------------


def test_similarities_by_hand() -> None:
    codes, bases = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double()
    found = similarities(codes, bases, 2.0)
    for c, (first, second) in enumerate([(0, 1), (25, 18)]):
        weights = math.exp(-first / 4), math.exp(-second / 4)
        assert found[c].tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_a_narrow_mixture_gives_plain_support_vector_machines() -> None:
    x, penalty = TOY.train.double(), 0.05
    v = base_classifiers(TOY.train, PLACES, torch.eye(6), penalty, losses.squared_hinge)
    for c in range(6):
        svm = LinearSVC(C=1 / (penalty * len(x)), fit_intercept=False, dual=False, tol=1e-10, max_iter=100_000)
        svm.fit(x.numpy(), np.where(PLACES.numpy() == c, 1, -1))
        np.testing.assert_allclose(v[c].numpy(), svm.coef_[0], atol=1e-4)


@pytest.mark.parametrize("loss", [losses.squared_hinge, losses.crammer_singer])
def test_base_classifiers_are_a_minimum(loss: losses.Loss) -> None:
    s = similarities(TOY.attributes.double(), TOY.attributes[TOY.seen].double(), 1.0)[TOY.seen]
    x = TOY.train.double()

    def objective(v: torch.Tensor) -> torch.Tensor:
        w = s @ v
        return loss(x @ w.T, PLACES).mean() + 0.05 / 2 * (w**2).sum()

    v = base_classifiers(TOY.train, PLACES, s, 0.05, loss)
    least = objective(v).item()
    for seed in range(20):
        step = torch.randn(v.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective(v + 1e-2 * step).item() > least
        # The hinge of the worst class has ties, near which the search ends a little early.
        assert objective(v + 1e-4 * step).item() > least * (1 - 1e-4 * (loss is losses.crammer_singer))


def test_scores_of_sync() -> None:
    classifier = zeroshot_toys.fitted("sync", TOY, scaling="none", codes="raw", width=1.5)
    s = similarities(TOY.attributes.double(), TOY.attributes[TOY.seen].double(), 1.5)
    torch.testing.assert_close(classifier.decision_function(TOY.new), TOY.new.double() @ (s @ classifier.bases_).T)


@pytest.mark.parametrize(("options", "message"), [({"width": 0.0}, "width"), ({"penalty": 0.0}, "penalty")])
def test_options_of_sync_that_do_not_do_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ReuseError, match=f"{message} must be above 0"):
        SynC(**options).fit(TOY.train, TOY.train_labels, TOY.attributes)


def test_an_unknown_hinge_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown loss 'one_vs_all'"):
        SynC(loss="one_vs_all").fit(TOY.train, TOY.train_labels, TOY.attributes)


# --- GFZSL ------------------------------------------------------------------------------------------------------------


def test_gaussians_by_hand() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [10.0, 0.0]])
    means, variances = gaussians(x, torch.tensor([0, 0, 1]), 2, 0.5)
    assert means.tolist() == [[2, 5], [10, 0]] and variances.tolist() == [[1.5, 0.5], [0.5, 0.5]]


def test_densities_are_scipys() -> None:
    x, means, variances = torch.randn(5, 3).double(), torch.randn(2, 3).double(), torch.rand(2, 3).double() + 0.2
    expected = [[sum(norm.logpdf(x[i], means[c], variances[c].sqrt())) for c in range(2)] for i in range(5)]
    np.testing.assert_allclose(log_density(x, means, variances).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_kernel_ridge_is_scikit_learns(kernel: str) -> None:
    codes, new, targets = torch.randn(6, 4).double(), torch.randn(3, 4).double(), torch.randn(6, 2).double()
    gamma = {"gamma": 1 / (2 * 1.3**2)} if kernel == "rbf" else {}
    expected = KernelRidge(alpha=0.4, kernel=kernel, **gamma).fit(codes.numpy(), targets.numpy()).predict(new.numpy())
    known = kernel_matrix(codes, codes, kernel, 1.3)
    found = kernel_matrix(new, codes, kernel, 1.3) @ kernel_ridge(known, targets, 0.4)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_gfzsl_by_hand() -> None:
    # One feature, one attribute. Seen: attribute 0 at mean 0, attribute 1 at mean 4; both with variance 1.
    features, labels = torch.tensor([[-1.0], [1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    classifier = GFZSL(kernel="linear", ridge=1e-9, floor=1e-9, scaling="none", codes="raw")
    classifier.fit(features, labels, torch.tensor([[0.0], [1.0], [0.5]]))
    # Targets less their mean are -2 and 2; through the origin, 2 for each unit of the attribute: 2 + 2 * 0.5.
    assert classifier.means_.flatten().tolist() == pytest.approx([0, 4, 3], abs=1e-6)
    assert classifier.variances_.flatten().tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    expected = [-0.5 * ((2.5 - mean) ** 2 + math.log(2 * math.pi)) for mean in (0, 4, 3)]
    assert classifier.decision_function([[2.5]])[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert classifier.predict([[2.5]], "all").tolist() == [2]


def test_a_class_described_as_a_seen_one_gets_its_gaussian() -> None:
    attributes = TOY.attributes.clone()
    attributes[1] = attributes[3]
    classifier = GFZSL(ridge=1e-10).fit(TOY.train, TOY.train_labels, attributes)
    torch.testing.assert_close(classifier.means_[1], classifier.means_[3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(classifier.variances_[1], classifier.variances_[3], rtol=1e-5, atol=1e-6)


def test_one_round_of_expectation_maximisation_against_loops() -> None:
    x, means, variances = torch.randn(9, 2).double(), torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.3
    r = torch.tensor(
        [
            [math.prod(norm.pdf(x[i, j], means[c, j], variances[c, j] ** 0.5) for j in range(2)) for c in range(3)]
            for i in range(9)
        ]
    )
    r = r / r.sum(1, keepdim=True)
    found = expectation_maximisation(x, means, variances, 1, 2.0)
    for c in range(3):
        total = r[:, c].sum() + 2
        for j in range(2):
            mean = (sum(r[i, c] * x[i, j] for i in range(9)) + 2 * means[c, j]) / total
            spread = (sum(r[i, c] * (x[i, j] - mean) ** 2 for i in range(9)) + 2 * variances[c, j]) / total
            assert found[0][c, j].item() == pytest.approx(mean.item(), rel=1e-6)
            assert found[1][c, j].item() == pytest.approx(spread.item(), rel=1e-6)


def test_expectation_maximisation_finds_the_clusters_and_no_class_dies() -> None:
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]]).double()
    x = centres.repeat_interleave(50, 0) + 0.5 * torch.randn(150, 2).double()
    start = centres + torch.tensor([1.0, -1.0]).double()
    means, variances = expectation_maximisation(x, start, torch.ones(3, 2).double(), 20, 1.0)
    torch.testing.assert_close(means, centres, atol=0.4, rtol=0)
    assert (variances - 0.25).abs().max() < 0.15
    far = torch.cat([centres, torch.tensor([[500.0, 500.0]]).double()])
    means, variances = expectation_maximisation(x, far, torch.ones(4, 2).double(), 5, 1.0)
    torch.testing.assert_close(means[3], far[3])
    assert variances.min() > 0
    with pytest.raises(ReuseError, match="prior must be above 0"):
        expectation_maximisation(x, far, torch.ones(4, 2).double(), 5, 0.0)


def test_refinement_changes_the_unseen_classes_alone_and_helps() -> None:
    plain, refined = (zeroshot_toys.fitted(name, TOY) for name in ("gfzsl", "gfzsl-transductive"))
    assert torch.equal(plain.means_[TOY.seen], refined.means_[TOY.seen])
    assert not torch.isclose(plain.means_[TOY.unseen], refined.means_[TOY.unseen]).all()
    assert refined.score(TOY.new, TOY.new_labels) >= plain.score(TOY.new, TOY.new_labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ridge": 0.0}, "ridge must be above 0"), ({"floor": 0.0}, "floor and width"), ({"kernel": "cubic"}, "kernel")],
)
def test_options_of_gfzsl_that_do_not_do_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        GFZSL(**options).fit(TOY.train, TOY.train_labels, TOY.attributes)
    assert TransductiveGFZSL.transductive and not GFZSL.transductive
