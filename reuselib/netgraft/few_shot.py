"""What all methods share that distil with a few unlabelled images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.data import ImageSet
from reuselib.data.image_set import Augment
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, unknown
from reuselib.netgraft.hybrid import blocks_of, through
from reuselib.nets.imitation import check_same_shape

DRAWS = ("replacement", "epochs")


class Draws:
    """Batches of normalised images from a small set; its labels are never read.

    Args:
        images: the few.
        batch: images in a batch.
        draw: ``"replacement"``: every image of every batch is drawn independently. ``"epochs"``: all images in random
            order, then again in another order; the last batch of an epoch may be short.
        augment: applied to the uint8 batches.
        random: the generator of both.

    Raises:
        UnknownName: there is no such way to draw.
        ReuseError: the batch is empty.
    """

    def __init__(
        self, images: ImageSet, batch: int, draw: str, augment: Augment | None, random: torch.Generator | None
    ) -> None:
        if draw not in DRAWS:
            raise unknown("way to draw", draw, DRAWS)
        if batch < 1:
            raise ReuseError(f"A batch of {batch} teaches nothing. Give 1 or more.")
        self.images, self.batch, self.augment, self.random = images, batch, augment, random
        self._order = torch.zeros(len(images) if draw == "epochs" else 0, dtype=torch.int64, device=images.device)
        self._position = len(self._order)

    def __len__(self) -> int:
        """Batches that it takes to see as many images as there are."""
        return -(-len(self.images) // self.batch)

    def __call__(self) -> Tensor:
        """The next batch, (B, C, H, W)."""
        pixels = self.images.images[self._next()]
        return self.images.normalised(self.augment(pixels, self.random) if self.augment else pixels)

    def _next(self) -> Tensor:
        count, where = len(self.images), self.images.device
        if not len(self._order):
            return torch.randint(count, (self.batch,), device=where, generator=self.random)
        if self._position >= count:
            self._order.copy_(torch.randperm(count, device=where, generator=self.random))
            self._position = 0
        start, self._position = self._position, self._position + self.batch
        return self._order[start : self._position]

    def state_dict(self) -> dict[str, Any]:
        """The order of this epoch, and the place in it."""
        return {"order": self._order.clone(), "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self._order.copy_(state["order"])
        self._position = state["position"]


class FewShot(run.Method):
    """A student learns from a teacher on a few unlabelled images; subclasses say how.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; the same number of classes.
        images: the few images, on the networks' device. Their labels are never read.
        batch: images per update.
        draw: how batches are drawn, ``"replacement"`` or ``"epochs"`` (see :class:`Draws`).
        augment: applied to the uint8 batches, :func:`~reuselib.data.augment.crop_and_flip` for instance.
        shared: how many of the student's first blocks are copied from the teacher and never trained.
        seed: of all that is drawn.
        precision: ``"bf16"``, ``"fp16"``, ``"fp32"``; chosen by the engine if left out.

    Attributes:
        total: updates in all, after which :meth:`rounds` ends; ``None`` for no end.

    Raises:
        DeviceError: networks and images are not on one device.
        ShapeMismatch: the networks differ in classes or in the shared blocks, or do not take such images.
        ReuseError: there are no images, or batch normalisation would meet a batch of one.
        UnknownName: there is no such way to draw.
    """

    total: int | None = None

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        *,
        batch: int = 64,
        draw: str = "replacement",
        augment: Augment | None = None,
        shared: int = 0,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        self.device = images.device
        _check_fit(teacher, student, images)
        self.teacher, self.student = teacher, run.on_device(student, self.device)
        self.images, self.batch, self.shared, self.seed = images, batch, shared, seed
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self.draw = Draws(images, batch, draw, augment, self.random)
        _check_batches(self.draw, student, draw)
        student.train()
        share_prefix(teacher, student, shared)

    def rounds(self) -> Iterator[dict[str, Tensor]]:
        """As :meth:`engine.Method.rounds`, up to ``total`` updates; the last round is shorter if need be."""
        usual = self.steps_per_round
        while self.total is None or self.iteration < self.total:
            left = usual if self.total is None else self.total - self.iteration
            if left < usual:
                self.steps_per_round = left
            report = next(super().rounds())
            if left < usual:
                self.steps_per_round = usual
            yield report

    def prefix(self, images: Tensor) -> Tensor:
        """What the shared blocks make of images; the images where nothing is shared."""
        return through(blocks_of(self.teacher)[: self.shared], images) if self.shared else images

    def rest(self, network: nn.Module, maps: Tensor) -> Tensor:
        """What the teacher or the student makes of the prefix's maps."""
        return through(blocks_of(network)[self.shared :], maps) if self.shared else network(maps)

    def probe(self) -> Tensor:
        """Two of the images, normalised, to read shapes from."""
        return self.images.normalised(self.images.images[:2])


