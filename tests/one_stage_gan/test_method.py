"""One backward pass against two: the identity of the gradients, where it holds and where it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, one_stage_gan, run
from reuselib.errors import ReuseError
from reuselib.one_stage_gan import GradientScale, scale_gradient

IMAGE, LATENT, BATCH = (1, 16, 16), 6, 8
LEAKY = one_stage_gan.leaky_hinge(0.1)
LOSSES = [
    one_stage_gan.SATURATING,
    one_stage_gan.NON_SATURATING,
    one_stage_gan.LEAST_SQUARES,
    one_stage_gan.WASSERSTEIN,
    LEAKY,
]
SYMMETRIC, ASYMMETRIC = (
    [one_stage_gan.SATURATING, one_stage_gan.WASSERSTEIN],
    [one_stage_gan.NON_SATURATING, one_stage_gan.LEAST_SQUARES],
)
WITHOUT_BATCH_STATISTICS = [None, "group"]
GAINS = {None: 20.0, "group": 4.0, "batch": 2.0}
"""What the initial weights of a discriminator are multiplied by: otherwise its logits are near 0, all ratios alike."""

Gradients = tuple[Tensor, Tensor]


def by_name(losses: list[one_stage_gan.AdversarialLoss]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", losses, ids=[loss.name for loss in losses])


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

    def gradients(self, loss: Tensor) -> Gradients:
        """Of generator and discriminator, each as one vector; zeros where none arrives."""
        players = [list(network.parameters()) for network in (self.generator, self.discriminator)]
        found = torch.autograd.grad(loss, players[0] + players[1], allow_unused=True, materialize_grads=True)
        cut = len(players[0])
        return tuple(torch.cat([g.flatten() for g in part]) for part in (found[:cut], found[cut:]))

    def in_one_stage(self, loss: one_stage_gan.AdversarialLoss, ratio: str | float = "closed") -> Gradients:
        """What the library's single backward pass gives."""
        together, _ = one_stage_gan.one_stage_losses(
            self.generator, self.discriminator, self.real, self.noise, loss, one_stage_gan.chosen_ratio(loss, ratio)
        )
        return self.gradients(together)

    def in_two(self, loss: one_stage_gan.AdversarialLoss) -> Gradients:
        """Two losses, two backward passes: the generator's gradient of one, the discriminator's of the other."""
        real_term, fake_term, generator_term = PLAIN[loss.name]
        of_generator = generator_term(self.discriminator(self.generator(self.noise))).mean()
        fakes = self.generator(self.noise).detach()
        of_discriminator = real_term(self.discriminator(self.real)).mean() + fake_term(self.discriminator(fakes)).mean()
        return self.gradients(of_generator)[0], self.gradients(of_discriminator)[1]


Term = Callable[[Tensor], Tensor]
PLAIN: dict[str, tuple[Term, Term, Term]] = {
    "saturating": (lambda y: -y.sigmoid().log(), lambda y: -(1 - y.sigmoid()).log(), lambda y: (1 - y.sigmoid()).log()),
    "non_saturating": (lambda y: -y.sigmoid().log(), lambda y: -(1 - y.sigmoid()).log(), lambda y: -y.sigmoid().log()),
    "least_squares": (lambda y: (y - 1) ** 2, lambda y: y**2, lambda y: (y - 1) ** 2),
    "wasserstein": (lambda y: -y, lambda y: y, lambda y: -y),
    "leaky_hinge": (lambda y: (1 - y).clamp(min=0), lambda y: torch.maximum(0.1 * (1 + y), 1 + y), lambda y: -y),
}


def error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-6, "an error relative to nothing"
    return ((found - expected).norm() / expected.norm()).item()


# --- the identity ----------------------------------------------------------------------------------------------------


@by_name(LOSSES)
@pytest.mark.parametrize("ratio", ["closed", "autograd"])
@pytest.mark.parametrize("norm", WITHOUT_BATCH_STATISTICS)
def test_one_backward_pass_gives_both_players_the_gradients_of_two(
    loss: one_stage_gan.AdversarialLoss, ratio: str, norm: str | None
) -> None:
    for seed in range(3):
        game = Game(norm, seed=seed)
        once, twice = game.in_one_stage(loss, ratio), game.in_two(loss)
        for found, expected in zip(once, twice, strict=True):
            assert error(found, expected) < 1e-10


def test_the_players_of_these_tests_have_ratios_worth_testing() -> None:
    for norm in WITHOUT_BATCH_STATISTICS:
        game = Game(norm)
        y = game.discriminator(game.generator(game.noise))
        ratio = one_stage_gan.NON_SATURATING.defined_ratio(y)
        assert ratio.std() > 0.3 and y.min() < -1 < y.max()


