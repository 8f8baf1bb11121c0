"""Training a generator against a discriminator: in one stage, and in the usual two."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.lr_scheduler import LambdaLR

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError, ShapeMismatch, unknown
from reuselib.nets import latent_of
from reuselib.one_stage_gan.losses import NON_SATURATING, AdversarialLoss, gradient_ratio

VARIANTS = ("plain", "frozen", "reuse", "wasteful")
BETAS = (0.5, 0.999)
"""Of both players' Adam, as in DCGAN."""


@dataclass
class GradientScale:
    """What a gradient is multiplied by on its way back: filled after the forward pass, before the backward pass.

    Attributes:
        factor: one number, or one per image, (n,).
    """

    factor: Tensor | float | None = None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: GradientScale) -> Tensor:
        ctx.scale = scale
        return images.view_as(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        factor = ctx.scale.factor
        if factor is None:
            fix = "Set GradientScale.factor before backward()."
            raise ReuseError(f"The factor is not known yet. {fix}")
        if isinstance(factor, Tensor) and factor.ndim:
            factor = factor.view(-1, *[1] * (gradient.ndim - 1))
        return (gradient * factor).to(gradient.dtype), None


def scale_gradient(images: Tensor, scale: GradientScale) -> Tensor:
    """Hand images on as they are; on the way back, multiply the gradient of image i by ``scale.factor[i]``.

    Equation: `one-stage-generator`.

    Args:
        images: (n, ...).
        scale: an object of this call alone; its factor may be filled any time before the backward pass.

    Returns:
        The images, bit for bit.

    Raises:
        ReuseError: in the backward pass, if the factor is still missing.
    """
    return _ScaleGradient.apply(images, scale)


def in_tanh_range(images: ImageSet) -> ImageSet:
    """The same pixels, normalised to [-1, 1], where a generator that ends in tanh makes its own."""
    half = (0.5,) * images.shape[0]
    return replace(images, mean=half, std=half)


def one_stage_losses(
    generator: nn.Module,
    discriminator: nn.Module,
    real: Tensor,
    noise: Tensor,
    loss: AdversarialLoss,
    ratio: str | float = "closed",
    together: bool = False,
) -> tuple[Tensor, Tensor]:
    """One forward pass whose single backward pass gives both players their gradients.

    For each fake, the gradients of the two losses differ by one number, the same at every layer down to the image.
    So the discriminator's loss is propagated, and scaled where it leaves the discriminator.

    Args:
        generator: makes images of noise.
        discriminator: gives one logit per image; exact without batch statistics in it, or if the ratio is constant.
        real: real images, (n, C, H, W).
        noise: (n, latent).
        loss: the game.
        ratio: as in :func:`~reuselib.one_stage_gan.losses.gradient_ratio`.
        together: whether the discriminator sees real images and fakes as one batch, which batch norm alone notices.

    Returns:
        The discriminator's loss, to be propagated once, and the generator's, to be looked at.

    Example:
        >>> import torch
        >>> from reuselib import nets, one_stage_gan
        >>> generator = nets.dcgan_generator((1, 16, 16), latent=16, width=8)
        >>> discriminator = nets.dcgan_discriminator((1, 16, 16), width=8, groups=4)
        >>> game = one_stage_gan.losses.NON_SATURATING
        >>> real, noise = torch.zeros(8, 1, 16, 16), torch.randn(8, 16)
        >>> loss, of_generator = one_stage_gan.one_stage_losses(
        ...     generator, discriminator, real, noise, game
        ... )
        >>> loss.backward()  # one pass: now both networks have their gradients
        >>> weights = [*generator.parameters(), *discriminator.parameters()]
        >>> all(weight.grad is not None for weight in weights)
        True

    Source: Shen et al. 2021, one-stage training.
    """
    scale = GradientScale()
    fakes = scale_gradient(generator(noise), scale)
    if together:
        both = torch.cat([real, fakes])
        y_real, y_fake = one_each(discriminator(both), both).split(len(real))
    else:
        y_real = one_each(discriminator(real), real)
        y_fake = one_each(discriminator(fakes), fakes)
    scale.factor = gradient_ratio(loss, y_fake, ratio)
    of_generator = loss.generator(y_fake.detach()).mean()
    return loss.discriminator(y_real, y_fake), of_generator


def one_each(logits: Tensor, images: Tensor) -> Tensor:
    """A discriminator's logits, one for each image, (n,), in float32 at least: half precision has no room for ratios.

    Raises:
        ShapeMismatch: there are more, as from a discriminator of patches.
    """
    logits = run.one_tensor(logits, "The discriminator").flatten()
    if len(logits) != len(images):
        raise ShapeMismatch(
            f"The discriminator gives {len(logits)} logits for {len(images)} images. Patches have no ratio of their "
            "own: end it with their mean, nn.Sequential(discriminator, nn.Flatten(), nn.AdaptiveAvgPool1d(1))."
        )
    return logits if logits.dtype == torch.float64 else logits.float()


class GAN(run.Method):
    """What both schemes share: networks, optimizers, draws, clipping. Subclasses write :meth:`play`.

    Args:
        generator: makes images in [-1, 1] from noise (B, latent).
        discriminator: gives logits (B,) of images.
        images: the real images, normalised to [-1, 1] (:func:`in_tanh_range`), on the networks' device.
        loss: the game.
        batch: real images, and fakes, per update.
        generator_lr: learning rate of Adam.
        discriminator_lr: learning rate of Adam.
        clip: after each update the discriminator's weights are clipped to ``[-clip, clip]`` (WGAN: 0.01).
        clip_last: whether they are clipped when the generator has moved too, as in the official code, so that in two
            stages it learns from weights that are not; in one stage it is all the same.
        schedule: iteration → factor on both learning rates.
        seed: of all that is drawn.
        precision: chosen if left out. Losses and ratio are computed in float32 at least.

    Raises:
        DeviceError: networks and images are not on one device.
        ShapeMismatch: generator, discriminator and images do not have one image shape.
        ReuseError: the images are not normalised to [-1, 1].
    """

    fixed = ()

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        images: ImageSet,
        *,
        loss: AdversarialLoss = NON_SATURATING,
        batch: int = 64,
        generator_lr: float = 2e-4,
        discriminator_lr: float = 1e-4,
        clip: float | None = None,
        clip_last: bool = False,
        schedule: run.Schedule = run.constant,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        checks.some(ImageSet, images=images)
        checks.whole(batch=batch)
        if clip is not None:
            checks.number(above=True, clip=clip)
        self.device = run.device_of(generator=generator, discriminator=discriminator, images=images)
        self.generator = run.on_device(generator, self.device)
        self.discriminator = run.on_device(discriminator, self.device)
        self.images, self.loss, self.batch, self.clip = images, loss, batch, clip
        self.clip_last = clip_last
        self.latent = latent_of(generator)
        self._check_fit()
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self.generator_optimizer = run.adam(generator.parameters(), self.device, lr=generator_lr, betas=BETAS)
        critics = discriminator.parameters()
        self.discriminator_optimizer = run.adam(critics, self.device, lr=discriminator_lr, betas=BETAS)
        optimizers = (self.generator_optimizer, self.discriminator_optimizer)
        self.schedulers = [LambdaLR(optimizer, schedule) for optimizer in optimizers]
        generator.train()
        discriminator.train()

    def step(self) -> dict[str, Tensor]:
        """One update of each player.

        Returns:
            ``discriminator`` and ``generator``, the two losses, each as it was before its player's update.
        """
        discriminator, generator = self.play()
        for scheduler in self.schedulers:
            scheduler.step()
        return {"discriminator": discriminator.detach(), "generator": generator.detach()}

    def play(self) -> tuple[Tensor, Tensor]:
        """Update both players; return the discriminator's loss and the generator's."""
        raise TypeError(f"{type(self).__name__} has no play()")

    def draw_real(self) -> Tensor:
        """Random real images, (batch, C, H, W)."""
        return self.images.sample(self.batch, self.random)[0].to(self._dtype)

    def draw_noise(self) -> Tensor:
        """N(0, 1) noise, (batch, latent)."""
        shape = (self.batch, self.latent)
        return torch.randn(shape, device=self.device, dtype=self._dtype, generator=self.random)

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Clip the discriminator's weights, if asked for."""
        if self.clip is not None:
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-self.clip, self.clip)

    def _check_fit(self) -> None:
        """Raise unless networks and images have one image shape and one range."""
        if {*self.images.mean, *self.images.std} != {0.5}:
            raise ReuseError(
                f"The images of {self.images.name} are normalised by mean {self.images.mean} and std "
                f"{self.images.std}, but a generator's lie in [-1, 1]. Give in_tanh_range(images)."
            )
        noise = torch.zeros(2, self.latent, device=self.device, dtype=self._dtype)
        (fakes,) = run.probe(noise, generator=self.generator)
        if fakes.shape[1:] != self.images.shape:
            raise ShapeMismatch(
                f"The generator makes images of shape {tuple(fakes.shape[1:])}, but {self.images.name} has "
                f"{self.images.shape}. Build both networks with image=images.shape, or resize the images."
            )
        (logits,) = run.probe(fakes, discriminator=self.discriminator)
        one_each(logits, fakes)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.generator.parameters()).dtype


