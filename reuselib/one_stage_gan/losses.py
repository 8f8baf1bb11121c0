"""The adversarial losses, per sample, and the number that turns one player's gradient into the other's.

``y`` are the discriminator's logits (n,), one per image. Every function is per sample: (n,) in, (n,) out, no reduction.
The discriminator minimises ``mean real(D(x)) + mean fake(D(G(z)))``, the generator ``mean generator(D(G(z)))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import checks
from reuselib.errors import ReuseError, unknown

PerSample = Callable[[Tensor], Tensor]

LOWEST_LOGIT = -30.0
"""Below it the ratio of the non-saturating loss, ``-exp(-y)``, stays what it is there: no infinity in float32."""

LARGEST_RATIO = math.exp(-LOWEST_LOGIT)


@dataclass(frozen=True)
class AdversarialLoss:
    """The three terms of a GAN's losses and the ratio of the two gradients on a fake.

    Attributes:
        name: as in ``LOSSES``.
        real: what the discriminator minimises on real images.
        fake: what the discriminator minimises on fakes.
        generator: what the generator minimises on fakes.
        ratio: ``generator'(y) / fake'(y)``; ``None`` where some logit has none. Such a loss cannot be trained in one
            stage.
    """

    name: str
    real: PerSample
    fake: PerSample
    generator: PerSample
    ratio: PerSample | None

    def discriminator(self, y_real: Tensor, y_fake: Tensor) -> Tensor:
        """L_D, what the discriminator minimises; the generator minimises L_G, ``generator(y_fake).mean()``.

        Equation: `one-stage-game`.

        Args:
            y_real: logits of real images, (n,).
            y_fake: logits of fakes, (n,).

        Returns:
            A scalar, the sum of two means over the batch.
        """
        return self.real(y_real).mean() + self.fake(y_fake).mean()


# fmt: off
def gradient_ratio(
    loss: AdversarialLoss, logits: Tensor, ratio: str | float = "closed"
) -> Tensor | float:
    """``generator'(y) / fake'(y)`` at given logits: what turns the discriminator's gradient into the generator's.

    Equation: `one-stage-ratio`.

    Args:
        loss: the game.
        logits: y, (n,); their own graph stays as it is.
        ratio: ``"closed"`` for the closed form, ``"autograd"`` to differentiate the two terms, or one number for all
            samples, right or wrong.

    Returns:
        (n,), a constant, at most ``LARGEST_RATIO`` in size; or the number.

    Raises:
        ReuseError: the loss has no ratio.
        UnknownName: the ratio is none of these.

    Source: Shen et al. 2021, gradient decomposition.
    """
    if loss.ratio is None:
        raise ReuseError(
            f"The loss {loss.name!r} has no gradient ratio: where the"
            " discriminator's gradient is zero, no factor turns it into the"
            " generator's. Use leaky_hinge(slope), another loss, or"
            " TwoStageGAN."
        )
    if not isinstance(ratio, str):
        checks.number(-math.inf, ratio=ratio)
        return float(ratio)
    if ratio == "closed":
        return loss.ratio(logits.detach())
    if ratio != "autograd":
        raise unknown("ratio", ratio, ["closed", "autograd", "a number"])
    with torch.enable_grad():
        y = logits.detach().requires_grad_()
        (fake,) = torch.autograd.grad(loss.fake(y).sum(), y)
        (generator,) = torch.autograd.grad(loss.generator(y).sum(), y)
    return _bounded(generator / fake)
# fmt: on


def leaky_hinge(slope: float = 0.1) -> AdversarialLoss:
    """The hinge loss with a fake term that still has a slope below -1, so that it has a ratio everywhere.

    Args:
        slope: of the fake term below -1; the smaller, the nearer to the hinge loss, and the larger the ratio.

    Raises:
        BadValue: the slope is not above 0 and at most 1.
    """
    checks.number(0, 1, above=True, slope=slope)
    return AdversarialLoss(
        "leaky_hinge",
        real=lambda y: F.relu(1 - y),
        fake=lambda y: F.leaky_relu(1 + y, slope),
        generator=lambda y: -y,
        ratio=lambda y: -torch.where(y > -1, 1.0, 1 / slope).to(y.dtype),
    )


def _bounded(ratio: Tensor) -> Tensor:
    """Keep a ratio finite: where the discriminator's gradient is 0, any finite factor leaves 0."""
    return ratio.nan_to_num(0.0).clamp(-LARGEST_RATIO, LARGEST_RATIO)


SATURATING = AdversarialLoss(
    "saturating",
    real=lambda y: F.softplus(-y),
    fake=F.softplus,
    generator=lambda y: -F.softplus(y),
    ratio=lambda y: -torch.ones_like(y),
)
"""Goodfellow et al. 2014, the game of the proof: the generator raises what the discriminator lowers."""

NON_SATURATING = AdversarialLoss(
    "non_saturating",
    real=lambda y: F.softplus(-y),
    fake=F.softplus,
    generator=lambda y: F.softplus(-y),
    ratio=lambda y: -torch.exp(-y.clamp(min=LOWEST_LOGIT)),
)
"""Goodfellow et al. 2014, the generator's loss of practice: cross-entropy towards the label "real"."""

LEAST_SQUARES = AdversarialLoss(
    "least_squares",
    real=lambda y: (y - 1).square(),
    fake=torch.square,
    generator=lambda y: (y - 1).square(),
    ratio=lambda y: _bounded((y - 1) / y),
)
"""Mao et al. 2017 (LSGAN), targets 0 and 1."""

WASSERSTEIN = AdversarialLoss(
    "wasserstein", real=lambda y: -y, fake=lambda y: y, generator=lambda y: -y, ratio=lambda y: -torch.ones_like(y)
)
"""Arjovsky et al. 2017 (WGAN); the discriminator's weights must be clipped."""

HINGE = AdversarialLoss(
    "hinge", real=lambda y: F.relu(1 - y), fake=lambda y: F.relu(1 + y), generator=lambda y: -y, ratio=None
)
"""Lim & Ye 2017. Below -1 the discriminator's gradient is 0 and the generator's is not: there is no ratio."""

LOSSES: dict[str, AdversarialLoss] = {
    loss.name: loss for loss in (SATURATING, NON_SATURATING, LEAST_SQUARES, WASSERSTEIN, HINGE)
}
