"""Knowledge distillation, as a procedure."""

from __future__ import annotations

import torch
from reuselib.hinton import losses
from torch import Tensor, nn

from reuselib import run
from reuselib.data import ImageSet


class SoftTargets(run.Method):
    """A student learns a teacher's softened answers on unlabelled images.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; same number of classes.
        images: to learn from, on the networks' device.
        temperature: τ.
        batch: images per update.
        lr: learning rate of SGD with momentum 0.9.
        seed: of the images drawn.
        precision: chosen by :func:`~reuselib.run.precision` if left out.

    Source: Hinton et al. 2015.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        *,
        temperature: float = 4.0,
        batch: int = 64,
        lr: float = 0.05,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        self.teacher, self.student = teacher, run.on_device(student, images.device)
        self.images, self.temperature, self.batch = images, temperature, batch
        self.precision, self.random = run.precision(images.device, precision), run.generator(images.device, seed)
        self.optimizer = run.sgd(student.parameters(), images.device, lr=lr)
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch; returns ``loss``."""
        x, _ = self.images.sample(self.batch, self.random)
        with self.precision.autocast():
            with run.frozen(self.teacher), torch.no_grad():
                t = self.teacher(x)
            s = self.student(x)
        loss = losses.soft_target_loss(t, s, self.temperature)
        self.precision.minimise(loss, self.optimizer)
        return {"loss": loss}
