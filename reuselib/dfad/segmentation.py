"""The second half of chapter 01: students that segment, taught by the same game, judged by their masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.data import SegmentationSet
from reuselib.data.augment import window_and_flip
from reuselib.data.image_set import Augment
from reuselib.dfad import job, losses
from reuselib.dfad.method import DFAD
from reuselib.dfad.rivals import DAFL
from reuselib.nets import zoo
from reuselib.nets.supervised import SegmentationTraining, segmentation_scores
from reuselib.report import metrics

FAKES = 64
"""Generated images on which the teacher's decisions are counted."""


class SegmentationJob(job.DFADJob):
    """What the methods of one segmentation task share with one seed: networks, images, evaluation."""

    score, average = "mean_iou", "average_mean_iou"
    shown = 10
    methods: Mapping[str, Callable[[Any], run.Method]] = {
        **job.METHODS,
        "dafl": lambda job: job.play(DAFL, layer="decoder"),
        "dfad": lambda job: job.play(DFAD, generation=losses.negative_log),
        "dfad-plain": lambda job: job.play(DFAD),
    }

    @property
    def augment(self) -> Augment | None:
        """How students see real images: cut out of larger ones and mirrored, or as they are."""
        return partial(window_and_flip, size=self.settings.image[1]) if self.settings.windows else None

    def learn_labels(self) -> run.Method:
        """The student's architecture trained with masks on as many batches."""
        settings = self.settings
        images = zoo.images(settings.teacher, "train", self.device)
        options = {"schedule": self.schedule(), "seed": self.seed, "focal": settings.focal, **settings.options}
        window = settings.image[1] if settings.windows else None
        return SegmentationTraining(self.student, images, window=window, flip=settings.windows, **options)

    def result(self) -> job.DFADResult:
        """Train one student and test it."""
        with run.seeded(self.seed):  # for the students' dropout
            return super().result()

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Accuracy of the pixels and mean intersection over union."""
        return segmentation_scores(network, self.test)

    def tested(self) -> nn.Module:
        """The network that the row is about."""
        if self.settings.method == "blind":
            return Blind(zoo.images(self.settings.teacher, "train", self.device))
        return super().tested()

    @torch.no_grad()
    def covered(self) -> float:
        """How many classes the pixels of some fakes cover."""
        fakes = self.sample(FAKES).to(self.device)
        with run.frozen(self.teacher):
            decisions = self.teacher(fakes).argmax(1).flatten()
        return metrics.effective_number(decisions, self.settings.classes)


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
