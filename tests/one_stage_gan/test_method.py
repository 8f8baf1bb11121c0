"""One backward pass against two: the identity of the gradients, where it holds and where it does not."""

from __future__ import annotations

from dataclasses import replace

import plain
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.errors import ReuseError
from reuselib.one_stage_gan import (
    LEAST_SQUARES,
    NON_SATURATING,
    SATURATING,
    WASSERSTEIN,
    AdversarialLoss,
    GradientScale,
    gradient_ratio,
    leaky_hinge,
    one_stage_losses,
    scale_gradient,
)

IMAGE, LATENT, BATCH = (1, 16, 16), 6, 8
LOSSES = [SATURATING, NON_SATURATING, LEAST_SQUARES, WASSERSTEIN, leaky_hinge(0.1)]
GAINS = {None: 20.0, "group": 4.0, "batch": 2.0}
"""What the initial weights of a discriminator are multiplied by: otherwise its logits are near 0, all ratios alike."""

Gradients = tuple[Tensor, Tensor]
by_loss = pytest.mark.parametrize("loss", LOSSES, ids=[loss.name for loss in LOSSES])


class Game:
    """Two small players in float64, and one draw of images and noise."""

    def __init__(self, norm: str | None = "group", gain: float | None = None, seed: int = 0) -> None:
        with run.seeded(seed):
            self.generator = nets.deconvolution_generator(IMAGE, LATENT, width=8).double()
            self.discriminator = nets.dcgan_discriminator(IMAGE, width=8, norm=norm, groups=4).double()
            self.real = 2 * torch.rand(BATCH, *IMAGE, dtype=torch.float64) - 1
            self.noise = torch.randn(BATCH, LATENT, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.mul_(GAINS[norm] if gain is None else gain)

    def float(self) -> Game:
        """The same in float32."""
        self.generator.float(), self.discriminator.float()
        self.real, self.noise = self.real.float(), self.noise.float()
        return self

    def gradients(self, loss: Tensor) -> Gradients:
        """Of generator and discriminator, each as one vector; zeros where none arrives."""
        players = [list(network.parameters()) for network in (self.generator, self.discriminator)]
        found = torch.autograd.grad(loss, players[0] + players[1], allow_unused=True, materialize_grads=True)
        cut = len(players[0])
        return tuple(torch.cat([g.flatten() for g in part]) for part in (found[:cut], found[cut:]))

    def losses(self, loss: AdversarialLoss, ratio: str | float = "closed") -> tuple[Tensor, Tensor]:
        return one_stage_losses(self.generator, self.discriminator, self.real, self.noise, loss, ratio)

    def in_one_stage(self, loss: AdversarialLoss, ratio: str | float = "closed") -> Gradients:
        """What the library's single backward pass gives."""
        return self.gradients(self.losses(loss, ratio)[0])

    def in_two(self, loss: AdversarialLoss) -> Gradients:
        """Two losses, two backward passes: the generator's gradient of one, the discriminator's of the other."""
        real_term, fake_term, generator_term = plain.GAMES[loss.name]
        of_generator = generator_term(self.discriminator(self.generator(self.noise))).mean()
        fakes = self.generator(self.noise).detach()
        of_discriminator = real_term(self.discriminator(self.real)).mean() + fake_term(self.discriminator(fakes)).mean()
        return self.gradients(of_generator)[0], self.gradients(of_discriminator)[1]


def error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-6, "an error relative to nothing"
    return ((found - expected).norm() / expected.norm()).item()


# --- the identity


@by_loss
def test_one_backward_pass_gives_both_players_the_gradients_of_two(loss: AdversarialLoss) -> None:
    for norm in (None, "group"):
        for seed, ratio in ((0, "closed"), (1, "closed"), (2, "autograd")):
            game = Game(norm, seed=seed)
            y = game.discriminator(game.generator(game.noise))
            assert gradient_ratio(NON_SATURATING, y).std() > 0.2, "ratios worth testing"
            for found, expected in zip(game.in_one_stage(loss, ratio), game.in_two(loss), strict=True):
                assert error(found, expected) < 1e-10


@by_loss
def test_the_ratio_is_the_same_at_every_layer(loss: AdversarialLoss) -> None:
    for norm in (None, "group"):
        game = Game(norm)
        activations = [game.generator(game.noise)]
        for layer in game.discriminator.layers:
            activations.append(layer(activations[-1]))
        y = activations[-1].flatten()
        of_fake, of_generator = (
            torch.autograd.grad(term(y).sum(), activations, retain_graph=True) for term in plain.GAMES[loss.name][1:]
        )
        ratio = gradient_ratio(loss, y)
        assert len(activations) >= 6
        for below, above in zip(of_fake, of_generator, strict=True):
            expected = ratio.view(-1, 1, 1, 1) * below  # elementwise, also where both are 0
            assert (below != 0).any()
            torch.testing.assert_close(above, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@by_loss
def test_batch_norm_in_the_discriminator_is_exact_for_symmetric_losses_alone(loss: AdversarialLoss) -> None:
    for seed in range(3):
        game = Game("batch", seed=seed)
        once, twice = game.in_one_stage(loss), game.in_two(loss)
        assert error(once[1], twice[1]) < 1e-10  # the discriminator's own gradient is never scaled
        if loss in (SATURATING, WASSERSTEIN):
            assert error(once[0], twice[0]) < 1e-10
        elif loss in (NON_SATURATING, LEAST_SQUARES):
            assert error(once[0], twice[0]) > 0.05
    game = Game("batch", gain=1.0)  # at the initial weights the error hides
    assert error(game.in_one_stage(NON_SATURATING)[0], game.in_two(NON_SATURATING)[0]) < 0.05


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_one_batch_of_both_kinds_differs_by_its_batch_statistics_alone(norm: str) -> None:
    game = Game(norm)
    players = (game.generator, game.discriminator, game.real, game.noise, WASSERSTEIN)
    apart, together = (game.gradients(one_stage_losses(*players, together=kind)[0]) for kind in (False, True))
    real, fakes = game.discriminator(torch.cat([game.real, game.generator(game.noise)])).chunk(2)
    of_both = game.gradients(WASSERSTEIN.discriminator(real, fakes))
    torch.testing.assert_close(together[1], of_both[1])
    assert torch.allclose(together[1], apart[1]) == (norm == "group")
    assert torch.allclose(together[0], -of_both[0])


@by_loss
def test_the_discriminators_gradient_is_the_same_whatever_the_ratio(loss: AdversarialLoss) -> None:
    expected = Game().in_one_stage(loss)[1]
    for ratio in ("autograd", 0.0, 1.0, -7.5):
        generator, discriminator = Game().in_one_stage(loss, ratio)
        assert torch.equal(discriminator, expected) and generator.any() == (ratio != 0)


@pytest.mark.parametrize("ratio", [1.0, -1.0])
def test_with_one_ratio_for_all_the_generator_plays_on_the_discriminators_loss(ratio: float) -> None:
    game = Game()
    fake_loss = F.softplus(game.discriminator(game.generator(game.noise))).mean()
    found = game.in_one_stage(NON_SATURATING, ratio)[0]
    assert error(found, ratio * game.gradients(fake_loss)[0]) < 1e-10
    assert error(found, game.in_two(NON_SATURATING)[0]) > 0.05  # so the ratio matters


@by_loss
def test_the_reported_losses_are_the_plain_ones_and_the_generators_is_not_to_be_propagated(
    loss: AdversarialLoss,
) -> None:
    game = Game()
    together, of_generator = game.losses(loss)
    real_term, fake_term, generator_term = plain.GAMES[loss.name]
    y_real, y_fake = game.discriminator(game.real), game.discriminator(game.generator(game.noise))
    torch.testing.assert_close(together, real_term(y_real).mean() + fake_term(y_fake).mean())
    torch.testing.assert_close(of_generator, generator_term(y_fake).mean().detach())
    assert together.requires_grad and not of_generator.requires_grad
    silent = replace(loss, fake=lambda y: 0 * y, generator=lambda y: 0 * y, ratio=torch.ones_like)
    generator, discriminator = game.in_one_stage(silent)  # real images teach the discriminator alone
    assert not generator.any() and discriminator.any()


@by_loss
def test_extreme_logits_in_float32_give_no_nan(loss: AdversarialLoss) -> None:
    for ratio in ("closed", "autograd"):
        for logit in (-100.0, -1000.0, 100.0):
            game = Game().float()
            nn.init.constant_(game.discriminator.layers[-1].bias, logit)
            together, of_generator = game.losses(loss, ratio)
            assert together.isfinite() and of_generator.isfinite()
            assert all(gradient.isfinite().all() for gradient in game.gradients(together))


def test_half_precision_logits_get_their_ratio_in_float32() -> None:
    game, seen = Game().float(), []

    def ratio(y: Tensor) -> Tensor:
        seen.append(y.dtype)
        return NON_SATURATING.ratio(y)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        together, _ = game.losses(replace(NON_SATURATING, ratio=ratio))
    assert seen == [torch.float32] and together.dtype == torch.float32
    assert error(game.gradients(together)[0], Game().in_two(NON_SATURATING)[0].float()) < 0.1


# --- the scaling of a gradient


def test_scaling_hands_images_on_bit_for_bit_and_scales_each_ones_gradient() -> None:
    for shape in ((4,), (4, 3), (4, 1, 5, 5)):
        images, incoming = torch.randn(shape, requires_grad=True), torch.randn(shape)
        scale, factors = GradientScale(), torch.tensor([-2.0, 0.0, 1.0, 0.3])
        out = scale_gradient(images, scale)
        assert torch.equal(out, images)
        scale.factor = factors  # after the forward pass, before the backward pass
        out.backward(incoming)
        for found, factor, row in zip(images.grad, factors, incoming, strict=True):
            torch.testing.assert_close(found, factor * row, rtol=0, atol=0)
    for factor in (-1.0, torch.tensor(-1.0), torch.full((3,), -1.0)):
        images = torch.randn(3, 2, requires_grad=True)
        scale_gradient(images, GradientScale(factor)).sum().backward()
        assert torch.equal(images.grad, torch.full((3, 2), -1.0))


def test_a_scaled_gradient_keeps_its_format_and_is_not_differentiated_again() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        images = torch.randn(3, 2, dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(scale_gradient(images, GradientScale(torch.ones(3))).sum(), images)
        assert gradient.dtype == dtype and torch.equal(gradient, torch.ones(3, 2, dtype=dtype))
    out = scale_gradient(images, GradientScale(2.0)).square().sum()
    (gradient,) = torch.autograd.grad(out, images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    out = scale_gradient(images, GradientScale())
    with pytest.raises(ReuseError, match="Set GradientScale.factor before backward"):
        out.sum().backward()


def test_two_fakes_and_two_games_in_flight_keep_their_own_factors() -> None:
    first, second = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    holders = GradientScale(), GradientScale()
    outs = scale_gradient(first, holders[0]), scale_gradient(second, holders[1])
    holders[0].factor, holders[1].factor = torch.tensor([2.0, 3.0]), -1.0
    (outs[0].sum() + outs[1].sum()).backward()
    assert first.grad[:, 0].tolist() == [2, 3] and second.grad[:, 0].tolist() == [-1, -1]
    flying = [
        (game, loss, game.losses(loss)[0]) for game, loss in ((Game(seed=1), NON_SATURATING), (Game(), LEAST_SQUARES))
    ]
    for game, loss, value in reversed(flying):
        for found, expected in zip(game.gradients(value), game.in_two(loss), strict=True):
            assert error(found, expected) < 1e-10
