"""Class-wise cross-validation: options are chosen without a look at unseen classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import zeroshot_toys
from sklearn.model_selection import ParameterGrid

from reuselib.errors import BadValue, NonFinite
from reuselib.qfsl import class_wise, metrics, rivals, select
from reuselib.qfsl.rivals import ESZSL, TransductiveGFZSL, convex
from reuselib.qfsl.selection import class_folds

TOY = zeroshot_toys.toy(noise=1.0, images=12)
GIVEN = TOY.train, TOY.train_labels, TOY.attributes
HIDDEN = TOY.train, TOY.train_labels, TOY.attributes.index_fill(0, TOY.unseen, 0.123)


def test_folds_hold_out_every_class_once() -> None:
    parts = class_folds(5, 3, seed=1)
    assert torch.cat(parts).sort().values.tolist() == list(range(5)) and sorted(map(len, parts)) == [1, 2, 2]
    assert any(not torch.equal(a, b) for a, b in zip(parts, class_folds(5, 3, seed=2), strict=True))
    zeroshot_toys.assert_refused(
        (BadValue, "folds must be a whole number from 2 to 5", lambda: class_folds(5, 1)),
        (BadValue, "folds must be a whole number from 2 to 5", lambda: class_folds(5, 6)),
        (BadValue, "seed", lambda: class_folds(5, 2, seed=-1)),
        (BadValue, "holdout must be a finite number of at least 0 and at most 1", lambda: class_wise(*GIVEN, 2, 1.5)),
    )


def test_a_fold_parts_classes_and_images_and_a_transductive_classifier_gets_its_unseen_ones_unlabelled() -> None:
    for fold in class_wise(*GIVEN, folds=3, holdout=0.25):
        (x, y), (_, other), (new, played) = fold.train, fold.seen, fold.unseen
        assert len(played) == 24 and played.unique().numel() == 2 and not torch.isin(played, y).any()
        assert y.bincount().max() == 9 and other.bincount().max() == 3
        assert y.unique().tolist() == other.unique().tolist()
        assert not (x.unsqueeze(1) == new).all(2).any() and torch.equal(fold.attributes, TOY.attributes[TOY.seen])
    fitted = fold.fit(TransductiveGFZSL(), ridge=0.3)
    plain = TransductiveGFZSL(ridge=0.3).fit(x, y, fold.attributes, unlabelled=new)
    assert torch.equal(fitted.means_, plain.means_)


def test_options_are_chosen_by_the_mean_over_folds_of_held_out_classes() -> None:
    grid = {"gamma": [1.0, 1e9], "lam": [0.1, 1.0]}
    best, tried = select(ESZSL(codes="unit"), grid, *GIVEN, folds=2, seed=4)
    assert [options for options, _ in tried] == [{"gamma": g, "lam": m} for g in (1.0, 1e9) for m in (0.1, 1.0)]
    assert best == max(tried, key=lambda pair: pair[1])[0]
    values, places = [], torch.searchsorted(TOY.seen, TOY.train_labels)
    for held_out in class_folds(6, 2, seed=4):
        away = torch.isin(places, held_out)
        classifier = ESZSL(codes="unit", gamma=1.0, lam=0.1)
        classifier.fit(TOY.train[~away], places[~away], TOY.attributes[TOY.seen])
        values.append(metrics.mean_class_accuracy(classifier.predict(TOY.train[away]), places[away]))
    assert tried[0][1] == pytest.approx(sum(values) / 2)
    assert select(ESZSL(codes="unit"), grid, *HIDDEN, folds=2, seed=4) == (best, tried)


def test_a_choice_that_diverges_is_out_and_all_of_them_are_an_error() -> None:
    classifier = rivals.build("score", 0, steps=20)
    best, tried = select(classifier, {"lr": [1e30, 1e-3]}, *GIVEN, folds=2)
    assert best == {"lr": 1e-3} and tried[0][1] == -math.inf < tried[1][1]
    with pytest.raises(NonFinite, match="diverges with every choice"):
        select(classifier, {"lr": [1e30, 1e31]}, *GIVEN, folds=2)


RATES = {"lr": [1e-3, 1e-2], "batch": [8, 16], "steps": [20]}
SIDE_BY_SIDE: dict[str, dict[str, list[Any]]] = {
    **dict.fromkeys(("ale", "latem", "cmt", "score"), RATES),
    **dict.fromkeys(("dap", "iap"), {"penalty": [0.03, 1.0]}),
    "conse": {"penalty": [0.03, 1.0], "top": [2, 3]},
    "eszsl": {"gamma": [1.0, 10.0], "lam": [0.1, 1.0]},
    "sync": {"width": [0.5, 1.0], "penalty": [0.03, 1.0, 100.0]},
    "sae": {"lam": [0.1, 10.0], "projection": ["to_codes", "to_features"]},
    "gfzsl": {"kernel": ["linear", "rbf"], "ridge": [0.1, 1.0]},
}


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_choices_that_are_fitted_side_by_side_end_as_one_by_one(name: str) -> None:
    choices = [*ParameterGrid(SIDE_BY_SIDE[name])]
    for options, fitted in zip(choices, rivals.build(name, seed=3).fits(choices, *GIVEN), strict=True):
        alone = rivals.build(name, seed=3, **options).fit(*GIVEN)
        assert fitted.get_params() == alone.get_params()
        scores = (each.decision_function(TOY.new) for each in (fitted, alone))
        torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)
        assert "lr" not in options or not fitted.network_.training


def test_an_error_ends_all_searches_of_a_minimum() -> None:
    with pytest.raises(ZeroDivisionError):
        convex.minimised(lambda points, which: 1 / 0, torch.zeros(2).double(), 3)


def test_options_of_a_method_come_from_seen_classes_alone_and_from_as_many_images_as_are_asked_for() -> None:
    how = {"seed": 2, "folds": 3}
    found = rivals.tuned("eszsl", *GIVEN, **how, images=8)
    assert all(value in rivals.OPTIONS["tried"]["eszsl"][name] for name, value in found.items()) and len(found) == 2
    assert rivals.tuned("eszsl", *HIDDEN, **how, images=8) == found
    order = torch.randperm(len(TOY.train), generator=torch.Generator().manual_seed(2))
    few = torch.cat([order[TOY.train_labels[order] == label][:8] for label in TOY.seen])
    picked = rivals.tuned("eszsl", TOY.train[few], TOY.train_labels[few], TOY.attributes, **how, images=99)
    assert picked == found
