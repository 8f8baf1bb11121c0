"""Training with labels, one for each image or several: the teachers of the zoo and the ceilings of the tables."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reuselib import engine
from reuselib.data import ImageSet, MultiLabelSet
from reuselib.data.augment import crop_and_flip
from reuselib.data.image_set import Augment
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch


class Supervised(engine.Method):
    """A classifier learns labelled images by SGD, or Adam, on the cross-entropy.

    Args:
        student: the classifier.
        images: labelled images on the classifier's device.
        batch: images per update.
        lr: learning rate of SGD with Nesterov momentum 0.9, or of Adam.
        weight_decay: L2 penalty.
        adam: whether Adam takes the place of SGD; narrow plain networks without batch norm need it.
        schedule: iteration → factor on the learning rate.
        crop: pixels of zero border for random crops; 0 for none.
        flip: whether to mirror half of the images.
        mixup: whether to train on random convex mixtures of two images and of their labels (Zhang et al. 2018, with
            one uniform weight per pair), which keeps the logits small and smooth between and away from the data.
        noise: largest standard deviation of added Gaussian noise; each image draws its own, uniformly from 0.
        label_smoothing: share of the label spread over all classes.
        augment: of the uint8 images, in place of ``crop`` and ``flip``.
        seed: of batches and augmentation.
        precision: chosen by the engine if left out.

    Raises:
        DeviceError: images and classifier are on different devices.
        ShapeMismatch: the classifier has too few outputs or does not take such images.
    """

    fixed = ()

    def __init__(
        self,
        student: nn.Module,
        images: ImageSet,
        *,
        batch: int = 128,
        lr: float = 0.1,
        weight_decay: float = 5e-4,
        adam: bool = False,
        schedule: engine.Schedule = engine.constant,
        crop: int = 0,
        flip: bool = False,
        mixup: bool = False,
        noise: float = 0.0,
        label_smoothing: float = 0.0,
        augment: Augment | None = None,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        self.device = next(student.parameters()).device
        if images.device != self.device:
            raise DeviceError(f"Images are on {images.device}, the network on {self.device}. Use images.to(device).")
        self.student, self.images, self.batch = engine.on_device(student, self.device), images, batch
        self.crop, self.flip, self.mixup, self.noise = crop, flip, mixup, noise
        self.label_smoothing = label_smoothing
        self.augment = augment or (self._crop_and_flip if crop or flip else None)
        self.precision = engine.precision(self.device, precision)
        self.random = engine.generator(self.device, seed)
        self._check_fit()
        make, options = (engine.adam, {}) if adam else (engine.sgd, {"nesterov": True})
        self.optimizer = make(student.parameters(), self.device, lr=lr, weight_decay=weight_decay, **options)
        self.scheduler = LambdaLR(self.optimizer, schedule)
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch; returns ``loss``."""
        x, y = self.images.sample(self.batch, self.random, self.augment)
        targets = [(y, torch.ones((), device=self.device))]
        if self.mixup:
            partner = torch.randperm(len(x), device=self.device, generator=self.random)
            weight = torch.rand(len(x), device=self.device, generator=self.random)
            x = weight.view(-1, 1, 1, 1) * x + (1 - weight.view(-1, 1, 1, 1)) * x[partner]
            targets = [(y, weight), (y[partner], 1 - weight)]
        if self.noise:
            spread = self.noise * torch.rand(len(x), 1, 1, 1, device=self.device, generator=self.random)
            x = x + spread * torch.randn(x.shape, device=self.device, generator=self.random)
        with self.precision.autocast():
            logits = self.student(x)
        loss = torch.stack([(share * self._cross_entropy(logits, labels)).mean() for labels, share in targets]).sum()
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss}

    def _crop_and_flip(self, images: Tensor, random: torch.Generator | None) -> Tensor:
        return crop_and_flip(images, random, padding=self.crop, flip=self.flip)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def _check_fit(self) -> None:
        with engine.frozen(self.student):
            outputs = self.student(self.images.normalised(self.images.images[:1]))
        if outputs.shape[1] < len(self.images.classes):
            raise ShapeMismatch(
                f"The network has {outputs.shape[1]} outputs for {len(self.images.classes)} classes of "
                f"{self.images.name}. Build it with classes={len(self.images.classes)}."
            )


class MultiTaskSupervised(Supervised):
    """A network with several heads learns images with several labels: the cross-entropies of its heads, summed.

    An image that is not asked about a task (target -1) counts as a loss of zero there.

    Args:
        student: its forward pass gives a dict, task → logits; each task is one of the images'.
        images: labelled images on the network's device.
        options: those of :class:`Supervised`.

    Raises:
        DeviceError: images and network are on different devices.
        UnknownName: the network has a task that the images have not.
        ShapeMismatch: a head has too few outputs, or the network does not take such images.
    """

    images: MultiLabelSet  # type: ignore[assignment]

    def __init__(self, student: nn.Module, images: MultiLabelSet, **options: Any) -> None:
        super().__init__(student, images, **options)  # type: ignore[arg-type]

    def _cross_entropy(self, logits: dict[str, Tensor], labels: Tensor) -> Tensor:  # type: ignore[override]
        each = [
            F.cross_entropy(
                values.float(), labels[:, self.images.column(task)], reduction="none", ignore_index=-1,
                label_smoothing=self.label_smoothing,
            )
            for task, values in logits.items()
        ]  # fmt: skip
        return torch.stack(each).sum(0)

    @torch.no_grad()
    def _check_fit(self) -> None:
        with engine.frozen(self.student):
            outputs = self.student(self.images.normalised(self.images.images.images[:1]))
        for task, logits in outputs.items():
            self.images.column(task)
            if logits.shape[1] < len(self.images.tasks[task]):
                raise ShapeMismatch(
                    f"The network has {logits.shape[1]} outputs for the {len(self.images.tasks[task])} classes of "
                    f"{task!r}. Build it with tasks={self.images.classes}."
                )


@torch.no_grad()
def task_accuracies(network: nn.Module, images: MultiLabelSet, batch: int = 1000) -> dict[str, float]:
    """The share of right answers for each task that network and images have in common, in evaluation mode and float32.

    Args:
        network: its forward pass gives a dict, task → logits; its modes and gradients come back as they were.
        images: on the network's device; those with target -1 are not asked.
        batch: images at a time.

    Returns:
        Task → a share between 0 and 1.

    Raises:
        ReuseError: they have no task in common, or no image is asked about one.
    """
    right: dict[str, list[Tensor]] = {}
    with engine.frozen(network):
        for x, targets in images.batches(batch):
            for task, logits in network(x).items():
                if task in images.tasks:
                    found = logits.argmax(1) == targets[:, images.column(task)]
                    right.setdefault(task, []).append(found.float().sum())
    asked = {task: int((images.labels(task) >= 0).sum()) for task in right}
    if not asked or not all(asked.values()):
        raise ReuseError(f"There is nothing to ask: of {images} the network is asked {asked or 'no task'}.")
    return {task: float(torch.stack(hits).sum()) / asked[task] for task, hits in right.items()}
