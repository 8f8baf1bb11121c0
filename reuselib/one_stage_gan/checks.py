"""What one-stage training claims of a single step: its time, and the identity of its gradients."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reuselib import nets, one_stage_gan, run
from reuselib.data import ImageSet
from reuselib.run.legacy import Outcome

SHORT = {"sat": "saturating", "ns": "non_saturating", "ls": "least_squares", "wgan": "wasserstein"}
"""The losses' names in rows and metrics."""


@dataclass(frozen=True)
class SpeedConfig:
    """Which networks' steps are timed, and how often.

    Attributes:
        task: ``"speed"``.
        method: which of the players is the larger.
        generator_width: see ``models.deconvolution_generator``.
        discriminator_width: see ``models.dcgan_discriminator``.
        image: shape (C, H, W) of one image; pixels are random.
        latent: length of the noise vector.
        batch: images per update.
        groups: of the discriminator's group normalisation.
        turns: how often each scheme takes a step.
        warmup: steps before, not counted.
    """

    task: str
    method: str
    generator_width: int
    discriminator_width: int
    image: tuple[int, int, int] = (1, 16, 16)
    latent: int = 32
    batch: int = 64
    groups: int = 8
    turns: int = 150
    warmup: int = 10


@dataclass(frozen=True)
class IdentityConfig:
    """The small networks in float64 on which the gradient identity is measured.

    Attributes:
        task: ``"identity"``.
        method: ``"all"`` losses.
        image: shape (C, H, W) of one image; pixels are random.
        latent: length of the noise vector.
        width: of the discriminator; the generator's is twice that.
        groups: of the group normalisation.
        batch: images.
        gain: what the discriminator's initial weights are multiplied by; near 0 all logits and all ratios are alike.
    """

    task: str = "identity"
    method: str = "all"
    image: tuple[int, int, int] = (1, 16, 16)
    latent: int = 32
    width: int = 16
    groups: int = 8
    batch: int = 32
    gain: float = 2.0


def measure_speed(config: SpeedConfig, seed: int) -> Outcome:
    """Time the schemes' steps on the same networks, turn by turn, in the engine's precision.

    The metrics are, per scheme, the median and the quartiles in milliseconds on the clock and of the processor; the
    ratio of each two-stage median to the one-stage one; the passes of one step; and the cost of the generator's forward
    pass in units of the discriminator's, by time and by operations.
    """
    device = run.device()
    schemes: dict[str, Callable[..., one_stage_gan.GAN]] = {
        "one": one_stage_gan.OneStageGAN,
        **{name: partial(one_stage_gan.TwoStageGAN, variant=name) for name in one_stage_gan.VARIANTS},
    }
    methods = {
        name: scheme(*_fresh_players(config, seed, device), batch=config.batch, seed=seed)
        for name, scheme in schemes.items()
    }
    history, values = run.History(), dict[str, float]()
    with run.measured(history.cost), run.threads():
        steps = {name: method.step for name, method in methods.items()}
        timings = run.interleaved(steps, config.turns, config.warmup)
        values |= _cost_ratios(config, methods["one"])
        for name, method in methods.items():
            with run.count_passes(method.networks()) as passes:
                method.step()
            values |= {f"{name}_{count}": float(number) for count, number in passes.items()}
    for name, timing in timings.items():
        values |= _summary(f"{name}_ms", timing.wall) | _summary(f"{name}_cpu_ms", timing.cpu)
    for name in one_stage_gan.VARIANTS:
        values[f"ratio_{name}"] = values[f"{name}_ms"] / values["one_ms"]
        if values["one_cpu_ms"]:
            values[f"cpu_ratio_{name}"] = values[f"{name}_cpu_ms"] / values["one_cpu_ms"]
    return Outcome(values, history, device, run.precision(device).name, {})


def _fresh_players(
    config: SpeedConfig, seed: int, device: torch.device
) -> tuple[nets.Generator, nets.Discriminator, ImageSet]:
    with run.seeded(seed):
        generator = nets.deconvolution_generator(config.image, config.latent, config.generator_width)
        discriminator = nets.dcgan_discriminator(config.image, config.discriminator_width, "group", config.groups)
        pixels = torch.randint(256, (1000, *config.image), dtype=torch.uint8)
    half = (0.5,) * config.image[0]
    images = ImageSet("random", pixels, torch.zeros(1000, dtype=torch.int64), ("random",), half, half)
    return run.on_device(generator, device), run.on_device(discriminator, device), images.to(device)


