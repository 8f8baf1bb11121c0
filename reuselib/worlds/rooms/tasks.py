"""The seventeen tasks of BoxRooms-32: their group, the shape of a network's answer and the loss that scores it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from reuselib import checks
from reuselib.errors import ShapeMismatch
from reuselib.worlds.rooms.render import KINDS
from reuselib.worlds.rooms.scene import MATERIALS, ROOMS, SHAPES

GROUPS = ("2D", "3D", "geometric", "semantic")
LOSSES: dict[str, Callable[..., Tensor]] = {"l1": functional.l1_loss, "l2": functional.mse_loss}
LOSSES |= {"bce": functional.binary_cross_entropy_with_logits, "ce": functional.cross_entropy}


@dataclass(frozen=True)
class Task:
    """What a network is asked.

    Attributes:
        name: Of the task.
        group: One of `GROUPS`.
        shape: Of a network's answer to one image.
        loss: One of `LOSSES`: "l2" is the squared error, "bce" and "ce" (along the first dimension) are on logits.
        source_only: Whether it is no target of transfers.
        text: What is to be told, in words.
    """

    name: str
    group: str
    shape: tuple[int, ...]
    loss: str
    source_only: bool
    text: str

    @property
    def dense(self) -> bool:
        """Whether the answer is an image."""
        return len(self.shape) == 3


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("autoencoder", "2D", (3, 32, 32), "l1", False, "the image itself"),
        Task("denoise", "2D", (3, 32, 32), "l1", False, "the image without the noise that was added"),
        Task("inpaint", "2D", (3, 32, 32), "l1", True, "the whole image, from one with a hole"),
        Task("color", "2D", (2, 32, 32), "l1", True, "red and blue, each against green, from grey"),
        Task("edge2d", "2D", (1, 32, 32), "l1", False, "the gradient's length"),
        Task("kp2d", "2D", (1, 32, 32), "l1", False, "how much of a corner a place is"),
        Task("seg2d", "2D", (4, 32, 32), "bce", False, "which pixels nearby have the same paint"),
        Task("edge3d", "3D", (1, 32, 32), "l2", False, "jumps of depth"),
        Task("depth", "3D", (1, 32, 32), "l1", False, "logarithm of depth"),
        Task("normals", "3D", (3, 32, 32), "l1", False, "where surfaces face"),
        Task("reshade", "3D", (1, 32, 32), "l1", False, "shading by a light at the camera"),
        Task("seg25d", "3D", (4, 32, 32), "bce", False, "which pixels nearby are of the same surface"),
        Task("layout", "geometric", (9,), "l2", False, "the room's box"),
        Task("vp", "geometric", (6,), "l2", False, "the room's three directions"),
        Task("semseg", "semantic", (len(KINDS), 32, 32), "ce", False, "what each pixel shows"),
        Task("obj", "semantic", (len(SHAPES) * len(MATERIALS),), "ce", False, "shape and material of a solid"),
        Task("scene", "semantic", (len(ROOMS),), "ce", False, "the kind of room"),
    )
}


def task(name: str) -> Task:
    """Return a task by name; UnknownName if there is none."""
    checks.known("task", TASKS, name)
    return TASKS[name]


def losses(name: str, answers: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each image, (B,): the mean over all that is asked of it.

    Args:
        name: Of the task.
        answers: What a network gives, ``(B, *task.shape)``.
        labels: As `RoomSet.labels` gives them: like `answers`, but int64 without the first dimension of the shape where
            the loss is "ce".

    Raises:
        UnknownName: If there is no such task.
        ShapeMismatch: If answers and labels are not of these shapes.
    """
    asked = task(name)
    wanted = asked.shape[1:] if asked.loss == "ce" else asked.shape
    if answers.shape[1:] != asked.shape or labels.shape != (len(answers), *wanted):
        found = f"{tuple(answers.shape)} and {tuple(labels.shape)}"
        raise ShapeMismatch(f"{name} takes answers (B, *{asked.shape}) and labels (B, *{wanted}), not {found}")
    return LOSSES[asked.loss](answers, labels, reduction="none").reshape(len(answers), -1).mean(1)
