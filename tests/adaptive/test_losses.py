"""The equations of adaptive amalgamation against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from reuselib.adaptive import losses, selection


def test_entropy_is_the_plain_formula_and_lies_between_zero_and_the_log_of_the_classes() -> None:
    for classes in (2, 3, 10):
        logits = 5 * torch.randn(500, classes, dtype=torch.float64)
        entropies, p = losses.entropy(logits), logits.softmax(1)
        torch.testing.assert_close(entropies, -(p * p.log()).sum(1).float(), atol=1e-6, rtol=1e-4)
        assert (entropies >= 0).all() and (entropies <= math.log(classes) + 1e-6).all()
        assert losses.entropy(torch.full((classes,), 3.7)).item() == pytest.approx(math.log(classes), abs=1e-6)
    logits = torch.randn(50, 3)
    torch.testing.assert_close(losses.entropy(logits + 7), losses.entropy(logits))
    assert (losses.entropy(2 * logits) < losses.entropy(logits)).all()


def test_entropy_is_finite_where_the_plain_formula_is_not() -> None:
    for scale in (88.8, 105.0, 1e4):
        logits = scale * torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        assert not (-(p * p.log()).sum(1)).isfinite().all()
        assert losses.entropy(logits).tolist() == pytest.approx([0, 0, math.log(2)], abs=1e-6)


def test_the_least_entropy_is_selected_ties_go_to_the_first_and_order_does_not_matter() -> None:
    entropies = torch.tensor([[0.3, 0.2, 0.5], [0.1, 0.2, 0.6], [0.2, 0.2, 0.4]])
    assert losses.select(entropies).tolist() == [1, 0, 2] and losses.select(entropies[:1]).tolist() == [0] * 3
    entropies, order = torch.rand(4, 60), torch.tensor([2, 0, 3, 1])
    assert torch.equal(order[losses.select(entropies[order])], losses.select(entropies))


def test_with_two_sources_and_two_classes_the_mean_of_the_logits_decides_as_the_selection_does() -> None:
    for classes in (2, 3):
        logits = torch.randn(2, 1000, classes)
        chosen = selection.pseudo_labels(logits, losses.select(losses.entropy(logits)))
        assert torch.equal(chosen, logits.mean(0).argmax(1)) == (classes == 2)


def test_feature_loss_is_the_sum_of_the_blocks_means() -> None:
    s, t = ([torch.randn(3, k, k, k) for k in (2, 5)] for _ in range(2))
    plain = sum(float(((a - b) ** 2).sum()) / a.numel() for a, b in zip(s, t, strict=True))
    assert losses.feature_loss(s, t).item() == pytest.approx(plain, rel=1e-5)


def test_logit_loss_and_its_gradient() -> None:
    a, s, t = torch.tensor(1.3, requires_grad=True), torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    loss = losses.logit_loss(a, s, t)
    loss.backward()
    assert loss.item() == pytest.approx(float(((1.3 * s.detach() - t) ** 2).mean()), rel=1e-5)
    torch.testing.assert_close(s.grad, (2 * a * (a * s - t) / 15).detach())
    torch.testing.assert_close(a.grad, (2 * s * (a * s - t)).mean().detach())


def test_losses_are_float32_whatever_the_networks_give() -> None:
    half = [torch.randn(2, 3, 4, 4).bfloat16()]
    found = (losses.feature_loss(half, half), losses.logit_loss(torch.ones(()), half[0], half[0]))
    assert {each.dtype for each in (*found, losses.row_norm_regulariser(half))} == {torch.float32}


def test_the_regulariser_is_zero_for_unit_rows_and_only_for_them_and_its_gradient() -> None:
    weights = [F.normalize(torch.randn(k, 4, 1, 1), dim=1) for k in (3, 5)]
    assert losses.row_norm_regulariser(weights).item() == pytest.approx(0, abs=1e-10)
    weights[1][2] *= 1.1
    assert losses.row_norm_regulariser(weights).item() == pytest.approx((1.1**2 - 1) ** 2 / 5, rel=1e-4)
    zero = [torch.zeros(k, 3, 1, 1) for k in (32, 32, 64, 128, 256)]
    assert losses.row_norm_regulariser(zero).item() == 5, "it counts the blocks"
    weight = torch.randn(5, 3, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.row_norm_regulariser([weight]), weight)
    w = weight.detach().double()
    torch.testing.assert_close(losses.row_norms(weight).double(), (w**2).sum((1, 2, 3)), rtol=1e-5, atol=1e-6)
    expected = 4 * ((w**2).sum(1, keepdim=True) - 1) * w / 5
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)
