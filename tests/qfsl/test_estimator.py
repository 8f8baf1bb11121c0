"""What holds for every zero-shot classifier: arrays or tensors, scikit-learn's manners, clear errors, no leaks."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import zeroshot_toys
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from zeroshot_toys import CLASSIFIERS, assert_refused, fitted

from reuselib.errors import BadValue, NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import metrics
from reuselib.qfsl.rivals import ESZSL, RIVALS, build, chosen
from reuselib.qfsl.samples import Standardise

TOY = zeroshot_toys.toy()
GIVEN = {"features": TOY.train, "labels": TOY.train_labels, "attributes": TOY.attributes}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_answers_repeats_and_keeps_scikit_learns_manners(name: str) -> None:
    before, plain = torch.get_rng_state(), CLASSIFIERS[name]
    classifier = fitted(name, TOY)
    assert torch.equal(before, torch.get_rng_state())
    scores = classifier.decision_function(TOY.new)
    assert scores.shape == (len(TOY.new), 9) and scores.isfinite().all() and not scores.requires_grad
    for candidates, classes in (("unseen", TOY.unseen), ("seen", TOY.seen), ("all", torch.arange(9)), ([4, 2], [4, 2])):
        expected = metrics.predict_among(scores, torch.as_tensor(classes))
        assert torch.equal(classifier.predict(TOY.new, candidates), expected)
    assert classifier.n_features_in_ == 9 and repr(classifier) == repr(plain)  # options are never changed
    assert clone(plain).get_params() == plain.get_params() == type(plain)(**plain.get_params()).get_params()
    assert torch.equal(pickle.loads(pickle.dumps(classifier)).decision_function(TOY.new), scores)
    given = [TOY.train.tolist(), TOY.train_labels.numpy().astype("int32"), TOY.attributes.numpy(), TOY.seen.tolist()]
    arrays = clone(plain).fit(*given, TOY.new.double().numpy() if plain.transductive else None)
    assert isinstance(arrays.predict(TOY.new.numpy()), np.ndarray)
    np.testing.assert_allclose(arrays.decision_function(TOY.new.numpy()), scores.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_learns_and_names_of_unseen_classes_only_move_its_scores(name: str) -> None:
    """Codes of unseen classes trade places: the scores do as well, since nothing of those classes was learned from."""
    order = torch.arange(9)
    order[TOY.unseen] = TOY.unseen.roll(1)
    classifier, expected = clone(CLASSIFIERS[name]), fitted(name, TOY)
    unlabelled = TOY.new if classifier.transductive else None
    classifier.fit(TOY.train, TOY.train_labels, TOY.attributes[order], unlabelled=unlabelled)
    moved = expected.decision_function(TOY.test)[:, order]
    torch.testing.assert_close(classifier.decision_function(TOY.test), moved, rtol=1e-3, atol=1e-3)
    steps = {"steps": 200, "lr": 0.02} if "steps" in CLASSIFIERS[name].get_params() else {}
    long = fitted(name, TOY, **steps)
    assert long.score(TOY.test, TOY.test_labels, "seen") > 0.85
    assert long.score(TOY.new, TOY.new_labels) > 0.45  # chance is 1/3


BAD: list[tuple[dict[str, Any], type[ReuseError], str]] = [
    ({"features": TOY.train[0]}, ShapeMismatch, r"features must be \(images, features\), not \(9,\). Flatten maps"),
    ({"features": TOY.train.where(TOY.train > 0, torch.nan)}, NonFinite, "features hold NaN or infinity"),
    ({"labels": TOY.train_labels[1:]}, ShapeMismatch, r"labels must be 48 integers, .* not torch.int64 \(47,\)"),
    ({"attributes": TOY.attributes / 0}, ReuseError, "infinity"),
    ({"seen": [0, 2, 3]}, ReuseError, r"labels of classes \[5, 6, 8\], which are not seen: leave those images out"),
    ({"seen": [0, 2, 3, 5, 6, 8, 4]}, ReuseError, r"seen classes \[4\] have no image: leave them out of seen="),
    ({"attributes": TOY.attributes[:6], "labels": torch.arange(48) % 6}, ReuseError, "All classes are seen"),
    ({"unlabelled": TOY.new}, ReuseError, "is inductive and cannot use unlabelled=: leave"),
]


def test_what_cannot_be_learned_from_or_asked_is_refused() -> None:
    assert {name for name, each in CLASSIFIERS.items() if each.transductive} == {"qfsl", "gfzsl-transductive"}
    classifier, transductive = fitted("eszsl", TOY), partial(build("gfzsl-transductive").fit, **GIVEN)
    assert_refused(
        *((error, message, partial(ESZSL().fit, **GIVEN | change)) for change, error, message in BAD),
        (ReuseError, "is transductive: give", transductive),
        (ShapeMismatch, "unlabelled have 4 columns, .* 9", lambda: transductive(unlabelled=TOY.new[:, :4])),
        (NotFittedError, "call fit", lambda: ESZSL().predict(TOY.new)),
        (UnknownName, "candidates 'unsen'. Did you mean 'unseen'", lambda: classifier.predict(TOY.new, "unsen")),
        (ShapeMismatch, "labels must be 24 integers", lambda: classifier.score(TOY.new, TOY.new_labels[:3])),
        (UnknownName, "option of eszsl 'gama'. Did you mean 'gamma'", lambda: build("eszsl", gama=1.0)),
    )


NONSENSE: dict[str, dict[str, Any]] = {
    **{"eszsl": {"codes": "row", "gamma": 0.0}, "gfzsl": {"kernel": "rbg"}, "dap": {"penalty": torch.nan}},
    **{"conse": {"top": 0}, "latem": {"maps": 0}, "cmt": {"hidden": 0}, "score": {"codewords": -1.0}},
    **{"ale": {"lr": -1.0, "batch": 8.5, "steps": -1, "seed": 0.5}, "minus-a": {"dropout": 1.0}},
    "qfsl": {"term": "biass", "weight": -0.1, "unlabelled_steps": -1},
}


@pytest.mark.parametrize("name", NONSENSE)
def test_options_that_cannot_be_meant_are_refused(name: str) -> None:
    for option, value in NONSENSE[name].items():
        with pytest.raises((BadValue, UnknownName), match=option):
            fitted(name, TOY, **{option: value})


def test_chosen_options_are_among_those_tried() -> None:
    tried = {name: chosen("tried", name) for name in RIVALS}
    for kind in ("world", "digits", "fashion"):
        for name, grid in tried.items():
            found = chosen(kind, name)
            assert found.keys() == grid.keys() and all(value in grid[option] for option, value in found.items())
            assert build(name, **found).get_params().items() >= found.items()
    assert chosen("awa2", "dap") == {} and chosen("world", "ale", 40)["steps"] == 40


def test_scaled_features_percentages_and_the_order_of_seen_classes_change_nothing() -> None:
    plain = fitted("eszsl", TOY)
    moved = ESZSL().fit(3 * TOY.train + 1, TOY.train_labels, 100 * TOY.attributes, TOY.seen.flip(0))
    scores = plain.decision_function(TOY.new)
    torch.testing.assert_close(moved.decision_function(3 * TOY.new + 1), scores, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fitted("eszsl", TOY, standardise=False).decision_function(TOY.new), scores)
    assert moved.seen_.tolist() == TOY.seen.tolist() and moved.unseen_.tolist() == TOY.unseen.tolist()
    x = torch.tensor([[0.7, 1.0], [0.7, 3.0]])  # the first feature never changes
    assert Standardise(x)(x).tolist() == [[0, -1], [0, 1]]
