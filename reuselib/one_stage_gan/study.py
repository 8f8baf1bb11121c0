"""Chapter 03: training GANs in one stage.

A row is ``<task>-<method>``. There are four kinds of tasks: a GAN on an image set, step times, the gradient identity,
and data-free distillation. The methods of a GAN or distillation task share networks, initial weights, updates and
evaluation; a step of a two-stage method and one of a one-stage method update each player once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from reuselib import data, home, nets, one_stage_gan, run
from reuselib import report as ledger
from reuselib.data import ImageSet
from reuselib.dfad import legacy as study
from reuselib.dfad import sources
from reuselib.dfad.method import DFAD, Distillation
from reuselib.one_stage_gan.checks import SHORT, IdentityConfig, SpeedConfig, measure_identity, measure_speed
from reuselib.one_stage_gan.judge import Judge
from reuselib.run.legacy import Chapter, Outcome

ROUND = 50
"""Iterations between two reports, at most."""

UNTRAINED = ("real", "noise", "untrained")
"""Rows without training: other real images, clipped Gaussian noise, and the generator as it starts."""

SPEED_METHODS = ("balanced", "heavy-generator", "heavy-discriminator")
DISTIL_METHODS = ("two-1", "one-1", "two-5", "one-5", "random", "random-generator", "real", "untrained")


@dataclass(frozen=True)
class GanConfig:
    """Everything that decides the result of a GAN's row, beside the seed.

    Attributes:
        task: name of the task.
        method: ``<loss>-<scheme>``, with what is special about it; or one of ``UNTRAINED``.
        dataset: name of an image set.
        image: shape (C, H, W) of one image.
        judge: the network whose features are compared (see :class:`~reuselib.one_stage_gan.judge.Judge`).
        scheme: ``"one"`` or ``"two"`` stages, or one of ``UNTRAINED``.
        loss: name in ``gan.LOSSES``.
        iterations: updates of each player.
        latent: length of the noise vector.
        generator_width: see ``models.deconvolution_generator``.
        discriminator_width: see ``models.dcgan_discriminator``.
        norm: normalisation of the discriminator.
        groups: of a group normalisation.
        batch: images per update.
        generator_lr: of the generator's Adam.
        discriminator_lr: of the discriminator's Adam.
        clip: bound of the discriminator's weights, if any.
        decays: shares of the run after which both learning rates are multiplied by ``decay``.
        decay: that factor.
        evaluations: how often the distance is read.
        fakes: images that are judged.
        references: real images that they are compared with, at most.
        options: options of the scheme alone: ``variant`` of two stages, ``ratio`` of one.
    """

    task: str
    method: str
    dataset: str
    image: tuple[int, int, int]
    judge: str
    iterations: int
    scheme: str = "one"
    loss: str = "non_saturating"
    latent: int = 32
    generator_width: int = 64
    discriminator_width: int = 32
    norm: str = "group"
    groups: int = 8
    batch: int = 64
    generator_lr: float = 2e-4
    discriminator_lr: float = 1e-4
    clip: float | None = None
    decays: tuple[float, ...] = ()
    decay: float = 0.1
    evaluations: int = 10
    fakes: int = 2000
    references: int = 10_000
    options: dict[str, Any] = field(default_factory=dict)


Config = GanConfig | SpeedConfig | IdentityConfig | study.Config

# --- presets ---------------------------------------------------------------------------------------------------------

FASHION = GanConfig("fashion", "", "fashion_mnist", (1, 16, 16), "fashion16-conv3", iterations=1000)
DIGITS = GanConfig("digits", "", "digits", (1, 16, 16), "digits8-conv3", iterations=800, evaluations=8, fakes=500)
MNIST = GanConfig(
    "mnist",
    "",
    "mnist",
    (1, 64, 64),
    "mnist32-lenet5",
    iterations=9380,
    latent=100,
    generator_width=128,
    discriminator_width=128,
    groups=32,
    batch=128,
    fakes=10_000,
)
MNIST_COLAB = replace(MNIST, iterations=2400, generator_width=64, discriminator_width=64, evaluations=8, fakes=5000)
CELEBA = replace(MNIST, task="celeba", dataset="celeba", image=(3, 64, 64), judge="inception_v3", iterations=47_490)
LSUN = replace(CELEBA, task="lsun", dataset="lsun_church", iterations=29_610)
FFHQ = replace(CELEBA, task="ffhq", dataset="ffhq", iterations=32_820)

WGAN = {"clip": 0.01}
SLOW = {"discriminator_lr": 4e-5}
CHANGES: dict[str, dict[str, Any]] = {
    **{f"{loss}-{scheme}": WGAN if loss == "wgan" else {} for loss in SHORT for scheme in ("two", "one")},
    **{f"{loss}-{scheme}-slow": SLOW for loss in ("sat", "ns") for scheme in ("two", "one")},
    "ns-wrong": {"scheme": "one", "options": {"ratio": -1.0}},
    "ns-batchnorm": {"scheme": "one", "norm": "batch"},
    **{method: {} for method in UNTRAINED},
}
"""What the rows of a small GAN task change; both schemes of a loss get the same learning rates.

