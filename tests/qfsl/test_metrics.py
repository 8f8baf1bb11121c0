"""Accuracies per class, harmonic means and the share of unseen images that are taken for seen ones, by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from zeroshot_toys import assert_refused

from reuselib.errors import BadValue, NonFinite, ReuseError, ShapeMismatch
from reuselib.qfsl import metrics
from reuselib.qfsl.rivals.stacking import curve

SEEN, UNSEEN = torch.tensor([0, 2]), torch.tensor([1, 3])


def test_accuracy_per_class_counts_every_class_alike() -> None:
    labels, predicted = torch.tensor([3, 3, 3, 5, 5, 8]), torch.tensor([3, 5, 3, 5, 8, 3])
    assert metrics.per_class_accuracy(predicted, labels).tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert metrics.per_class_accuracy(predicted, labels, torch.tensor([5, 3])).tolist() == pytest.approx([1 / 2, 2 / 3])
    assert metrics.mean_class_accuracy(predicted, labels) == pytest.approx((2 / 3 + 1 / 2) / 3)


def test_candidates_are_all_that_there_is() -> None:
    s = torch.randn(50, 4)
    assert torch.equal(metrics.predict_among(s, UNSEEN), s.index_fill(1, SEEN, -torch.inf).argmax(1))
    assert metrics.predict_among(torch.ones(2, 4), UNSEEN.flip(0)).tolist() == [3, 3]  # the first of equals


def test_report_by_hand() -> None:
    # Columns 0 and 2 are seen, 1 and 3 are not.
    seen_scores = torch.tensor([[9.0, 0, 0, 0], [0, 9, 8, 0], [0, 0, 9, 0]])
    unseen_scores = torch.tensor([[9.0, 8, 0, 0], [0, 9, 0, 0], [0, 9, 0, 8], [0, 0, 9, 8], [9, 0, 0, 8]])
    labels = torch.tensor([0, 0, 2]), torch.tensor([1, 1, 3, 3, 3])
    found = metrics.report(seen_scores, labels[0], unseen_scores, labels[1], SEEN, UNSEEN)
    expected = {"conventional": (1 + 2 / 3) / 2, "seen": 0.75, "unseen": 0.25, "harmonic": 0.375}
    assert found == pytest.approx(expected | {"unseen_as_seen": 3 / 5, "largest_class": 3 / 5})
    assert metrics.harmonic_mean(0.7, 0.0) == metrics.harmonic_mean(0.0, 0.0) == 0
    assert metrics.harmonic_mean(0.662, 0.931) == pytest.approx(0.774, abs=5e-4)  # QFSL on AwA2


@pytest.mark.parametrize("measure", [metrics.report, curve])
def test_what_cannot_be_reported_is_refused(measure: Callable[..., Any]) -> None:
    s = torch.eye(4)
    given = {"seen_scores": s[SEEN], "seen_labels": SEEN, "unseen_scores": s[UNSEEN], "unseen_labels": UNSEEN}
    given |= {"seen": SEEN, "unseen": UNSEEN}
    assert measure(**given) is not None
    assert_refused(
        *(
            (error, message, partial(measure, **given | {name: value}))
            for name, value, error, message in (
                ("seen_scores", s, ShapeMismatch, r"not \(4, 4\) and \(2,\)"),
                ("unseen_scores", s[UNSEEN] / 0, NonFinite, "scores hold NaN"),
                ("unseen", torch.tensor([1, 2, 3]), BadValue, r"Classes \[2\] are both seen and unseen"),
                ("seen_labels", torch.tensor([0, 7]), BadValue, r"labels \[7\] are none of the classes"),
                ("unseen_labels", SEEN, BadValue, r"labels \[0, 2\] are none of the classes \[1, 3\]"),
            )
        )
    )


def test_what_has_no_accuracy_is_refused() -> None:
    one = torch.tensor([1])
    assert_refused(
        (ReuseError, "no images of some class", lambda: metrics.per_class_accuracy(one, one, torch.tensor([1, 2]))),
        (ShapeMismatch, r"answers \(1,\) and labels \(2,\)", lambda: metrics.per_class_accuracy(one, SEEN)),
        (ReuseError, "candidates must be classes from 0 to 2", lambda: metrics.predict_among(torch.ones(3, 3), UNSEEN)),
    )
