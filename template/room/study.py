"""Chapter NN: knowledge distillation, a floor and a ceiling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reuselib.hinton.method import SoftTargets
from torch import nn

from reuselib import nets, run
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised
from reuselib.run import Settings, Study

DIGITS = Settings(task="digits", teacher="digits8-conv3", student=("conv3", {"width": 4}), updates=300)
METHODS = ("teacher", "untrained", "supervised", "distilled")
TASKS = {
    "smoke": (DIGITS.but(updates=40),),
    "laptop": (DIGITS,),
    "colab": (DIGITS.but(task="fashion", teacher="fashion16-conv3", updates=6000),),
    "paper": (DIGITS.but(task="mnist", teacher="mnist32-lenet5", student=("lenet5_half", {}), updates=60_000),),
}


@dataclass(kw_only=True)
class Distilled(run.Result):
    """A taught student."""

    student: nn.Module


class DistillationJob(run.Job):
    """One row with one seed."""

    def __init__(self, settings: Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        self.teacher = zoo.load(settings.teacher, self.device)
        self.training = zoo.images(settings.teacher, "train", self.device)
        name, arguments = settings.student
        with run.seeded(seed):
            classes, channels = len(self.training.classes), self.training.shape[0]
            self.student = run.on_device(nets.build(name, classes=classes, channels=channels, **arguments), self.device)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The row's method; none for the floor and the teacher."""
        if self.settings.method == "distilled":
            yield SoftTargets(self.teacher, self.student, self.training, seed=self.seed), self.settings.updates
        elif self.settings.method == "supervised":
            yield Supervised(self.student, self.training, lr=0.05, seed=self.seed), self.settings.updates

    def result(self) -> Distilled:
        """Train one student and test it."""
        history, test = run.History(), zoo.images(self.settings.teacher, "test", self.device)
        shown = self.teacher if self.settings.method == "teacher" else self.student
        for method, updates in self.plan():
            history = self.train(method, updates)
        found = {"accuracy": run.accuracy(shown, test)}
        return Distilled(metrics=found, history=history, curves=("loss",), device=self.device, student=self.student)


class HintonStudy(Study):
    """Chapter NN."""

    name = "hinton"
    title = "Distilling the knowledge in a neural network"

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Every task of the scale with every method."""
        return {f"{t.task}-{method}": Settings(**t, method=method) for t in TASKS[scale] for method in METHODS}

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> DistillationJob:
        """The job of a row."""
        return DistillationJob(settings, seed, **options)