class OneStageGAN(GAN):
    """Both players learn from one forward and one backward pass (OSGAN).

    Args:
        generator: makes images in [-1, 1] from noise (B, latent).
        discriminator: gives logits (B,) of images. With batch normalisation in it the generator's gradient is exact
            for symmetric losses only, whose ratio is the constant -1; otherwise use group normalisation or none.
        images: the real images, normalised to [-1, 1] (:func:`in_tanh_range`), on the networks' device.
        ratio: of the two players' gradients: ``"closed"`` for the closed form, ``"autograd"``, or one number for all.
        together: whether the discriminator sees real images and fakes as one batch, as the official WGAN does.
        options: the options of :class:`GAN`.

    Raises:
        ReuseError: the loss has no ratio (hinge), and the errors of :class:`GAN`.

    Example:
        >>> from reuselib import data, nets, one_stage_gan
        >>> images = one_stage_gan.in_tanh_range(data.load("digits", size=16))
        >>> generator = nets.dcgan_generator(image=(1, 16, 16), latent=16, width=8)
        >>> discriminator = nets.dcgan_discriminator(image=(1, 16, 16), width=8, groups=4)
        >>> method = one_stage_gan.OneStageGAN(generator, discriminator, images, batch=16)
        >>> sorted(method.step())
        ['discriminator', 'generator']

    Source: Shen et al. 2021 (OSGAN).
    """

    def __init__(self, *parties: Any, ratio: str | float = "closed", together: bool = False, **options: Any) -> None:
        super().__init__(*parties, **options)
        if not isinstance(ratio, str):  # above 0, the generator would help the discriminator
            checks.number(-math.inf, 0.0, ratio=ratio)
        gradient_ratio(self.loss, torch.zeros(1), ratio)  # a game without one is refused here
        self.ratio, self.together = ratio, together

    def play(self) -> tuple[Tensor, Tensor]:
        """One draw of images and noise, one backward pass, both updates."""
        players = (self.generator, self.discriminator)
        draws = (self.draw_real(), self.draw_noise())
        game: Any = (self.loss, self.ratio, self.together)
        with self.precision.autocast():
            loss, of_generator = one_stage_losses(*players, *draws, *game)
        optimizers = (self.discriminator_optimizer, self.generator_optimizer)
        self.precision.minimise(loss, optimizers)
        self.clip_weights()
        return loss, of_generator


