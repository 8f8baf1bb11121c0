"""Selective zero-shot classification: residual attributes, prototypes of unseen classes, confidences, choices."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import players
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reuselib import run
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl.codes import class_folds
from reuselib.qfsl.samples import FeatureSet
from reuselib.selective import augmented, confidence
from reuselib.selective import method as selective
from reuselib.selective.augmented import TASKS, AugmentedNetwork, AugmentedTraining, decorrelation, residual_loss
from reuselib.selective.confidence import CONFIDENCES, Evidence
from reuselib.selective.method import AugmentedClassifier, BootstrappedClassifier, choose
from reuselib.selective.risk import aurcc, risk_coverage, softmax_confidence

SEEN, UNSEEN, ATTRIBUTES, FEATURES, WIDTH = 9, 4, 7, 12, 5
SHORT: dict[str, Any] = {"steps": 60, "width": WIDTH, "batch": 16}


def codes(classes: int = SEEN + UNSEEN, attributes: int = ATTRIBUTES, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(classes, attributes, generator=torch.Generator().manual_seed(seed)), dim=1)


def world(seed: int = 0, images: int = 20, noise: float = 0.7) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and attributes; what is hidden follows from what is described, so that it can be transferred."""
    random = torch.Generator().manual_seed(seed)
    attributes = torch.rand(SEEN + UNSEEN, ATTRIBUTES, generator=random)
    hidden = attributes @ torch.randn(ATTRIBUTES, 4, generator=random)
    mixing = torch.randn(ATTRIBUTES + 4, FEATURES, generator=random)
    labels = torch.arange(SEEN + UNSEEN).repeat_interleave(images)
    clean = torch.cat([attributes, hidden], 1)[labels] @ mixing
    return clean + noise * torch.randn(clean.shape, generator=random), labels, attributes


