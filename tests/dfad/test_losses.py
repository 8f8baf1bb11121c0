"""The equations against closed forms and against slow versions with loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import qfsl
from reuselib.adaptive.losses import entropy as adaptive_entropy
from reuselib.cmi.losses import balance_loss, masked_disagreement
from reuselib.dfad import losses
from reuselib.errors import ShapeMismatch

Discrepancy = Callable[[Tensor, Tensor], Tensor]
SHAPES = [(3, 4), (2, 3, 4, 5)]
DAFL_LOSSES = [losses.one_hot_loss, losses.information_entropy_loss, losses.activation_loss]
DISCREPANCIES = [losses.mean_absolute_error, losses.mean_squared_error, losses.kl_divergence]


def logits(*shape: int) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(shape), 3 * torch.randn(shape)


def pairs(t: Tensor, s: Tensor) -> list[tuple[float, float]]:
    return list(zip(t.flatten().tolist(), s.flatten().tolist(), strict=True))


def pixels(maps: Tensor) -> list[Tensor]:
    return [maps[b, :, h, w] for b in range(2) for h in range(4) for w in range(5)]


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def test_absolute_and_squared_error_by_loops_and_the_gradient_of_the_first() -> None:
    for shape in SHAPES:
        t, s = logits(*shape)
        s.requires_grad_()
        differences = [abs(a - b) for a, b in pairs(t, s)]
        absolute, squared = losses.mean_absolute_error(t, s), losses.mean_squared_error(t, s)
        assert absolute.item() == pytest.approx(sum(differences) / t.numel(), rel=1e-5)
        assert squared.item() == pytest.approx(sum(d**2 for d in differences) / t.numel(), rel=1e-5)
        assert torch.equal(absolute, losses.mean_absolute_error(s, t))
        assert torch.equal(squared, losses.mean_squared_error(s, t))
        absolute.backward()
        torch.testing.assert_close(s.grad, torch.sign(s.detach() - t) / s.numel())


@pytest.mark.parametrize("discrepancy", DISCREPANCIES)
def test_discrepancies_are_zero_for_equals_positive_blind_to_repetition_and_refuse_other_shapes(
    discrepancy: Discrepancy,
) -> None:
    for shape in SHAPES:
        t, s = logits(*shape)
        assert discrepancy(t, t).item() == 0 and discrepancy(t, s).item() > 0
        twice = discrepancy(torch.cat([t, t]), torch.cat([s, s]))
        assert twice.item() == pytest.approx(discrepancy(t, s).item(), rel=1e-5)
    for other in ((3, 5), (2, 4), (3, 4, 1, 1)):
        with pytest.raises(ShapeMismatch, match=r"\(3, 4\).*same number of classes"):
            discrepancy(torch.zeros(3, 4), torch.zeros(other))
    # Extreme logits of half precision are compared in float32.
    t = torch.tensor([[1e4, -1e4], [0, 1e4]], dtype=torch.bfloat16)
    s = (-t).requires_grad_()
    value = discrepancy(t, s)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and s.grad.isfinite().all()


def test_kl_divergence_is_torchs_and_averages_over_images_and_pixels() -> None:
    t, s = logits(5, 7)
    for temperature in (1.0, 4.0):
        p, log_q = (t / temperature).softmax(1), (s / temperature).log_softmax(1)
        expected = F.kl_div(log_q, p, reduction="batchmean") * temperature**2
        torch.testing.assert_close(losses.kl_divergence(t, s, temperature), expected)
    t, s = logits(2, 3, 4, 5)
    rows = [
        zip(softmax(p.tolist()), softmax(q.tolist()), strict=True) for p, q in zip(*map(pixels, (t, s)), strict=True)
    ]
    slow = sum(a * math.log(a / c) for row in rows for a, c in row) / 40
    assert losses.kl_divergence(t, s).item() == pytest.approx(slow, rel=1e-4)


NEVER = -math.inf  # the logit of a class that cannot be
WITH_ZEROS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {  # of probabilities (1/2, 0, 1/2) and (1, 0, 0)
    "kl": (lambda t: losses.kl_divergence(t, torch.zeros(2, 3)), math.log(3) - math.log(2) / 2),
    "kl of equals": (lambda t: losses.kl_divergence(t, t.detach()), 0.0),
    "masked": (lambda t: masked_disagreement(t, torch.zeros(2, 3)), (2 * math.log(3) - math.log(2)) / 2),
    "information": (losses.information_entropy_loss, (0.75 * math.log10(0.75) + 0.25 * math.log10(0.25))),
    "balance": (balance_loss, 0.75 * math.log(0.75) + 0.25 * math.log(0.25)),
    "entropy": (lambda t: qfsl.losses.entropy(t).mean(), math.log(2) / 2),
    "entropy of a source": (lambda t: adaptive_entropy(t).mean(), math.log(2) / 2),
    "bias": (lambda t: qfsl.losses.bias_loss(t, torch.tensor([0, 1])).mean(), math.log(2) / 2),
}


@pytest.mark.parametrize(("loss", "expected"), WITH_ZEROS.values(), ids=list(WITH_ZEROS))
def test_a_class_of_probability_zero_adds_nothing(loss: Callable[[Tensor], Tensor], expected: float) -> None:
    t = torch.tensor([[1.0, NEVER, 1.0], [2.0, NEVER, NEVER]], requires_grad=True)
    value = loss(t)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-6) and t.grad.isfinite().all()


def test_the_kl_divergence_is_infinite_where_the_student_rules_out_what_the_teacher_does_not() -> None:
    never = torch.tensor([[0.0, NEVER]])
    assert losses.kl_divergence(never, torch.zeros(1, 2)).item() == pytest.approx(math.log(2))
    assert losses.kl_divergence(torch.zeros(1, 2), never).item() == math.inf


def test_a_shifted_logit_matters_to_the_absolute_error_and_a_common_shift_not_to_kl() -> None:
    t, s = logits(3, 4)
    before = losses.mean_absolute_error(t, s).item()
    for shift in (torch.tensor([2.0, 0, 0, 0]), 2):
        assert losses.mean_absolute_error(t + shift, s).item() != pytest.approx(before, rel=1e-3)
    torch.testing.assert_close(losses.kl_divergence(t + 2, s), losses.kl_divergence(t, s))


def test_generators_losses_are_minus_d_and_minus_log_of_d_plus_one() -> None:
    d = torch.tensor(1.5, requires_grad=True)
    assert losses.negative(d).item() == -1.5
    assert losses.negative_log(d).item() == pytest.approx(-math.log(2.5))
    assert losses.negative(torch.zeros(())) == 0 and losses.negative_log(torch.zeros(())) == 0
    losses.negative_log(d).backward()
    assert d.grad.item() == pytest.approx(-1 / 2.5)


def test_one_hot_loss_is_minus_the_log_of_the_largest_probability() -> None:
    t, _ = logits(5, 4)
    slow = sum(-math.log(max(softmax(row))) for row in t.tolist()) / 5
    assert losses.one_hot_loss(t).item() == pytest.approx(slow, rel=1e-5)
    assert losses.one_hot_loss(torch.zeros(2, 8)).item() == pytest.approx(math.log(8))
    assert losses.one_hot_loss(100 * torch.eye(4)).item() == pytest.approx(0, abs=1e-6)


def test_information_entropy_loss_is_that_of_the_mean_distribution_to_base_ten() -> None:
    t, _ = logits(5, 4)
    rows = [softmax(row) for row in t.tolist()]
    mean = [sum(column) / 5 for column in zip(*rows, strict=True)]
    slow = sum(p * math.log10(p) for p in mean)
    assert losses.information_entropy_loss(t).item() == pytest.approx(slow, rel=1e-5)
    assert losses.information_entropy_loss(100 * torch.eye(10)).item() == pytest.approx(-1)
    collapsed = 100 * torch.eye(10)[:1].repeat(6, 1)
    assert losses.information_entropy_loss(collapsed).item() == pytest.approx(0, abs=1e-6)


def test_activation_loss_is_minus_the_mean_magnitude() -> None:
    features = torch.randn(3, 5)
    slow = -sum(abs(value) for value in features.flatten().tolist()) / 15
    assert losses.activation_loss(features).item() == pytest.approx(slow, rel=1e-5)


def test_pixel_rows_are_the_pixels_one_after_the_other() -> None:
    t, flat = torch.randn(2, 3, 4, 5), torch.randn(6, 3)
    rows = losses.pixel_rows(t)
    assert rows.shape == (40, 3) and torch.equal(losses.pixel_rows(flat), flat)
    for b, h, w in ((0, 0, 0), (0, 2, 4), (1, 3, 1)):
        assert torch.equal(rows[20 * b + 5 * h + w], t[b, :, h, w])


def test_dafls_losses_of_maps_are_those_of_their_pixels_and_finite_for_extreme_logits() -> None:
    t = 3 * torch.randn(2, 3, 4, 5)
    constant = t[:1, :, :1, :1].expand(2, 3, 4, 5)
    for loss in DAFL_LOSSES[:2]:
        torch.testing.assert_close(loss(losses.pixel_rows(t)), loss(torch.stack(pixels(t))))
        torch.testing.assert_close(loss(losses.pixel_rows(constant)), loss(t[:1, :, 0, 0]))
    for loss in DAFL_LOSSES:
        t = torch.tensor([[1e4, -1e4, 0], [1e4, -1e4, 0]], requires_grad=True)
        value = loss(t)
        value.backward()
        assert value.isfinite() and t.grad.isfinite().all()


def test_attention_map_by_loops() -> None:
    activation = torch.randn(2, 3, 2, 4)
    maps = losses.attention_map(activation)
    assert maps.shape == (2, 8)
    for b in range(2):
        energy = [sum(activation[b, c, h, w].item() ** 2 for c in range(3)) / 3 for h in range(2) for w in range(4)]
        length = math.sqrt(sum(value**2 for value in energy))
        assert maps[b].tolist() == pytest.approx([value / length for value in energy], rel=1e-5)
    torch.testing.assert_close(losses.attention_map(7 * activation), maps)


def test_attention_transfer_sums_layers_and_allows_other_widths() -> None:
    teacher = [torch.randn(2, 6, 4, 4), torch.randn(2, 8, 2, 2)]
    student = [torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)]
    slow = 0.0
    for a, b in zip(teacher, student, strict=True):
        maps = losses.attention_map(a), losses.attention_map(b)
        slow += sum((p - q) ** 2 for p, q in pairs(*maps)) / maps[0].numel()
    assert losses.attention_transfer(teacher, student).item() == pytest.approx(slow, rel=1e-5)
    assert losses.attention_transfer(teacher, teacher).item() == 0
    with pytest.raises(ShapeMismatch, match=r"\(4, 4\).*\(2, 2\)"):
        losses.attention_transfer([torch.randn(2, 3, 4, 4)], [torch.randn(2, 3, 2, 2)])