class TwoStageGAN(GAN):
    """First the discriminator learns, then the generator, through the discriminator as it has become.

    Args:
        parties: generator, discriminator and images, in this order.
        variant: how the work is done. ``"plain"``: the second stage also computes gradients of the discriminator's
            weights, which nobody uses (official DCGAN code). ``"frozen"``: it does not. ``"reuse"``: frozen, and the
            generator learns on the fakes of the first stage. ``"wasteful"``: plain, and the first stage propagates
            into the generator for nothing (official WGAN code). All but ``"reuse"`` give the same updates.
        options: the options of :class:`GAN`.

    Raises:
        UnknownName: there is no such variant, and the errors of :class:`GAN`.

    Example:
        >>> from reuselib import data, nets, one_stage_gan
        >>> images = one_stage_gan.in_tanh_range(data.load("digits", size=16))
        >>> generator = nets.dcgan_generator((1, 16, 16), latent=16, width=8)
        >>> discriminator = nets.dcgan_discriminator((1, 16, 16), width=8, groups=4)
        >>> method = one_stage_gan.TwoStageGAN(
        ...     generator, discriminator, images, variant="reuse", batch=16
        ... )
        >>> sorted(method.step())
        ['discriminator', 'generator']
    """

    def __init__(self, *parties: Any, variant: str = "frozen", **options: Any) -> None:
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        super().__init__(*parties, **options)
        self.variant = variant

    def play(self) -> tuple[Tensor, Tensor]:
        """The discriminator's stage, then the generator's."""
        real = self.draw_real()
        fakes = self._fakes(graph=self.variant in ("reuse", "wasteful"))
        shown = fakes if self.variant == "wasteful" else fakes.detach()
        first = self.discriminator_stage(real, shown)
        if self.variant != "reuse":
            fakes = self._fakes()
        second = self.generator_stage(fakes)
        if self.clip_last:
            self.clip_weights()
        return first, second

    def discriminator_stage(self, real: Tensor, fakes: Tensor) -> Tensor:
        """Update the discriminator on real images and fakes, both (batch, C, H, W); return its loss."""
        with self.precision.autocast():
            y_real = one_each(self.discriminator(real), real)
            y_fake = one_each(self.discriminator(fakes), fakes)
            loss = self.loss.discriminator(y_real, y_fake)
        self.precision.minimise(loss, self.discriminator_optimizer)
        if not self.clip_last:
            self.clip_weights()
        return loss

    def generator_stage(self, fakes: Tensor) -> Tensor:
        """Update the generator on fakes (batch, C, H, W) with their graph; return its loss."""
        plain = self.variant in ("plain", "wasteful")
        fixed = () if plain else (self.discriminator,)
        with run.frozen(*fixed, evaluate=False):
            with self.precision.autocast():
                y = one_each(self.discriminator(fakes), fakes)
                loss = self.loss.generator(y).mean()
            self.precision.minimise(loss, self.generator_optimizer)
        return loss

    def _fakes(self, graph: bool = True) -> Tensor:
        with torch.set_grad_enabled(graph), self.precision.autocast():
            return self.generator(self.draw_noise())
