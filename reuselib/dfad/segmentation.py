"""The second half of chapter 01: students that segment, taught by the same game, judged by their masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import data, run
from reuselib.data import ImageSet, SegmentationSet
from reuselib.data.augment import window_and_flip
from reuselib.dfad import job, losses, sources
from reuselib.dfad.method import DFAD, Distillation
from reuselib.dfad.rivals import DAFL
from reuselib.nets import zoo
from reuselib.nets.supervised import SegmentationTraining, segmentation_scores
from reuselib.report import metrics

FAKES = 64
"""Generated images on which the teacher's decisions are counted."""


class SegmentationJob(job.DFADJob):
    """What the methods of one segmentation task share with one seed: networks, images, evaluation."""

    score = "mean_iou"
    shown = 10

    def schedule(self) -> run.Schedule:
        """Every learning rate falls by a factor after some shares of the run."""
        return run.step_decay([round(share * self.iterations) for share in self.settings.decays], self.settings.decay)

    def training(self, name: str | None = None) -> ImageSet:
        """Training images: the teacher's own, or another set in the same normalisation."""
        own = zoo.images(self.settings.teacher, "train", self.device).images
        if name is None or self.device.type == "meta":
            return own
        channels, size, _ = self.settings.image
        other = data.load(name, "train", size=None if self.settings.windows else size, channels=channels)
        return other.to(self.device).with_statistics_of(own)

    def imitate(self, name: str | None = None) -> Distillation:
        """Distillation on the teacher's own training images, or on those of another set."""
        window = partial(window_and_flip, size=self.settings.image[1]) if self.settings.windows else None
        return self.distil(sources.from_images(self.training(name), window))

    def learn_masks(self) -> SegmentationTraining:
        """The student's architecture trained with masks on as many batches."""
        settings = self.settings
        return SegmentationTraining(
            self.student,
            zoo.images(settings.teacher, "train", self.device),
            window=settings.image[1] if settings.windows else None,
            flip=settings.windows,
            focal=settings.focal,
            schedule=self.schedule(),
            seed=self.seed,
            **settings.options,
        )

    def plan(self) -> Any:
        """The row's method; none for the teacher, the untrained student and the blind one."""
        if self.settings.method in METHODS:
            yield METHODS[self.settings.method](self), self.iterations

    def result(self) -> job.DFADResult:
        """Train one student and test it."""
        with run.seeded(self.seed):  # for the students' dropout
            return super().result()

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Accuracy of the pixels and mean intersection over union."""
        return segmentation_scores(network, self.test)

    @torch.no_grad()
    def measure(self, history: run.History) -> dict[str, float]:
        """Final, best and mean test score, agreement with the teacher, classes that the fakes' pixels cover."""
        student = self._tested()
        final = self.scores(student)
        curve = history.curve("mean_iou")[1] or [final["mean_iou"]]
        result = final | {
            "best_mean_iou": max(curve),
            "average_mean_iou": sum(curve) / len(curve),
            "agreement": agreement(student, self.teacher, self.test),
        }
        if self.plays:
            fakes = self.sample(FAKES).to(self.device)
            with run.frozen(self.teacher):
                decisions = self.teacher(fakes).argmax(1).flatten()
            result["classes_covered"] = metrics.effective_number(decisions, self.settings.classes)
        return result

    def _tested(self) -> nn.Module:
        if self.settings.method == "blind":
            return Blind(zoo.images(self.settings.teacher, "train", self.device))
        return self.teacher if self.settings.method == "teacher" else self.student


class Blind(nn.Module):
    """Names for every place the class that masks have there most often, whatever the image: floors are below.

    Args:
        images: with masks.
    """

    counts: Tensor

    def __init__(self, images: SegmentationSet) -> None:
        super().__init__()
        each = [(images.masks == label).sum(0) for label in range(len(images.classes))]
        self.register_buffer("counts", torch.stack(each).float())

    def forward(self, images: Tensor) -> Tensor:
        """Give the counts of the classes as logits (B, classes, H, W)."""
        return self.counts.expand(len(images), -1, -1, -1)


@torch.no_grad()
def agreement(first: nn.Module, second: nn.Module, images: SegmentationSet) -> float:
    """The share of all pixels of a set for which two networks name the same class, in evaluation mode."""
    with run.frozen(first, second):
        same: list[Tensor] = [(first(x).argmax(1) == second(x).argmax(1)).sum() for x, _ in images.batches()]
    return float(torch.stack(same).sum()) / images.masks.numel()


METHODS: dict[str, Callable[[SegmentationJob], run.Method]] = {
    "kd-real": lambda job: job.imitate(),
    "kd-related": lambda job: job.imitate(job.settings.related),
    "kd-unrelated": lambda job: job.imitate(job.settings.unrelated),
    "random": lambda job: job.distil(sources.gaussian_noise(job.settings.image, job.device)),
    "random-generator": lambda job: job.distil(sources.from_generator(job.generator)),
    "dafl": lambda job: job.play(DAFL, layer="decoder"),
    "dfad": lambda job: job.play(DFAD, generation=losses.negative_log),
    "dfad-plain": lambda job: job.play(DFAD),
    "supervised": lambda job: job.learn_masks(),
}
"""How each row is trained; the teacher and the two floors are only tested."""
