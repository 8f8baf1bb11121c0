"""The methods before QFSL: by hand, against scikit-learn and SciPy, against autograd and slow loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from scipy.linalg import solve_sylvester
from scipy.stats import norm
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

from reuselib import run
from reuselib.qfsl import metrics
from reuselib.qfsl.rivals import gaussians, linear, stacking, trained
from reuselib.qfsl.rivals.gaussians import expectation_maximisation, kernel_matrix, log_density
from reuselib.qfsl.rivals.linear import eszsl, sae
from reuselib.qfsl.rivals.probabilistic import attribute_scores, binarised, logistic
from reuselib.qfsl.rivals.stacking import calibrated, choose_shift, curve
from reuselib.qfsl.samples import solved

TOY = zeroshot_toys.toy()
PLACES = torch.searchsorted(TOY.seen, TOY.train_labels)
RAW: dict[str, Any] = {"standardise": False, "codes": "raw"}


def problem(images: int = 30, width: int = 5, classes: int = 4, attributes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    features, codes = torch.randn(images, width).double(), torch.randn(classes, attributes).double()
    return features, torch.arange(images) % classes, codes


# --- ESZSL, SAE, SynC -------------------------------------------------------------------------------------------------


def test_eszsl_is_the_published_formula_and_the_minimum_of_its_objective() -> None:
    features, places, codes = problem()
    x, a = features.numpy().T, codes.numpy().T  # columns are images and classes, as published
    y = np.where(np.arange(4) == places.numpy()[:, None], 1.0, -1.0)
    left, right = np.linalg.inv(x @ x.T + 2.0 * np.eye(5)), np.linalg.inv(a @ a.T + 0.5 * np.eye(3))
    w = eszsl(features, places, codes, 2.0, 0.5)
    np.testing.assert_allclose(w.numpy(), left @ x @ y @ a.T @ right, atol=1e-10)
    w.requires_grad_()
    fitted, by_class, by_image = features @ w @ codes.T - torch.from_numpy(y), w @ codes.T, features @ w
    loss = (fitted**2).sum() + 2 * (by_class**2).sum() + 0.5 * (by_image**2).sum() + 2 * 0.5 * (w**2).sum()
    assert torch.autograd.grad(loss, w)[0].abs().max() < 1e-9


@pytest.mark.parametrize(("width", "classes", "attributes"), [(5, 4, 3), (5, 4, 6), (40, 3, 9)])
def test_sae_solves_its_equation_even_where_it_has_many_solutions(width: int, classes: int, attributes: int) -> None:
    features, places, codes = problem(30, width, classes, attributes)
    z, lam = codes[places], 0.7
    w = sae(features, z, lam)
    if attributes == 3:
        expected = solve_sylvester((z.T @ z).numpy(), lam * (features.T @ features).numpy(), 1.7 * (z.T @ features))
        np.testing.assert_allclose(w.numpy(), expected, atol=1e-9)
    w.requires_grad_()
    loss = ((features - z @ w) ** 2).sum() + lam * ((features @ w.T - z) ** 2).sum()
    assert torch.autograd.grad(loss, w)[0].abs().max() < 1e-8


def test_scores_of_linear_classifiers() -> None:
    w = eszsl(TOY.train, PLACES, TOY.attributes[TOY.seen], 100.0, 1.0)
    scores = zeroshot_toys.fitted("eszsl", TOY, **RAW).decision_function(TOY.new)
    torch.testing.assert_close(scores, TOY.new.double() @ w @ TOY.attributes.double().T)
    w = sae(TOY.train, TOY.attributes[TOY.train_labels], 1.0)
    for name, pairs in {"sae": lambda x, a: (w @ x, a), "sae-to-features": lambda x, a: (x, w.T @ a)}.items():
        scores = zeroshot_toys.fitted(name, TOY, **RAW).decision_function(TOY.new)
        for i, k in ((0, 0), (3, 5), (11, 8)):
            x, a = pairs(TOY.new[i].double(), TOY.attributes[k].double())
            assert scores[i, k].item() == pytest.approx(float(x @ a / (x.norm() * a.norm())), abs=1e-9)
    sync = zeroshot_toys.fitted("sync", TOY, **RAW, width=1.5)
    s = linear.similarities(TOY.attributes.double(), TOY.attributes[TOY.seen].double(), 1.5)
    torch.testing.assert_close(sync.decision_function(TOY.new), TOY.new.double() @ (s @ sync.bases_).T)


def test_synthesised_classifiers() -> None:
    codes, bases = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double()
    found = linear.similarities(codes, bases, 2.0)
    for c, (first, second) in enumerate([(0, 1), (25, 18)]):
        weights = math.exp(-first / 4), math.exp(-second / 4)
        assert found[c].tolist() == pytest.approx([weight / sum(weights) for weight in weights])
    x, penalty = TOY.train.double(), 0.05
    v = linear.base_classifiers(TOY.train, PLACES, torch.eye(6), penalty)  # a narrow mixture: plain support vectors
    for c in range(6):
        svm = LinearSVC(C=1 / (penalty * len(x)), fit_intercept=False, dual=False, tol=1e-10, max_iter=100_000)
        svm.fit(x.numpy(), np.where(PLACES.numpy() == c, 1, -1))
        np.testing.assert_allclose(v[c].numpy(), svm.coef_[0], atol=1e-4)
    s = linear.similarities(TOY.attributes.double(), TOY.attributes[TOY.seen].double(), 1.0)[TOY.seen]
    v = linear.base_classifiers(TOY.train, PLACES, s, penalty).requires_grad_()
    w = s @ v
    loss = linear.squared_hinge(x @ w.T, PLACES).mean() + penalty / 2 * (w**2).sum()
    assert torch.autograd.grad(loss, v)[0].abs().max() < 1e-5


# --- DAP, IAP, ConSE --------------------------------------------------------------------------------------------------


def test_linear_classifiers_are_scikit_learns() -> None:
    def reference(targets: Tensor) -> LogisticRegression:
        model = LogisticRegression(C=1 / (0.01 * len(TOY.train)), tol=1e-10, max_iter=10_000)
        return model.fit(TOY.train.double().numpy(), targets.numpy())

    weights, intercept = logistic(TOY.train, PLACES, 0.01)
    np.testing.assert_allclose(weights.T.numpy(), reference(PLACES).coef_, atol=1e-3)
    targets = TOY.attributes[TOY.train_labels]
    weights, intercept = logistic(TOY.train, targets, 0.01)
    for j in range(targets.shape[1]):
        expected = reference(targets[:, j])
        np.testing.assert_allclose(weights[:, j].numpy(), expected.coef_[0], atol=1e-3)
        assert intercept[j].item() == pytest.approx(expected.intercept_[0], abs=1e-3)


def slow_posterior(p: list[float]) -> list[float]:
    """``sum_j log p(a_j^k | x) - log p(a_j^k)``, attribute by attribute."""
    binary, seen, scores = TOY.attributes.tolist(), TOY.seen.tolist(), []
    for row in binary:
        total = 0.0
        for j, value in enumerate(row):
            prior = sum(binary[c][j] for c in seen) / len(seen)
            if 0 < prior < 1:
                total += math.log(p[j] if value else 1 - p[j]) - math.log(prior if value else 1 - prior)
        scores.append(total)
    return scores


def test_probabilistic_classifiers_against_loops() -> None:
    seen, a = TOY.seen.tolist(), TOY.attributes.double()
    for name, options in {"dap": {}, "iap": {}, "conse": {"top": 3, "codes": "raw"}}.items():
        classifier = zeroshot_toys.fitted(name, TOY, standardise=False, penalty=0.05, **options)
        scores = classifier.decision_function(TOY.new)
        z = TOY.new.double() @ classifier.weights_ + classifier.intercept_
        for i in (0, 7, 20):
            classes = z[i].softmax(0).tolist()
            if name == "dap":
                expected = slow_posterior(z[i].sigmoid().tolist())
            elif name == "iap":
                shares = [[share * value for value in a[c].tolist()] for share, c in zip(classes, seen, strict=True)]
                expected = slow_posterior([sum(column) for column in zip(*shares, strict=True)])
            else:
                best = sorted(range(6), key=lambda k: -classes[k])[:3]
                e = sum(classes[k] / sum(classes[j] for j in best) * a[seen[k]] for k in best)
                expected = [float(e @ row / (e.norm() * row.norm())) for row in a]
            assert scores[i].tolist() == pytest.approx(expected, rel=1e-5)
        assert classifier.decision_function(1e6 * TOY.new).isfinite().all()
    plain = zeroshot_toys.fitted("conse", TOY, top=1)  # of one class alone: the nearest code
    assert torch.equal(plain.predict(TOY.test, "seen"), plain.predict(TOY.test, "all"))


def test_attributes_are_cut_at_the_seen_mean_and_one_that_all_share_counts_nothing() -> None:
    a = torch.tensor([[0.1, 0.9], [0.3, 0.8], [0.25, 0.0]])
    assert binarised(a, torch.tensor([0, 1])).tolist() == [[0, 1], [1, 0], [1, 0]]
    binary = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    yes, no = torch.tensor([[0.9, 0.6]]).log(), torch.tensor([[0.1, 0.4]]).log()
    found = attribute_scores(yes, no, binary, torch.tensor([0, 1]))
    expected = [math.log(0.4 / 0.5), math.log(0.6 / 0.5), math.log(0.6 / 0.5)]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)


# --- GFZSL ------------------------------------------------------------------------------------------------------------


def test_gaussians_and_kernel_ridge_are_scipys_and_scikit_learns() -> None:
    found = gaussians.gaussians(torch.tensor([[1.0, 5.0], [3.0, 5.0], [10.0, 0.0]]), torch.tensor([0, 0, 1]), 2)
    assert found[0].tolist() == [[2, 5], [10, 0]]
    assert found[1].flatten().tolist() == pytest.approx([1.01, 0.01, 0.01, 0.01])
    x, means, variances = torch.randn(5, 3).double(), torch.randn(2, 3).double(), torch.rand(2, 3).double() + 0.2
    densities = [[sum(norm.logpdf(x[i], means[c], variances[c].sqrt())) for c in range(2)] for i in range(5)]
    np.testing.assert_allclose(log_density(x, means, variances).numpy(), densities, atol=1e-9)
    codes, new, targets = torch.randn(6, 4).double(), torch.randn(3, 4).double(), torch.randn(6, 2).double()
    for kernel, gamma in {"rbf": {"gamma": 0.5}, "linear": {}}.items():
        model = KernelRidge(alpha=0.4, kernel=kernel, **gamma).fit(codes.numpy(), targets.numpy())
        alpha = solved(kernel_matrix(codes, codes, kernel), targets, 0.4)
        predicted = kernel_matrix(new, codes, kernel) @ alpha
        np.testing.assert_allclose(predicted.numpy(), model.predict(new.numpy()), atol=1e-9)


def test_gfzsl_by_hand() -> None:
    # One feature, one attribute. Seen: attribute 0 at mean 0, attribute 1 at mean 4; both with variance 1.
    features, labels = torch.tensor([[-1.0], [1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    classifier = gaussians.GFZSL(kernel="linear", ridge=1e-9, **RAW)
    classifier.fit(features, labels, torch.tensor([[0.0], [1.0], [0.5]]))
    # Targets less their mean are -2 and 2; through the origin, 2 for each unit of the attribute: 2 + 2 * 0.5.
    assert classifier.means_.flatten().tolist() == pytest.approx([0, 4, 3], abs=1e-6)
    assert classifier.variances_.flatten().tolist() == pytest.approx([1.01] * 3, abs=1e-6)


def test_expectation_maximisation_against_loops_and_no_class_dies() -> None:
    x, means, variances = torch.randn(9, 2).double(), torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.3
    density = torch.tensor([[norm.pdf(row, means[c], variances[c] ** 0.5).prod() for c in range(3)] for row in x])
    r = (density / density.sum(1, keepdim=True)).unsqueeze(2)
    found, total = expectation_maximisation(x, means, variances, 1, 2.0), r.sum(0) + 2
    expected = ((r * x.unsqueeze(1)).sum(0) + 2 * means) / total
    torch.testing.assert_close(found[0], expected)
    spread = (r * (x.unsqueeze(1) - expected) ** 2).sum(0)
    torch.testing.assert_close(found[1], (spread + 2 * variances) / total)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [500.0, 500.0]]).double()
    x = centres[:3].repeat_interleave(50, 0) + 0.5 * torch.randn(150, 2).double()
    means, variances = expectation_maximisation(x, centres, torch.ones(4, 2).double(), 20)
    torch.testing.assert_close(means, centres, atol=0.4, rtol=0)
    assert variances.min() > 0 and torch.equal(means[3], centres[3])


def test_refinement_changes_the_unseen_classes_alone() -> None:
    plain, refined = (zeroshot_toys.fitted(name, TOY) for name in ("gfzsl", "gfzsl-transductive"))
    assert torch.equal(plain.means_[TOY.seen], refined.means_[TOY.seen])
    assert not torch.isclose(plain.means_[TOY.unseen], refined.means_[TOY.unseen]).all()
    assert refined.score(TOY.new, TOY.new_labels) >= plain.score(TOY.new, TOY.new_labels)


# --- ranking and regression -------------------------------------------------------------------------------------------

RANKING = {"devise": trained.devise_loss, "sje": trained.sje_loss, "ale": trained.ale_loss}


def slow_ranking(name: str, row: list[float], label: int) -> tuple[float, list[float]]:
    """A ranking loss of one image, and its gradient."""
    wrong = [k for k in range(len(row)) if k != label and 1 + row[k] - row[label] > 0]
    if name == "sje":
        wrong = sorted(wrong, key=lambda k: -row[k])[:1]
    factor = sum(1 / r for r in range(1, len(wrong) + 1)) / len(wrong) if name == "ale" and wrong else 1.0
    gradient = [factor if k in wrong else -factor * len(wrong) if k == label else 0.0 for k in range(len(row))]
    return factor * sum(1 + row[k] - row[label] for k in wrong), gradient


@pytest.mark.parametrize("name", RANKING)
def test_ranking_losses_and_their_gradients_against_loops(name: str) -> None:
    s, y = torch.randn(60, 7).requires_grad_(), torch.arange(60) % 7
    found = RANKING[name](s, y)
    values, gradients = zip(*map(slow_ranking, [name] * 60, s.tolist(), y.tolist()), strict=True)
    assert found.tolist() == pytest.approx(values, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), s)[0], torch.tensor(gradients))
    right = s.detach() + 20 * F.one_hot(y, 7)
    assert not RANKING[name](right, y).any()


def test_compatibilities_and_regressions_against_loops() -> None:
    codes, x, y = torch.randn(9, 7), torch.randn(6, 5), torch.arange(6)
    net = trained.Compatibility(5, codes, 3)
    expected = torch.stack([x @ w @ codes.T for w in net.weight]).amax(0)
    torch.testing.assert_close(net(x), expected)
    net(x)[0, 2].backward()  # only the best map gets a gradient
    moved = net.weight.grad.flatten(1).abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [(x[0] @ net.weight @ codes[2]).argmax().item()]
    assert [name for name, _ in net.named_parameters()] == ["weight"]
    net = trained.Regression(5, 4, codes)
    expected = torch.stack([-((net.layers(x) - a) ** 2).sum(1) for a in codes], 1)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(trained.distance_loss(net(x), y), -expected[torch.arange(6), y])


@pytest.mark.parametrize("name", RANKING)
def test_training_is_sgd_on_the_ranking_loss_over_the_seen_classes(name: str) -> None:
    options = {"steps": 4, "lr": 0.02, "batch": 6, "seed": 2, "weight_decay": 0.1}
    found = zeroshot_toys.fitted(name, TOY, **RAW, **options)
    with run.seeded(2):
        w = (0.01 * torch.randn(9, 8)).requires_grad_()
    optimizer = torch.optim.SGD([w], 0.02, momentum=0.9, weight_decay=0.1)
    random = torch.Generator().manual_seed(2)
    for _ in range(4):
        index = torch.randint(len(TOY.train), (6,), generator=random)
        optimizer.zero_grad()
        RANKING[name](TOY.train[index] @ w @ TOY.attributes[TOY.seen].T, PLACES[index]).mean().backward()
        optimizer.step()
    torch.testing.assert_close(found.network_.weight[0], w, rtol=1e-4, atol=1e-6)


# --- calibrated stacking ----------------------------------------------------------------------------------------------

NOISY = zeroshot_toys.toy(noise=1.0, images=12)
KINDS = NOISY.seen, NOISY.unseen


@pytest.fixture(scope="module")
def sides() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores and labels of images of seen and of unseen classes."""
    ask = zeroshot_toys.fitted("eszsl", NOISY, gamma=1.0).decision_function
    return ask(NOISY.test), NOISY.test_labels, ask(NOISY.new), NOISY.new_labels


