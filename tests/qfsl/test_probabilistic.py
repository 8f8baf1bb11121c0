"""DAP, IAP and ConSE against scikit-learn's classifiers and loops over classes and attributes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import zeroshot_toys
from sklearn.linear_model import LogisticRegression

from reuselib.errors import ReuseError
from reuselib.qfsl import ConSE, attribute_scores, binarised, logistic

TOY = zeroshot_toys.toy()
PLACES = torch.searchsorted(TOY.seen, TOY.train_labels)


def reference(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=1 / (penalty * len(TOY.train)), tol=1e-10, max_iter=10_000)


def test_the_softmax_classifier_is_scikit_learns() -> None:
    weights, intercept = logistic(TOY.train, PLACES, 0.01)
    expected = reference(0.01).fit(TOY.train.double().numpy(), PLACES.numpy())
    np.testing.assert_allclose(weights.T.numpy(), expected.coef_, atol=1e-3)
    found = (TOY.test.double() @ weights + intercept).softmax(1)
    np.testing.assert_allclose(found.numpy(), expected.predict_proba(TOY.test.double().numpy()), atol=1e-3)


def test_the_attribute_classifiers_are_scikit_learns_one_by_one() -> None:
    targets = TOY.attributes[TOY.train_labels]
    weights, intercept = logistic(TOY.train, targets, 0.01)
    for j in range(targets.shape[1]):
        expected = reference(0.01).fit(TOY.train.double().numpy(), targets[:, j].numpy())
        np.testing.assert_allclose(weights[:, j].numpy(), expected.coef_[0], atol=1e-3)
        assert intercept[j].item() == pytest.approx(expected.intercept_[0], abs=1e-3)


def test_the_classifiers_are_at_a_minimum() -> None:
    x, targets = TOY.train.double(), TOY.attributes[TOY.train_labels].double()
    weights, intercept = logistic(TOY.train, targets, 0.01)
    error = (x @ weights + intercept).sigmoid() - targets
    assert error.mean(0).abs().max() < 1e-6
    assert (x.T @ error / len(x) + 0.01 * weights).abs().max() < 1e-6
    weights, intercept = logistic(TOY.train, PLACES, 0.01)
    error = (x @ weights + intercept).softmax(1) - torch.eye(6)[PLACES]
    assert error.mean(0).abs().max() < 1e-6
    assert (x.T @ error / len(x) + 0.01 * weights).abs().max() < 1e-6


def slow_posterior(p: list[float], binary: list[list[float]], seen: list[int]) -> list[float]:
    """``sum_j log p(a_j^k | x) - log p(a_j^k)``, attribute by attribute."""
    scores = []
    for row in binary:
        total = 0.0
        for j, value in enumerate(row):
            prior = sum(binary[c][j] for c in seen) / len(seen)
            if 0 < prior < 1:
                total += math.log(p[j] if value else 1 - p[j]) - math.log(prior if value else 1 - prior)
        scores.append(total)
    return scores


def test_dap_against_loops() -> None:
    classifier = zeroshot_toys.fitted("dap", TOY, scaling="none", penalty=0.05)
    scores = classifier.decision_function(TOY.new)
    p = torch.sigmoid(TOY.new.double() @ classifier.weights_ + classifier.intercept_)
    for i in (0, 7, 20):
        expected = slow_posterior(p[i].tolist(), TOY.attributes.tolist(), TOY.seen.tolist())
        assert scores[i].tolist() == pytest.approx(expected, rel=1e-6)


def test_iap_against_loops() -> None:
    classifier = zeroshot_toys.fitted("iap", TOY, scaling="none", penalty=0.05)
    scores = classifier.decision_function(TOY.new)
    classes = (TOY.new.double() @ classifier.weights_ + classifier.intercept_).softmax(1).tolist()
    for i in (0, 7, 20):
        p = [
            sum(share * TOY.attributes[c, j].item() for share, c in zip(classes[i], TOY.seen.tolist(), strict=True))
            for j in range(zeroshot_toys.ATTRIBUTES)
        ]
        expected = slow_posterior(p, TOY.attributes.tolist(), TOY.seen.tolist())
        assert scores[i].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("top", [1, 3, 10])
def test_conse_against_loops(top: int) -> None:
    classifier = zeroshot_toys.fitted("conse", TOY, scaling="none", codes="raw", top=top)
    scores = classifier.decision_function(TOY.new)
    classes = (TOY.new.double() @ classifier.weights_ + classifier.intercept_).softmax(1).tolist()
    for i in (0, 7, 20):
        best = sorted(range(6), key=lambda k: -classes[i][k])[:top]
        total = sum(classes[i][k] for k in best)
        e = sum(classes[i][k] / total * TOY.attributes[TOY.seen[k]].double() for k in best)
        expected = [float(e @ a / (e.norm() * a.norm())) for a in TOY.attributes.double()]
        assert scores[i].tolist() == pytest.approx(expected, rel=1e-6)


def test_conse_of_one_class_gives_the_nearest_code() -> None:
    classifier = zeroshot_toys.fitted("conse", TOY, top=1)
    seen = classifier.predict(TOY.test, "seen")
    assert torch.equal(seen, classifier.predict(TOY.test, "all"))


def test_an_attribute_that_all_seen_classes_share_counts_nothing() -> None:
    binary = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    yes = torch.tensor([[0.9, 0.6]]).log()
    no = torch.tensor([[0.1, 0.4]]).log()
    found = attribute_scores(yes, no, binary, torch.tensor([0, 1]))
    expected = [math.log(0.4 / 0.5), math.log(0.6 / 0.5), math.log(0.6 / 0.5)]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_attributes_are_cut_at_the_mean_of_the_seen_classes_or_at_a_threshold() -> None:
    a = torch.tensor([[0.1, 0.9], [0.3, 0.8], [0.25, 0.0]])
    assert binarised(a, torch.tensor([0, 1])).tolist() == [[0, 1], [1, 0], [1, 0]]
    assert binarised(a, torch.tensor([0, 1]), 0.5).tolist() == [[0, 1], [0, 1], [0, 0]]


def test_certain_classes_give_finite_scores() -> None:
    for name in ("dap", "iap", "conse"):
        classifier = zeroshot_toys.fitted(name, TOY)
        assert classifier.decision_function(1e6 * TOY.new).isfinite().all()


def test_options_that_leave_no_classifier_are_refused() -> None:
    with pytest.raises(ReuseError, match="penalty must be above 0"):
        logistic(TOY.train, PLACES, 0.0)
    with pytest.raises(ReuseError, match="top=0"):
        ConSE(top=0).fit(TOY.train, TOY.train_labels, TOY.attributes)
