"""Training with labels, for each image one or several, or for each pixel one: teachers of the zoo and ceilings."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reuselib import checks, nets, run
from reuselib.data import ImageSet, MultiLabelSet, SegmentationSet
from reuselib.data.augment import crop_and_flip, window_and_flip
from reuselib.data.image_set import Augment, Batches
from reuselib.errors import BadValue, ReuseError, ShapeMismatch
from reuselib.nets.recipes import Recipe
from reuselib.report import metrics


def focal_loss(logits: Tensor, masks: Tensor, gamma: float = 2.0, ignore: int = 255) -> Tensor:
    """``(1 - p)^gamma * -log p`` of every pixel, with p the probability of its class; 0 where that is ignored.

    Args:
        logits: (B, C, H, W).
        masks: int64 (B, H, W).
        gamma: how much less a pixel counts that is right already; 0 gives the cross-entropy.
        ignore: the label of pixels that are not asked.

    Returns:
        (B, H, W); DFAD's code averages over all pixels, those that are ignored too.

    Source: Lin et al. 2017; DFAD, official code, the teachers of CamVid and NYUv2, with gamma = 2.
    """
    checks.number(gamma=gamma)
    loss = F.cross_entropy(logits.float(), masks, reduction="none", ignore_index=ignore)
    # At 0 a power below 1 has no finite slope.
    return (1 - torch.exp(-loss)).clamp(min=1e-12) ** gamma * loss


class Supervised(run.Method):
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
        augment: of the uint8 images, in place of ``crop`` and ``flip``.
        seed: of batches and augmentation.
        precision: chosen if left out.

    Raises:
        BadValue: a number cannot be meant, or the images are no image set with something in it.
        DeviceError: images and classifier are on different devices.
        ShapeMismatch: the classifier has too few outputs or does not take such images.
    """

    fixed = ()
    nesterov = True
    learns: type = Batches

    def __init__(
        self,
        student: nn.Module,
        images: Any,
        *,
        batch: int = 128,
        lr: float = 0.1,
        weight_decay: float = 5e-4,
        adam: bool = False,
        schedule: run.Schedule = run.constant,
        crop: int = 0,
        flip: bool = False,
        mixup: bool = False,
        noise: float = 0.0,
        augment: Augment | None = None,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        checks.some(self.learns, images=images)
        checks.whole(batch=batch)
        checks.whole(0, crop=crop)
        checks.number(lr=lr, weight_decay=weight_decay, noise=noise)
        self.device = run.device_of(network=student, images=images)
        self.student, self.images, self.batch = run.on_device(student, self.device), images, batch
        self.mixup, self.noise = mixup, noise
        self.augment = augment or (partial(crop_and_flip, padding=crop, flip=flip) if crop or flip else None)
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        with torch.no_grad(), run.frozen(student):
            self.check_fit(student(next(iter(images.batches(1)))[0]))
        make, options = (run.adam, {}) if adam else (run.sgd, {"nesterov": self.nesterov})
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
            outputs = self.student(x)
        loss = torch.stack([(share * self.losses(outputs, labels)).mean() for labels, share in targets]).sum()
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss}

    def losses(self, outputs: Any, labels: Tensor) -> Tensor:
        """The loss of each image, (B,): mixtures of two images weigh them."""
        return F.cross_entropy(outputs.float(), labels, reduction="none")

    def check_fit(self, outputs: Any) -> None:
        """Raise ShapeMismatch unless the outputs for one image fit the labels."""
        found, classes = run.one_tensor(outputs, self.student).shape[1], len(self.images.classes)
        if found < classes:
            lacking = f"The network has {found} outputs for {classes} classes of {self.images.name}"
            raise ShapeMismatch(f"{lacking}. Build it with classes={classes}.")


