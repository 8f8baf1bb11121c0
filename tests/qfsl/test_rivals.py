"""The methods before QFSL: by hand, at the minimum of their objectives, against plain formulas and slow loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from torch import Tensor
from torch.distributions import Normal

from reuselib import run
from reuselib.qfsl import metrics
from reuselib.qfsl.rivals import gaussians, linear, stacking, trained
from reuselib.qfsl.rivals.gaussians import expectation_maximisation, kernel_matrix, log_density
from reuselib.qfsl.rivals.linear import eszsl, sae
from reuselib.qfsl.rivals.probabilistic import attribute_scores, binarised, logistic
from reuselib.qfsl.rivals.stacking import calibrated, choose_shift, curve

TOY = zeroshot_toys.toy()
PLACES = torch.searchsorted(TOY.seen, TOY.train_labels)
TRAIN, NEW, A = TOY.train.double(), TOY.new.double(), TOY.attributes.double()
RAW: dict[str, Any] = {"standardise": False, "codes": "raw"}


def problem(images: int = 30, width: int = 5, classes: int = 4, attributes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    features, codes = torch.randn(images, width).double(), torch.randn(classes, attributes).double()
    return features, torch.arange(images) % classes, codes


def slope(loss: Tensor, *at: Tensor) -> float:
    """The largest entry of the gradients: near 0 at the minimum of a convex function."""
    return max(float(gradient.abs().max()) for gradient in torch.autograd.grad(loss, at))


# --- ESZSL, SAE, SynC -------------------------------------------------------------------------------------------------


def test_eszsl_is_the_minimum_of_its_objective() -> None:
    features, places, codes = problem()
    w = eszsl(features, places, codes, 2.0, 0.5).requires_grad_()
    fitted, by_class, by_image = features @ w @ codes.T - (2 * F.one_hot(places) - 1), w @ codes.T, features @ w
    loss = (fitted**2).sum() + 2 * (by_class**2).sum() + 0.5 * (by_image**2).sum() + 2 * 0.5 * (w**2).sum()
    assert slope(loss, w) < 1e-9


@pytest.mark.parametrize(("width", "classes", "attributes"), [(5, 4, 3), (5, 4, 6), (40, 3, 9)])
def test_sae_is_the_minimum_of_its_objective_even_where_it_has_many(width: int, classes: int, attributes: int) -> None:
    features, places, codes = problem(30, width, classes, attributes)
    z = codes[places]
    w = sae(features, z, 0.7).requires_grad_()
    assert slope(((features - z @ w) ** 2).sum() + 0.7 * ((features @ w.T - z) ** 2).sum(), w) < 1e-8


def images(few: bool) -> tuple[Tensor, Tensor]:
    """Features and the places of their labels: all, or fewer images than features."""
    if not few:
        return TRAIN, PLACES
    some = torch.cat([(PLACES == place).nonzero()[:1].flatten() for place in PLACES.unique()])
    wide = torch.cat([TRAIN[some], TRAIN[some].square(), torch.randn(len(some), len(some)).double()], 1)
    assert wide.shape[1] > len(wide)
    return wide, PLACES[some]


@pytest.mark.parametrize("few", [False, True])
def test_synthesised_classifiers_are_the_minimum_of_their_objective(few: bool) -> None:
    codes, bases = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double()
    expected = torch.tensor([[0.0, -1], [-25, -18]]).double().div(4).softmax(1)
    torch.testing.assert_close(linear.similarities(codes, bases, 2.0), expected)
    s = linear.similarities(A, A[TOY.seen], 1.0)[TOY.seen]
    x, places = images(few)
    v = linear.base_classifiers(x, places, s, [0.05])[0].requires_grad_()
    w, signs = s @ v, 2 * F.one_hot(places, len(s)) - 1
    hinge = (1 - signs * (x @ w.T)).relu() ** 2
    assert slope(hinge.sum() / len(x) + 0.05 / 2 * (w**2).sum(), v) < 1e-5


def test_scores_of_linear_classifiers() -> None:
    scores = {name: zeroshot_toys.fitted(name, TOY, **RAW) for name in ("eszsl", "sae", "sae-to-features", "sync")}
    w, codes = sae(TOY.train, A[TOY.train_labels], 1.0), scores["sync"].bases_
    expected = {
        "eszsl": NEW @ eszsl(TOY.train, PLACES, TOY.attributes[TOY.seen], 100.0, 1.0) @ A.T,
        "sae": F.cosine_similarity((NEW @ w.T).unsqueeze(1), A, dim=2),
        "sae-to-features": F.cosine_similarity(NEW.unsqueeze(1), A @ w, dim=2),
        "sync": NEW @ (linear.similarities(A, A[TOY.seen], 1.0) @ codes).T,
    }
    for name, plain in expected.items():
        torch.testing.assert_close(scores[name].decision_function(TOY.new), plain)


# --- DAP, IAP, ConSE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [False, True])
def test_logistic_classifiers_are_the_minimum_of_their_objective(few: bool) -> None:
    def attribute_by_attribute(z: Tensor, targets: Tensor) -> Tensor:
        return targets.shape[1] * F.binary_cross_entropy_with_logits(z, targets)

    x, places = images(few)
    for targets, loss in ((places, F.cross_entropy), (A[TOY.seen][places], attribute_by_attribute)):
        w, b = (each.requires_grad_() for each in logistic(x, targets, [0.01])[0])
        assert slope(loss(x @ w + b, targets) + 0.01 / 2 * (w**2).sum(), w, b) < 1e-5


def posterior(p: Tensor) -> Tensor:
    """``sum_j log p(a_j^k | x) - log p(a_j^k)`` of p(a_j = 1 | x), (n, m); not of attributes that all share."""
    prior = A[TOY.seen].mean(0, keepdim=True)
    told, known = (torch.where(A > 0, each.unsqueeze(1), 1 - each.unsqueeze(1)) for each in (p, prior))
    return (told / known).log()[:, :, ((prior > 0) & (prior < 1)).flatten()].sum(2)


def test_probabilistic_classifiers_against_plain_formulas() -> None:
    for name, options in {"dap": {}, "iap": {}, "conse": {"top": 3, "codes": "raw"}}.items():
        classifier = zeroshot_toys.fitted(name, TOY, standardise=False, penalty=0.05, **options)
        z = NEW @ classifier.weights_ + classifier.intercept_
        p = z.softmax(1)
        if name == "conse":
            p = p.where(p >= p.sort(1).values[:, -3:-2], 0)  # of the three likeliest classes
            expected = F.cosine_similarity((p @ A[TOY.seen]).unsqueeze(1), A, dim=2)
        else:
            expected = posterior(z.sigmoid() if name == "dap" else p @ A[TOY.seen])
        torch.testing.assert_close(classifier.decision_function(TOY.new), expected, rtol=1e-5, atol=1e-8)
        assert classifier.decision_function(1e6 * TOY.new).isfinite().all()


def test_attributes_are_cut_at_the_seen_mean_and_one_that_all_share_counts_nothing() -> None:
    a = torch.tensor([[0.1, 0.9], [0.3, 0.8], [0.25, 0.0]])
    assert binarised(a, torch.tensor([0, 1])).tolist() == [[0, 1], [1, 0], [1, 0]]
    binary = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    yes, no = torch.tensor([[0.9, 0.6]]).log(), torch.tensor([[0.1, 0.4]]).log()
    found = attribute_scores(yes, no, binary, torch.tensor([0, 1]))
    expected = [math.log(0.4 / 0.5), math.log(0.6 / 0.5), math.log(0.6 / 0.5)]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)


# --- GFZSL ------------------------------------------------------------------------------------------------------------


def test_gaussians_and_kernels() -> None:
    found = gaussians.gaussians(torch.tensor([[1.0, 5.0], [3.0, 5.0], [10.0, 0.0]]), torch.tensor([0, 0, 1]), 2)
    assert found[0].tolist() == [[2, 5], [10, 0]]
    assert found[1].flatten().tolist() == pytest.approx([1.01, 0.01, 0.01, 0.01])
    x, means, variances = torch.randn(5, 3).double(), torch.randn(2, 3).double(), torch.rand(2, 3).double() + 0.2
    densities = Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(2)
    torch.testing.assert_close(log_density(x, means, variances), densities)
    expected = (-((x.unsqueeze(1) - means) ** 2).sum(2) / 2).exp()
    torch.testing.assert_close(kernel_matrix(x, means, "rbf"), expected)


def test_gfzsl_by_hand() -> None:
    # One feature, one attribute. Seen: attribute 0 at mean 0, attribute 1 at mean 4; both with variance 1.
    features, labels = torch.tensor([[-1.0], [1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    classifier = gaussians.GFZSL(kernel="linear", ridge=1e-9, **RAW)
    classifier.fit(features, labels, torch.tensor([[0.0], [1.0], [0.5]]))
    # Targets less their mean are -2 and 2; through the origin, 2 for each unit of the attribute: 2 + 2 * 0.5.
    assert classifier.means_.flatten().tolist() == pytest.approx([0, 4, 3], abs=1e-6)
    assert classifier.variances_.flatten().tolist() == pytest.approx([1.01] * 3, abs=1e-6)


def test_expectation_maximisation_is_its_formula_and_no_class_dies() -> None:
    x, means, variances = torch.randn(9, 2).double(), torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.3
    density = Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(2).exp()
    r = (density / density.sum(1, keepdim=True)).unsqueeze(2)
    found, total = expectation_maximisation(x, means, variances, 1, 2.0), r.sum(0) + 2
    expected = ((r * x.unsqueeze(1)).sum(0) + 2 * means) / total
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], ((r * (x.unsqueeze(1) - expected) ** 2).sum(0) + 2 * variances) / total)
    far = torch.cat([means, means + 500])  # a class without images keeps its Gaussian
    torch.testing.assert_close(expectation_maximisation(x, far, torch.ones(6, 2).double())[0][3:], far[3:])
    plain, refined = (zeroshot_toys.fitted(name, TOY) for name in ("gfzsl", "gfzsl-transductive"))
    assert torch.equal(plain.means_[TOY.seen], refined.means_[TOY.seen])
    assert not torch.isclose(plain.means_[TOY.unseen], refined.means_[TOY.unseen]).all()


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
def test_ranking_losses_against_loops_and_training_by_them_is_sgd_over_the_seen_classes(name: str) -> None:
    s, y = torch.randn(60, 7).requires_grad_(), torch.arange(60) % 7
    values, gradients = zip(*map(slow_ranking, [name] * 60, s.tolist(), y.tolist()), strict=True)
    loss = RANKING[name](s, y)
    assert loss.tolist() == pytest.approx(values, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), s)[0], torch.tensor(gradients))
    assert not RANKING[name](s.detach() + 20 * F.one_hot(y, 7), y).any()
    found = zeroshot_toys.fitted(name, TOY, **RAW, steps=4, lr=0.02, batch=6, seed=2, weight_decay=0.1)
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


def test_compatibilities_and_regressions_against_loops() -> None:
    codes, x, y = torch.randn(9, 7), torch.randn(6, 5), torch.arange(6)
    net = trained.Compatibility(5, codes, 3)
    torch.testing.assert_close(net(x), torch.stack([x @ w @ codes.T for w in net.weight]).amax(0))
    net(x)[0, 2].backward()  # only the best map gets a gradient
    moved = net.weight.grad.flatten(1).abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [(x[0] @ net.weight @ codes[2]).argmax().item()]
    net = trained.Regression(5, 4, codes)
    expected = torch.stack([-((net.layers(x) - a) ** 2).sum(1) for a in codes], 1)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(trained.distance_loss(net(x), y), -expected[torch.arange(6), y])


# --- calibrated stacking ----------------------------------------------------------------------------------------------

NOISY = zeroshot_toys.toy(noise=1.0, images=12)
KINDS = NOISY.seen, NOISY.unseen


def at(sides: tuple[Tensor, ...], shift: float, kinds: tuple[Tensor, Tensor] = KINDS) -> dict[str, float]:
    """Both protocols, a constant off the seen scores, of scores and labels of seen and of unseen images."""
    a, y, b, z = sides
    return metrics.report(calibrated(a, kinds[0], shift), y, calibrated(b, kinds[0], shift), z, *kinds)


def test_the_curve_is_what_every_constant_gives() -> None:
    s = torch.randn(4, 9)
    torch.testing.assert_close(calibrated(s, NOISY.seen, 0.7), s - 0.7 * torch.isin(torch.arange(9), NOISY.seen))
    ask = zeroshot_toys.fitted("eszsl", NOISY, gamma=1.0).decision_function
    sides = ask(NOISY.test), NOISY.test_labels, ask(NOISY.new), NOISY.new_labels
    found = curve(*sides, *KINDS)
    for index in range(0, len(found.shifts), 5):
        expected = at(sides, float(found.shifts[index]))
        for name in ("seen", "unseen", "harmonic"):
            assert getattr(found, name)[index].item() == pytest.approx(expected[name], abs=1e-12)
    shift, harmonic = found.best
    assert at(sides, shift)["harmonic"] == pytest.approx(harmonic) == float(found.harmonic.max())
    some = torch.linspace(float(found.shifts[0]) - 2, float(found.shifts[-1]) + 2, 41, dtype=torch.float64)
    expected = torch.tensor([at(sides, float(each))["harmonic"] for each in some], dtype=torch.float64)
    torch.testing.assert_close(found.harmonic_at(some), expected)


def test_the_constant_is_chosen_on_seen_classes_and_the_best_of_many() -> None:
    given, classifier = (NOISY.train, NOISY.train_labels), linear.ESZSL(gamma=1.0)
    shift = choose_shift(classifier, *given, NOISY.attributes, folds=3, seed=1)
    hidden = NOISY.attributes.index_fill(0, NOISY.unseen, 0.3)
    assert choose_shift(classifier, *given, hidden, folds=3, seed=1) == shift
    totals = dict.fromkeys([*torch.linspace(-2, 2, 41).tolist(), shift], 0.0)
    for fold in stacking.class_wise(*given, NOISY.attributes, 3, seed=1):
        fitted = fold.fit(classifier)
        sides = [each for x, y in (fold.seen, fold.unseen) for each in (fitted.decision_function(x), y)]
        for constant in totals:
            found = at(sides, constant, (torch.from_numpy(fitted.seen_), torch.from_numpy(fitted.unseen_)))
            totals[constant] += found["harmonic"]
    assert totals[shift] == pytest.approx(max(totals.values()))
