"""Confidences and prototypes that are not synthesised: plain formulas, what changes a ranking and what does not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from zeroshot_toys import assert_refused

from reuselib.errors import BadValue, ReuseError, ShapeMismatch
from reuselib.selective import CONFIDENCES, Evidence, rivals
from reuselib.selective.risk import softmax_confidence

CLASSES, WIDTH = 4, 5


def parts(count: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    defined, residual = torch.randn(count, CLASSES, generator=random), torch.randn(count, WIDTH, generator=random)
    return defined, residual, F.normalize(torch.randn(CLASSES, WIDTH, generator=random), dim=1)


def test_confidences_are_their_plain_formulas() -> None:
    found = Evidence.of(*parts())
    rows, best = torch.arange(30), found.defined.argmax(1)
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


def test_residual_attributes_can_judge_another_classifier_and_what_does_not_fit_is_refused() -> None:
    found, scores = Evidence.of(*parts()), torch.randn(30, CLASSES)
    judged = found.judging(scores)
    assert torch.equal(judged.prediction, scores.argmax(1)) and torch.equal(judged.residual, found.residual)
    torch.testing.assert_close(judged.confidence("defined"), softmax_confidence(scores))
    assert_refused(
        (ShapeMismatch, r"both be \(n, T\)", lambda: found.judging(scores[:, :2])),
        (ShapeMismatch, r"prototypes \(T, q\), not \(30, 5\)", lambda: Evidence.of(*parts()[:2], torch.ones(4, 4))),
        (BadValue, r"labels \[3\] are none of 0 to 2", lambda: rivals.class_means(scores, torch.arange(30) % 4, 3)),
        (BadValue, "weight must be", lambda: found.confidence("sum", -1.0)),
        (ReuseError, "at least 2", lambda: rivals.permuted(scores[:1])),
    )


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


def test_bootstrapping_keeps_the_most_trusted_third_of_each_predicted_class() -> None:
    defined, residual, start = parts(50)
    defined[:, 2] = -9  # never predicted
    for rounds in (0, 1, 3):
        found = rivals.bootstrapped(defined, residual, start, rounds=rounds)
        torch.testing.assert_close(found, slowly_bootstrapped(defined, residual, start, rounds))


def test_prototypes_of_the_oracle_and_of_the_controls() -> None:
    residual, labels, prototypes = torch.randn(30, WIDTH), torch.arange(30) % 3, torch.randn(6, WIDTH)
    expected = F.normalize(torch.stack([residual[labels == label].mean(0) for label in range(3)]), dim=1)
    torch.testing.assert_close(rivals.class_means(residual, labels, 4), F.pad(expected, (0, 0, 0, 1)))
    for seed in range(20):
        found = rivals.permuted(prototypes, seed)
        assert not (found == prototypes).all(1).any()
        assert torch.equal(found.sort(0).values, prototypes.sort(0).values)
    drawn = rivals.random_prototypes(prototypes, 3)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(6))
    assert torch.equal(drawn, rivals.random_prototypes(prototypes, 3))