def at(sides: tuple[Tensor, Tensor, Tensor, Tensor], shift: float) -> dict[str, float]:
    a, y, b, z = sides
    return metrics.report(calibrated(a, NOISY.seen, shift), y, calibrated(b, NOISY.seen, shift), z, *KINDS)


def test_a_constant_lowers_the_seen_classes_alone(sides: Any) -> None:
    s = torch.randn(4, 9)
    torch.testing.assert_close(calibrated(s, NOISY.seen, 0.7), s - 0.7 * torch.isin(torch.arange(9), NOISY.seen))
    plain, far, back = (at(sides, shift) for shift in (0.0, 1e6, -1e6))
    assert far["unseen"] == far["conventional"] == plain["conventional"] and far["seen"] == 0
    assert back["unseen"] == 0 and back["unseen_as_seen"] == 1


def test_the_curve_is_what_every_constant_gives(sides: Any) -> None:
    found = curve(*sides, *KINDS)
    for index in range(0, len(found.shifts), 5):
        expected = at(sides, float(found.shifts[index]))
        for name in ("seen", "unseen", "harmonic"):
            assert getattr(found, name)[index].item() == pytest.approx(expected[name], abs=1e-12)
    assert (found.seen.diff() <= 1e-12).all() and (found.unseen.diff() >= -1e-12).all()
    shift, harmonic = found.best
    assert at(sides, shift)["harmonic"] == pytest.approx(harmonic) and harmonic > at(sides, 0.0)["harmonic"]
    some = torch.linspace(float(found.shifts[0]) - 2, float(found.shifts[-1]) + 2, 41, dtype=torch.float64)
    expected = torch.tensor([at(sides, float(each))["harmonic"] for each in some], dtype=torch.float64)
    torch.testing.assert_close(found.harmonic_at(some), expected)


