"""Accuracies per class, harmonic means and the share of unseen images that are taken for seen ones, by hand."""

from __future__ import annotations

import pytest
import torch

from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.qfsl import metrics

SEEN, UNSEEN = torch.tensor([0, 2]), torch.tensor([1, 3])


def test_one_class_always_is_half_right_however_uneven_the_classes() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    predicted = torch.zeros(100, dtype=torch.int64)
    assert metrics.mean_class_accuracy(predicted, labels) == 0.5
    assert metrics.per_class_accuracy(predicted, labels).tolist() == [1, 0]


def test_accuracy_per_class_by_hand() -> None:
    labels, predicted = torch.tensor([3, 3, 3, 5, 5, 8]), torch.tensor([3, 5, 3, 5, 8, 3])
    assert metrics.per_class_accuracy(predicted, labels).tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert metrics.per_class_accuracy(predicted, labels, torch.tensor([5, 3])).tolist() == pytest.approx([1 / 2, 2 / 3])


def test_a_class_without_images_has_no_accuracy() -> None:
    one = torch.tensor([1])
    with pytest.raises(ReuseError, match="no images of some class"):
        metrics.per_class_accuracy(one, one, torch.tensor([1, 2]))
    with pytest.raises(ReuseError, match="no images"):
        metrics.per_class_accuracy(one[:0], one[:0])
    with pytest.raises(ShapeMismatch, match=r"answers \(1,\) and labels \(2,\)"):
        metrics.per_class_accuracy(one, torch.tensor([1, 2]))


def test_harmonic_mean() -> None:
    assert metrics.harmonic_mean(0.3, 0.3) == pytest.approx(0.3)
    assert metrics.harmonic_mean(0.7, 0.0) == metrics.harmonic_mean(0.0, 0.0) == 0
    assert metrics.harmonic_mean(0.662, 0.931) == pytest.approx(0.774, abs=5e-4)  # QFSL on AwA2


def test_candidates_are_all_that_there_is() -> None:
    s = torch.randn(50, 4)
    masked = s.clone()
    masked[:, SEEN] = -torch.inf
    assert torch.equal(metrics.predict_among(s, UNSEEN), masked.argmax(1))
    assert torch.equal(metrics.predict_among(s, torch.arange(4)), s.argmax(1))


def test_report_by_hand() -> None:
    # Columns 0 and 2 are seen, 1 and 3 are not.
    seen_scores = torch.tensor([[9.0, 0, 0, 0], [0, 9, 8, 0], [0, 0, 9, 0]])
    unseen_scores = torch.tensor([[9.0, 8, 0, 0], [0, 9, 0, 0], [0, 9, 0, 8], [0, 0, 9, 8], [9, 0, 0, 8]])
    found = metrics.report(
        seen_scores, torch.tensor([0, 0, 2]), unseen_scores, torch.tensor([1, 1, 3, 3, 3]), SEEN, UNSEEN
    )
    assert found["conventional"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["seen"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["unseen"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["harmonic"] == pytest.approx(2 * 0.75 * 0.25)
    assert found["unseen_as_seen"] == pytest.approx(3 / 5)
    assert found["largest_class"] == pytest.approx(3 / 5)


def test_what_is_right_among_all_is_right_among_the_unseen() -> None:
    s, labels = torch.randn(500, 4), UNSEEN[torch.randint(2, (500,))]
    among_all = metrics.predict_among(s, torch.arange(4)) == labels
    among_unseen = metrics.predict_among(s, UNSEEN) == labels
    assert (among_unseen | ~among_all).all() and among_unseen.sum() > among_all.sum()
    found = metrics.report(s, labels - 1, s, labels, SEEN, UNSEEN)
    assert found["conventional"] > found["unseen"]


def test_a_histogram_tells_of_a_collapse() -> None:
    assert metrics.histogram(torch.tensor([1, 1, 1, 3]), UNSEEN).tolist() == [0.75, 0.25]
    assert metrics.predicted_share(torch.tensor([1, 0, 2, 3]), SEEN) == 0.5


def test_scores_without_labels_are_refused() -> None:
    s, labels = torch.randn(3, 4), torch.tensor([1, 3])
    with pytest.raises(ShapeMismatch, match=r"not \(3, 4\) and \(2,\)"):
        metrics.report(s, labels, s[:2], labels, SEEN, UNSEEN)