class MultiTaskSupervised(Supervised):
    """A network with several heads learns images with several labels: the cross-entropies of its heads, summed.

    An image that is not asked about a task (target -1) counts as a loss of zero there. Arguments and errors are those
    of :class:`Supervised`, but for these.

    Args:
        student: its forward pass gives a dict, task → logits; each task is one of the images'.
        images: a MultiLabelSet on the network's device.

    Raises:
        UnknownName: the network has a task that the images have not.
    """

    learns = MultiLabelSet

    def losses(self, outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """The loss of each image, (B,), summed over its tasks."""
        each = [
            F.cross_entropy(logits.float(), labels[:, self.images.column(task)], reduction="none", ignore_index=-1)
            for task, logits in outputs.items()
        ]
        return torch.stack(each).sum(0)

    def check_fit(self, outputs: dict[str, Tensor]) -> None:
        """Raise ShapeMismatch unless each head fits its task."""
        for task, logits in outputs.items():
            self.images.column(task)
            found, classes = logits.shape[1], len(self.images.tasks[task])
            if found < classes:
                lacking = f"The network has {found} outputs for the {classes} classes of {task!r}"
                raise ShapeMismatch(f"{lacking}. Build it with tasks={self.images.classes}.")


class SegmentationTraining(Supervised):
    """A network learns the class of every pixel by SGD with momentum 0.9 on the focal loss.

    Arguments and errors are those of :class:`Supervised`, but for these; ``crop``, which pads, is none of them.

    Args:
        student: gives logits (B, C, H, W) of images of that size.
        images: a SegmentationSet on the network's device.
        window: height and width of the squares that are cut out of the images at random; the whole images if left out.
        flip: whether to mirror half of the images.
        focal: exponent gamma of :func:`focal_loss`; 0 gives the cross-entropy.

    Raises:
        ShapeMismatch: the network has too few outputs, or gives no logits for every pixel.
    """

    nesterov = False
    learns = SegmentationSet

    def __init__(
        self,
        student: nn.Module,
        images: SegmentationSet,
        *,
        window: int | None = None,
        flip: bool = False,
        focal: float = 0.0,
        **options: Any,
    ) -> None:
        checks.some(self.learns, images=images)
        if window is not None:
            checks.whole(1, min(images.shape[1:]), window=window)
        if options.get("crop"):
            raise BadValue("crop would pad the masks with the first class. Give a window instead.")
        checks.number(focal=focal)
        self.focal = focal
        augment = partial(window_and_flip, size=window, flip=flip) if window or flip else None
        super().__init__(student, images, **{"augment": augment} | options)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image, (B,), the mean over its pixels."""
        return focal_loss(outputs, labels, self.focal, self.images.ignore).mean((1, 2))

    def check_fit(self, outputs: Tensor) -> None:
        """Raise ShapeMismatch unless there are logits for every pixel."""
        classes, size = len(self.images.classes), self.images.shape[1:]
        if run.one_tensor(outputs, self.student).ndim != 4 or outputs.shape[1] < classes or outputs.shape[2:] != size:
            raise ShapeMismatch(
                f"The network gives {tuple(outputs.shape)} for an image of {size}. For {self.images.name} it must give "
                f"logits of {classes} classes for every pixel: build a segmentation network with classes={classes}."
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
    with run.frozen(network):
        for x, targets in images.batches(batch):
            for task, logits in network(x).items():
                if task in images.tasks:
                    found = logits.argmax(1) == targets[:, images.column(task)]
                    right.setdefault(task, []).append(found.float().sum())
    asked = {task: int((images.labels(task) >= 0).sum()) for task in right}
    if not asked or not all(asked.values()):
        raise ReuseError(f"There is nothing to ask: of {images} the network is asked {asked or 'no task'}.")
    return {task: float(torch.stack(hits).sum()) / asked[task] for task, hits in right.items()}


@torch.no_grad()
def segmentation_scores(network: nn.Module, images: SegmentationSet, batch: int | None = None) -> dict[str, float]:
    """How well a network segments, in evaluation mode and float32.

    Args:
        network: gives logits (B, C, H, W); its modes and gradients come back as they were.
        images: on the network's device.
        batch: images at a time; as many as have a million pixels if left out.

    Returns:
        ``mean_iou``, the mean intersection over union of the classes that are there or predicted, and
        ``pixel_accuracy``, the share of right pixels; both between 0 and 1, without ignored pixels.

    Raises:
        ShapeMismatch: the network has not as many outputs as there are classes, or gives maps of another size.
        ReuseError: every pixel is ignored.
    """
    classes = len(images.classes)
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=images.device)
    with run.frozen(network):
        for x, masks in images.batches(batch):
            logits = network(x)
            if (outputs := logits.shape[1]) != classes:
                raise ShapeMismatch(f"The network has {outputs} outputs for {classes} classes of {images.name}.")
            confusion += metrics.confusion_matrix(logits.argmax(1), masks, classes, images.ignore)
    right = confusion.diagonal().sum() / confusion.sum()
    return {"mean_iou": metrics.mean_iou(confusion), "pixel_accuracy": float(right)}


def scores_on(network: nn.Module, test: ImageSet | SegmentationSet) -> dict[str, float]:
    """The test accuracy; of a segmentation network that of pixels, and the mean intersection over union."""
    if isinstance(test, ImageSet):
        return {"test_accuracy": run.accuracy(network, test)}
    scores = segmentation_scores(network, test)
    return {"test_accuracy": scores["pixel_accuracy"], "test_mean_iou": scores["mean_iou"]}


def lesson(recipe: Recipe, images: ImageSet | SegmentationSet) -> tuple[Supervised, dict[str, Any]]:
    """The training of a new network by a recipe, where its images are, and what the network was built with."""
    arguments = {**recipe.arguments, "classes": len(images.classes), "channels": images.shape[0]}
    with run.seeded(recipe.seed):
        network = run.on_device(nets.build(recipe.architecture, **arguments), images.device)
    kind: Any = Supervised if isinstance(images, ImageSet) else SegmentationTraining
    options = {"schedule": recipe.schedule(), "seed": recipe.seed, **recipe.options}
    return kind(network, images, **options), arguments