For WGAN 0.00003, 0.0001, 0.0002 and 0.001 were tried for the discriminator, with a seed that is in no table, for 500
iterations: 0.0001 has the smallest sum of the two schemes' distances.
"""

FEW = [f"{loss}-{scheme}" for loss in ("sat", "ns") for scheme in ("two", "one")] + list(UNTRAINED)

_FALLING = {"decays": (1 / 3, 1 / 2)}
_PLAIN: dict[str, Any] = {"options": {"variant": "plain"}}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sat-one": {"norm": "batch", "discriminator_lr": 4e-5, **_FALLING},
    "sat-two": {"norm": "batch", "discriminator_lr": 2e-5, **_PLAIN},
    "ns-one": {"discriminator_lr": 1e-4, "latent": 128},
    "ns-two": {"discriminator_lr": 4e-5, "decay": 0.5, **_FALLING, **_PLAIN},
    "wgan-one": {"norm": "batch", "clip": 0.01, "generator_lr": 1e-4, "discriminator_lr": 1.35e-5, **_FALLING},
    "wgan-two": {"norm": "batch", "clip": 0.01, "discriminator_lr": 2e-4, **_FALLING, **_PLAIN},
}
"""The official settings for CelebA, which LSUN and FFHQ get too: none were published for them."""

PUBLISHED_MNIST: dict[str, dict[str, Any]] = {
    "sat-one": {"norm": "batch", "discriminator_lr": 1.35e-5},
    "sat-two": {"norm": "batch", "discriminator_lr": 2e-4, **_PLAIN},
    "ns-one": {"discriminator_lr": 5e-5},
    "ns-two": {"norm": "batch", "discriminator_lr": 2e-4, **_PLAIN},
    "wgan-one": {"norm": "batch", "clip": 0.01, "discriminator_lr": 1.35e-5},
    "wgan-two": {"norm": "batch", "clip": 0.01, "discriminator_lr": 2e-4, **_PLAIN},
}

WIDTHS = {"balanced": (64, 64), "heavy-generator": (128, 32), "heavy-discriminator": (32, 128)}
"""Widths of generator and discriminator; with (64, 64) a forward pass of each takes about as many operations."""

DISTIL = replace(study.FASHION, task="distil", iterations=3000, student_steps=1, evaluations=15)
DISTIL_SMOKE = replace(study.DIGITS, task="distil", iterations=10, student_steps=1, batch=16, evaluations=1, limit=100)
CIFAR10 = replace(study.CIFAR10, iterations=125_000, student_steps=1, evaluations=50)
CIFAR10_COLAB = replace(study.CIFAR10_COLAB, iterations=15_000, student_steps=1, evaluations=20)


def _gan_rows(task: GanConfig, changes: Mapping[str, dict[str, Any]], methods: list[str]) -> Iterator[GanConfig]:
    """The rows of a GAN task: loss and scheme by the method's name, and what the method changes."""
    for method in methods:
        loss, _, scheme = method.partition("-")
        named = {"scheme": method} if method in UNTRAINED else {"loss": SHORT[loss], "scheme": scheme.split("-")[0]}
        yield replace(task, method=method, **named | changes[method])


