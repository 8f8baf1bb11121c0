"""The equations of model inversion against closed forms and slow loops (the paper's properties 1-3, 5, 7, 10)."""

from __future__ import annotations

import math
from collections.abc import Callable

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


@pytest.mark.parametrize(("new", "remembered"), [(1, 0), (3, 0), (3, 4), (1, 5)])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_contrastive_loss_by_loops(new: int, remembered: int, temperature: float) -> None:
    anchors, keys = units(new + remembered, 5), units(new + remembered, 5)
    each = []
    for i, anchor in enumerate(anchors):
        similarities = [sum(a * k for a, k in zip(anchor.tolist(), key, strict=True)) for key in keys.tolist()]
        each.append(-math.log(softmax([value / temperature for value in similarities])[i]))
    expected = sum(each[:new]) / new + (sum(each[new:]) / remembered if remembered else 0)
    found = losses.contrastive_loss(anchors, keys, new, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_property_1_one_image_and_an_empty_bank_give_exactly_zero() -> None:
    assert losses.contrastive_loss(units(1, 8), units(1, 8), 1).item() == 0


@pytest.mark.parametrize(("new", "remembered"), [(6, 0), (6, 9), (1, 1)])
def test_property_1_identical_embeddings_give_logarithms_of_the_count(new: int, remembered: int) -> None:
    same = units(1, 8).expand(new + remembered, 8)
    parts = 2 if remembered else 1
    expected = parts * math.log(new + remembered)
    assert losses.contrastive_loss(same, same, new).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("new", "remembered"), [(4, 0), (3, 5)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_property_2_orthonormal_embeddings(new: int, remembered: int, temperature: float) -> None:
    apart = torch.eye(new + remembered)
    each = math.log1p((new + remembered - 1) * math.exp(-1 / temperature))
    found = losses.contrastive_loss(apart, apart, new, temperature).item()
    assert found == pytest.approx(each * (2 if remembered else 1), rel=1e-2, abs=1e-6)


def test_property_3_no_gradient_reaches_the_keys() -> None:
    anchors, keys = units(7, 4).requires_grad_(), units(7, 4).requires_grad_()
    losses.contrastive_loss(anchors, keys, 3).backward()
    assert keys.grad is None
    assert (anchors.grad.norm(dim=1) > 1e-4).all()  # the remembered anchors teach the head


def test_many_remembered_images_do_not_drown_the_new_ones() -> None:
    """A new image counts 1/N, a remembered one 1/M: repeating what is remembered leaves the new ones' weight."""
    anchors = torch.eye(6)
    keys = torch.eye(6)
    wrong_new, wrong_remembered = anchors[[1, 0, 2, 3, 4, 5]], anchors[[0, 1, 3, 2, 4, 5]]
    right = losses.contrastive_loss(anchors, keys, 2)
    new = losses.contrastive_loss(wrong_new, keys, 2) - right
    remembered = losses.contrastive_loss(wrong_remembered, keys, 2) - right
    assert (new / remembered).item() == pytest.approx(2, rel=1e-4)  # 2 of 2 new ones are wrong, 2 of 4 remembered


def test_similarities_are_compared_in_float32() -> None:
    anchors, keys = units(6, 8), units(6, 8)
    found = losses.contrastive_loss(anchors.bfloat16(), keys.bfloat16(), 3)
    assert found.dtype == torch.float32
    expected = losses.contrastive_loss(anchors.bfloat16().float(), keys.bfloat16().float(), 3)
    assert found.item() == expected.item()
    assert losses.contrastive_loss(anchors, -anchors, 3, 1e-3).isfinite()


def test_anchors_without_keys_are_refused() -> None:
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
    means = [torch.tensor([3.0, -4.0]), torch.tensor([1.0])]
    variances = [torch.tensor([1.0, 1.0]), torch.tensor([2.5])]
    assert losses.batch_norm_loss(means, variances, layers).item() == pytest.approx(5 + 1.5)


def test_property_5_and_pitfall_11_equal_statistics_give_zero_and_gradient_zero() -> None:
    means, variances = torch.tensor([1.0, 2]).requires_grad_(), torch.tensor([3.0, 4]).requires_grad_()
    loss = losses.batch_norm_loss([means], [variances], [layer([1, 2], [3, 4])])
    loss.backward()
    assert loss.item() == 0
    assert means.grad.tolist() == variances.grad.tolist() == [0, 0]


def test_the_force_of_the_batch_norm_loss_does_not_fade_with_the_distance() -> None:
    for distance in (1e-3, 1.0, 1e3):
        mean = torch.tensor([distance, 0.0]).requires_grad_()
        losses.batch_norm_loss([mean], [torch.ones(2)], [layer([0, 0], [1, 1])]).backward()
        assert mean.grad.tolist() == pytest.approx([1, 0])


# ---- classes


def test_class_prior_loss_by_loops() -> None:
    t, targets = 3 * torch.randn(5, 4), torch.tensor([0, 3, 3, 1, 2])
    slow = sum(-math.log(softmax(row)[target]) for row, target in zip(t.tolist(), targets.tolist(), strict=True)) / 5
    assert losses.class_prior_loss(t, targets).item() == pytest.approx(slow, rel=1e-5)
    assert losses.class_prior_loss(t, t.argmax(1)).item() == pytest.approx(one_hot_loss(t).item())


def test_balance_loss_is_the_negative_entropy_of_the_mean_in_nats() -> None:
    t = 3 * torch.randn(5, 4)
    mean = [sum(column) / 5 for column in zip(*map(softmax, t.tolist()), strict=True)]
    assert losses.balance_loss(t).item() == pytest.approx(sum(p * math.log(p) for p in mean), rel=1e-5)
    assert losses.balance_loss(100 * torch.eye(7)).item() == pytest.approx(-math.log(7))
    assert losses.balance_loss(100 * torch.eye(7)[:1]).item() == pytest.approx(0, abs=1e-6)


# ---- adversaries


def deciding(first: int, second: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits of two networks, one image, that decide for given classes."""
    t, s = torch.randn(1, classes), torch.randn(1, classes)
    t[0, first] = s[0, second] = 4
    return t, s


def test_property_7_the_adversarial_term_by_loops() -> None:
    pairs = [deciding(0, 0), deciding(1, 2), deciding(3, 3), deciding(2, 0)]
    t, s = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    slow = (
        sum(
            divergence(softmax(p), softmax(q))
            for p, q in zip(t.tolist(), s.tolist(), strict=True)
            if p.index(max(p)) == q.index(max(q))
        )
        / 4
    )
    assert losses.masked_disagreement(t, s).item() == pytest.approx(slow, rel=1e-4)


def test_property_7_the_adversarial_term_at_its_ends() -> None:
    t, s = (torch.cat(logits) for logits in zip(*[deciding(i, i) for i in range(4)], strict=True))
    assert losses.masked_disagreement(t, t).item() == 0
    torch.testing.assert_close(losses.masked_disagreement(t, s), kl_divergence(t, s))
    t, s = (torch.cat(logits) for logits in zip(*[deciding(i, (i + 1) % 4) for i in range(4)], strict=True))
    assert losses.masked_disagreement(t, s).item() == 0
    for _ in range(50):
        assert losses.masked_disagreement(3 * torch.randn(6, 4), 3 * torch.randn(6, 4)).item() >= 0


def test_property_7_images_on_which_the_networks_disagree_get_no_gradient() -> None:
    t, s = (torch.cat(logits).requires_grad_() for logits in zip(deciding(0, 0), deciding(1, 2), strict=True))
    losses.masked_disagreement(t, s).backward()
    for gradient in (t.grad, s.grad):
        assert gradient[0].abs().max() > 1e-3 and (gradient[1] == 0).all()


def test_jensen_shannon_by_loops() -> None:
    t, s, total = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4), 0.0
    for a, b in zip(s.tolist(), t.tolist(), strict=True):
        p, q = (softmax([value / 3 for value in row]) for row in (a, b))
        m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        m, p, q = ([min(max(value, 0.01), 0.99) for value in row] for row in (m, p, q))
        total += (divergence(m, p) + divergence(m, q)) / 2 / 5
    assert losses.jensen_shannon(t, s).item() == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(losses.jensen_shannon(s, t), losses.jensen_shannon(t, s))
    assert losses.jensen_shannon(t, t).item() == pytest.approx(0, abs=1e-7)


def test_jensen_shannon_of_certain_and_opposed_networks_is_finite() -> None:
    t = torch.tensor([[1e4, -1e4]])
    s = (-t).requires_grad_()
    value = losses.jensen_shannon(t, s)
    value.backward()
    assert value.isfinite() and value.item() > 0.5 and s.grad.isfinite().all()


@pytest.mark.parametrize("adversary", [losses.masked_disagreement, losses.jensen_shannon])
def test_adversaries_refuse_other_classes(adversary: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ShapeMismatch, match="same number of classes"):
        adversary(torch.zeros(2, 3), torch.zeros(2, 4))


# ---- the student's loss


def test_property_10_the_students_loss_is_blind_to_a_constant_per_image() -> None:
    t, s = torch.randn(6, 5), torch.randn(6, 5)
    assert softened_kl(t, t).item() == 0
    assert softened_kl(t, t + torch.randn(6, 1)).item() == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(softened_kl(t, s + 3), softened_kl(t, s), rtol=1e-3, atol=1e-5)
    assert softened_kl(t, s).item() == kl_divergence(t, s, 20).item()


def test_property_10_at_high_temperature_the_loss_is_half_the_variance_of_the_difference() -> None:
    t, s = 2 * torch.randn(50, 5), 2 * torch.randn(50, 5)
    difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    limit = difference.square().sum(1).mean().item() / (2 * 5)
    errors = [abs(kl_divergence(t, s, temperature).item() / limit - 1) for temperature in (3, 10, 30, 100)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02


# ---- smoothness


def test_total_variation_by_loops() -> None:
    images, total = torch.rand(2, 3, 4, 5), 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        values = [
            abs(images[b, c, y, x].item() - images[b, c, y + down, x + right].item())
            for b in range(2)
            for c in range(3)
            for y in range(4)
            for x in range(5)
            if y + down < 4 and 0 <= x + right < 5
        ]
        total += sum(values) / len(values)
    assert losses.total_variation(images).item() == pytest.approx(total, rel=1e-5)
    assert losses.total_variation(torch.full((1, 1, 4, 4), 0.3)).item() == 0
