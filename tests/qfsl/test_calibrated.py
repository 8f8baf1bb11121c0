"""Calibrated stacking, its exact curve, and the choice of options without a look at unseen classes."""

from __future__ import annotations

import pytest
import torch
import zeroshot_toys
from sklearn.base import clone
from torch import Tensor

from reuselib import qfsl
from reuselib.errors import ReuseError, UnknownName
from reuselib.qfsl import CalibratedStacking, calibrated, curve, metrics, report, select
from reuselib.qfsl.estimator import Predictor
from reuselib.qfsl.selection import choose_shift

TOY = zeroshot_toys.toy(noise=1.0, images=12)
SEEN, UNSEEN = TOY.seen, TOY.unseen


def scores() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    classifier = zeroshot_toys.fitted("eszsl", TOY)
    return (
        classifier.decision_function(TOY.test),
        TOY.test_labels,
        classifier.decision_function(TOY.new),
        TOY.new_labels,
    )


def at(shift: float) -> dict[str, float]:
    a, y, b, z = scores()
    return report(calibrated(a, SEEN, shift), y, calibrated(b, SEEN, shift), z, SEEN, UNSEEN)


def test_only_seen_classes_are_lowered() -> None:
    s = torch.randn(4, 9)
    found = calibrated(s, SEEN, 0.7)
    assert torch.equal(found[:, UNSEEN], s[:, UNSEEN])
    torch.testing.assert_close(found[:, SEEN], s[:, SEEN] - 0.7)


def test_with_an_endless_constant_only_unseen_classes_are_left() -> None:
    plain, far = at(0.0), at(1e6)
    assert far["unseen"] == far["conventional"] == plain["conventional"] and far["seen"] == 0
    back = at(-1e6)
    assert back["unseen"] == 0 and back["unseen_as_seen"] == 1


def test_the_curve_is_what_every_constant_gives() -> None:
    found = curve(*scores(), SEEN, UNSEEN)
    for index in range(0, len(found.shifts), 5):
        expected = at(float(found.shifts[index]))
        assert found.seen[index].item() == pytest.approx(expected["seen"])
        assert found.unseen[index].item() == pytest.approx(expected["unseen"])
        assert found.harmonic[index].item() == pytest.approx(expected["harmonic"])
    assert (found.seen.diff() <= 1e-12).all() and (found.unseen.diff() >= -1e-12).all()
    assert found.seen[-1].item() == pytest.approx(0) and found.unseen[0] == 0


def test_the_best_constant_is_the_best_of_many() -> None:
    found = curve(*scores(), SEEN, UNSEEN)
    shift, harmonic = found.best
    assert at(shift)["harmonic"] == pytest.approx(harmonic)
    assert harmonic >= max(at(float(g))["harmonic"] for g in torch.linspace(-1, 2, 61)) - 1e-12
    assert harmonic > at(0.0)["harmonic"]


def test_the_area_by_hand() -> None:
    # Columns: one seen class, one unseen. Gaps: seen images 2 and 4, unseen ones 1 and 3; all right on their own side.
    seen_scores, unseen_scores = torch.tensor([[2.0, 0], [4, 0]]), torch.tensor([[1.0, 0], [3, 0]])
    found = curve(
        seen_scores, torch.tensor([0, 0]), unseen_scores, torch.tensor([1, 1]), torch.tensor([0]), torch.tensor([1])
    )
    assert found.shifts.tolist() == [0, 1.5, 2.5, 3.5, 5]
    assert found.seen.tolist() == [1, 1, 0.5, 0.5, 0] and found.unseen.tolist() == [0, 0.5, 0.5, 1, 1]
    assert found.area == pytest.approx(0.5 * 0.5 + 0.5 * 1)
    assert found.best[1] == pytest.approx(2 / 3)


def test_it_fits_a_copy_and_lowers_its_scores() -> None:
    inner = qfsl.ESZSL(gamma=2.0)
    stacked = CalibratedStacking(estimator=inner, shift=0.4).fit(TOY.train, TOY.train_labels, TOY.attributes)
    plain = clone(inner).fit(TOY.train, TOY.train_labels, TOY.attributes)
    torch.testing.assert_close(
        stacked.decision_function(TOY.new), calibrated(plain.decision_function(TOY.new), SEEN, 0.4)
    )
    assert not hasattr(inner, "weights_")
    assert stacked.get_params()["estimator__gamma"] == 2.0
    assert not stacked.transductive and CalibratedStacking(estimator=qfsl.QFSLClassifier()).transductive
    with pytest.raises(ReuseError, match=r"give estimator=ESZSL\(\)"):
        CalibratedStacking().fit(TOY.train, TOY.train_labels, TOY.attributes)


# --- choosing options -------------------------------------------------------------------------------------------------


def test_options_are_chosen_on_seen_classes_that_play_unseen_ones() -> None:
    grid = {"gamma": [1.0, 1e9], "lam": [0.1, 1.0]}
    found = select(qfsl.ESZSL(codes="unit"), grid, TOY.train, TOY.train_labels, TOY.attributes, folds=3)
    assert [options for options, _ in found.tried] == [
        {"gamma": 1.0, "lam": 0.1},
        {"gamma": 1.0, "lam": 1.0},
        {"gamma": 1e9, "lam": 0.1},
        {"gamma": 1e9, "lam": 1.0},
    ]
    assert found.best == max(found.tried, key=lambda pair: pair[1])[0]
    assert all(0 <= value <= 1 for _, value in found.tried)


