"""Rows of chapter 03 that train: a GAN on an image set, and data-free distillation; both time their iterations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from reuselib import data, nets, run
from reuselib.data import ImageSet
from reuselib.dfad import DFADJob, DFADResult
from reuselib.nets import blank
from reuselib.one_stage_gan.distillation import OneStageDFAD
from reuselib.one_stage_gan.judge import Judge
from reuselib.one_stage_gan.losses import LOSSES
from reuselib.one_stage_gan.method import GAN, OneStageGAN, TwoStageGAN, in_tanh_range

SCHEMES: dict[str, type[GAN]] = {"one": OneStageGAN, "two": TwoStageGAN}
DISTANCES, FOLLOWED = ("frechet", "kernel_distance"), ("discriminator", "generator", "seconds", "cpu_seconds")
UNTRAINED = ("real", "noise", "untrained")
"""Rows without training: other real images, clipped Gaussian noise, and the generator as it starts."""


def players(settings: run.Settings) -> tuple[nets.Generator, nets.Discriminator]:
    """Generator and discriminator, in this order: all rows of a task with one seed start from one generator."""
    widths = settings.widths
    generator = nets.deconvolution_generator(settings.image, settings.latent, widths[0])
    return generator, nets.dcgan_discriminator(settings.image, widths[1], settings.norm, settings.groups)


class TimedJob(run.Job):
    """A job whose reports also have the mean seconds of an iteration, evaluation left out."""

    def train(self, method: run.Method, updates: int, **options: Any) -> run.History:
        """As :meth:`reuselib.run.Job.train`, with a report before every evaluation at least."""
        evaluations = self.settings.evaluations
        rounds, every = method.rounds, max(1, min(50, updates // evaluations))
        method.rounds = lambda *between: _timed(rounds(*between), method)  # type: ignore[method-assign]
        return super().train(method, updates, **options | {"evaluations": evaluations, "report_every": every})


def _timed(reports: Iterator[dict[str, Tensor]], method: run.Method) -> Iterator[dict[str, Tensor]]:
    """Add to every report the mean seconds of its steps, on the clock and of the processor."""
    while True:
        wall, cpu, before = time.perf_counter(), time.process_time(), method.iteration
        report = next(reports)
        values = torch.stack(list(report.values()))
        values.tolist()  # waits for the device
        steps = method.iteration - before  # a resumed round is timed in part
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        yield report | {name: values.new_tensor(value / steps) for name, value in spent.items()}


def time_metrics(history: run.History) -> dict[str, float]:
    """Seconds of all iterations, and milliseconds of the median one; evaluation left out."""
    if not history.rounds:
        return {}
    iterations, wall = history.curve("seconds")
    _, cpu = history.curve("cpu_seconds")
    return {
        "train_seconds": statistics.mean(wall) * iterations[-1],
        "train_cpu_seconds": statistics.mean(cpu) * iterations[-1],
        "step_ms": 1000 * statistics.median(wall),
        "step_cpu_ms": 1000 * statistics.median(cpu),
    }


@dataclass(kw_only=True)
class GANResult(run.Result):
    """A trained generator.

    Attributes:
        generator: as it was at the end.
        discriminator: likewise.
        judge: by which it was measured.
        samples: 64 images from fixed noise for each evaluation since it last went on, the generator in evaluation mode.
    """

    generator: nets.Generator
    discriminator: nets.Discriminator
    judge: Judge
    samples: list[Tensor]


class GANJob(TimedJob):
    """What the rows of a GAN task share with one seed: networks, images, judge."""

    def __init__(self, settings: run.Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        with run.seeded(seed):
            generator, discriminator = players(settings)
        self.generator = run.on_device(generator, self.device)
        self.discriminator = run.on_device(discriminator, self.device)
        self.images = self.load("train")
        self.samples: list[Tensor] = []

    def load(self, split: str) -> ImageSet:
        """Real images in [-1, 1]."""
        name, (channels, size, _) = self.settings.dataset, self.settings.image
        if self.device.type == "meta":
            return blank.images(name, size)
        return in_tanh_range(data.load(name, split, size=size, channels=channels)).to(self.device)

    @cached_property
    def judge(self) -> Judge:
        """Whose features are compared."""
        return Judge(self.settings.judge, self.images, self.settings.references)

    def method(self, scheme: type[GAN] | None = None, **own: Any) -> GAN:
        """The training that the row names, or another one of its networks."""
        settings = self.settings
        milestones = [round(share * settings.updates) for share in settings.decays]
        schedule = run.step_decay(milestones, settings.decay)
        options = {"loss": LOSSES[settings.loss], "schedule": schedule, "seed": self.seed, **settings.options, **own}
        return (scheme or SCHEMES[settings.scheme])(self.generator, self.discriminator, self.images, **options)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The row's training, if it has one."""
        if self.settings.scheme not in UNTRAINED:
            yield self.method(), self.settings.updates

    def result(self) -> GANResult:
        """Train both players and judge the generator's images."""
        history = run.History()
        for method, updates in self.plan():
            history = self.train(method, updates, evaluate=self.evaluate)
        fakes = self.fakes()
        values = self.judge.metrics(self.judge.features(fakes))
        if not self.samples:  # nothing is trained, or it went on after the last evaluation
            self.samples.append(fakes[:64])
        return GANResult(
            metrics=values | self.course(history, values["frechet"]) | time_metrics(history),
            history=history,
            curves=(*DISTANCES[: 1 + self.settings.get("kernel", False)], *FOLLOWED),
            device=self.device,
            precision=self.precision,
            generator=self.generator,
            discriminator=self.discriminator,
            judge=self.judge,
            samples=self.samples,
            pictures=self.samples[-1],
        )

    def evaluate(self) -> dict[str, float]:
        """The Fréchet distance of the fakes, and the kernel distance if asked; on the way, samples from fixed noise."""
        fakes = self.fakes()
        self.samples.append(fakes[:64])
        features = self.judge.features(fakes)
        values = self.judge.metrics(features) if self.settings.get("kernel") else {}
        return {name: values[name] for name in DISTANCES if values} or {"frechet": self.judge.frechet(features)}

    @torch.no_grad()
    def fakes(self) -> Tensor:
        """Images (fakes, C, H, W) that the row stands for, from fixed noise; the generator is in evaluation mode."""
        settings, random = self.settings, run.generator(self.device, 0)
        if settings.scheme == "real":
            test = self.load("test")
            return test.normalised(test.images[: settings.fakes]).cpu()
        shape = settings.image if settings.scheme == "noise" else (settings.latent,)
        noise = torch.randn(settings.fakes, *shape, device=self.device, generator=random)
        if settings.scheme == "noise":
            return noise.clamp(-1, 1).cpu()
        with run.frozen(self.generator):
            return torch.cat([self.generator(part).cpu() for part in noise.split(500)])

    def course(self, history: run.History, last: float) -> dict[str, float]:
        """The distance at its best, after half of the iterations, and late: the median of the last three."""
        places, values = history.curve("frechet")
        if not values:
            return {"best_frechet": last}
        half = min(range(len(places)), key=lambda index: abs(places[index] - self.settings.updates / 2))
        late = statistics.median(values[-3:])
        return {"best_frechet": min(values), "frechet_half": values[half], "late_frechet": late}


class DistilJob(TimedJob, DFADJob):
    """Data-free distillation of chapter 01's students, in two stages and in one."""

    methods: Mapping[str, Callable[[Any], run.Method]] = {
        **dict.fromkeys(("two-1", "two-5"), DFADJob.methods["dfad"]),
        **dict.fromkeys(("one-1", "one-5"), lambda job: job.play(OneStageDFAD)),
        **{name: DFADJob.methods[name] for name in ("random", "random-generator")},
        "real": DFADJob.methods["kd-real"],
    }

    def result(self) -> DFADResult:
        """Train one student and test it."""
        result = super().result()
        result.metrics |= time_metrics(result.history)
        result.curves = ("accuracy", "imitation", "generation", "seconds", "cpu_seconds")
        return result