def for_each(count: int, value: Any) -> list[Any]:
    """A list of ``count`` values: one value repeated, or the values of a sequence that has as many.

    Raises:
        ReuseError: the sequence is longer or shorter.
    """
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise ReuseError(f"{values}: {len(values)} values where {count} are needed. Give one value, or {count}.")
    return values


def turn_of(iteration: int, steps: Sequence[int]) -> int:
    """Which of several parts is updated in an iteration, if they take so many updates one after the other.

    Raises:
        ReuseError: all parts end before.
    """
    if iteration >= sum(steps):
        raise ReuseError(f"All {sum(steps)} updates are done; there is no number {iteration + 1}. Plan more of them.")
    return bisect_right(list(accumulate(steps)), iteration)


def share_prefix(teacher: nn.Module, student: nn.Module, shared: int) -> None:
    """Copy the teacher's first blocks into the student's, and freeze them there, in evaluation mode.

    Raises:
        ShapeMismatch: these blocks of the two networks are not alike.
    """
    if not shared:
        return
    pairs = list(zip(blocks_of(student), blocks_of(teacher), strict=False))
    if not 0 < shared < len(pairs):
        raise ShapeMismatch(f"Of {len(pairs)} blocks, {shared} cannot be shared. Share 0 to {len(pairs) - 1}.")
    for index, (own, model) in enumerate(pairs[:shared]):
        shapes = [{name: value.shape for name, value in block.state_dict().items()} for block in (own, model)]
        if shapes[0] != shapes[1]:
            raise ShapeMismatch(
                f"Block {index} of the student is not built like the teacher's, so it cannot be shared. Build the "
                f"student with the teacher's widths in its first {shared} blocks, or lower shared."
            )
        own.load_state_dict(model.state_dict())
        own.requires_grad_(False).eval()


@torch.no_grad()
def _check_fit(teacher: nn.Module, student: nn.Module, images: ImageSet) -> None:
    if not len(images):
        raise ReuseError(f"There are no images in {images.name}. Take at least one of each class.")
    devices = {"images": images.device} | {
        name: next(network.parameters()).device for name, network in (("teacher", teacher), ("student", student))
    }
    if len(set(devices.values())) > 1:
        raise DeviceError(f"Images and networks are on different devices: {devices}. Use .to(device) on the images.")
    probe = images.normalised(images.images[:2])
    with run.frozen(teacher, student):
        try:
            check_same_shape(teacher(probe), student(probe))
        except RuntimeError as error:
            raise ShapeMismatch(
                f"Images of shape {tuple(probe.shape)} do not fit the teacher or the student ({error}). Give images of "
                "the shape that both networks take."
            ) from error


def _check_batches(draws: Draws, student: nn.Module, draw: str) -> None:
    smallest = len(draws.images) % draws.batch if draw == "epochs" else draws.batch
    smallest = smallest or draws.batch
    if smallest == 1 and any(isinstance(module, nn.BatchNorm1d) for module in student.modules()):
        raise ReuseError(
            f"Batches of {draws.batch} from {len(draws.images)} images leave one image alone, which the student's "
            "batch normalisation cannot take. Give another batch size, or draw='replacement'."
        )
