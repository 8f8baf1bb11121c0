"""The equations of model inversion against closed forms and slow loops (the paper's properties 1-3, 5, 7, 10)."""

from __future__ import annotations

import math

import plain_inversion
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.cmi import losses
from reuselib.cmi.losses import softened_kl
from reuselib.dfad.losses import kl_divergence
from reuselib.errors import ShapeMismatch


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of every row."""
    return (p * (p / q).log()).sum(1)


# ---- contrast


@pytest.mark.parametrize(("new", "remembered", "temperature"), [(1, 0, 0.1), (3, 0, 0.7), (3, 4, 0.1), (1, 5, 0.7)])
def test_contrastive_loss_by_loops(new: int, remembered: int, temperature: float) -> None:
    rows = torch.cat([units(new + remembered, 5), units(new + remembered, 5)], 1)
    expected = plain_inversion.contrast(nn.Identity(), rows, new, temperature)
    found = losses.contrastive_loss(*rows.chunk(2, 1), new, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_properties_1_and_2_identical_and_orthonormal_embeddings() -> None:
    assert losses.contrastive_loss(units(1, 8), units(1, 8), 1).item() == 0  # one image, and an empty bank
    for new, remembered in ((6, 0), (6, 9), (1, 1), (3, 5)):
        count, parts = new + remembered, 2 if remembered else 1
        same, apart = units(1, 8).expand(count, 8), torch.eye(count)
        assert losses.contrastive_loss(same, same, new).item() == pytest.approx(parts * math.log(count), rel=1e-5)
        each = math.log1p((count - 1) * math.exp(-1 / 0.1))
        assert losses.contrastive_loss(apart, apart, new).item() == pytest.approx(parts * each, rel=1e-2, abs=1e-6)


def test_property_3_no_gradient_reaches_the_keys_and_similarities_are_compared_in_float32() -> None:
    anchors, keys = units(7, 4).requires_grad_(), units(7, 4).requires_grad_()
    losses.contrastive_loss(anchors, keys, 3).backward()
    assert keys.grad is None and (anchors.grad.norm(dim=1) > 1e-4).all()  # the remembered anchors teach the head
    half = anchors.detach().bfloat16(), keys.detach().bfloat16()
    found = losses.contrastive_loss(*half, 3)
    assert found.dtype == torch.float32 and found == losses.contrastive_loss(*(each.float() for each in half), 3)
    assert losses.contrastive_loss(anchors, -anchors, 3, 1e-3).isfinite()
    with pytest.raises(ShapeMismatch, match=r"\(4, 3\) and \(5, 3\)"):
        losses.contrastive_loss(units(4, 3), units(5, 3), 2)


# ---- batch norm


def test_property_5_the_norms_are_not_squared_and_layers_add_up() -> None:
    layers = [nn.BatchNorm2d(2), nn.BatchNorm2d(1)]
    layers[1].running_mean.fill_(1), layers[1].running_var.fill_(4)
    means, variances = [torch.tensor([3.0, -4.0]), torch.ones(1)], [torch.ones(2), torch.tensor([2.5])]
    assert losses.batch_norm_loss(means, variances, layers).item() == pytest.approx(5 + 1.5)
    for distance, force in ((0.0, 0), (1e-3, 1), (1e3, 1)):  # it does not fade with the distance; pitfall 11: 0 at 0
        mean, variance = torch.tensor([distance, 0.0]).requires_grad_(), torch.ones(2).requires_grad_()
        loss = losses.batch_norm_loss([mean], [variance], layers[:1])
        loss.backward()
        assert loss.item() == pytest.approx(distance)
        assert mean.grad.tolist() == pytest.approx([force, 0]) and variance.grad.tolist() == [0, 0]


# ---- classes and adversaries


def test_class_prior_and_balance_loss() -> None:
    t, targets = 3 * torch.randn(5, 4), torch.tensor([0, 3, 3, 1, 2])
    p = t.softmax(1)
    torch.testing.assert_close(losses.class_prior_loss(t, targets), -p[range(5), targets].log().mean())
    torch.testing.assert_close(losses.balance_loss(t), (p.mean(0) * p.mean(0).log()).sum())
    assert losses.balance_loss(100 * torch.eye(7)).item() == pytest.approx(-math.log(7))


def test_property_7_the_adversarial_term_counts_images_on_which_both_decide_alike() -> None:
    t, s = torch.randn(4, 4), torch.randn(4, 4)
    for image, (first, second) in enumerate(((0, 0), (1, 2), (3, 3), (2, 0))):
        t[image, first] = s[image, second] = 4
    each = divergence(t.softmax(1), s.softmax(1))
    for logits in (t, s):
        logits.requires_grad_()
    found = losses.masked_disagreement(t, s)
    torch.testing.assert_close(found, (each[0] + each[2]) / 4)
    found.backward()
    for gradient in (t.grad, s.grad):  # images on which the networks disagree get no gradient
        assert (gradient[[0, 2]].abs().amax(1) > 1e-3).all() and (gradient[[1, 3]] == 0).all()
    assert losses.masked_disagreement(t, t).item() == 0


def test_jensen_shannon_by_hand_and_of_certain_and_opposed_networks() -> None:
    t, s = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4)
    q, p = ((logits / 3).softmax(1) for logits in (t, s))
    m, p, q = (each.clamp(0.01, 0.99) for each in ((p + q) / 2, p, q))
    torch.testing.assert_close(losses.jensen_shannon(t, s), (divergence(m, p) + divergence(m, q)).mean() / 2)
    assert losses.jensen_shannon(t, t).item() == pytest.approx(0, abs=1e-7)
    t = torch.tensor([[1e4, -1e4]])
    s = (-t).requires_grad_()
    value = losses.jensen_shannon(t, s)
    value.backward()
    assert value.isfinite() and value.item() > 0.5 and s.grad.isfinite().all()
    for adversary in (losses.masked_disagreement, losses.jensen_shannon):
        with pytest.raises(ShapeMismatch, match="same number of classes"):
            adversary(torch.zeros(2, 3), torch.zeros(2, 4))


# ---- the student's loss, and smoothness


def test_property_10_the_students_loss_is_blind_to_a_constant_and_half_the_variance_when_soft() -> None:
    t, s = 2 * torch.randn(50, 5), 2 * torch.randn(50, 5)
    assert softened_kl(t, s).item() == kl_divergence(t, s, 20).item()
    assert softened_kl(t, t + torch.randn(50, 1)).item() == pytest.approx(0, abs=1e-4)
    difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    limit = difference.square().sum(1).mean().item() / (2 * 5)
    errors = [abs(kl_divergence(t, s, temperature).item() / limit - 1) for temperature in (3, 10, 30, 100)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02


def test_total_variation_by_loops() -> None:
    images, total = torch.rand(2, 3, 4, 5), 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        places = [(y, x) for y in range(4 - down) for x in range(5) if 0 <= x + right < 5]
        values = [(images[..., y, x] - images[..., y + down, x + right]).abs().mean().item() for y, x in places]
        total += sum(values) / len(values)
    assert losses.total_variation(images).item() == pytest.approx(total, rel=1e-5)
