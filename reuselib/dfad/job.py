"""One row of chapter 01 with one seed: a student is taught without the data, and tested on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import data, nets, run
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip
from reuselib.data.image_set import Augment
from reuselib.dfad import losses, sources
from reuselib.dfad.method import DFAD, Distillation
from reuselib.dfad.rivals import DAFL, ZSKT
from reuselib.nets import Generator, zoo
from reuselib.nets.supervised import Supervised


@dataclass(kw_only=True)
class DFADResult(run.Result):
    """A taught student.

    Attributes:
        teacher: frozen.
        student: as it was at the end.
        test: the test images of the teacher's data, with masks where the networks segment.
        generator: that learned, if one did.
        samples: its images from fixed noise, one tensor (n, C, H, W) for each evaluation since it last went on.
    """

    teacher: nn.Module
    student: nn.Module
    test: Any
    generator: Generator | None
    samples: list[Tensor]


METHODS: dict[str, Callable[[Any], run.Method]] = {
    "kd-real": lambda job: job.imitate(),
    "kd-related": lambda job: job.imitate(job.settings.related),
    "kd-unrelated": lambda job: job.imitate(job.settings.unrelated),
    "random": lambda job: job.distil(sources.gaussian_noise(job.settings.image, job.device)),
    "random-generator": lambda job: job.distil(sources.from_generator(job.generator)),
    "dafl": lambda job: job.play(DAFL),
    "zskt": lambda job: job.play(ZSKT),
    "dfad": lambda job: job.play(DFAD),
    "dfad-long": lambda job: job.play(DFAD),
    "dfad-kl": lambda job: job.play(DFAD, discrepancy=losses.kl_divergence),
    "dfad-log": lambda job: job.play(DFAD, generation=losses.negative_log),
    "supervised": lambda job: job.learn_labels(),
}
"""How each row is trained; the teacher and the untrained student are only tested."""


class DFADJob(run.Job):
    """What the methods of one task share with one seed: networks, images, evaluation."""

    score, average = "accuracy", "mean_accuracy"
    """What a student is judged by, and the name of its mean over the run."""
    methods: Mapping[str, Callable[[Any], run.Method]] = METHODS
    """Row → how it is trained; all others are only tested."""
    shown = 40
    """Samples that are kept of the generator at every evaluation."""

    def __init__(self, settings: run.Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        self.teacher = zoo.load(settings.teacher, self.device)
        with run.seeded(seed):
            students, generators = players(settings)
        self.student, self.generator = run.on_device(students, self.device), run.on_device(generators, self.device)
        self.plays = False
        self.samples: list[Tensor] = []

    # --- images

    @cached_property
    def test(self) -> Any:
        """The test images of the teacher's data."""
        images = zoo.images(self.settings.teacher, "test", self.device)
        return images if self.settings.limit is None else images.subset(slice(self.settings.limit))

    def training(self, name: str | None = None) -> ImageSet:
        """Training images: the teacher's own, or another set in the same normalisation and, but for windows, shape."""
        own = zoo.images(self.settings.teacher, "train", self.device)
        own = own if isinstance(own, ImageSet) else own.images  # of images with masks
        if name is None or self.device.type == "meta":
            return own
        channels, size, _ = self.settings.image
        other = data.load(name, "train", size=None if self.settings.get("windows") else size, channels=channels)
        return other.to(self.device).with_statistics_of(own)

    @property
    def augment(self) -> Augment | None:
        """How students see real images: changed at random as the teacher saw its own."""
        crop = self.settings.get("crop", 0)
        return partial(crop_and_flip, padding=crop) if crop else None

    # --- methods

    @property
    def iterations(self) -> int:
        """Calls of ``step()``: every method gets as many student updates."""
        return self.settings.updates // self.settings.student_steps

    def schedule(self) -> run.Schedule:
        """Every learning rate falls, to a tenth unless the task says otherwise, after some shares of the run.

        Without any, and where the row says so, it follows half a cosine.
        """
        if self.settings.get("cosine"):
            return run.cosine(self.iterations)
        drops = [round(share * self.iterations) for share in self.settings.decays]
        return run.step_decay(drops, self.settings.get("decay", 0.1))

    def options(self, **own: Any) -> dict[str, Any]:
        """What every distilling method takes."""
        shared = {"student_steps": self.settings.student_steps, "schedule": self.schedule(), "seed": self.seed}
        return shared | dict(self.settings.options) | own

    def distil(self, source: sources.Source) -> Distillation:
        """Distillation on images that are not learned."""
        return Distillation(self.teacher, self.student, source, **self.options())

    def imitate(self, name: str | None = None) -> Distillation:
        """Distillation on the teacher's own training images, or on those of another set."""
        return self.distil(sources.from_images(self.training(name), self.augment))

    def play(self, method: Callable[..., Distillation], **own: Any) -> Distillation:
        """A method with a generator."""
        self.plays = True
        return method(self.teacher, self.student, self.generator, **self.options(**own))

    def learn_labels(self) -> run.Method:
        """The student's architecture trained with labels on as many batches."""
        options = {"schedule": self.schedule(), "seed": self.seed, **self.settings.options}
        return Supervised(self.student, self.training(), augment=self.augment, **options)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The row's method; none for those that are only tested."""
        if self.settings.method in self.methods:
            yield self.methods[self.settings.method](self), self.iterations

    def result(self) -> DFADResult:
        """Train one student and test it."""
        history = run.History()
        for method, updates in self.plan():
            history = self.train(method, updates, evaluate=self.evaluate, evaluations=self.settings.evaluations)
        if self.plays and not self.samples:  # it went on after the last evaluation
            self.samples.append(self.sample(self.shown))
        return DFADResult(
            metrics=self.measure(history),
            history=history,
            curves=(self.score, "imitation", "generation", "teacher_logits"),
            stride=self.settings.student_steps,
            device=self.device,
            precision=self.precision,
            teacher=self.teacher,
            student=self.student,
            test=self.test,
            generator=self.generator if self.plays else None,
            samples=self.samples,
            pictures=self.samples[-1] if self.samples else None,
        )

    # --- measures

    def evaluate(self) -> dict[str, float]:
        """Test scores of the student; on the way, samples of the generator."""
        if self.plays:
            self.samples.append(self.sample(self.shown))
        return self.scores(self.student)

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Test scores of a network."""
        return {"accuracy": run.accuracy(network, self.test)}

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Images (count, C, H, W) of a copy of the generator from fixed noise, in training mode."""
        return sources.from_generator(copy.deepcopy(self.generator))(count, run.generator(self.device, 0)).cpu()

    def tested(self) -> nn.Module:
        """The network that the row is about."""
        return self.teacher if self.settings.method == "teacher" else self.student

    def measure(self, history: run.History) -> dict[str, float]:
        """Final, best and mean test score, agreement with the teacher, classes that the fakes cover."""
        network = self.tested()
        final = self.scores(network)
        curve = history.curve(self.score)[1] or [final[self.score]]
        result = final | {
            f"best_{self.score}": max(curve),
            self.average: sum(curve) / len(curve),
            "agreement": agreement(network, self.teacher, self.test),
        }
        return result | ({"classes_covered": self.covered()} if self.plays else {})

    def covered(self) -> float:
        """How many classes a thousand fakes cover."""
        return classes_covered(self.teacher, self.sample(1000).to(self.device))


@torch.no_grad()
def agreement(first: nn.Module, second: nn.Module, images: Any) -> float:
    """The share of all images, or pixels, for which two networks name the same class, in evaluation mode."""
    with run.frozen(first, second):
        same = [(first(x).argmax(1) == second(x).argmax(1)).flatten() for x, _ in images.batches()]
    return float(torch.cat(same).sum()) / sum(map(len, same))


def players(settings: run.Settings) -> tuple[nn.Module, Generator]:
    """Student and generator of a task, in this order, so that all rows with one seed start from one student."""
    name, arguments = settings.student
    student = nets.build(name, classes=settings.classes, channels=settings.image[0], **arguments)
    name, arguments = settings.generator
    return student, nets.build(name, image=settings.image, **arguments)  # type: ignore[return-value]


@torch.no_grad()
def classes_covered(teacher: nn.Module, images: Tensor) -> float:
    """How many classes the images cover: the exponential of the entropy of the teacher's decisions, 1 to C."""
    logits = teacher(images)
    share = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).float() / len(images)
    return float(torch.special.entr(share).sum().exp())