def halves(seed: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Images of the seen classes, images of the unseen ones, and all attributes."""
    features, labels, attributes = world(seed)
    known = labels < SEEN
    return (features[known], labels[known]), (features[~known], labels[~known]), attributes


def fitted(**options: Any) -> tuple[AugmentedClassifier, Tensor, Tensor]:
    (features, labels), (new, truth), attributes = halves()
    return AugmentedClassifier(**SHORT | options).fit(features, labels, attributes), new, truth


def evidence(count: int = 30, classes: int = UNSEEN, seed: int = 0) -> Evidence:
    random = torch.Generator().manual_seed(seed)
    defined, residual = torch.randn(count, classes, generator=random), torch.randn(count, WIDTH, generator=random)
    return Evidence.of(defined, residual, F.normalize(torch.randn(classes, WIDTH, generator=random), dim=1))


def ranking(values: Tensor) -> list[int]:
    return values.argsort(descending=True, stable=True).tolist()


# --- losses (8, 11)


def test_the_residual_loss_of_its_own_task_is_a_cross_entropy() -> None:
    defined, residual, y = torch.randn(6, SEEN), torch.randn(6, SEEN), torch.randint(SEEN, (6,))
    expected = F.cross_entropy(residual, y, reduction="none")
    torch.testing.assert_close(residual_loss(defined, residual, y), expected)
    assert expected.shape == (6,)


@pytest.mark.parametrize("task", ["remainder", "decorrelated"])
def test_a_strict_residual_learns_on_top_of_what_is_defined(task: str) -> None:
    defined, residual, y = torch.randn(6, SEEN), torch.randn(6, SEEN), torch.randint(SEEN, (6,))
    expected = F.cross_entropy(defined + residual, y, reduction="none")
    torch.testing.assert_close(residual_loss(defined, residual, y, task), expected)
    torch.testing.assert_close(
        residual_loss(defined, torch.zeros_like(residual), y, task), F.cross_entropy(defined, y, reduction="none")
    )


@pytest.mark.parametrize("task", TASKS)
def test_no_gradient_of_the_residual_loss_reaches_the_defined_head(task: str) -> None:
    network = AugmentedNetwork(codes(), range(SEEN), FEATURES, WIDTH)
    x, y = torch.randn(8, FEATURES), torch.randint(SEEN, (8,))
    attributes, residual = network.bridge(x), network.residual(x)
    scores = network.residual_scores(residual)
    loss = residual_loss(network.score(attributes)[:, :SEEN], scores, y, task).mean() + decorrelation(
        attributes, residual
    )
    loss.backward()
    assert all(parameter.grad is None for parameter in network.bridge.parameters())
    assert all((parameter.grad != 0).any() for parameter in (network.residual.weight, network.prototypes))


def test_prototypes_of_zero_leave_the_defined_scores() -> None:
    network = AugmentedNetwork(codes(), range(SEEN), FEATURES, WIDTH)
    nn.init.zeros_(network.prototypes)
    x, y = torch.randn(8, FEATURES), torch.randint(SEEN, (8,))
    defined = network(x)[:, :SEEN]
    scores = network.residual_scores(network.residual(x))
    torch.testing.assert_close(
        residual_loss(defined, scores, y, "remainder"), F.cross_entropy(defined, y, reduction="none")
    )


def test_decorrelation_is_the_mean_squared_correlation() -> None:
    d, r = torch.randn(40, 3), torch.randn(40, 5)
    expected = np.corrcoef(d.numpy().T, r.numpy().T)[:3, 3:]
    assert decorrelation(d, r).item() == pytest.approx((expected**2).mean(), abs=1e-6)
    assert decorrelation(d, d[:, :1]).item() <= 1 and decorrelation(d[:, :1], -7 * d[:, :1]).item() == pytest.approx(1)


def test_uncorrelated_attributes_have_no_decorrelation_and_scales_do_not_matter() -> None:
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert decorrelation(signs[:, :1], signs[:, 1:]).item() == 0
    d, r = torch.randn(40, 3), torch.randn(40, 5)
    scaled = decorrelation(d * torch.tensor([2.0, 9.0, 0.1]), r * torch.rand(5) * 100 + 3)
    assert scaled.item() == pytest.approx(decorrelation(d, r).item(), rel=1e-4)
    assert decorrelation(d, torch.full((40, 2), 0.3)).item() == pytest.approx(0, abs=1e-6)


# --- prototypes of unseen classes (6, 7)


def test_ridge_weights_minimise_what_they_say() -> None:
    seen, unseen = codes()[:SEEN].double(), codes()[SEEN:].double()
    for kappa in (0.1, 1.0, 5.0):
        weights = selective.ridge_weights(unseen, seen, kappa).requires_grad_()
        ((unseen - weights @ seen).square().sum() + kappa * weights.square().sum()).backward()
        torch.testing.assert_close(weights.grad, torch.zeros_like(weights), atol=1e-10, rtol=0)
        assert weights.shape == (UNSEEN, SEEN) and weights.dtype == torch.float64


def test_a_small_kappa_finds_a_code_that_is_there() -> None:
    seen = codes(5)
    weights = selective.ridge_weights(seen[[3, 1]], seen, 1e-9)
    torch.testing.assert_close(weights, F.one_hot(torch.tensor([3, 1]), 5).double(), atol=1e-5, rtol=0)
    prototypes = torch.randn(5, WIDTH)
    expected = F.normalize(prototypes, dim=1)[[3, 1]]
    torch.testing.assert_close(selective.synthesised(weights, prototypes), expected, atol=1e-4, rtol=0)


def test_a_large_kappa_weighs_by_similarity() -> None:
    seen, unseen = codes()[:SEEN].double(), codes()[SEEN:].double()
    weights = 1e9 * selective.ridge_weights(unseen, seen, 1e9)
    torch.testing.assert_close(weights, unseen @ seen.T, atol=1e-6, rtol=0)


def test_more_seen_classes_than_attributes_need_a_ridge() -> None:
    assert selective.ridge_weights(codes()[SEEN:], codes()[:SEEN], 0.5).isfinite().all()
    for kappa in (0, -1.0, math.nan):
        with pytest.raises(ReuseError, match="above 0"):
            selective.ridge_weights(codes()[SEEN:], codes()[:SEEN], kappa)


def test_similarity_weights_are_a_softmax() -> None:
    seen, unseen = codes()[:SEEN], codes()[SEEN:]
    weights = selective.similarity_weights(unseen, seen)
    expected = (5 * unseen @ seen.T).exp()
    torch.testing.assert_close(weights.float(), expected / expected.sum(1, keepdim=True))
    assert (weights > 0).all() and set(selective.SYNTHESES) == {"ridge", "similarity"}


def test_prototypes_have_length_one_whatever_that_of_the_learned_ones() -> None:
    weights, prototypes = torch.randn(UNSEEN, SEEN), torch.randn(SEEN, WIDTH)
    found = selective.synthesised(weights, prototypes)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(UNSEEN))
    torch.testing.assert_close(selective.synthesised(weights, prototypes * torch.rand(SEEN, 1)), found)


def test_class_means_are_directions() -> None:
    residual, labels = torch.randn(30, WIDTH), torch.arange(30) % 3
    found = selective.class_means(residual, labels, 4)
    for label in range(3):
        torch.testing.assert_close(found[label], F.normalize(residual[labels == label].mean(0), dim=0))
    assert not found[3].any()


def slowly_bootstrapped(defined: Tensor, residual: Tensor, prototypes: Tensor, rounds: int) -> Tensor:
    predicted = defined.argmax(1)
    for _ in range(rounds):
        trust = Evidence.of(defined, residual, prototypes).confidence("standardised")
        rows = []
        for label, own in enumerate(prototypes):
            members = [i for i in range(len(defined)) if predicted[i] == label]
            best = sorted(members, key=lambda i: -float(trust[i]))[: math.ceil(len(members) / 3)]
            rows.append(F.normalize(residual[best].mean(0), dim=0) if best else own)
        prototypes = torch.stack(rows)
    return prototypes


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_bootstrapping_keeps_the_most_trusted_third_of_each_predicted_class(rounds: int) -> None:
    defined, residual = torch.randn(50, UNSEEN), torch.randn(50, WIDTH)
    defined[:, 2] = -9  # never predicted
    start = F.normalize(torch.randn(UNSEEN, WIDTH), dim=1)
    found = selective.bootstrapped(defined, residual, start, rounds=rounds)
    torch.testing.assert_close(found, slowly_bootstrapped(defined, residual, start, rounds))
    assert torch.equal(found[2], start[2])


def test_permuted_prototypes_are_the_same_in_other_places() -> None:
    prototypes = torch.randn(6, WIDTH)
    for seed in range(20):
        found = selective.permuted(prototypes, seed)
        assert not (found == prototypes).all(1).any()
        assert torch.equal(found.sort(0).values, prototypes.sort(0).values)
    with pytest.raises(ReuseError, match="two classes"):
        selective.permuted(prototypes[:1])


def test_random_prototypes_are_directions_and_repeat() -> None:
    found = selective.random_prototypes(torch.zeros(6, WIDTH), 3)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    assert torch.equal(found, selective.random_prototypes(torch.zeros(6, WIDTH), 3))


# --- confidences (5)


def test_confidences_are_their_plain_formulas() -> None:
    found = evidence()
    rows, best = torch.arange(len(found)), found.defined.argmax(1)
    log_d, log_r = (each.log_softmax(1)[rows, best] for each in (found.defined, found.residual))
    cosines = found.residual[rows, best] / found.length
    standard = [(each - each.mean()) / each.std(correction=0) for each in (log_d, cosines)]
    top = found.defined.sort(1, descending=True).values
    expected = {
        "defined": log_d,
        "margin": top[:, 0] - top[:, 1],
        "residual": log_r,
        "sum": log_d + 0.7 * log_r,
        "joint": (found.defined + 0.7 * found.residual).log_softmax(1)[rows, best],
        "standardised": standard[0] + 0.7 * standard[1],
    }
    assert expected.keys() == CONFIDENCES.keys()
    for kind, values in expected.items():
        torch.testing.assert_close(found.confidence(kind, 0.7), values)
        assert values.shape == (30,) and values.dtype == torch.float64


@pytest.mark.parametrize("kind", ["sum", "joint", "standardised"])
def test_without_weight_the_ranking_is_that_of_the_defined_attributes(kind: str) -> None:
    found = evidence(200)
    assert ranking(found.confidence(kind, 0.0)) == ranking(found.confidence("defined"))


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_residual_attributes_that_say_nothing_do_not_change_the_ranking(weight: float) -> None:
    found = evidence(200)
    silent = Evidence(found.defined, torch.zeros_like(found.residual), torch.zeros(200, dtype=torch.float64))
    for kind in ("sum", "standardised"):
        assert ranking(silent.confidence(kind, weight)) == ranking(found.confidence("defined"))


def test_cosines_do_not_see_the_length_of_residual_attributes() -> None:
    defined, residual = torch.randn(30, UNSEEN), torch.randn(30, WIDTH)
    prototypes = F.normalize(torch.randn(UNSEEN, WIDTH), dim=1)
    kinds = [Evidence.of(defined, scale * residual, prototypes) for scale in (1, 50)]
    torch.testing.assert_close(*[each.confidence("standardised") for each in kinds])
    torch.testing.assert_close(kinds[0].tempered(1, 3).confidence("standardised"), kinds[0].confidence("standardised"))


def test_temperatures_divide_scores_and_keep_predictions() -> None:
    found = evidence()
    cooled = found.tempered(2.0, 0.5)
    torch.testing.assert_close(cooled.defined * 2, found.defined)
    torch.testing.assert_close(cooled.residual / 2, found.residual)
    assert torch.equal(cooled.prediction, found.prediction)


@pytest.mark.parametrize("factor", [0.2, 1.0, 30.0])
def test_the_temperature_is_the_best_one(factor: float) -> None:
    scores = 3 * torch.randn(2000, 5, dtype=torch.float64)
    labels = torch.multinomial(scores.softmax(1), 1).squeeze(1)
    assert confidence.temperature(factor * scores, labels) == pytest.approx(factor, rel=0.1)


def test_residual_attributes_can_judge_another_classifier() -> None:
    found, scores = evidence(), torch.randn(30, UNSEEN)
    judged = found.judging(scores)
    assert torch.equal(judged.prediction, scores.argmax(1)) and torch.equal(judged.residual, found.residual)
    torch.testing.assert_close(judged.confidence("defined"), softmax_confidence(scores))
    with pytest.raises(ShapeMismatch, match=r"both be \(n, T\)"):
        found.judging(scores[:, :2])


def test_unknown_confidences_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'joint'"):
        evidence().confidence("jiont")


# --- training


def method(where: str = "cpu", seed: int = 0, backbone: bool = False, images: int = 60, **options: Any) -> Any:
    device = torch.device(where)
    with run.seeded(seed):
        phi = nn.Sequential(nn.Linear(6, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()) if backbone else None
        student = AugmentedNetwork(codes(), range(SEEN), FEATURES, WIDTH, phi).to(device)
    random = torch.Generator().manual_seed(99)
    x = torch.randn(images, 6 if backbone else FEATURES, generator=random).to(device)
    data = FeatureSet(x, torch.randint(SEEN, (images,), generator=random).to(device))
    made = AugmentedTraining(student, data, **{"batch": 8, "seed": seed, "precision": "fp32"} | options)
    made.steps_per_round = 3
    return made


@pytest.mark.parametrize("task", TASKS)
def test_a_step_minimises_the_sum_of_its_parts(task: str) -> None:
    first = method(task=task, beta=0.5, eta=2.0, dropout=0.0, weight_decay=0.0, momentum=0.0, lr=0.1)
    twin = method(task=task, beta=0.5, eta=2.0)
    before = players.state(first.student)
    report = first.step()
    x, labels = twin.images.sample(8, twin.random)
    attributes, residual = twin.student.bridge(x), twin.student.residual(x)
    defined = twin.student(x)[:, :SEEN]
    parts = {
        "defined": F.cross_entropy(defined, labels),
        "residual": residual_loss(defined, twin.student.residual_scores(residual), labels, task).mean(),
        "decorrelation": decorrelation(attributes, residual),
    }
    loss = parts["defined"] + 0.5 * parts["residual"] + (2 * parts["decorrelation"] if task == "decorrelated" else 0)
    for name, value in {"loss": loss, **parts}.items():
        torch.testing.assert_close(report[name], value.detach())
    loss.backward()
    for name, parameter in twin.student.named_parameters():
        torch.testing.assert_close(dict(first.student.named_parameters())[name], before[name] - 0.1 * parameter.grad)


def test_without_beta_the_residual_part_learns_nothing() -> None:
    found = method(beta=0.0, weight_decay=0.0)
    before = players.state(found.student)
    for _ in range(3):
        found.step()
    changed = {name for name, value in found.student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"bridge.weight", "bridge.bias"}


@pytest.mark.parametrize("task", TASKS)
def test_the_defined_head_learns_the_same_with_and_without_residual_attributes(task: str) -> None:
    with_them, without = method(task=task), method(beta=0.0)
    for _ in range(5):
        with_them.step()
        without.step()
    assert torch.equal(with_them.student.bridge.weight, without.student.bridge.weight)


def test_codes_never_change() -> None:
    found = method()
    before = found.student.codes.clone()
    for _ in range(3):
        found.step()
    assert torch.equal(found.student.codes, before) and not found.student.codes.requires_grad


def test_dropout_is_the_same_for_both_heads_and_scaled() -> None:
    found, seen = method(dropout=0.5, images=1), []
    for head in (found.student.bridge, found.student.residual):
        head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    found.step()
    assert torch.equal(*seen)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], (2 * found.images.features).expand(8, -1)[kept])
    assert 0.2 < kept.float().mean() < 0.8


def test_a_backbone_stays_as_it_is_unless_it_is_tuned() -> None:
    frozen, tuned = method(backbone=True), method(backbone=True, backbone_lr=0.1)
    before = players.state(frozen.student.backbone)
    assert not list(players.differences(before, players.state(tuned.student.backbone)))
    for _ in range(3):
        frozen.step()
        tuned.step()
    assert not list(players.differences(before, players.state(frozen.student.backbone)))
    assert not frozen.student.backbone.training and frozen.student.training
    assert list(players.differences(before, players.state(tuned.student.backbone)))
    assert tuned.student.backbone.training


class NoSync(TorchDispatchMode):
    """Fail on every operation whose result the host must wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        masked = any(isinstance(each, Tensor) and each.dtype == torch.bool for each in indices)
        assert name not in ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal") and not masked, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backbone", [False, True])
