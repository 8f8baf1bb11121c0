"""Training with residual attributes, the classifier that knows how far to trust itself, and choices on seen classes."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import players
import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from torch import Tensor

from reuselib import run
from reuselib.errors import BadValue, NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import FeatureSet, class_codes
from reuselib.qfsl.selection import class_folds
from reuselib.selective import AugmentedClassifier, AugmentedNetwork, AugmentedTraining, choose, losses
from reuselib.selective.risk import aurcc, risk_coverage

TOY = zeroshot_toys.toy()
SEEN, UNSEEN, FEATURES, WIDTH = 6, 3, 9, 5
SHORT: dict[str, Any] = {"steps": 60, "width": WIDTH, "batch": 16}
CODES = class_codes(TOY.attributes, TOY.seen)
TRAIN, NEW, TABLE = (TOY.train, TOY.train_labels), TOY.new, TOY.attributes
OTHER = TABLE.index_copy(0, TOY.unseen, torch.rand(3, 8, generator=torch.Generator().manual_seed(0)))


def fitted(table: Tensor = TABLE, **options: Any) -> AugmentedClassifier:
    return AugmentedClassifier(**SHORT | options).fit(*TRAIN, table)


def method(images: int = 48, **options: Any) -> AugmentedTraining:
    with run.seeded(0):
        student = AugmentedNetwork(CODES, TOY.seen, FEATURES, WIDTH)
    data = FeatureSet(TRAIN[0][:images], TRAIN[1][:images])
    return AugmentedTraining(student, data, **{"batch": 8, "precision": "fp32"} | options)


# --- training


@pytest.mark.parametrize("task", losses.TASKS)
def test_a_step_minimises_the_sum_of_its_parts(task: str) -> None:
    first = method(task=task, beta=0.5, eta=2.0, dropout=0.0, weight_decay=0.0, momentum=0.0, lr=0.1)
    twin = method()
    before = players.state(first.student)
    report = first.step()
    x, labels = twin.images.sample(8, twin.random)
    attributes, residual = twin.student.bridge(x), twin.student.residual(x)
    defined, scores = twin.student(x)[:, TOY.seen], residual @ F.normalize(twin.student.prototypes, dim=1).T
    labels = torch.searchsorted(TOY.seen, labels)
    parts = {
        "defined": F.cross_entropy(defined, labels),
        "residual": losses.residual_loss(defined, scores, labels, task),
        "decorrelation": losses.decorrelation(attributes, residual),
    }
    loss = parts["defined"] + 0.5 * parts["residual"] + (2 * parts["decorrelation"] if task == "decorrelated" else 0)
    torch.testing.assert_close(report, {name: each.detach() for name, each in {"loss": loss, **parts}.items()})
    loss.backward()
    for name, parameter in twin.student.named_parameters():
        torch.testing.assert_close(first.student.get_parameter(name), before[name] - 0.1 * parameter.grad)


def test_the_defined_head_learns_the_same_with_and_without_residual_attributes() -> None:
    alone = method(beta=0.0, weight_decay=0.0)
    before = players.state(alone.student)
    run.run(alone, updates=5, progress=False)
    changed = {name for name, value in alone.student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"bridge.weight", "bridge.bias"}  # neither codes nor residual part
    for task in losses.TASKS:
        both = method(task=task, weight_decay=0.0)
        run.run(both, updates=5, progress=False)
        assert torch.equal(both.student.bridge.weight, alone.student.bridge.weight)
        assert torch.equal(both.student.codes, CODES)


def test_dropout_is_the_same_for_both_heads_and_scaled() -> None:
    found, seen = method(dropout=0.5, images=1), []
    for head in (found.student.bridge, found.student.residual):
        head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    found.step()
    kept = seen[0] != 0
    assert torch.equal(*seen) and 0.2 < kept.float().mean() < 0.8
    torch.testing.assert_close(seen[0][kept], (2 * found.images.features).expand(8, -1)[kept])


def test_a_backbone_stays_as_it_is_unless_it_is_tuned() -> None:
    for rate in (0.0, 0.1):
        found = players.make("zero-shot-augmented", backbone_lr=rate)
        before = players.state(found.student.backbone)
        run.run(found, updates=3, progress=False)
        moved = list(players.differences(before, players.state(found.student.backbone)))
        assert bool(moved) == found.student.backbone.training == bool(rate) and found.student.training


def test_bad_input_is_refused() -> None:
    found, choosing = fitted(), partial(choose, AugmentedClassifier(), *TRAIN, TABLE)
    numbers = {"width": 2.5, "kappa": 0, "weight": -1, "residual_temperature": 0}
    zeroshot_toys.assert_refused(
        (UnknownName, "task of the residual attributes", lambda: method(task="owm")),
        (BadValue, "dropout", lambda: method(dropout=1.0)),
        (UnknownName, "mean 'sum'", lambda: fitted(kind="som")),
        *((BadValue, name, partial(fitted, **{name: value})) for name, value in numbers.items()),
        (ReuseError, "not fitted", lambda: AugmentedClassifier().prototypes()),
        (ShapeMismatch, r"must be \(3, 5\)", lambda: found.evidence(NEW, prototypes=torch.zeros(3, 4))),
        (NonFinite, "threshold is NaN", lambda: found.answer(NEW, math.nan)),
        (BadValue, "kappa", lambda: choosing(kappas=[0.0])),
        (BadValue, "choices", lambda: choosing(weights=())),
    )


# --- the classifier


def test_shapes_and_answers() -> None:
    found = fitted()
    for candidates, classes in (("unseen", UNSEEN), ("seen", SEEN), ("all", SEEN + UNSEEN), ([7, 0], 2)):
        rows, evidence = found.prototypes(candidates), found.evidence(NEW, candidates)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(classes))
        assert rows.shape == (classes, WIDTH) and evidence.defined.shape == (len(NEW), classes)
        assert torch.equal(found.predict(NEW, candidates), found._candidates(candidates)[evidence.prediction])
    trust = found.confidence(NEW)
    threshold = float(trust.median())
    answers = found.answer(NEW, threshold)
    assert torch.equal(answers, torch.where(trust >= threshold, found.predict(NEW), -1))
    arrays = AugmentedClassifier(**SHORT).fit(*(each.numpy() for each in (*TRAIN, TABLE)))
    np.testing.assert_array_equal(arrays.answer(NEW.numpy(), threshold), answers.numpy())
    np.testing.assert_array_equal(arrays.confidence(NEW.numpy()), trust.numpy())


@pytest.mark.gpu
def test_answers_and_their_confidence_are_where_the_features_are() -> None:
    found, new = fitted(), NEW.to("cuda")
    for given in (found.answer(new, 0.5), found.confidence(new)):
        assert given.is_cuda
    assert torch.equal(found.answer(new, 0.5).cpu(), found.answer(NEW, 0.5))


def test_only_the_attributes_of_unseen_classes_reach_it_and_those_only_their_prototypes() -> None:
    found, other = fitted(), fitted(OTHER)
    for name, parameter in found.network_.named_parameters():
        assert torch.equal(parameter, other.network_.get_parameter(name))
    assert torch.equal(found.prototypes("seen"), other.prototypes("seen"))
    assert not torch.allclose(found.prototypes(), other.prototypes())


def test_options_that_need_no_training() -> None:
    found = fitted()
    table, learned = found.network_.codes, found.network_.prototypes.detach()
    weights = losses.ridge_weights(table[TOY.unseen], table[TOY.seen], 0.3)
    torch.testing.assert_close(found.prototypes(kappa=0.3), losses.synthesised(weights, learned))
    plain = found.evidence(NEW)
    found.set_params(kind="joint", weight=0.5)
    torch.testing.assert_close(found.confidence(NEW), plain.confidence("joint", 0.5))
    found.set_params(residual_temperature=0.1)
    torch.testing.assert_close(found.evidence(NEW).residual / 10, plain.residual, rtol=1e-5, atol=1e-5)


# --- choices


def test_the_choice_is_the_least_area_of_held_out_classes_and_the_plain_one_fold_by_fold() -> None:
    options: dict[str, Any] = {"weights": (0.5, 2.0), "kappas": (0.1, 0.3), "folds": 3, "risk": 0.5}
    found = choose(AugmentedClassifier(**SHORT), *TRAIN, TABLE, **options)
    assert set(found.areas) == set(itertools.product((0.1, 0.3), (0.5, 2.0)))
    assert found.areas[found.kappa, found.weight] == min(found.areas.values())
    assert choose(AugmentedClassifier(**SHORT), *TRAIN, OTHER, **options) == found  # unseen classes have no part
    areas, trust, wrong = [], [], []
    features, labels = TRAIN[0], torch.searchsorted(TOY.seen, TRAIN[1])
    chosen = SHORT | {"kappa": found.kappa, "weight": found.weight}
    for held_out in class_folds(SEEN, 3):
        away = torch.isin(labels, held_out)
        fold = AugmentedClassifier(**chosen).fit(features[~away], labels[~away], TABLE[TOY.seen])
        wrong.append(fold.predict(features[away]) != labels[away])
        trust.append(fold.confidence(features[away]))
        areas.append(aurcc(trust[-1], wrong[-1]))
    assert found.areas[found.kappa, found.weight] == pytest.approx(sum(areas) / 3)
    curve = risk_coverage(torch.cat(trust), torch.cat(wrong))
    assert found.threshold == pytest.approx(curve.threshold_for(0.5))
    assert (found.coverage, found.risk) == pytest.approx(curve.at(curve.threshold_for(0.5)))
