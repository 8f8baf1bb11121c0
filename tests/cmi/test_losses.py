"""The equations of model inversion against closed forms and slow loops (the paper's properties 1-3, 5, 7, 10)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.cmi import losses
from reuselib.cmi.losses import softened_kl
from reuselib.dfad.losses import kl_divergence, one_hot_loss
from reuselib.errors import ShapeMismatch


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape))


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# ---- contrast


def test_contrastive_loss_by_loops() -> None:
    for new, remembered, temperature in ((1, 0, 0.1), (3, 0, 0.7), (3, 4, 0.1), (1, 5, 0.7)):
        anchors, keys = units(new + remembered, 5), units(new + remembered, 5)
        each = []
        for i, anchor in enumerate(anchors):
            similarities = [sum(a * k for a, k in zip(anchor.tolist(), key, strict=True)) for key in keys.tolist()]
            each.append(-math.log(softmax([value / temperature for value in similarities])[i]))
        expected = sum(each[:new]) / new + (sum(each[new:]) / remembered if remembered else 0)
        found = losses.contrastive_loss(anchors, keys, new, temperature)
        assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_properties_1_and_2_identical_and_orthonormal_embeddings() -> None:
    assert losses.contrastive_loss(units(1, 8), units(1, 8), 1).item() == 0  # one image, and an empty bank
    for new, remembered in ((6, 0), (6, 9), (1, 1), (3, 5)):
        count, parts = new + remembered, 2 if remembered else 1
        same, apart = units(1, 8).expand(count, 8), torch.eye(count)
        assert losses.contrastive_loss(same, same, new).item() == pytest.approx(parts * math.log(count), rel=1e-5)
        for temperature in (0.1, 0.5):
            each = math.log1p((count - 1) * math.exp(-1 / temperature))
            found = losses.contrastive_loss(apart, apart, new, temperature).item()
            assert found == pytest.approx(parts * each, rel=1e-2, abs=1e-6)


def test_property_3_no_gradient_reaches_the_keys() -> None:
    anchors, keys = units(7, 4).requires_grad_(), units(7, 4).requires_grad_()
    losses.contrastive_loss(anchors, keys, 3).backward()
    assert keys.grad is None
    assert (anchors.grad.norm(dim=1) > 1e-4).all()  # the remembered anchors teach the head


def test_many_remembered_images_do_not_drown_the_new_ones() -> None:
    """A new image counts 1/N, a remembered one 1/M: repeating what is remembered leaves the new ones' weight."""
    keys = torch.eye(6)
    right = losses.contrastive_loss(keys, keys, 2)
    new = losses.contrastive_loss(keys[[1, 0, 2, 3, 4, 5]], keys, 2) - right
    remembered = losses.contrastive_loss(keys[[0, 1, 3, 2, 4, 5]], keys, 2) - right
    assert (new / remembered).item() == pytest.approx(2, rel=1e-4)  # 2 of 2 new ones are wrong, 2 of 4 remembered


def test_similarities_are_compared_in_float32_and_every_anchor_needs_a_key() -> None:
    anchors, keys = units(6, 8), units(6, 8)
    found = losses.contrastive_loss(anchors.bfloat16(), keys.bfloat16(), 3)
    assert found.dtype == torch.float32
    assert found.item() == losses.contrastive_loss(anchors.bfloat16().float(), keys.bfloat16().float(), 3).item()
    assert losses.contrastive_loss(anchors, -anchors, 3, 1e-3).isfinite()
    with pytest.raises(ShapeMismatch, match=r"\(4, 3\) and \(5, 3\)"):
        losses.contrastive_loss(units(4, 3), units(5, 3), 2)


# ---- batch norm


def layer(mean: list[float], variance: list[float]) -> nn.BatchNorm2d:
    result = nn.BatchNorm2d(len(mean))
    result.running_mean.copy_(torch.tensor(mean))
    result.running_var.copy_(torch.tensor(variance))
    return result