def test_a_step_never_waits_for_the_device(task: str, backbone: bool) -> None:
    found = method(task=task, backbone=backbone, backbone_lr=0.1 * backbone)
    with NoSync():
        for _ in range(2):
            report = found.step()
    assert all(value.shape == () and not value.requires_grad for value in report.values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backbone", [False, True])
def test_a_step_runs_on_meta(task: str, backbone: bool) -> None:
    report = method("meta", task=task, backbone=backbone).step()
    assert set(report) == {"loss", "defined", "residual", "decorrelation"}
    assert all(value.device.type == "meta" and value.shape == () for value in report.values())


@pytest.mark.parametrize("options", [{}, {"task": "decorrelated"}, {"backbone": True, "backbone_lr": 0.1}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_equals_uninterrupted(tmp_path: Path, options: dict[str, Any], precision: str) -> None:
    whole = method(**options, precision=precision)
    history = run.run(whole, 4, progress=False)
    run.run(method(**options, precision=precision), 2, checkpoint=tmp_path / "run.pt", progress=False)
    torch.manual_seed(5)
    resumed = method(**options, precision=precision, seed=7)
    again = run.run(resumed, 4, checkpoint=tmp_path / "run.pt", progress=False)
    assert not list(players.differences(players.state(whole), players.state(resumed)))
    assert again.rounds == history.rounds


def test_bad_input_to_training_is_refused() -> None:
    with pytest.raises(UnknownName, match="task of the residual attributes"):
        method(task="owm")
    with pytest.raises(ReuseError, match="below 1"):
        method(dropout=1.0)
    with pytest.raises(ReuseError, match="at least one residual attribute"):
        AugmentedNetwork(codes(), range(SEEN), FEATURES, 0)
    network = AugmentedNetwork(codes(), range(SEEN), FEATURES, WIDTH)
    data = FeatureSet(torch.randn(5, FEATURES), torch.full((5,), SEEN))
    with pytest.raises(ReuseError, match="not seen"):
        AugmentedTraining(network, data)
    with pytest.raises(ShapeMismatch, match="do not fit the network"):
        AugmentedTraining(network, FeatureSet(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(DeviceError, match="meta"):
        AugmentedTraining(network, FeatureSet(torch.zeros(5, FEATURES, device="meta"), torch.zeros(5, device="meta")))
    assert "own" in augmented.TASKS


# --- the classifier (3, 4, 7, 9, 10)


def test_shapes() -> None:
    found, new, _ = fitted()
    count = len(new)
    assert found.decision_function(new).shape == (count, SEEN + UNSEEN)
    assert found.residual(new).shape == (count, WIDTH) and found.confidence(new).shape == (count,)
    assert found.network_.prototypes.shape == (SEEN, WIDTH)
    for candidates, classes in (("unseen", UNSEEN), ("seen", SEEN), ("all", SEEN + UNSEEN), ([12, 0], 2)):
        rows = found.prototypes(candidates)
        assert rows.shape == (classes, WIDTH)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(classes))
        assert found.evidence(new, candidates).defined.shape == (count, classes)


def test_it_classifies_unseen_classes_and_knows_when_it_is_right() -> None:
    found, new, truth = fitted(steps=400)
    wrong = found.predict(new) != truth
    assert wrong.double().mean() < 0.6
    curve = risk_coverage(found.confidence(new), wrong)
    assert curve.area < curve.full_risk - 0.05


def test_predictions_and_evidence_agree() -> None:
    found, new, _ = fitted()
    for candidates in ("unseen", "all", [12, 0, 3]):
        classes = found._candidates(candidates)
        assert torch.equal(found.predict(new, candidates), classes[found.evidence(new, candidates).prediction])


def test_numpy_in_numpy_out() -> None:
    (features, labels), (new, _), attributes = halves()
    arrays = AugmentedClassifier(**SHORT).fit(features.numpy(), labels.numpy(), attributes.numpy())
    tensors, _, _ = fitted()
    for result in (arrays.confidence(new.numpy()), arrays.answer(new.numpy(), 0)):
        assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(arrays.confidence(new.numpy()), tensors.confidence(new).numpy())


def test_the_residual_head_has_no_part_in_the_prediction() -> None:
    found, new, truth = fitted()
    before, trust = found.predict(new), found.confidence(new)
    nn.init.normal_(found.network_.residual.weight)
    nn.init.normal_(found.network_.prototypes)
    assert torch.equal(found.predict(new), before) and not torch.equal(found.confidence(new), trust)
    risks = [risk_coverage(each, before != truth).full_risk for each in (trust, found.confidence(new))]
    assert risks[0] == pytest.approx(risks[1])


def test_the_order_of_the_unseen_classes_does_not_matter() -> None:
    found, new, truth = fitted()
    order = [11, 9, 12, 10]
    plain, shuffled = found.evidence(new), found.evidence(new, order)
    assert torch.equal(torch.tensor(order)[shuffled.prediction], found.predict(new))
    for kind in CONFIDENCES:
        torch.testing.assert_close(shuffled.confidence(kind), plain.confidence(kind))
    areas = [aurcc(found.confidence(new, each), found.predict(new, each) != truth) for each in ("unseen", order)]
    assert areas[0] == pytest.approx(areas[1])


def test_permuting_prototypes_alone_changes_the_ranking_not_the_answers() -> None:
    found, new, truth = fitted(steps=300)
    plain = found.evidence(new)
    shuffled = found.evidence(new, prototypes=selective.permuted(found.prototypes(), 1))
    assert torch.equal(plain.prediction, shuffled.prediction)
    wrong = found.predict(new) != truth
    curves = [risk_coverage(each.confidence(), wrong) for each in (plain, shuffled)]
    assert curves[0].full_risk == pytest.approx(curves[1].full_risk)
    assert curves[0].area < curves[1].area


def test_images_of_unseen_classes_never_change_an_inductive_classifier() -> None:
    found, new, _ = fitted()
    state, rows = players.state(found.network_), found.prototypes()
    found.confidence(new), found.predict(torch.randn_like(new))
    assert not list(players.differences(state, players.state(found.network_)))
    assert torch.equal(found.prototypes(), rows) and not found.transductive
    (features, labels), _, attributes = halves()
    again = AugmentedClassifier(**SHORT).fit(features, labels, attributes)
    assert not list(players.differences(state, players.state(again.network_))) and torch.equal(again.prototypes(), rows)
    with pytest.raises(ReuseError, match="inductive"):
        AugmentedClassifier(**SHORT).fit(features, labels, attributes, unlabelled=new)


def test_attributes_of_unseen_classes_change_their_prototypes_only() -> None:
    (features, labels), _, attributes = halves()
    found = AugmentedClassifier(**SHORT).fit(features, labels, attributes)
    attributes[SEEN:] = torch.rand(UNSEEN, ATTRIBUTES)
    other = AugmentedClassifier(**SHORT).fit(features, labels, attributes)
    assert torch.equal(found.prototypes("seen"), other.prototypes("seen"))
    assert not torch.allclose(found.prototypes(), other.prototypes())


def test_prototypes_follow_their_synthesis() -> None:
    for options in ({"kappa": 0.3}, {"synthesis": "similarity"}):
        found, _, _ = fitted(**options)
        table = found.network_.codes
        weights = (
            selective.ridge_weights(table[SEEN:], table[:SEEN], 0.3)
            if "kappa" in options
            else selective.similarity_weights(table[SEEN:], table[:SEEN])
        )
        expected = selective.synthesised(weights, found.network_.prototypes.detach())
        torch.testing.assert_close(found.prototypes(), expected)
    found, _, _ = fitted()
    expected, _, _ = fitted(kappa=7.0)
    torch.testing.assert_close(found.prototypes(kappa=7.0), expected.prototypes())


def test_the_confidence_can_be_asked_otherwise() -> None:
    found, new, _ = fitted(kind="joint", weight=0.5)
    torch.testing.assert_close(found.confidence(new), found.evidence(new).confidence("joint", 0.5))
    for kind, weight in itertools.product(("sum", "defined"), (0.0, 2.0)):
        expected = found.evidence(new).confidence(kind, weight)
        torch.testing.assert_close(found.confidence(new, kind=kind, weight=weight), expected)


def test_temperatures_of_the_classifier_reach_its_confidence() -> None:
    plain, new, _ = fitted()
    found, _, _ = fitted(defined_temperature=2.0, residual_temperature=0.1)
    expected = plain.evidence(new).tempered(2.0, 0.1).confidence()
    torch.testing.assert_close(found.confidence(new), expected)
    assert torch.equal(found.predict(new), plain.predict(new))


def test_an_answer_below_the_threshold_is_withheld() -> None:
    found, new, _ = fitted()
    trust = found.confidence(new)
    threshold = float(trust.median())
    answers = found.answer(new, threshold)
    assert torch.equal(answers == -1, trust < threshold)
    assert torch.equal(answers[trust >= threshold], found.predict(new)[trust >= threshold])
    assert (found.answer(new, math.inf) == -1).all() and (found.answer(new, -math.inf) >= SEEN).all()


def test_a_seed_decides_and_clones_are_unfitted() -> None:
    found, new, _ = fitted()
    copy = clone(found)
    assert copy.get_params() == found.get_params()
    with pytest.raises(ReuseError, match="not fitted"):
        copy.confidence(new)
    with pytest.raises(ReuseError, match="not fitted"):
        copy.prototypes()
    assert torch.equal(found.confidence(new), fitted()[0].confidence(new))
    assert not torch.equal(found.confidence(new), fitted(seed=1)[0].confidence(new))
    state = torch.get_rng_state()
    fitted()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "owm"}, "mean 'own'"), ({"synthesis": "rigde"}, "mean 'ridge'"), ({"kind": "som"}, "mean 'sum'")],
)
def test_unknown_options_get_the_nearest(options: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        fitted(**options)


def test_bad_features_and_prototypes_are_refused() -> None:
    found, new, _ = fitted()
    with pytest.raises(ShapeMismatch, match="3 columns"):
        found.residual(new[:, :3])
    with pytest.raises(ShapeMismatch, match=r"Prototypes must be \(4, 5\)"):
        found.evidence(new, prototypes=torch.zeros(4, 3))


# --- transductive


def test_bootstrapped_prototypes_come_from_unlabelled_images() -> None:
    (features, labels), (new, _), attributes = halves()
    found = BootstrappedClassifier(**SHORT).fit(features, labels, attributes, unlabelled=new)
    plain = AugmentedClassifier(**SHORT).fit(features, labels, attributes)
    assert found.transductive and torch.equal(found.predict(new), plain.predict(new))
    expected = selective.bootstrapped(plain.decision_function(new)[:, SEEN:], plain.residual(new), plain.prototypes())
    torch.testing.assert_close(found.prototypes(), expected)
    torch.testing.assert_close(found.prototypes("seen"), plain.prototypes("seen"))
    with pytest.raises(ReuseError, match="transductive"):
        BootstrappedClassifier(**SHORT).fit(features, labels, attributes)
    with pytest.raises(ReuseError, match="inductive classifiers"):
        choose(found, features, labels, attributes)


# --- choices


def test_the_choice_is_the_least_area_of_held_out_classes() -> None:
    (features, labels), _, attributes = halves()
    found = choose(
        AugmentedClassifier(**SHORT), features, labels, attributes, weights=(0.5, 2.0), kappas=(0.1, 1.0), folds=3
    )
    assert set(found.areas) == set(itertools.product((0.1, 1.0), (0.5, 2.0)))
    assert found.areas[found.kappa, found.weight] == min(found.areas.values())
    assert math.isnan(found.risk) if found.threshold == math.inf else found.risk <= 0.1 + 1e-9
    again = choose(
        AugmentedClassifier(**SHORT), features, labels, attributes, weights=(0.5, 2.0), kappas=(0.1, 1.0), folds=3
    )
    assert again == found


def test_the_choice_is_the_plain_one_fold_by_fold() -> None:
    (features, labels), _, attributes = halves()
    found = choose(AugmentedClassifier(**SHORT), features, labels, attributes, weights=(2.0,), kappas=(0.3,), risk=0.5)
    areas, trust, wrong = [], [], []
    for held_out in class_folds(torch.arange(SEEN), 4):
        away = torch.isin(labels, held_out)
        fold = AugmentedClassifier(**SHORT, kappa=0.3, weight=2.0)
        fold.fit(features[~away], labels[~away], attributes[:SEEN], seen=labels[~away].unique())
        errors = fold.predict(features[away]) != labels[away]
        trust.append(fold.confidence(features[away]))
        wrong.append(errors)
        areas.append(aurcc(trust[-1], errors))
    assert found.areas == {(0.3, 2.0): pytest.approx(sum(areas) / 4)}
    curve = risk_coverage(torch.cat(trust), torch.cat(wrong))
    assert found.threshold == pytest.approx(curve.threshold_for(0.5))
    assert (found.coverage, found.risk) == pytest.approx(curve.at(curve.threshold_for(0.5)))


def test_unseen_classes_have_no_part_in_the_choice() -> None:
    (features, labels), _, attributes = halves()
    options: dict[str, Any] = {"weights": (1.0,), "kappas": (1.0,), "folds": 3}
    found = choose(AugmentedClassifier(**SHORT), features, labels, attributes, **options)
    attributes[SEEN:] = torch.rand(UNSEEN, ATTRIBUTES)
    assert choose(AugmentedClassifier(**SHORT), features, labels, attributes, **options) == found
    with pytest.raises(ReuseError, match="cannot be cut"):
        choose(AugmentedClassifier(**SHORT), features, labels, attributes, folds=SEEN + 1)