def test_a_fold_by_hand() -> None:
    found = select(
        qfsl.ESZSL(codes="unit"), {"gamma": [2.0]}, TOY.train, TOY.train_labels, TOY.attributes, folds=2, seed=4
    )
    values = []
    for held_out in qfsl.class_folds(torch.arange(6), 2, seed=4):
        away = torch.isin(TOY.train_labels, SEEN[held_out])
        attributes = TOY.attributes[SEEN]
        places = torch.searchsorted(SEEN, TOY.train_labels)
        classifier = qfsl.ESZSL(codes="unit", gamma=2.0).fit(TOY.train[~away], places[~away], attributes)
        values.append(metrics.mean_class_accuracy(classifier.predict(TOY.train[away]), places[away]))
    assert found.tried[0][1] == pytest.approx(sum(values) / 2)


def test_unseen_classes_have_no_part_in_the_choice() -> None:
    found = []
    for attributes in (TOY.attributes, TOY.attributes.index_fill(0, UNSEEN, 0.123)):
        classifier, grid = qfsl.SAE(codes="unit"), {"lam": [0.1, 1.0, 10.0]}
        found.append(select(classifier, grid, TOY.train, TOY.train_labels, attributes, folds=3))
    assert found[0] == found[1]


def test_the_constant_of_calibrated_stacking_is_chosen_by_the_harmonic_mean() -> None:
    stacked = CalibratedStacking(estimator=qfsl.ESZSL(codes="unit"))
    found = select(
        stacked, {"shift": [0.0, 0.3, 1e6]}, TOY.train, TOY.train_labels, TOY.attributes, folds=3, measure="harmonic"
    )
    assert found.tried[-1][1] == 0 and found.best["shift"] != 1e6
    assert stacked.shift == 0.0


class Spy(Predictor):
    """Notes what it is fitted with."""

    transductive = True
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def fit(self, features: Tensor, labels: Tensor, attributes: Tensor, unlabelled: Tensor) -> Spy:
        self.seen.append((features, labels, unlabelled))
        self.classes_, self.n_features_in_, self._device = torch.arange(6).numpy(), 5, "cpu"
        known = labels.unique()
        self.seen_ = known.numpy()
        self.unseen_ = torch.arange(6)[~torch.isin(torch.arange(6), known)].numpy()
        return self

    def decision_function(self, features: Tensor) -> Tensor:
        return torch.zeros(len(features), 6)


@pytest.mark.parametrize("measure", ["conventional", "harmonic"])
def test_a_transductive_classifier_gets_the_held_out_classes_without_labels(measure: str) -> None:
    Spy.seen.clear()
    select(Spy(), {}, TOY.train, TOY.train_labels, TOY.attributes, folds=3, measure=measure, holdout=0.25)
    assert len(Spy.seen) == 3
    for features, labels, unlabelled in Spy.seen:
        assert len(unlabelled) == 24 and labels.unique().numel() == 4
        assert labels.bincount().max() == (9 if measure == "harmonic" else 12)
        assert not (features.unsqueeze(1) == unlabelled).all(2).any()


def test_bad_choices_are_refused() -> None:
    arguments = qfsl.ESZSL(), {"gamma": [1.0]}, TOY.train, TOY.train_labels, TOY.attributes
    with pytest.raises(UnknownName, match="unknown measure 'harmony'. Did you mean 'harmonic'"):
        select(*arguments, measure="harmony")
    with pytest.raises(ReuseError, match="6 classes cannot be cut into 7 folds"):
        select(*arguments, folds=7)


def test_h_at_any_constant_is_what_that_constant_gives() -> None:
    found = curve(*scores(), SEEN, UNSEEN)
    shifts = torch.linspace(float(found.shifts[0]) - 2, float(found.shifts[-1]) + 2, 41, dtype=torch.float64)
    expected = torch.tensor([at(float(shift))["harmonic"] for shift in shifts], dtype=torch.float64)
    torch.testing.assert_close(found.harmonic_at(shifts), expected)


def test_the_chosen_constant_is_the_best_of_those_that_select_would_try() -> None:
    estimator = qfsl.ESZSL(gamma=1.0)
    given = TOY.train, TOY.train_labels, TOY.attributes
    shift = choose_shift(estimator, *given, folds=3, seed=1)
    tried = [*torch.linspace(-2, 2, 41).tolist(), shift]
    stacking = CalibratedStacking(estimator=estimator)
    found = select(stacking, {"shift": tried}, *given, folds=3, measure="harmonic", seed=1)
    values = [value for _, value in found.tried]
    assert values[-1] == pytest.approx(max(values))


def test_the_choice_of_the_constant_reads_no_unseen_class() -> None:
    changed = TOY.attributes.clone()
    changed[UNSEEN] = torch.rand_like(changed[UNSEEN])
    shifts = [
        choose_shift(qfsl.ESZSL(gamma=1.0), TOY.train, TOY.train_labels, table, folds=3)
        for table in (TOY.attributes, changed)
    ]
    assert shifts[0] == shifts[1]