def _distil_rows(task: study.Config, fixed_lr: float) -> Iterator[study.Config]:
    """The rows of a distillation task, all with the same number of student updates."""
    for method in DISTIL_METHODS:
        adversarial = method[:3] in ("two", "one")
        steps = 5 if method.endswith("-5") else 1
        lr = task.lr if adversarial else fixed_lr
        yield replace(task, method=method, iterations=task.iterations // steps, student_steps=steps, lr=lr)


def _speed_rows(**changes: Any) -> Iterator[SpeedConfig]:
    for method, (generator, discriminator) in WIDTHS.items():
        yield replace(SpeedConfig("speed", method, generator, discriminator), **changes)


def _small(task: GanConfig) -> GanConfig:
    return replace(
        task,
        iterations=6,
        evaluations=2,
        batch=16,
        fakes=60,
        references=200,
        generator_width=16,
        discriminator_width=8,
        groups=4,
    )


def _presets(scale: str) -> list[Config]:
    if scale == "smoke":
        return [
            *_gan_rows(_small(FASHION), CHANGES, list(CHANGES)),
            *_gan_rows(_small(DIGITS), CHANGES, FEW),
            *_speed_rows(turns=2, warmup=1, batch=8),
            IdentityConfig(width=8, batch=8),
            *_distil_rows(DISTIL_SMOKE, 0.05),
        ]
    if scale == "laptop":
        return [
            *_gan_rows(FASHION, CHANGES, list(CHANGES)),
            *_gan_rows(DIGITS, CHANGES, FEW),
            *_speed_rows(),
            IdentityConfig(),
            *_distil_rows(DISTIL, 0.1),
        ]
    large = {"image": (3, 64, 64), "latent": 100, "batch": 128, "groups": 32}
    if scale == "colab":
        return [
            *_gan_rows(MNIST_COLAB, CHANGES, [*FEW, "wgan-two", "wgan-one"]),
            *_speed_rows(**large),
            IdentityConfig(),
            *_distil_rows(CIFAR10_COLAB, 0.1),
        ]
    floors: dict[str, dict[str, Any]] = {"noise": {}, "untrained": {}}
    return [
        *(row for task in (CELEBA, LSUN, FFHQ) for row in _gan_rows(task, PUBLISHED | floors, [*PUBLISHED, *floors])),
        *_gan_rows(MNIST, PUBLISHED_MNIST | {method: {} for method in UNTRAINED}, [*PUBLISHED_MNIST, *UNTRAINED]),
        *_speed_rows(**large, turns=50),
        IdentityConfig(),
        *_distil_rows(CIFAR10, 0.1),
    ]


class OneStage(Chapter):
    """Chapter 03.

    A run of a GAN keeps ``generator``, ``discriminator``, ``judge`` and ``samples``: 64 images from fixed noise per
    evaluation, the generator in evaluation mode. A run of a distillation keeps what
    :class:`~reuselib.dfad.legacy.DataFreeAdversarial` keeps, the other runs nothing.
    """

    name = "one_stage_gan"
    title = "Training GANs in one stage"
    shortened = {"laptop": {"iterations": 400, "evaluations": 8}}

    @classmethod
    def presets(cls, scale: str) -> Mapping[str, Config]:
        """Every task of the scale with its methods."""
        return {f"{config.task}-{config.method}": config for config in _presets(scale)}

    def perform(self, config: Any, seed: int, checkpoint: str | Path | None, progress: bool, title: str) -> Outcome:
        """Run one row: by the kind of its configuration."""
        drive = partial(_drive, config, seed, checkpoint=checkpoint, progress=progress, title=title)
        if isinstance(config, SpeedConfig):
            return measure_speed(config, seed)
        if isinstance(config, IdentityConfig):
            return measure_identity(config, seed)
        if isinstance(config, study.Config):
            return _distil(study.Bench(config, seed), drive)
        return _train(Studio(config, seed), drive)


Drive = Callable[[run.Method, Callable[[], dict[str, float]]], run.History]


def _drive(
    config: GanConfig | study.Config,
    seed: int,
    method: run.Method,
    evaluate: Callable[[], dict[str, float]],
    **options: Any,
) -> run.History:
    """Run a method as its configuration says; every report also has the seconds per iteration, evaluation left out."""
    # As many iterations as the row says, not a multiple of the round.
    most = max(1, min(ROUND, config.iterations // config.evaluations))
    method.steps_per_round = next(n for n in range(most, 0, -1) if config.iterations % n == 0)
    rounds = config.iterations // method.steps_per_round
    method.rounds = partial(_timed, method.rounds, method.steps_per_round)  # type: ignore[method-assign]
    return run.run(
        method,
        rounds,
        evaluate=evaluate,
        evaluate_every=max(1, rounds // config.evaluations),
        settings=f"{ledger.config_hash(config)} seed {seed}",
        **options,
    )


def _timed(rounds: Callable[[], Iterator[dict[str, Tensor]]], steps: int) -> Iterator[dict[str, Tensor]]:
    """Add to every report the mean seconds of its steps, on the clock and of the processor."""
    reports = rounds()
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        report = next(reports)
        values = torch.stack(list(report.values()))
        values.tolist()  # waits for the device
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        yield report | {name: values.new_tensor(value / steps) for name, value in spent.items()}


def _time_metrics(history: run.History) -> dict[str, float]:
    """Seconds of all iterations, and milliseconds of the median one; evaluation left out."""
    iterations, wall = history.curve("seconds")
    _, cpu = history.curve("cpu_seconds")
    return {
        "train_seconds": statistics.mean(wall) * iterations[-1],
        "train_cpu_seconds": statistics.mean(cpu) * iterations[-1],
        "step_ms": 1000 * statistics.median(wall),
        "step_cpu_ms": 1000 * statistics.median(cpu),
    }


# --- GANs ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _images(room: Path, dataset: str, split: str, size: int, channels: int, device: str) -> ImageSet:
    """An image set in [-1, 1]; ``room`` keeps two data rooms apart."""
    return one_stage_gan.in_tanh_range(data.load(dataset, split, size=size, channels=channels)).to(device)


def build_players(config: GanConfig) -> tuple[nets.Generator, nets.Discriminator]:
    """Generator and discriminator, in this order: all rows of a task with one seed start from one generator."""
    generator = nets.deconvolution_generator(config.image, config.latent, config.generator_width)
    return generator, nets.dcgan_discriminator(config.image, config.discriminator_width, config.norm, config.groups)


class Studio:
    """What the rows of a GAN task share with one seed: networks, images, judge.

    Args:
        config: of the row.
        seed: the networks are built from it.
    """

    def __init__(self, config: GanConfig, seed: int) -> None:
        self.config, self.seed, self.device = config, seed, run.device()
        self.precision = run.precision(self.device).name
        self.images = self.load("train")
        self.judge = Judge(config.judge, self.images, config.references)
        with run.seeded(seed):
            self.generator, self.discriminator = build_players(config)
        for player in (self.generator, self.discriminator):
            run.on_device(player, self.device)
        self.samples: list[Tensor] = []
        self.kept = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "samples": self.samples,
            "judge": self.judge,
        }

    def load(self, split: str) -> ImageSet:
        """Real images in [-1, 1]."""
        config = self.config
        return _images(home.root(), config.dataset, split, config.image[1], config.image[0], str(self.device))

    def method(self) -> one_stage_gan.GAN:
        """The training that the row names."""
        config = self.config
        scheme = {"one": one_stage_gan.OneStageGAN, "two": one_stage_gan.TwoStageGAN}[config.scheme]
        milestones = [round(share * config.iterations) for share in config.decays]
        return scheme(
            self.generator,
            self.discriminator,
            self.images,
            loss=one_stage_gan.LOSSES[config.loss],
            batch=config.batch,
            generator_lr=config.generator_lr,
            discriminator_lr=config.discriminator_lr,
            clip=config.clip,
            schedule=run.step_decay(milestones, config.decay),
            seed=self.seed,
            **config.options,
        )

    def evaluate(self) -> dict[str, float]:
        """The Fréchet distance of the fakes; on the way, samples from fixed noise."""
        fakes = self.fakes()
        self.samples.append(fakes[:64])
        return {"frechet": self.judge.frechet(self.judge.features(fakes))}

    @torch.no_grad()
    def fakes(self) -> Tensor:
        """Images (fakes, C, H, W) that the row stands for, from fixed noise; the generator is in evaluation mode."""
        config, random = self.config, run.generator(self.device, 0)
        if config.scheme == "real":
            test = self.load("test")
            return test.normalised(test.images[: config.fakes]).cpu()
        shape = config.image if config.scheme == "noise" else (config.latent,)
        noise = torch.randn(config.fakes, *shape, device=self.device, generator=random)
        if config.scheme == "noise":
            return noise.clamp(-1, 1).cpu()
        with run.frozen(self.generator):
            return torch.cat([self.generator(part).cpu() for part in noise.split(500)])


def _train(studio: Studio, drive: Drive) -> Outcome:
    config = studio.config
    history = run.History()
    if config.scheme not in UNTRAINED:
        history = drive(studio.method(), studio.evaluate)
    fakes = studio.fakes()
    values = studio.judge.metrics(studio.judge.features(fakes))
    if history.rounds:
        values |= _curve_metrics(history, config.iterations) | _time_metrics(history)
    else:
        studio.samples.append(fakes[:64])
        values |= {"best_frechet": values["frechet"]}
    curves = ("frechet", "discriminator", "generator", "seconds", "cpu_seconds")
    return Outcome(values, history, studio.device, studio.precision, studio.kept, curves=curves)


def _curve_metrics(history: run.History, iterations: int) -> dict[str, float]:
    """The Fréchet distance at its best, after half of the iterations, and late: the median of the last three."""
    places, values = history.curve("frechet")
    half = min(range(len(places)), key=lambda index: abs(places[index] - iterations / 2))
    return {"best_frechet": min(values), "frechet_half": values[half], "late_frechet": statistics.median(values[-3:])}


# --- Data-free distillation ------------------------------------------------------------------------------------------


def _distil(bench: study.Bench, drive: Drive) -> Outcome:
    history = run.History()
    if bench.config.method != "untrained":
        history = drive(DISTILLERS[bench.config.method](bench), bench.evaluate)
    values = bench.metrics(history) | (_time_metrics(history) if history.rounds else {})
    return Outcome(
        values,
        history,
        bench.device,
        bench.precision,
        bench.kept,
        curves=("accuracy", "imitation", "generation", "seconds", "cpu_seconds"),
        updates=bench.config.student_steps,
    )


def _one_stage(bench: study.Bench) -> Distillation:
    return bench.play(cast(Callable[..., Distillation], one_stage_gan.OneStageDFAD))


DISTILLERS: dict[str, Callable[[study.Bench], Distillation]] = {
    "two-1": lambda bench: bench.play(DFAD),
    "two-5": lambda bench: bench.play(DFAD),
    "one-1": _one_stage,
    "one-5": _one_stage,
    "random": lambda bench: bench.distil(sources.gaussian_noise(bench.config.image, bench.device)),
    "random-generator": lambda bench: bench.distil(sources.from_generator(bench.generator)),
    "real": lambda bench: bench.distil(sources.from_images(bench.training())),
}
