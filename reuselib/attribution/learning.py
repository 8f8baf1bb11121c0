"""Learning the tasks of the rooms: a network from images, a readout from the representations of a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from reuselib import run
from reuselib.errors import DeviceError, ReuseError
from reuselib.worlds import rooms


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a network learns from, compact: classes and yes or no in one byte, numbers in float16 (error 5e-4 at 1).

    Attributes:
        task: name of the task.
        rows: uint8 images (N, 3, 32, 32), or float representations (N, C, h, w).
        labels: of the task, as `compact` gives them.
    """

    task: str
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def answers(self, index: Tensor | slice) -> Tensor:
        """The labels of some rows, as `rooms.losses` takes them."""
        found = self.labels[index]
        return found.long() if rooms.task(self.task).loss == "ce" else found.float()


def compact(task: str, labels: Tensor) -> Tensor:
    """Labels in as few bytes as they need: uint8 for classes and yes or no, float16 for numbers."""
    return labels.to(torch.uint8 if rooms.task(task).loss in ("ce", "bce") else torch.float16)


def in_range(images: Tensor) -> Tensor:
    """uint8 images in [-1, 1], float32."""
    return images / 127.5 - 1


class TaskLearning(run.Method):
    """A network learns one task of the rooms, or a readout the same from representations, by Adam on a one-cycle rate.

    Args:
        student: gives answers of the task.
        lesson: images, or representations worked out once before, and labels on the network's device.
        updates: in all, for the rate's course.
        batch: rows per update, drawn with replacement.
        lr: highest learning rate.
        weight_decay: L2 penalty.
        seed: of the batches and of the noise on images that are to be denoised.
        precision: chosen if left out.

    Raises:
        DeviceError: lesson and network are on different devices.

    Source: after Zamir et al. 2018 (Taskonomy).
    """

    fixed = ()

    def __init__(
        self,
        student: nn.Module,
        lesson: Lesson,
        *,
        updates: int,
        batch: int = 64,
        lr: float = 2e-3,
        weight_decay: float = 2e-6,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        self.device = next(student.parameters()).device
        if lesson.rows.device != self.device:
            raise DeviceError(f"The lesson is on {lesson.rows.device}, the network on {self.device}: use one device.")
        self.student, self.lesson, self.batch = run.on_device(student, self.device), lesson, batch
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self.optimizer = run.adam(student.parameters(), self.device, lr=lr, weight_decay=weight_decay)
        self.scheduler = LambdaLR(self.optimizer, run.one_cycle(updates))
        student.train()

    def step(self) -> dict[str, Tensor]:
        """One update on a random batch; returns ``loss``."""
        index = torch.randint(len(self.lesson), (self.batch,), generator=self.random, device=self.device)
        rows = self.lesson.rows[index]
        if not rows.is_floating_point():
            rows = rooms.inputs(self.lesson.task, in_range(rows), self.random)
        with self.precision.autocast():
            answers = self.student(rows)
        loss = rooms.losses(self.lesson.task, answers.float(), self.lesson.answers(index)).mean()
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss}


@torch.no_grad()
def image_losses(network: nn.Module, inputs: Tensor, task: str, labels: Tensor, batch: int = 256) -> Tensor:
    """The loss of a network on each image, float32 (N,) on the CPU, in evaluation mode and float32.

    Args:
        network: left as it was.
        inputs: what it is given, (N, ...), on its device.
        task: that it answers.
        labels: exact ones, as `RoomSet.labels` gives them.
        batch: images at a time.
    """
    with run.frozen(network):
        pairs = zip(inputs.split(batch), labels.split(batch), strict=True)
        return torch.cat([rooms.losses(task, network(x).float(), y) for x, y in pairs]).cpu()


def blind_answer(task: str, labels: Tensor) -> Tensor:
    """The answer that is best if it is the same for every image, pixel by pixel: the shape of the task.

    It is the median for an absolute error, the mean for a squared one, and for cross-entropies the logarithm of the
    shares (of the odds, for yes or no), where nothing is rarer than one image in 10,000.

    Args:
        task: name of the task.
        labels: (N, ...), of training images; may be compact.
    """
    asked = rooms.task(task)
    if asked.loss == "ce":
        shares = torch.stack([(labels == number).float().mean(0) for number in range(asked.shape[0])])
        return shares.clamp(min=1e-4).log()
    if asked.loss == "bce":
        return labels.float().mean(0).clamp(1e-4, 1 - 1e-4).logit()
    return labels.float().median(0).values if asked.loss == "l1" else labels.float().mean(0)


def blind_loss(task: str, training: Tensor, test: Tensor) -> float:
    """The mean loss on test labels of the best constant answer to training labels."""
    answer = blind_answer(task, training)
    return float(rooms.losses(task, answer.expand(len(test), *answer.shape), test).mean())


def seconds(cost: run.Cost, where: torch.device) -> float:
    """Seconds of work: of the processor on a CPU, which others may share, and on the clock elsewhere."""
    return cost.cpu_seconds if where.type == "cpu" else cost.wall_seconds


def add_cost(total: run.Cost, more: run.Cost) -> None:
    """Add a cost to another."""
    total.wall_seconds += more.wall_seconds
    total.cpu_seconds += more.cpu_seconds
    total.peak_memory_mb = max(total.peak_memory_mb, more.peak_memory_mb)
    for name, count in more.passes.items():
        total.passes[name] = total.passes.get(name, 0) + count


def parts_done(checkpoint: str | Path | None, settings: str) -> dict[str, Any]:
    """What an earlier run has finished, from ``{"settings": …, "done": …}``; nothing where there is no file.

    Raises:
        ReuseError: the checkpoint was made with other settings.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        return {}
    found = run.load_checkpoint(checkpoint)
    if found["settings"] != settings:
        raise ReuseError(f"The checkpoint {checkpoint} was made with other settings. Delete it, or give another.")
    return found["done"]
