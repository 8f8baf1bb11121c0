"""One backward pass against two: the identity of the gradients, where it holds and where it does not."""

from __future__ import annotations

import math
from dataclasses import replace

import plain
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import nets, run
from reuselib.errors import ReuseError, UnknownName
from reuselib.one_stage_gan import (
    HINGE,
    LEAST_SQUARES,
    LOSSES,
    NON_SATURATING,
    WASSERSTEIN,
    AdversarialLoss,
    GradientScale,
    gradient_ratio,
    leaky_hinge,
    one_stage_losses,
    scale_gradient,
)
from reuselib.one_stage_gan.losses import LARGEST_RATIO

IMAGE, LATENT, BATCH = (1, 16, 16), 6, 8
GAMES = [*(loss for loss in LOSSES.values() if loss.ratio is not None), leaky_hinge(0.1)]
GAINS = {None: 20.0, "group": 4.0, "batch": 2.0}
"""What the initial weights of a discriminator are multiplied by: otherwise its logits are near 0, all ratios alike."""
Gradients = tuple[Tensor, Tensor]
by_loss = pytest.mark.parametrize("loss", GAMES, ids=[loss.name for loss in GAMES])


class Game:
    """Two small players in float64, unless told otherwise, and one draw of images and noise."""

    def __init__(self, norm: str | None = "group", seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        with run.seeded(seed):
            self.generator = nets.deconvolution_generator(IMAGE, LATENT, width=8).to(dtype)
            self.discriminator = nets.dcgan_discriminator(IMAGE, width=8, norm=norm, groups=4).to(dtype)
            self.real = (2 * torch.rand(BATCH, *IMAGE, dtype=torch.float64) - 1).to(dtype)
            self.noise = torch.randn(BATCH, LATENT, dtype=torch.float64).to(dtype)
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.mul_(GAINS[norm])

    def gradients(self, loss: Tensor) -> Gradients:
        """Of generator and discriminator, each as one vector; zeros where none arrives."""
        players = [list(network.parameters()) for network in (self.generator, self.discriminator)]
        found = torch.autograd.grad(loss, players[0] + players[1], allow_unused=True, materialize_grads=True)
        cut = len(players[0])
        return tuple(torch.cat([g.flatten() for g in part]) for part in (found[:cut], found[cut:]))

    def losses(self, loss: AdversarialLoss, ratio: str | float = "closed", together: bool = False) -> Gradients:
        """The library's: the discriminator's, whose backward pass gives both gradients, and the generator's."""
        return one_stage_losses(self.generator, self.discriminator, self.real, self.noise, loss, ratio, together)

    def plain_losses(self, loss: AdversarialLoss) -> Gradients:
        """The discriminator's and the generator's, for two backward passes."""
        real_term, fake_term, generator_term = plain.GAMES[loss.name]
        y_real, y_fake = self.discriminator(self.real), self.discriminator(self.generator(self.noise))
        return real_term(y_real).mean() + fake_term(y_fake).mean(), generator_term(y_fake).mean()

    def in_two(self, loss: AdversarialLoss) -> Gradients:
        """The gradient of each player's own loss."""
        return self.gradients(self.plain_losses(loss)[1])[0], self.gradients(self.plain_losses(loss)[0])[1]


def error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-6, "an error relative to nothing"
    return ((found - expected).norm() / expected.norm()).item()


# --- the identity; with BatchNorm in the discriminator a row of the study looks at it


@by_loss
def test_one_backward_pass_gives_both_players_the_gradients_of_two(loss: AdversarialLoss) -> None:
    for norm, seed, ratio in ((None, 0, "closed"), ("group", 1, "closed"), ("group", 2, "autograd")):
        game = Game(norm, seed=seed)
        y = game.discriminator(game.generator(game.noise))
        assert gradient_ratio(NON_SATURATING, y).std() > 0.2, "ratios worth testing"
        together, of_generator = game.losses(loss, ratio)
        torch.testing.assert_close((together, of_generator), game.plain_losses(loss))
        assert not of_generator.requires_grad  # it is to be looked at, not to be propagated
        for found, expected in zip(game.gradients(together), game.in_two(loss), strict=True):
            assert error(found, expected) < 1e-10


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_one_batch_of_both_kinds_differs_by_its_batch_statistics_alone(norm: str) -> None:
    game = Game(norm)
    apart, together = (game.gradients(game.losses(WASSERSTEIN, together=kind)[0]) for kind in (False, True))
    real, fakes = game.discriminator(torch.cat([game.real, game.generator(game.noise)])).chunk(2)
    of_both = game.gradients(WASSERSTEIN.discriminator(real, fakes))
    torch.testing.assert_close(together[1], of_both[1])
    assert torch.allclose(together[1], apart[1]) == (norm == "group")
    assert torch.allclose(together[0], -of_both[0])


@pytest.mark.parametrize("ratio", [1.0, -1.0, 0.0])
def test_with_one_ratio_for_all_the_generator_plays_on_the_discriminators_loss(ratio: float) -> None:
    game = Game()
    fake_loss = F.softplus(game.discriminator(game.generator(game.noise))).mean()
    generator, discriminator = game.gradients(game.losses(NON_SATURATING, ratio)[0])
    torch.testing.assert_close(generator, ratio * game.gradients(fake_loss)[0])
    expected = game.in_two(NON_SATURATING)
    assert error(discriminator, expected[1]) < 1e-10 and error(generator, expected[0]) > 0.05  # so the ratio matters


def test_half_precision_logits_get_their_ratio_in_float32() -> None:
    game, seen = Game(dtype=torch.float32), []

    def ratio(y: Tensor) -> Tensor:
        seen.append(y.dtype)
        return NON_SATURATING.ratio(y)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        together, _ = game.losses(replace(NON_SATURATING, ratio=ratio))
    assert seen == [torch.float32] and together.dtype == torch.float32
    assert error(game.gradients(together)[0], Game().in_two(NON_SATURATING)[0].float()) < 0.1


# --- the scaling of a gradient


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scaling_hands_images_on_bit_for_bit_and_scales_each_ones_gradient_in_its_format(dtype: torch.dtype) -> None:
    for shape in ((4,), (4, 3), (4, 1, 5, 5)):
        images, incoming = torch.randn(shape, dtype=dtype, requires_grad=True), torch.randn(shape, dtype=dtype)
        for factor in (-1.0, torch.tensor(-1.0), torch.tensor([-2.0, 0.0, 1.0, 0.25])):
            scale = GradientScale()
            out = scale_gradient(images, scale)
            assert torch.equal(out, images)
            scale.factor = factor  # after the forward pass, before the backward pass
            (gradient,) = torch.autograd.grad(out, images, incoming)
            rows = torch.as_tensor(factor).expand(4).to(dtype).view(4, *[1] * (len(shape) - 1))
            assert torch.equal(gradient, rows * incoming) and gradient.dtype == dtype


def test_a_scaled_gradient_needs_its_own_factor_and_is_not_differentiated_again() -> None:
    images = torch.ones(2, 3, requires_grad=True)
    flying = [(scale, scale_gradient(images, scale)) for scale in (GradientScale(), GradientScale())]
    flying[0][0].factor = torch.tensor([2.0, 3.0])
    with pytest.raises(ReuseError, match="Set GradientScale.factor before backward"):
        flying[1][1].sum().backward()
    flying[0][1].sum().backward()
    assert images.grad[:, 0].tolist() == [2, 3]
    out = scale_gradient(images, GradientScale(2.0)).square().sum()
    (gradient,) = torch.autograd.grad(out, images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# ---- the losses and their ratios, against closed forms and differentiation


def logits() -> Tensor:
    """Float64 logits on both sides of all kinks, none on one."""
    return torch.linspace(-6.03, 6.01, 41, dtype=torch.float64)


@pytest.mark.parametrize("loss", [*LOSSES.values(), leaky_hinge(0.1)], ids=lambda loss: loss.name)
def test_the_terms_are_those_of_the_papers_and_per_sample(loss: AdversarialLoss) -> None:
    y, (real, fake, generator) = logits(), plain.GAMES[loss.name]
    for term, expected in ((loss.real, real), (loss.fake, fake), (loss.generator, generator)):
        torch.testing.assert_close(term(y), expected(y))
    torch.testing.assert_close(loss.discriminator(y, y.flip(0)), (real(y) + fake(y)).mean())
    assert loss.name == "leaky_hinge" or LOSSES[loss.name] is loss


@by_loss
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
    found = gradient_ratio(NON_SATURATING, torch.tensor([-100.0, -30.0, -29.0]))
    torch.testing.assert_close(found, -torch.tensor([math.exp(30), math.exp(30), math.exp(29)]))
