"""What holds for every zero-shot classifier: arrays or tensors, scikit-learn's manners, clear errors, no leaks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import zeroshot_toys
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from zeroshot_toys import CLASSIFIERS, TRANSDUCTIVE, fitted

from reuselib import qfsl
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import ESZSL, ZeroShotClassifier, metrics

TOY = zeroshot_toys.toy()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_and_answers(name: str) -> None:
    classifier = fitted(name, TOY)
    scores = classifier.decision_function(TOY.new)
    assert scores.shape == (len(TOY.new), 9) and scores.isfinite().all() and not scores.requires_grad
    assert torch.equal(classifier.predict(TOY.new), metrics.predict_among(scores, TOY.unseen))
    assert torch.equal(classifier.predict(TOY.new, "seen"), metrics.predict_among(scores, TOY.seen))
    assert torch.equal(classifier.predict(TOY.new, "all"), scores.argmax(1))
    assert set(classifier.predict(TOY.new, [4, 2]).tolist()) <= {2, 4}
    assert classifier.score(TOY.new, TOY.new_labels) == pytest.approx(
        metrics.mean_class_accuracy(classifier.predict(TOY.new), TOY.new_labels)
    )
    assert classifier.seen_.tolist() == TOY.seen.tolist() and classifier.unseen_.tolist() == TOY.unseen.tolist()
    assert classifier.classes_.tolist() == list(range(9)) and classifier.n_features_in_ == 9


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_they_recognise_seen_classes_and_something_of_unseen_ones(name: str) -> None:
    steps = {"steps": 200, "lr": 0.02} if "steps" in CLASSIFIERS[name].get_params() else {}
    classifier = fitted(name, TOY, **steps)
    assert classifier.score(TOY.test, TOY.test_labels, "seen") > 0.85
    assert classifier.score(TOY.new, TOY.new_labels) > 0.45  # chance is 1/3


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_arrays_in_arrays_out(name: str) -> None:
    classifier, expected = clone(CLASSIFIERS[name]), fitted(name, TOY)
    unlabelled = {"unlabelled": TOY.new.double().numpy()} if classifier.transductive else {}
    classifier.fit(
        TOY.train.tolist(),
        TOY.train_labels.numpy().astype("int32"),
        TOY.attributes.numpy(),
        **unlabelled,
        seen=TOY.seen.tolist(),
    )
    scores = classifier.decision_function(TOY.new.numpy())
    assert isinstance(scores, np.ndarray) and isinstance(classifier.predict(TOY.new.numpy()), np.ndarray)
    np.testing.assert_allclose(scores, expected.decision_function(TOY.new).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scikit_learns_manners(name: str) -> None:
    classifier = CLASSIFIERS[name]
    copied = clone(classifier)
    assert copied is not classifier and type(copied) is type(classifier) and repr(copied) == repr(classifier)
    assert {key: repr(value) for key, value in copied.get_params().items()} == {
        key: repr(value) for key, value in classifier.get_params().items()
    }
    options = classifier.get_params(deep=False)
    assert type(classifier)(**options).get_params(deep=False) == options
    with pytest.raises(ValueError, match="Invalid parameter 'nonsense'"):
        copied.set_params(nonsense=1)
    before = repr(copied)
    unlabelled = TOY.new if copied.transductive else None
    assert copied.fit(TOY.train, TOY.train_labels, TOY.attributes, unlabelled=unlabelled) is copied
    assert repr(copied) == before  # options are never changed
    again = pickle.loads(pickle.dumps(copied))
    assert torch.equal(again.decision_function(TOY.new), copied.decision_function(TOY.new))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    first = fitted(name, TOY).decision_function(TOY.new)
    assert torch.equal(before, torch.get_rng_state())
    torch.randn(3)
    assert torch.equal(first, fitted(name, TOY).decision_function(TOY.new))


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "minus-deep"])
def test_other_names_for_the_unseen_classes_only_move_the_scores(name: str) -> None:
    """Codes of unseen classes trade places: the scores do as well, since nothing of those classes was learned from."""
    order = torch.arange(9)
    order[TOY.unseen] = TOY.unseen.roll(1)
    classifier, expected = clone(CLASSIFIERS[name]), fitted(name, TOY)
    unlabelled = TOY.new if classifier.transductive else None
    classifier.fit(TOY.train, TOY.train_labels, TOY.attributes[order], unlabelled=unlabelled)
    torch.testing.assert_close(
        classifier.decision_function(TOY.test), expected.decision_function(TOY.test)[:, order], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", sorted(CLASSIFIERS.keys() - TRANSDUCTIVE))
def test_an_inductive_classifier_takes_no_unlabelled_images(name: str) -> None:
    assert CLASSIFIERS[name].transductive is False
    with pytest.raises(ReuseError, match="is inductive and cannot use unlabelled=: leave it out"):
        clone(CLASSIFIERS[name]).fit(TOY.train, TOY.train_labels, TOY.attributes, unlabelled=TOY.new)


@pytest.mark.parametrize("name", sorted(TRANSDUCTIVE))
def test_a_transductive_classifier_needs_them(name: str) -> None:
    assert CLASSIFIERS[name].transductive is True
    with pytest.raises(ReuseError, match="is transductive: give unlabelled="):
        clone(CLASSIFIERS[name]).fit(TOY.train, TOY.train_labels, TOY.attributes)
    with pytest.raises(ShapeMismatch, match="unlabelled have 4 columns, those of the fit had 9"):
        clone(CLASSIFIERS[name]).fit(TOY.train, TOY.train_labels, TOY.attributes, unlabelled=TOY.new[:, :4])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_asking_before_fitting_is_refused(name: str) -> None:
    for ask in ("decision_function", "predict"):
        with pytest.raises(NotFittedError, match="call fit") as raised:
            getattr(clone(CLASSIFIERS[name]), ask)(TOY.new)
        assert isinstance(raised.value, ReuseError)


BAD: list[tuple[dict[str, Any], type[ReuseError], str]] = [
    ({"features": TOY.train[0]}, ShapeMismatch, r"features must be \(images, features\), not \(9,\). Flatten maps"),
    ({"features": TOY.train[:0], "labels": TOY.train_labels[:0]}, ShapeMismatch, r"not \(0, 9\)"),
    ({"features": TOY.train.where(TOY.train > 0, torch.nan)}, NonFinite, "features hold NaN or infinity"),
    ({"features": [["a", "b"]]}, ShapeMismatch, "numbers are needed"),
    ({"labels": TOY.train_labels[1:]}, ShapeMismatch, r"labels must be 48 integers, .* not torch.int64 \(47,\)"),
    ({"labels": TOY.train_labels.float()}, ShapeMismatch, "labels must be 48 integers, .* not torch.float32"),
    ({"labels": TOY.train_labels + 1}, ShapeMismatch, "labels are 1 to 9, but the attributes describe 9 classes"),
    ({"labels": TOY.train_labels - 1}, ShapeMismatch, "labels are -1 to 7"),
    ({"attributes": TOY.attributes[0]}, ShapeMismatch, r"attributes must be \(classes, attributes\), not \(8,\)"),
    ({"attributes": TOY.attributes / 0}, ReuseError, "infinity"),
    ({"seen": [0, 2, 3]}, ReuseError, r"labels of classes \[5, 6, 8\], which are not seen: leave those images out"),
    ({"seen": [0, 2, 3, 5, 6, 8, 4]}, ReuseError, r"seen classes \[4\] have no image: leave them out of seen="),
    ({"seen": [0, 2, 2, 3, 5, 6, 8]}, ReuseError, "twice"),
    ({"attributes": TOY.attributes[:6], "labels": torch.arange(48) % 6}, ReuseError, "All classes are seen"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], error: type, message: str) -> None:
    given = {"features": TOY.train, "labels": TOY.train_labels, "attributes": TOY.attributes} | change
    with pytest.raises(error, match=message):
        ESZSL().fit(**given)


def test_bad_questions_are_refused() -> None:
    classifier = fitted("eszsl", TOY)
    with pytest.raises(ShapeMismatch, match="features have 4 columns, those of the fit had 9. Take them from the same"):
        classifier.predict(TOY.new[:, :4])
    with pytest.raises(NonFinite):
        classifier.predict(TOY.new / 0)
    with pytest.raises(UnknownName, match="unknown candidates 'unsen'. Did you mean 'unseen'"):
        classifier.predict(TOY.new, "unsen")
    with pytest.raises(ReuseError, match="candidates has classes 0 to 9, but there are 9"):
        classifier.predict(TOY.new, range(10))
    with pytest.raises(ShapeMismatch, match="labels must be 24 integers"):
        classifier.score(TOY.new, TOY.new_labels[:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scaling": "standart"}, "unknown scaling 'standart'. Did you mean"), ({"codes": "row"}, "Did you mean 'raw'")],
)
def test_unknown_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        ESZSL(**options).fit(TOY.train, TOY.train_labels, TOY.attributes)
    with pytest.raises(UnknownName, match="unknown term 'biass'. Did you mean 'bias'"):
        qfsl.QFSLClassifier(term="biass").fit(TOY.train, TOY.train_labels, TOY.attributes, unlabelled=TOY.new)


class Looking(ZeroShotClassifier):
    """Keeps what it is given."""

    def _learn(self, problem: qfsl.Problem) -> None:
        self.problem_ = problem

    def _scores(self, features: torch.Tensor) -> torch.Tensor:
        self.asked_ = features
        return features.new_zeros(len(features), 9)


@pytest.mark.parametrize("scaling", ["standard", "unit", "standard_unit", "none"])
def test_features_are_scaled_by_the_training_images(scaling: str) -> None:
    x = 3 * TOY.train + 1
    classifier = Looking(scaling=scaling).fit(x, TOY.train_labels, TOY.attributes)
    expected, asked = x, TOY.new
    if scaling.startswith("standard"):
        expected, asked = ((each - x.mean(0)) / x.std(0, correction=0) for each in (expected, asked))
    if scaling.endswith("unit"):
        expected, asked = (each / each.norm(dim=1, keepdim=True) for each in (expected, asked))
    torch.testing.assert_close(classifier.problem_.features, expected, rtol=1e-4, atol=1e-5)
    classifier.decision_function(TOY.new)
    torch.testing.assert_close(classifier.asked_, asked, rtol=1e-4, atol=1e-5)


def test_what_a_classifier_learns_from() -> None:
    classifier = Looking(codes="unit")
    problem = classifier.fit(TOY.train, TOY.train_labels, 100 * TOY.attributes, seen=TOY.seen.flip(0)).problem_
    torch.testing.assert_close(problem.attributes, TOY.attributes)
    torch.testing.assert_close(problem.codes, TOY.attributes / TOY.attributes.norm(dim=1, keepdim=True))
    assert torch.equal(problem.seen, TOY.seen) and torch.equal(problem.unseen, TOY.unseen)
    assert torch.equal(problem.seen[problem.places], problem.labels) and problem.unlabelled is None


def test_the_base_learns_nothing_by_itself() -> None:
    with pytest.raises(NotImplementedError, match="use one of its subclasses"):
        ZeroShotClassifier().fit(TOY.train, TOY.train_labels, TOY.attributes)


def test_in_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), ESZSL(gamma=1.0, scaling="none"))
    pipeline.fit(TOY.train.numpy(), TOY.train_labels.numpy(), eszsl__attributes=TOY.attributes.numpy())
    expected = fitted("eszsl", TOY).decision_function(TOY.new).numpy()
    np.testing.assert_allclose(pipeline.decision_function(TOY.new.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_many_images_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = fitted("minus-a", TOY)
    whole = classifier.decision_function(TOY.new)
    monkeypatch.setattr("reuselib.qfsl.estimator.CHUNK", 5)
    torch.testing.assert_close(classifier.decision_function(TOY.new), whole)


def test_shuffled_unlabelled_features_give_the_same_mixture() -> None:
    """The order of unlabelled images tells nothing."""
    order = torch.randperm(len(TOY.new), generator=torch.Generator().manual_seed(0))
    first, second = (
        qfsl.TransductiveGFZSL().fit(TOY.train, TOY.train_labels, TOY.attributes, unlabelled=x)
        for x in (TOY.new, TOY.new[order])
    )
    torch.testing.assert_close(first.means_, second.means_)