@by_name(LOSSES)
@pytest.mark.parametrize("norm", WITHOUT_BATCH_STATISTICS)
def test_the_ratio_is_the_same_at_every_layer(loss: one_stage_gan.AdversarialLoss, norm: str | None) -> None:
    game = Game(norm)
    activations = [game.generator(game.noise)]
    for layer in game.discriminator.layers:
        activations.append(layer(activations[-1]))
    y = activations[-1].flatten()
    _, fake_term, generator_term = PLAIN[loss.name]
    of_fake = torch.autograd.grad(fake_term(y).sum(), activations, retain_graph=True)
    of_generator = torch.autograd.grad(generator_term(y).sum(), activations)
    ratio = loss.defined_ratio(y.detach())
    assert len(activations) >= 6
    for below, above in zip(of_fake, of_generator, strict=True):
        assert (below != 0).any()
        expected = ratio.view(-1, 1, 1, 1) * below  # elementwise, also where both are 0
        torch.testing.assert_close(above, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@by_name(LOSSES)
@pytest.mark.parametrize("norm", WITHOUT_BATCH_STATISTICS)
def test_the_fused_form_and_the_simple_one_give_equal_gradients(
    loss: one_stage_gan.AdversarialLoss, norm: str | None
) -> None:
    game, scale = Game(norm), GradientScale()
    y_real = game.discriminator(game.real)
    y_fake = game.discriminator(scale_gradient(game.generator(game.noise), scale))
    scale.factor = loss.defined_ratio(y_fake.detach())
    fused = loss.real(y_real).mean() + one_stage_gan.instance_loss(loss, y_fake, scale.factor).mean()
    for found, expected in zip(game.gradients(fused), game.in_one_stage(loss), strict=True):
        assert error(found, expected) < 1e-13


@by_name(SYMMETRIC)
@pytest.mark.parametrize("ratio", ["closed", "autograd"])
def test_symmetric_losses_stay_exact_with_batch_norm_in_the_discriminator(
    loss: one_stage_gan.AdversarialLoss, ratio: str
) -> None:
    game = Game("batch")
    for found, expected in zip(game.in_one_stage(loss, ratio), game.in_two(loss), strict=True):
        assert error(found, expected) < 1e-10


@by_name(ASYMMETRIC)
def test_asymmetric_losses_are_not_exact_with_batch_norm_in_the_discriminator(
    loss: one_stage_gan.AdversarialLoss,
) -> None:
    for seed in range(3):
        game = Game("batch", seed=seed)
        once, twice = game.in_one_stage(loss), game.in_two(loss)
        assert error(once[0], twice[0]) > 0.05
        assert error(once[1], twice[1]) < 1e-10  # the discriminator's own gradient is never scaled


def test_at_the_initial_weights_the_error_of_batch_norm_hides() -> None:
    game = Game("batch", gain=1.0)
    assert (
        error(game.in_one_stage(one_stage_gan.NON_SATURATING)[0], game.in_two(one_stage_gan.NON_SATURATING)[0]) < 0.05
    )


@by_name(LOSSES)
@pytest.mark.parametrize("norm", [None, "group", "batch"])
def test_the_discriminators_gradient_is_the_same_whatever_the_ratio(
    loss: one_stage_gan.AdversarialLoss, norm: str | None
) -> None:
    expected = Game(norm).in_one_stage(loss)[1]
    for ratio in ("autograd", 0.0, 1.0, -7.5):
        assert torch.equal(Game(norm).in_one_stage(loss, ratio)[1], expected)


@by_name(LOSSES)
def test_the_loss_on_real_images_sends_no_gradient_to_the_generator(loss: one_stage_gan.AdversarialLoss) -> None:
    silent = one_stage_gan.AdversarialLoss(
        "silent", loss.real, lambda y: 0 * y, lambda y: 0 * y, lambda y: torch.ones_like(y)
    )
    generator, discriminator = Game().in_one_stage(silent)
    assert not generator.any() and discriminator.any()


def test_with_the_ratio_zero_the_generator_stands_still() -> None:
    generator, discriminator = Game().in_one_stage(one_stage_gan.NON_SATURATING, 0.0)
    assert not generator.any() and discriminator.any()


@pytest.mark.parametrize("ratio", [1.0, -1.0])
def test_with_one_ratio_for_all_the_generator_plays_on_the_discriminators_loss(ratio: float) -> None:
    game = Game()
    fake_loss = F.softplus(game.discriminator(game.generator(game.noise))).mean()
    found, expected = game.in_one_stage(one_stage_gan.NON_SATURATING, ratio)[0], ratio * game.gradients(fake_loss)[0]
    assert error(found, expected) < 1e-10
    assert error(found, game.in_two(one_stage_gan.NON_SATURATING)[0]) > 0.05  # so the ratio matters


@by_name(LOSSES)
def test_the_reported_losses_are_the_plain_ones_and_the_generators_is_not_to_be_propagated(
    loss: one_stage_gan.AdversarialLoss,
) -> None:
    game = Game()
    ratio = one_stage_gan.chosen_ratio(loss, "closed")
    together, of_generator = one_stage_gan.one_stage_losses(
        game.generator, game.discriminator, game.real, game.noise, loss, ratio
    )
    real_term, fake_term, generator_term = PLAIN[loss.name]
    y_real, y_fake = game.discriminator(game.real), game.discriminator(game.generator(game.noise))
    torch.testing.assert_close(together, real_term(y_real).mean() + fake_term(y_fake).mean())
    torch.testing.assert_close(of_generator, generator_term(y_fake).mean().detach())
    assert together.requires_grad and not of_generator.requires_grad


@by_name(LOSSES)
@pytest.mark.parametrize("ratio", ["closed", "autograd"])
@pytest.mark.parametrize("logit", [-100.0, -1000.0, 100.0])
def test_extreme_logits_in_float32_give_no_nan(loss: one_stage_gan.AdversarialLoss, ratio: str, logit: float) -> None:
    game = Game()
    game.generator.float(), game.discriminator.float()
    nn.init.constant_(game.discriminator.layers[-1].bias, logit)
    together, of_generator = one_stage_gan.one_stage_losses(
        game.generator,
        game.discriminator,
        game.real.float(),
        game.noise.float(),
        loss,
        one_stage_gan.chosen_ratio(loss, ratio),
    )
    assert together.isfinite() and of_generator.isfinite()
    assert all(gradient.isfinite().all() for gradient in game.gradients(together))


def test_half_precision_logits_get_their_ratio_in_float32() -> None:
    game, seen = Game(), []

    def ratio(y: Tensor) -> Tensor:
        seen.append(y.dtype)
        return one_stage_gan.NON_SATURATING.defined_ratio(y)

    game.generator.float(), game.discriminator.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together, _ = one_stage_gan.one_stage_losses(
            game.generator,
            game.discriminator,
            game.real.float(),
            game.noise.float(),
            one_stage_gan.NON_SATURATING,
            ratio,
        )
    assert seen == [torch.float32] and together.dtype == torch.float32
    found, expected = game.gradients(together)[0], Game().in_two(one_stage_gan.NON_SATURATING)[0].float()
    assert error(found, expected) < 0.1


# --- the scaling of a gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 5, 5)])
def test_scaling_hands_images_on_bit_for_bit_and_scales_each_ones_gradient(shape: tuple[int, ...]) -> None:
    images, incoming = torch.randn(shape, requires_grad=True), torch.randn(shape)
    scale, factors = GradientScale(), torch.tensor([-2.0, 0.0, 1.0, 0.3])
    out = scale_gradient(images, scale)
    assert torch.equal(out, images)
    scale.factor = factors  # after the forward pass, before the backward pass
    out.backward(incoming)
    for found, factor, row in zip(images.grad, factors, incoming, strict=True):
        torch.testing.assert_close(found, factor * row, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [-1.0, torch.tensor(-1.0), torch.full((3,), -1.0)])
def test_a_factor_is_one_number_or_one_per_image(factor: float | Tensor) -> None:
    images = torch.randn(3, 2, requires_grad=True)
    scale_gradient(images, GradientScale(factor)).sum().backward()
    assert torch.equal(images.grad, torch.full((3, 2), -1.0))


def test_a_missing_factor_is_an_error_in_the_backward_pass() -> None:
    images = torch.randn(3, 2, requires_grad=True)
    out = scale_gradient(images, GradientScale())
    with pytest.raises(ReuseError, match="Set GradientScale.factor before backward"):
        out.sum().backward()
    assert images.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_scaled_gradient_keeps_its_format(dtype: torch.dtype) -> None:
    images = torch.randn(3, 2, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(scale_gradient(images, GradientScale(torch.ones(3))).sum(), images)
    assert gradient.dtype == dtype and torch.equal(gradient, torch.ones(3, 2, dtype=dtype))


def test_a_scaled_gradient_cannot_be_differentiated_again() -> None:
    images = torch.randn(3, 2, requires_grad=True)
    out = scale_gradient(images, GradientScale(2.0)).square().sum()
    (gradient,) = torch.autograd.grad(out, images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_two_fakes_in_flight_keep_their_own_factors() -> None:
    first, second = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    holders = GradientScale(), GradientScale()
    outs = scale_gradient(first, holders[0]), scale_gradient(second, holders[1])
    holders[0].factor, holders[1].factor = torch.tensor([2.0, 3.0]), -1.0
    (outs[0].sum() + outs[1].sum()).backward()
    assert first.grad[:, 0].tolist() == [2, 3] and second.grad[:, 0].tolist() == [-1, -1]


def test_two_games_in_flight_do_not_disturb_each_other() -> None:
    games, losses = (Game(seed=1), Game(seed=2)), (one_stage_gan.NON_SATURATING, one_stage_gan.LEAST_SQUARES)
    together = [
        one_stage_gan.one_stage_losses(
            game.generator, game.discriminator, game.real, game.noise, loss, loss.defined_ratio
        )[0]
        for game, loss in zip(games, losses, strict=True)
    ]
    for game, loss, value in reversed(list(zip(games, losses, together, strict=True))):
        for found, expected in zip(game.gradients(value), game.in_two(loss), strict=True):
            assert error(found, expected) < 1e-10