def test_property_5_the_norms_are_not_squared_and_layers_add_up() -> None:
    layers = [layer([0, 0], [1, 1]), layer([1], [4])]
    means, variances = [torch.tensor([3.0, -4.0]), torch.ones(1)], [torch.ones(2), torch.tensor([2.5])]
    assert losses.batch_norm_loss(means, variances, layers).item() == pytest.approx(5 + 1.5)
    for distance in (1e-3, 1.0, 1e3):  # the force does not fade with the distance
        mean = torch.tensor([distance, 0.0]).requires_grad_()
        losses.batch_norm_loss([mean], [torch.ones(2)], [layer([0, 0], [1, 1])]).backward()
        assert mean.grad.tolist() == pytest.approx([1, 0])
    # Pitfall 11: equal statistics give zero, and gradient zero.
    mean, variance = torch.tensor([1.0, 2]).requires_grad_(), torch.tensor([3.0, 4]).requires_grad_()
    loss = losses.batch_norm_loss([mean], [variance], [layer([1, 2], [3, 4])])
    loss.backward()
    assert loss.item() == 0 and mean.grad.tolist() == variance.grad.tolist() == [0, 0]


# ---- classes


def test_class_prior_and_balance_loss_by_loops() -> None:
    t, targets = 3 * torch.randn(5, 4), torch.tensor([0, 3, 3, 1, 2])
    rows = [softmax(row) for row in t.tolist()]
    slow = sum(-math.log(row[target]) for row, target in zip(rows, targets.tolist(), strict=True)) / 5
    assert losses.class_prior_loss(t, targets).item() == pytest.approx(slow, rel=1e-5)
    assert losses.class_prior_loss(t, t.argmax(1)).item() == pytest.approx(one_hot_loss(t).item())
    mean = [sum(column) / 5 for column in zip(*rows, strict=True)]
    assert losses.balance_loss(t).item() == pytest.approx(sum(p * math.log(p) for p in mean), rel=1e-5)
    assert losses.balance_loss(100 * torch.eye(7)).item() == pytest.approx(-math.log(7))
    assert losses.balance_loss(100 * torch.eye(7)[:1]).item() == pytest.approx(0, abs=1e-6)


# ---- adversaries


def deciding(*decisions: tuple[int, int], classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits of two networks that decide for given classes, image by image."""
    t, s = torch.randn(len(decisions), classes), torch.randn(len(decisions), classes)
    for row, (first, second) in enumerate(decisions):
        t[row, first] = s[row, second] = 4
    return t, s


def test_property_7_the_adversarial_term_by_loops_and_at_its_ends() -> None:
    t, s = deciding((0, 0), (1, 2), (3, 3), (2, 0))
    each = [divergence(softmax(p), softmax(q)) for p, q in zip(t.tolist(), s.tolist(), strict=True)]
    assert losses.masked_disagreement(t, s).item() == pytest.approx((each[0] + each[2]) / 4, rel=1e-4)
    t, s = deciding(*((i, i) for i in range(4)))
    assert losses.masked_disagreement(t, t).item() == 0
    torch.testing.assert_close(losses.masked_disagreement(t, s), kl_divergence(t, s))
    assert losses.masked_disagreement(*deciding(*((i, (i + 1) % 4) for i in range(4)))).item() == 0
    for _ in range(50):
        assert losses.masked_disagreement(3 * torch.randn(6, 4), 3 * torch.randn(6, 4)).item() >= 0
    # Images on which the networks disagree get no gradient.
    t, s = (logits.requires_grad_() for logits in deciding((0, 0), (1, 2)))
    losses.masked_disagreement(t, s).backward()
    for gradient in (t.grad, s.grad):
        assert gradient[0].abs().max() > 1e-3 and (gradient[1] == 0).all()


def test_jensen_shannon_by_loops_and_of_certain_and_opposed_networks() -> None:
    t, s, total = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4), 0.0
    for a, b in zip(s.tolist(), t.tolist(), strict=True):
        p, q = (softmax([value / 3 for value in row]) for row in (a, b))
        m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        m, p, q = ([min(max(value, 0.01), 0.99) for value in row] for row in (m, p, q))
        total += (divergence(m, p) + divergence(m, q)) / 2 / 5
    assert losses.jensen_shannon(t, s).item() == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(losses.jensen_shannon(s, t), losses.jensen_shannon(t, s))
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
    assert softened_kl(t, t).item() == 0
    assert softened_kl(t, t + torch.randn(50, 1)).item() == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(softened_kl(t, s + 3), softened_kl(t, s), rtol=1e-3, atol=1e-5)
    assert softened_kl(t, s).item() == kl_divergence(t, s, 20).item()
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
    assert losses.total_variation(torch.full((1, 1, 4, 4), 0.3)).item() == 0
