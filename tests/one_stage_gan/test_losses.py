"""The adversarial losses and their ratios against closed forms, slow sums and differentiation."""

from __future__ import annotations

import math

import plain
import pytest
import torch
from torch import Tensor

from reuselib import one_stage_gan
from reuselib.errors import ReuseError, UnknownName
from reuselib.one_stage_gan import HINGE, LEAST_SQUARES, NON_SATURATING, AdversarialLoss, gradient_ratio, leaky_hinge
from reuselib.one_stage_gan.losses import LARGEST_RATIO, LOWEST_LOGIT

LOSSES = [*one_stage_gan.LOSSES.values(), leaky_hinge(0.1)]
WITH_RATIO = [loss for loss in LOSSES if loss.ratio is not None]


def by_name(losses: list[AdversarialLoss]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", losses, ids=[loss.name for loss in losses])


def logits() -> Tensor:
    """Float64 logits on both sides of all kinks, none on one."""
    return torch.linspace(-6.03, 6.01, 41, dtype=torch.float64)


@by_name(LOSSES)
def test_the_terms_are_those_of_the_papers_and_per_sample(loss: AdversarialLoss) -> None:
    y, (real, fake, generator) = logits(), plain.GAMES[loss.name]
    for term, expected in ((loss.real, real), (loss.fake, fake), (loss.generator, generator)):
        torch.testing.assert_close(term(y), expected(y))
    torch.testing.assert_close(loss.discriminator(y, y.flip(0)), (real(y) + fake(y)).mean())
    assert loss.name == "leaky_hinge" or one_stage_gan.LOSSES[loss.name] is loss


@by_name(WITH_RATIO)
def test_the_ratio_turns_the_discriminators_gradient_into_the_generators_and_stays_finite(
    loss: AdversarialLoss,
) -> None:
    y = logits().requires_grad_()
    of_fake, of_generator = (torch.autograd.grad(term(y).sum(), y)[0] for term in (loss.fake, loss.generator))
    for way in ("closed", "autograd"):
        with torch.no_grad():  # also where nothing else is differentiated
            ratio = gradient_ratio(loss, y, way)
        torch.testing.assert_close(ratio * of_fake, of_generator, rtol=1e-12, atol=1e-15)
        assert not ratio.requires_grad and y.grad is None
        if loss.name in ("saturating", "wasserstein"):  # symmetric
            assert torch.equal(ratio, -torch.ones_like(ratio))
    for dtype in (torch.float32, torch.float64):
        extremes = torch.tensor([-1e30, -1000, -100, -1, -1e-40, 0, 1e-40, 1, 100, 1000, 1e30], dtype=dtype)
        y = extremes.clone().requires_grad_()
        (of_fake,) = torch.autograd.grad(loss.fake(y).sum(), y)
        for way in ("closed", "autograd"):
            ratio = gradient_ratio(loss, extremes, way)
            assert ratio.dtype == dtype and ratio.isfinite().all() and (ratio * of_fake).isfinite().all()
            assert ratio.abs().max() <= LARGEST_RATIO * (1 + 1e-6)


def test_the_leaky_hinge_has_an_exact_ratio_on_both_sides_of_its_kink_and_approaches_the_hinge() -> None:
    y = torch.tensor([-100.0, -1.5, -1.0, -0.5, 0.0, 100.0])
    for slope in (1e-3, 0.1, 1.0):
        expected = -torch.tensor([1 / slope] * 3 + [1.0] * 3)
        for way in ("closed", "autograd"):
            torch.testing.assert_close(gradient_ratio(leaky_hinge(slope), y, way), expected)
    gap = [(leaky_hinge(slope).fake(logits()) - HINGE.fake(logits())).abs().max() for slope in (0.1, 0.01)]
    assert gap[0] == pytest.approx(0.1 * 5.03) and gap[1] == pytest.approx(gap[0] / 10)
    for slope in (0.0, 1.5, math.nan):
        with pytest.raises(ReuseError, match="slope must be a finite number above 0 and at most 1"):
            leaky_hinge(slope)


def test_the_hinge_has_no_ratio_and_ratios_have_names_or_are_numbers() -> None:
    for ratio in ("closed", "autograd", -1.0):
        with pytest.raises(ReuseError, match="'hinge' has no gradient ratio.*leaky_hinge.*TwoStageGAN"):
            gradient_ratio(HINGE, logits(), ratio)
    assert gradient_ratio(LEAST_SQUARES, logits(), 2) == 2.0
    with pytest.raises(UnknownName, match="ratio 'close'. Did you mean 'closed'"):
        gradient_ratio(LEAST_SQUARES, logits(), "close")


def test_the_non_saturating_ratio_stops_where_float32_would() -> None:
    largest = math.exp(-LOWEST_LOGIT)
    found = gradient_ratio(NON_SATURATING, torch.tensor([-100.0, LOWEST_LOGIT, -29.0]))
    torch.testing.assert_close(found, -torch.tensor([largest, largest, math.exp(29)]))
