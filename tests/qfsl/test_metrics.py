"""Accuracies per class, harmonic means and the share of unseen images that are taken for seen ones, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reuselib.errors import BadValue, NonFinite, ReuseError, ShapeMismatch
from reuselib.qfsl import metrics
from reuselib.qfsl.rivals.stacking import curve

SEEN, UNSEEN = torch.tensor([0, 2]), torch.tensor([1, 3])


def test_accuracy_per_class_counts_every_class_alike() -> None:
    labels, predicted = torch.tensor([3, 3, 3, 5, 5, 8]), torch.tensor([3, 5, 3, 5, 8, 3])
    assert metrics.per_class_accuracy(predicted, labels).tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert metrics.per_class_accuracy(predicted, labels, torch.tensor([5, 3])).tolist() == pytest.approx([1 / 2, 2 / 3])
    uneven = torch.tensor([0] * 90 + [1] * 10)
    assert metrics.mean_class_accuracy(torch.zeros_like(uneven), uneven) == 0.5


def test_harmonic_mean() -> None:
    assert metrics.harmonic_mean(0.3, 0.3) == pytest.approx(0.3)
    assert metrics.harmonic_mean(0.7, 0.0) == metrics.harmonic_mean(0.0, 0.0) == 0
    assert metrics.harmonic_mean(0.662, 0.931) == pytest.approx(0.774, abs=5e-4)  # QFSL on AwA2


def test_candidates_are_all_that_there_is() -> None:
    s = torch.randn(50, 4)
    assert torch.equal(metrics.predict_among(s, UNSEEN), s.index_fill(1, SEEN, -torch.inf).argmax(1))
    assert torch.equal(metrics.predict_among(s, torch.arange(4)), s.argmax(1))


def test_report_by_hand() -> None:
    # Columns 0 and 2 are seen, 1 and 3 are not.
    seen_scores = torch.tensor([[9.0, 0, 0, 0], [0, 9, 8, 0], [0, 0, 9, 0]])
    unseen_scores = torch.tensor([[9.0, 8, 0, 0], [0, 9, 0, 0], [0, 9, 0, 8], [0, 0, 9, 8], [9, 0, 0, 8]])
    labels = torch.tensor([0, 0, 2]), torch.tensor([1, 1, 3, 3, 3])
    found = metrics.report(seen_scores, labels[0], unseen_scores, labels[1], SEEN, UNSEEN)
    expected = {"conventional": (1 + 2 / 3) / 2, "seen": 0.75, "unseen": 0.25, "harmonic": 0.375}
    assert found == pytest.approx(expected | {"unseen_as_seen": 3 / 5, "largest_class": 3 / 5})
    assert metrics.histogram(torch.tensor([1, 1, 1, 3]), UNSEEN).tolist() == [0.75, 0.25]


def test_what_is_right_among_all_is_right_among_the_unseen() -> None:
    s, labels = torch.randn(500, 4), UNSEEN[torch.randint(2, (500,))]
    found = metrics.report(s, labels - 1, s, labels, SEEN, UNSEEN)
    assert found["conventional"] > found["unseen"]


S = torch.eye(4)
REPORT = {"seen_scores": S[SEEN], "seen_labels": SEEN, "unseen_scores": S[UNSEEN], "unseen_labels": UNSEEN}
REPORT |= {"seen": SEEN, "unseen": UNSEEN}


@pytest.mark.parametrize("measure", [metrics.report, curve])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seen_scores": S}, ShapeMismatch, r"not \(4, 4\) and \(2,\)"),
        ({"seen_scores": S[SEEN] * torch.nan}, NonFinite, "scores hold NaN"),
        ({"unseen_scores": S[UNSEEN] / 0}, NonFinite, "scores hold NaN"),
        ({"unseen": torch.tensor([1, 2, 3])}, BadValue, r"Classes \[2\] are both seen and unseen"),
        ({"unseen": torch.tensor([1, 3, 4])}, ReuseError, "classes must be classes from 0 to 3"),
        ({"unseen": torch.tensor([], dtype=torch.int64)}, ReuseError, "at least one class"),
        ({"seen_labels": torch.tensor([0, 7])}, BadValue, r"labels \[7\] are none of the classes"),
        ({"unseen_labels": SEEN}, BadValue, r"labels \[0, 2\] are none of the classes \[1, 3\]"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    measure: Callable[..., Any], change: dict[str, Tensor], error: type[ReuseError], message: str
) -> None:
    assert measure(**REPORT) is not None
    with pytest.raises(error, match=message):
        measure(**REPORT | change)


def test_what_has_no_accuracy_is_refused() -> None:
    one = torch.tensor([1])
    for given in ((one, one, torch.tensor([1, 2])), (one[:0], one[:0])):
        with pytest.raises(ReuseError, match="no images of some class"):
            metrics.per_class_accuracy(*given)
    with pytest.raises(ShapeMismatch, match=r"answers \(1,\) and labels \(2,\)"):
        metrics.per_class_accuracy(one, torch.tensor([1, 2]))
    for a, b in ((1.2, 0.5), (0.5, float("nan"))):
        with pytest.raises(BadValue, match="at most 1"):
            metrics.harmonic_mean(a, b)