def test_the_area_by_hand() -> None:
    # Columns: one seen class, one unseen. Gaps: seen images 2 and 4, unseen ones 1 and 3; all right on their own side.
    scores, labels = torch.tensor([[[2.0, 0], [4, 0]], [[1.0, 0], [3, 0]]]), torch.tensor([[0, 0], [1, 1]])
    found = curve(scores[0], labels[0], scores[1], labels[1], torch.tensor([0]), torch.tensor([1]))
    assert found.shifts.tolist() == [0, 1.5, 2.5, 3.5, 5]
    assert found.seen.tolist() == [1, 1, 0.5, 0.5, 0] and found.unseen.tolist() == [0, 0.5, 0.5, 1, 1]
    assert found.area == pytest.approx(0.5 * 0.5 + 0.5 * 1) and found.best[1] == pytest.approx(2 / 3)


def test_the_constant_is_chosen_on_seen_classes_and_the_best_of_many() -> None:
    given = NOISY.train, NOISY.train_labels
    shift = choose_shift(linear.ESZSL(gamma=1.0), *given, NOISY.attributes, folds=3, seed=1)
    hidden = NOISY.attributes.index_fill(0, NOISY.unseen, 0.3)
    assert choose_shift(linear.ESZSL(gamma=1.0), *given, hidden, folds=3, seed=1) == shift
    totals = dict.fromkeys([*torch.linspace(-2, 2, 41).tolist(), shift], 0.0)
    for fold in stacking.class_wise(*given, NOISY.attributes, 3, seed=1):
        fitted = fold.fit(linear.ESZSL(gamma=1.0))
        scores = [fitted.decision_function(part[0]) for part in (fold.seen, fold.unseen)]
        kinds = torch.from_numpy(fitted.seen_), torch.from_numpy(fitted.unseen_)
        for g in totals:
            lowered = [calibrated(each, kinds[0], g) for each in scores]
            totals[g] += metrics.report(lowered[0], fold.seen[1], lowered[1], fold.unseen[1], *kinds)["harmonic"]
    assert totals[shift] == pytest.approx(max(totals.values()))