def _summary(name: str, seconds: list[float]) -> dict[str, float]:
    """Median and quartiles, in milliseconds."""
    low, middle, high = (1000 * value for value in statistics.quantiles(seconds, n=4, method="inclusive"))
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


@torch.no_grad()
def _cost_ratios(config: SpeedConfig, method: one_stage_gan.GAN) -> dict[str, float]:
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
        timings = run.interleaved(passes, config.turns, config.warmup)
    seconds = {name: statistics.median(timing.wall) for name, timing in timings.items()}
    return {
        "cost_ratio": seconds["generator"] / seconds["discriminator"],
        "operations_ratio": operations["generator"] / operations["discriminator"],
    }


def measure_identity(config: IdentityConfig, seed: int) -> Outcome:
    """Compare the generator's one-stage gradient with that of its own loss, in float64.

    The metrics are ``digits_<loss>``, the decimal digits in which they agree (17 at most) with a group-normalised
    discriminator; the same for the discriminator's gradient, ``discriminator_digits_<loss>``; with BatchNorm in the
    discriminator, the generator's ``batchnorm_error_<loss>`` and ``batchnorm_cosine_<loss>``.
    """
    history, values = run.History(), dict[str, float]()
    with run.measured(history.cost), run.threads():
        for short, name in SHORT.items():
            exact = gradient_errors(config, seed, one_stage_gan.LOSSES[name], "group")
            values[f"digits_{short}"] = digits(exact["generator"])
            values[f"discriminator_digits_{short}"] = digits(exact["discriminator"])
            coupled = gradient_errors(config, seed, one_stage_gan.LOSSES[name], "batch")
            values[f"batchnorm_error_{short}"] = coupled["generator"]
            values[f"batchnorm_cosine_{short}"] = coupled["cosine"]
    return Outcome(values, history, torch.device("cpu"), "fp64", {})


def digits(error: float) -> float:
    """How many decimal digits a relative error leaves, 17 at most."""
    return float(-torch.tensor(max(error, 1e-17), dtype=torch.float64).log10())


def gradient_errors(
    config: IdentityConfig, seed: int, loss: one_stage_gan.AdversarialLoss, norm: str | None
) -> dict[str, float]:
    """How far the gradients of one backward pass are from those of two separate losses.

    Returns:
        ``generator`` and ``discriminator``, relative errors in the Euclidean norm; ``cosine`` of the generator's two.
    """
    with run.seeded(seed):
        generator = nets.deconvolution_generator(config.image, config.latent, 2 * config.width).double()
        discriminator = nets.dcgan_discriminator(config.image, config.width, norm, config.groups).double()
        real = 2 * torch.rand(config.batch, *config.image, dtype=torch.float64) - 1
        noise = torch.randn(config.batch, config.latent, dtype=torch.float64)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(config.gain)
    ratio = one_stage_gan.chosen_ratio(loss, "closed")
    together, _ = one_stage_gan.one_stage_losses(generator, discriminator, real, noise, loss, ratio)
    once = gradients(together, generator, discriminator)
    fakes = generator(noise)
    (of_generator,) = gradients(loss.generator(discriminator(fakes)).mean(), generator)
    alone = loss.real(discriminator(real)).mean() + loss.fake(discriminator(fakes.detach())).mean()
    (of_discriminator,) = gradients(alone, discriminator)
    return {
        "generator": relative_error(once[0], of_generator),
        "discriminator": relative_error(once[1], of_discriminator),
        "cosine": float(torch.cosine_similarity(once[0], of_generator, dim=0)),
    }


def gradients(loss: Tensor, *networks: nn.Module) -> list[Tensor]:
    """The gradient of a loss with respect to each network's parameters, one flat vector per network."""
    parameters = [list(network.parameters()) for network in networks]
    flat = iter(torch.autograd.grad(loss, [p for group in parameters for p in group]))
    return [torch.cat([next(flat).flatten() for _ in group]) for group in parameters]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """``|found - expected| / |expected|``."""
    return float((found - expected).norm() / expected.norm())
