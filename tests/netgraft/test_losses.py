"""The distances of grafting against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from reuselib import netgraft
from reuselib.errors import ShapeMismatch

LOSSES = [
    netgraft.normalised_logits_distance,
    netgraft.logits_distance,
    netgraft.feature_distance,
    netgraft.soft_targets,
]


def logits(seed: int = 0, count: int = 6, classes: int = 5) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_normalised_distance_is_the_sum_of_two_minus_two_cosines() -> None:
    u, v = logits(0), logits(1)
    by_hand = 0.0
    for a, b in zip(u.tolist(), v.tolist(), strict=True):
        length = [math.sqrt(sum(x * x for x in each)) for each in (a, b)]
        by_hand += sum((x / length[0] - y / length[1]) ** 2 for x, y in zip(a, b, strict=True))
    found = netgraft.normalised_logits_distance(u, v)
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    assert found.item() == pytest.approx(2 * (1 - F.cosine_similarity(u, v)).sum().item(), rel=1e-5)


def test_the_normalised_distance_goes_from_0_to_4_for_each_image() -> None:
    u = logits()
    right = torch.tensor([[0.0, 1.0]])
    assert netgraft.normalised_logits_distance(u, u) == 0
    assert netgraft.normalised_logits_distance(u, -u).item() == pytest.approx(4 * len(u))
    assert netgraft.normalised_logits_distance(right, right.flip(1)).item() == pytest.approx(2)
    for seed in range(20):
        assert 0 <= netgraft.normalised_logits_distance(u[:1], logits(seed, 1)) <= 4


def test_the_normalised_distance_does_not_see_the_length_of_any_image() -> None:
    u, v = logits(0), logits(1)
    lengths = torch.tensor([1e-3, 0.1, 1, 7, 100, 1e4]).view(6, 1)
    expected = netgraft.normalised_logits_distance(u, v)
    for pair in ((u, lengths * v), (lengths * u, v)):
        torch.testing.assert_close(netgraft.normalised_logits_distance(*pair), expected)
    assert netgraft.logits_distance(u, 2 * v) != netgraft.logits_distance(u, v)


def test_the_gradient_of_the_normalised_distance_is_orthogonal_to_the_logits() -> None:
    u, v = logits(0), logits(1).requires_grad_()
    (gradient,) = torch.autograd.grad(netgraft.normalised_logits_distance(u, v), v)
    assert gradient.norm(dim=1).min() > 0.1
    assert (gradient * v).sum(1).abs().max() < 1e-6


def test_logits_of_length_zero_give_finite_numbers() -> None:
    u, v = logits(0).float(), torch.zeros(6, 5, requires_grad=True)
    loss = netgraft.normalised_logits_distance(u, v)
    (gradient,) = torch.autograd.grad(loss, v)
    assert loss.item() == pytest.approx(6) and gradient.isfinite().all()


def test_the_other_distances_by_hand() -> None:
    u, v = logits(0), logits(1)
    differences = [(a - b) ** 2 for a, b in zip(u.flatten().tolist(), v.flatten().tolist(), strict=True)]
    assert netgraft.logits_distance(u, v).item() == pytest.approx(sum(differences), rel=1e-5)
    assert netgraft.feature_distance(u, v).item() == pytest.approx(sum(differences) / 30, rel=1e-5)
    maps = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(netgraft.feature_distance(*maps), F.mse_loss(*maps))


def test_soft_targets_are_the_divergence_at_temperature_4() -> None:
    u, v = logits(0), logits(1)
    p, q = (u / 4).softmax(1), (v / 4).softmax(1)
    expected = 16 * (p * (p / q).log()).sum() / len(u)
    assert netgraft.soft_targets(u, v).item() == pytest.approx(expected.item(), rel=1e-4)
    assert netgraft.soft_targets(u, u).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_lifted_and_the_gradient_goes_to_the_student(loss) -> None:
    u, v = logits(0).bfloat16(), logits(1).bfloat16().requires_grad_()
    value = loss(u, v)
    assert value.dtype == torch.float32 and value.shape == ()
    value.backward()
    assert v.grad.isfinite().all() and v.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_other_shapes_are_refused(loss) -> None:
    with pytest.raises(ShapeMismatch, match=r"\(6, 5\) and \(6, 4\).*same number of classes"):
        loss(logits(), logits(classes=4))
