"""Rows of chapter 03 that look at a single step: its time, and the identity of its gradients."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reuselib import run
from reuselib.data import ImageSet
from reuselib.one_stage_gan.job import players
from reuselib.one_stage_gan.losses import LOSSES, AdversarialLoss
from reuselib.one_stage_gan.method import GAN, VARIANTS, OneStageGAN, TwoStageGAN, one_stage_losses

SHORT = {"sat": "saturating", "ns": "non_saturating", "ls": "least_squares", "wgan": "wasserstein"}
"""The losses' names in rows and metrics."""


class SpeedJob(run.Job):
    """The schemes' steps on the same networks and random pixels, timed turn by turn."""

    def result(self) -> run.Result:
        """Time the steps in the usual precision.

        The metrics are, per scheme, the median and the quartiles in milliseconds on the clock and of the processor; the
        ratio of each two-stage median to the one-stage one; the passes of one step; and the cost of the generator's
        forward pass in units of the discriminator's, by time and by operations.
        """
        schemes: dict[str, Callable[..., GAN]] = {"one": OneStageGAN}
        schemes |= {name: partial(TwoStageGAN, variant=name) for name in VARIANTS}
        methods = {name: self.make(scheme) for name, scheme in schemes.items()}
        history, values = run.History(), dict[str, float]()
        with run.measured(history.cost), run.threads():
            timings = self.timed({name: method.step for name, method in methods.items()})
            values |= self.cost_ratios(methods["one"])
            for name, method in methods.items():
                with run.count_passes(method.networks()) as passes:
                    method.step()
                values |= {f"{name}_{count}": float(number) for count, number in passes.items()}
        for name, timing in timings.items():
            values |= _summary(f"{name}_ms", timing.wall) | _summary(f"{name}_cpu_ms", timing.cpu)
        for name in VARIANTS:
            values[f"ratio_{name}"] = values[f"{name}_ms"] / values["one_ms"]
            if values["one_cpu_ms"]:
                values[f"cpu_ratio_{name}"] = values[f"{name}_cpu_ms"] / values["one_cpu_ms"]
        return run.Result(metrics=values, history=history, device=self.device, precision=self.precision)

    def make(self, scheme: Callable[..., GAN]) -> GAN:
        """A scheme with fresh networks, the same for all."""
        with run.seeded(self.seed):
            generator, discriminator = players(self.settings)
            pixels = torch.randint(256, (1000, *self.settings.image), dtype=torch.uint8)
        half = (0.5,) * self.settings.image[0]
        images = ImageSet("random", pixels, torch.zeros(1000, dtype=torch.int64), ("random",), half, half)
        both = (run.on_device(player, self.device) for player in (generator, discriminator))
        return scheme(*both, images.to(self.device), batch=self.settings.batch, seed=self.seed)

    def timed(self, works: dict[str, Callable[[], object]]) -> dict[str, run.Timing]:
        """Time pieces of work turn by turn."""
        return run.interleaved(works, self.settings.turns, self.settings.warmup)

    @torch.no_grad()
    def cost_ratios(self, method: GAN) -> dict[str, float]:
        """What the generator's forward pass costs in units of the discriminator's: by time and by operations."""
        passes: dict[str, Callable[[], Any]] = {
            "generator": partial(method.generator, method.draw_noise()),
            "discriminator": partial(method.discriminator, method.draw_real()),
        }
        operations = {}
        for name, work in passes.items():
            with FlopCounterMode(display=False) as counter:
                work()
            operations[name] = counter.get_total_flops()
        with method.precision.autocast():
            seconds = {name: statistics.median(timing.wall) for name, timing in self.timed(passes).items()}
        return {
            "cost_ratio": seconds["generator"] / seconds["discriminator"],
            "operations_ratio": operations["generator"] / operations["discriminator"],
        }


def _summary(name: str, seconds: list[float]) -> dict[str, float]:
    """Median and quartiles, in milliseconds."""
    low, middle, high = (1000 * value for value in statistics.quantiles(seconds, n=4, method="inclusive"))
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


class IdentityJob(run.Job):
    """The gradients of one backward pass beside those of two separate losses, of small networks in float64."""

    def result(self) -> run.Result:
        """Compare the gradients of all losses.

        The metrics are ``digits_<loss>``, the decimal digits in which the generator's gradients agree (17 at most) with
        a group-normalised discriminator; the same for the discriminator's, ``discriminator_digits_<loss>``; with
        BatchNorm in the discriminator, the generator's ``batchnorm_error_<loss>`` and ``batchnorm_cosine_<loss>``.
        """
        history, values = run.History(), dict[str, float]()
        with run.measured(history.cost), run.threads():
            for short, name in SHORT.items():
                exact, coupled = (self.errors(LOSSES[name], norm) for norm in ("group", "batch"))
                values[f"digits_{short}"] = digits(exact["generator"])
                values[f"discriminator_digits_{short}"] = digits(exact["discriminator"])
                values[f"batchnorm_error_{short}"] = coupled["generator"]
                values[f"batchnorm_cosine_{short}"] = coupled["cosine"]
        return run.Result(metrics=values, history=history, precision="fp64")

    def errors(self, loss: AdversarialLoss, norm: str | None) -> dict[str, float]:
        """How far the gradients of one backward pass are from those of two separate losses.

        Returns:
            ``generator`` and ``discriminator``, relative errors in the Euclidean norm; ``cosine`` of the generator's
            two.
        """
        settings = self.settings
        with run.seeded(self.seed):
            generator, discriminator = (each.double() for each in players(settings.but(norm=norm)))
            real = 2 * torch.rand(settings.batch, *settings.image, dtype=torch.float64) - 1
            noise = torch.randn(settings.batch, settings.latent, dtype=torch.float64)
        with torch.no_grad():
            for parameter in discriminator.parameters():
                parameter.mul_(settings.gain)
        together, _ = one_stage_losses(generator, discriminator, real, noise, loss)
        once = gradients(together, generator, discriminator)
        fakes = generator(noise)
        (of_generator,) = gradients(loss.generator(discriminator(fakes)).mean(), generator)
        alone = loss.discriminator(discriminator(real), discriminator(fakes.detach()))
        (of_discriminator,) = gradients(alone, discriminator)
        return {
            "generator": relative_error(once[0], of_generator),
            "discriminator": relative_error(once[1], of_discriminator),
            "cosine": float(torch.cosine_similarity(once[0], of_generator, dim=0)),
        }


def digits(error: float) -> float:
    """How many decimal digits a relative error leaves, 17 at most."""
    return float(-torch.tensor(max(error, 1e-17), dtype=torch.float64).log10())


def gradients(loss: Tensor, *networks: nn.Module) -> list[Tensor]:
    """The gradient of a loss with respect to each network's parameters, one flat vector per network."""
    parameters = [list(network.parameters()) for network in networks]
    flat = iter(torch.autograd.grad(loss, [p for group in parameters for p in group]))
    return [torch.cat([next(flat).flatten() for _ in group]) for group in parameters]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """``|found - expected| / |expected|``."""
    return float((found - expected).norm() / expected.norm())
