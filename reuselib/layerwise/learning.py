"""What the methods of layer-wise amalgamation share: how long and how fast to learn, and from what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.data.image_set import Augment
from reuselib.errors import ShapeMismatch
from reuselib.layerwise.teachers import Teachers


@dataclass(frozen=True)
class Stage:
    """How long and how fast a stage learns.

    Attributes:
        steps: updates.
        lr: learning rate, one for all layers or one for each.
        momentum: of SGD; Adam if left out.
        weight_decay: L2 penalty.
        cosine: whether the learning rate falls to zero along half a cosine, or stays.

    Raises:
        BadValue: one is no such number.
    """

    steps: int
    lr: float | Sequence[float] = 1e-3
    momentum: float | None = None
    weight_decay: float = 0.0
    cosine: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        checks.whole(0, steps=self.steps)
        checks.number(momentum=self.momentum or 0.0, weight_decay=self.weight_decay)
        for rate in self.rates:
            checks.number(lr=rate)

    @property
    def rates(self) -> Sequence[float]:
        """The learning rates, one or several."""
        return self.lr if isinstance(self.lr, Sequence) else (self.lr,)

    def optimizer(self, groups: Sequence[Sequence[nn.Parameter]], where: torch.device) -> Optimizer:
        """The optimizer of a stage.

        Args:
            groups: the parameters of each layer.
            where: their device.

        Raises:
            ShapeMismatch: there are neither one learning rate nor as many as layers.
        """
        rates = self.rates if len(self.rates) != 1 else list(self.rates) * len(groups)
        if len(rates) != len(groups):
            raise ShapeMismatch(f"{len(groups)} layers need one learning rate or as many, not {len(rates)}.")
        parameters = [{"params": list(group), "lr": rate} for group, rate in zip(groups, rates, strict=True)]
        make, options = (run.adam, {}) if self.momentum is None else (run.sgd, {"momentum": self.momentum})
        return make(parameters, where, weight_decay=self.weight_decay, **options)


class Learning(run.Method):
    """What the stages share: teachers, unlabelled images, precision and draws. Subclasses write ``step``.

    Args:
        teachers: left as they were, bit for bit.
        images: unlabelled, on the teachers' device: their labels are never read.
        batch: images per update.
        noise: standard deviation of Gaussian noise added to the normalised images.
        augment: of the uint8 images, for example :func:`~reuselib.data.augment.crop_and_flip`.
        seed: of all that is drawn.
        precision: chosen by :mod:`reuselib.run` if left out. Losses are computed in float32.
        learning: networks that must be on the same device.

    Raises:
        DeviceError: teachers and images are on different devices.
        BadValue: there are no images, or batch or noise is no such number.
    """

    fixed: tuple[str, ...] = ("teachers",)

    def __init__(
        self,
        teachers: Teachers,
        images: ImageSet,
        batch: int = 64,
        noise: float = 0.0,
        augment: Augment | None = None,
        seed: int = 0,
        precision: str | None = None,
        **learning: nn.Module,
    ) -> None:
        checks.number(noise=noise)
        checks.some(ImageSet, images=images)
        self.device = run.device_of(teachers=teachers, images=images, **learning)
        self.teachers, self.images, self.batch, self.noise, self.augment = teachers, images, batch, noise, augment
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)

    def prepare(self, stage: Stage, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        """Make the optimizer of some groups of parameters, and the course of its rates."""
        self.optimizer = stage.optimizer(groups, self.device)
        self.scheduler = LambdaLR(self.optimizer, run.cosine(stage.steps) if stage.cosine else run.constant)

    def draw(self) -> Tensor:
        """Random images, normalised, with replacement: (batch, C, H, W)."""
        images, _ = self.images.sample(self.batch, self.random, self.augment)
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, device=self.device, generator=self.random)
        return images

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer, and of its rates."""
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
