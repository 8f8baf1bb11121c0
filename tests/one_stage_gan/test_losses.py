"""The adversarial losses and their ratios against closed forms, slow sums and differentiation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reuselib import one_stage_gan
from reuselib.errors import ReuseError, UnknownName
from reuselib.one_stage_gan.losses import LARGEST_RATIO, LOWEST_LOGIT

LEAKY = one_stage_gan.leaky_hinge(0.1)
LOSSES = [*one_stage_gan.LOSSES.values(), LEAKY]
WITH_RATIO = [loss for loss in LOSSES if loss.ratio is not None]
SYMMETRIC = [one_stage_gan.SATURATING, one_stage_gan.WASSERSTEIN]

Terms = tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]


def sigmoid(y: float) -> float:
    return 1 / (1 + math.exp(-y))


BY_HAND: dict[str, Terms] = {  # real, fake, generator: as the papers write them, with D = sigmoid(y)
    "saturating": (
        lambda y: -math.log(sigmoid(y)),
        lambda y: -math.log(1 - sigmoid(y)),
        lambda y: math.log(1 - sigmoid(y)),
    ),
    "non_saturating": (
        lambda y: -math.log(sigmoid(y)),
        lambda y: -math.log(1 - sigmoid(y)),
        lambda y: -math.log(sigmoid(y)),
    ),
    "least_squares": (lambda y: (y - 1) ** 2, lambda y: y**2, lambda y: (y - 1) ** 2),
    "wasserstein": (lambda y: -y, lambda y: y, lambda y: -y),
    "hinge": (lambda y: max(0, 1 - y), lambda y: max(0, 1 + y), lambda y: -y),
    "leaky_hinge": (lambda y: max(0, 1 - y), lambda y: max(0.1 * (1 + y), 1 + y), lambda y: -y),
}


def by_name(losses: list[one_stage_gan.AdversarialLoss]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", losses, ids=[loss.name for loss in losses])


def logits() -> Tensor:
    """Float64 logits on both sides of all kinks, none on one."""
    return torch.linspace(-6.03, 6.01, 41, dtype=torch.float64)


@by_name(LOSSES)
def test_the_terms_are_those_of_the_papers_and_per_sample(loss: one_stage_gan.AdversarialLoss) -> None:
    y = logits()
    for term, slow in zip((loss.real, loss.fake, loss.generator), BY_HAND[loss.name], strict=True):
        expected = torch.tensor([slow(value) for value in y.tolist()], dtype=torch.float64)
        torch.testing.assert_close(term(y), expected)


def test_every_loss_is_found_by_its_name() -> None:
    assert {name: loss.name for name, loss in one_stage_gan.LOSSES.items()} == {
        name: name for name in one_stage_gan.LOSSES
    }
    assert set(one_stage_gan.LOSSES) == set(BY_HAND) - {"leaky_hinge"}


@by_name(WITH_RATIO)
def test_the_ratio_by_autograd_equals_the_closed_form(loss: one_stage_gan.AdversarialLoss) -> None:
    y = logits()
    torch.testing.assert_close(one_stage_gan.ratio_by_autograd(loss, y), loss.defined_ratio(y), rtol=1e-12, atol=0)


@by_name(WITH_RATIO)
def test_the_ratio_turns_the_discriminators_gradient_into_the_generators(loss: one_stage_gan.AdversarialLoss) -> None:
    y = logits().requires_grad_()
    (of_fake,) = torch.autograd.grad(loss.fake(y).sum(), y)
    (of_generator,) = torch.autograd.grad(loss.generator(y).sum(), y)
    torch.testing.assert_close(loss.defined_ratio(y) * of_fake, of_generator, rtol=1e-12, atol=1e-15)


@by_name(SYMMETRIC)
def test_symmetric_losses_have_the_ratio_minus_one_for_all_samples(loss: one_stage_gan.AdversarialLoss) -> None:
    for ratio in (loss.defined_ratio(logits()), one_stage_gan.ratio_by_autograd(loss, logits())):
        assert torch.equal(ratio, -torch.ones_like(logits()))


@pytest.mark.parametrize(
    "ratio_of",
    [
        one_stage_gan.NON_SATURATING.defined_ratio,
        lambda y: one_stage_gan.ratio_by_autograd(one_stage_gan.NON_SATURATING, y),
    ],
    ids=["closed", "autograd"],
)
def test_the_fused_non_saturating_loss_is_the_logit_weighted_by_its_sigmoid(ratio_of) -> None:
    y = logits()
    ratio = ratio_of(y)
    torch.testing.assert_close(1 / (1 - ratio), y.sigmoid())
    torch.testing.assert_close(one_stage_gan.NON_SATURATING.fake(y) - one_stage_gan.NON_SATURATING.generator(y), y)
    torch.testing.assert_close(one_stage_gan.instance_loss(one_stage_gan.NON_SATURATING, y, ratio), y * y.sigmoid())


@by_name(WITH_RATIO)
def test_the_fused_loss_has_the_discriminators_gradient_and_none_through_the_ratio(
    loss: one_stage_gan.AdversarialLoss,
) -> None:
    y = logits().requires_grad_()
    (expected,) = torch.autograd.grad(loss.fake(y).sum(), y)
    (found,) = torch.autograd.grad(one_stage_gan.instance_loss(loss, y, loss.defined_ratio(y)).sum(), y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("slope", [1e-3, 0.1, 0.5, 1.0])
def test_the_leaky_hinge_has_an_exact_ratio_on_both_sides_of_its_kink(slope: float) -> None:
    loss, y = one_stage_gan.leaky_hinge(slope), torch.tensor([-100.0, -1.5, -1.0, -0.5, 0.0, 100.0])
    expected = -torch.tensor([1 / slope] * 3 + [1.0] * 3)
    torch.testing.assert_close(loss.defined_ratio(y), expected)
    torch.testing.assert_close(one_stage_gan.ratio_by_autograd(loss, y), expected)


def test_the_leaky_hinge_approaches_the_hinge() -> None:
    y = logits()
    gap = [
        (one_stage_gan.leaky_hinge(slope).fake(y) - one_stage_gan.HINGE.fake(y)).abs().max() for slope in (0.1, 0.01)
    ]
    assert gap[0] == pytest.approx(0.1 * 5.03) and gap[1] == pytest.approx(gap[0] / 10)


@pytest.mark.parametrize("slope", [0.0, -0.1, 1.5, math.nan])
def test_a_leaky_hinge_without_a_fitting_slope_is_refused(slope: float) -> None:
    with pytest.raises(ReuseError, match="slope above 0 and at most 1, not .*Try 0.1"):
        one_stage_gan.leaky_hinge(slope)


def test_the_hinge_has_no_ratio_and_says_what_to_do() -> None:
    with pytest.raises(ReuseError, match="'hinge' has no gradient ratio.*leaky_hinge.*TwoStageGAN"):
        _ = one_stage_gan.HINGE.defined_ratio


@pytest.mark.parametrize("ratio", ["closed", "autograd", -1.0])
def test_no_kind_of_ratio_saves_the_hinge(ratio: str | float) -> None:
    with pytest.raises(ReuseError, match="no gradient ratio"):
        one_stage_gan.chosen_ratio(one_stage_gan.HINGE, ratio)


def test_a_ratio_is_chosen_by_name_or_number() -> None:
    y = logits()
    closed, by_autograd = (
        one_stage_gan.chosen_ratio(one_stage_gan.LEAST_SQUARES, name) for name in ("closed", "autograd")
    )
    assert callable(closed) and callable(by_autograd)
    torch.testing.assert_close(closed(y), (y - 1) / y)
    torch.testing.assert_close(by_autograd(y), (y - 1) / y)
    assert one_stage_gan.chosen_ratio(one_stage_gan.LEAST_SQUARES, 2) == 2.0
    with pytest.raises(UnknownName, match="ratio 'close'. Did you mean 'closed'"):
        one_stage_gan.chosen_ratio(one_stage_gan.LEAST_SQUARES, "close")


@by_name(WITH_RATIO)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_stay_finite_wherever_the_logits_are(loss: one_stage_gan.AdversarialLoss, dtype: torch.dtype) -> None:
    extremes = torch.tensor([-1e30, -1000, -100, -1, -1e-40, 0, 1e-40, 1, 100, 1000, 1e30], dtype=dtype)
    y = extremes.clone().requires_grad_()
    (of_fake,) = torch.autograd.grad(loss.fake(y).sum(), y)
    for ratio in (loss.defined_ratio(extremes), one_stage_gan.ratio_by_autograd(loss, extremes)):
        assert ratio.dtype == dtype and ratio.isfinite().all()
        assert ratio.abs().max() <= LARGEST_RATIO * (1 + 1e-6)
        assert (ratio * of_fake).isfinite().all()


def test_the_non_saturating_ratio_stops_where_float32_would() -> None:
    y = torch.tensor([-100.0, LOWEST_LOGIT, -29.0])
    largest = math.exp(-LOWEST_LOGIT)
    expected = -torch.tensor([largest, largest, math.exp(29)])
    torch.testing.assert_close(one_stage_gan.NON_SATURATING.defined_ratio(y), expected)


def test_the_ratio_by_autograd_is_a_constant_and_leaves_the_logits_graph_alone() -> None:
    weights = torch.randn(5, requires_grad=True)
    y = weights * 2
    with torch.no_grad():  # also where nothing else is differentiated
        ratio = one_stage_gan.ratio_by_autograd(one_stage_gan.NON_SATURATING, y)
    assert not ratio.requires_grad and weights.grad is None
    y.sum().backward()
    assert torch.equal(weights.grad, torch.full((5,), 2.0))
