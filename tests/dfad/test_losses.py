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

SHAPES = [(3, 4), (2, 3, 4, 5)]
NEVER = -math.inf  # the logit of a class that cannot be


def logits(*shape: int) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(shape), 3 * torch.randn(shape)


def kl_of_rows(t: Tensor, s: Tensor) -> Tensor:
    return F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")


SLOW: dict[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]] = {
    losses.mean_absolute_error: lambda t, s: sum(map(abs, (t - s).flatten())) / t.numel(),
    losses.mean_squared_error: lambda t, s: sum(d**2 for d in (t - s).flatten()) / t.numel(),
    losses.kl_divergence: lambda t, s: kl_of_rows(losses.pixel_rows(t), losses.pixel_rows(s)),
}


@pytest.mark.parametrize("discrepancy", SLOW)
def test_a_discrepancy_is_a_mean_zero_for_equals_finite_in_half_precision_and_refuses_other_shapes(
    discrepancy: Callable[..., Tensor],
) -> None:
    for shape in SHAPES:
        t, s = logits(*shape)
        torch.testing.assert_close(discrepancy(t, s), SLOW[discrepancy](t, s))
        assert discrepancy(t, t).item() == 0 < discrepancy(t, s).item()
        torch.testing.assert_close(discrepancy(torch.cat([t, t]), torch.cat([s, s])), discrepancy(t, s))
    for other in ((3, 5), (2, 4), (3, 4, 1, 1)):
        with pytest.raises(ShapeMismatch, match=r"\(3, 4\).*same number of classes"):
            discrepancy(torch.zeros(3, 4), torch.zeros(other))
    # Extreme logits of half precision are compared in float32.
    t = torch.tensor([[1e4, -1e4], [0, 1e4]], dtype=torch.bfloat16)
    s = (-t).requires_grad_()
    value = discrepancy(t, s)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and s.grad.isfinite().all()


def test_the_absolute_error_has_gradients_of_one_size_and_the_kl_is_softened_and_blind_to_a_shift() -> None:
    t, s = logits(5, 7)
    s.requires_grad_()
    losses.mean_absolute_error(t, s).backward()
    torch.testing.assert_close(s.grad, torch.sign(s.detach() - t) / s.numel())
    assert losses.mean_absolute_error(t + 2, s).item() != pytest.approx(
        losses.mean_absolute_error(t, s).item(), rel=1e-3
    )
    torch.testing.assert_close(losses.kl_divergence(t + 2, s), losses.kl_divergence(t, s))
    torch.testing.assert_close(losses.kl_divergence(t, s, 4.0), 16 * kl_of_rows(t / 4, s / 4))
    assert losses.kl_divergence(torch.zeros(1, 2), torch.tensor([[0.0, NEVER]])).item() == math.inf


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


def test_generators_losses_are_minus_d_and_minus_log_of_d_plus_one() -> None:
    d = torch.tensor(1.5, requires_grad=True)
    assert losses.negative(d).item() == -1.5
    assert losses.negative_log(d).item() == pytest.approx(-math.log(2.5))
    losses.negative_log(d).backward()
    assert d.grad.item() == pytest.approx(-1 / 2.5)


def test_dafls_losses_and_what_they_are_at_their_ends() -> None:
    t, _ = logits(5, 4)
    p = t.softmax(1)
    torch.testing.assert_close(losses.one_hot_loss(t), -p.amax(1).log().mean())
    torch.testing.assert_close(losses.information_entropy_loss(t), (p.mean(0) * p.mean(0).log10()).sum())
    torch.testing.assert_close(losses.activation_loss(t), -sum(map(abs, t.flatten())) / 20)
    sure = 100 * torch.eye(10)
    assert losses.one_hot_loss(torch.zeros(2, 8)).item() == pytest.approx(math.log(8))
    assert losses.one_hot_loss(sure).item() == pytest.approx(0, abs=1e-6)
    assert losses.information_entropy_loss(sure).item() == pytest.approx(-1)
    assert losses.information_entropy_loss(sure[:1]).item() == pytest.approx(0, abs=1e-6)
    for loss in (losses.one_hot_loss, losses.information_entropy_loss, losses.activation_loss):
        t = torch.tensor([[1e4, -1e4, 0], [1e4, -1e4, 0]], requires_grad=True)
        value = loss(t)
        value.backward()
        assert value.isfinite() and t.grad.isfinite().all()


def test_pixel_rows_are_the_pixels_one_after_the_other() -> None:
    t, flat = torch.randn(2, 3, 4, 5), torch.randn(6, 3)
    pixels = [t[b, :, h, w] for b in range(2) for h in range(4) for w in range(5)]
    assert torch.equal(losses.pixel_rows(t), torch.stack(pixels)) and torch.equal(losses.pixel_rows(flat), flat)


def test_attention_by_loops() -> None:
    teacher = [torch.randn(2, 6, 4, 4), torch.randn(2, 8, 2, 2)]
    student = [torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)]  # other widths
    slow = 0.0
    for pair in zip(teacher, student, strict=True):
        maps = [torch.stack([sum(c**2 for c in image).flatten() for image in layer]) for layer in pair]
        a, b = (rows / rows.norm(dim=1, keepdim=True) for rows in maps)
        torch.testing.assert_close(losses.attention_map(pair[0]), a)
        slow += ((a - b) ** 2).mean()
    torch.testing.assert_close(losses.attention_transfer(teacher, student), slow)
    assert losses.attention_transfer(teacher, teacher).item() == 0
    with pytest.raises(ShapeMismatch, match=r"\(4, 4\).*\(2, 2\)"):
        losses.attention_transfer(teacher[:1], student[1:])
