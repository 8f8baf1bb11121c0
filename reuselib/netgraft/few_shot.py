"""What all methods share that distil with a few unlabelled images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.data.image_set import Augment
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.netgraft.hybrid import blocks_of, through
from reuselib.nets.imitation import check_same_shape


class FewShot(run.Method):
    """A student learns from a teacher on a few unlabelled images; subclasses say how.

    Args:
        teacher: gives logits; is left as it was, bit for bit.
        student: learns; the same number of classes.
        images: the few images, on the networks' device. What their labels say plays no part.
        batch: images per update.
        epochs: whether batches are passes over all images in random order, the last of a pass may be short; otherwise
            every image of every batch is drawn independently.
        augment: applied to the uint8 batches, :func:`~reuselib.data.augment.crop_and_flip` for instance.
        shared: how many of the student's first blocks are copied from the teacher and never trained.
        seed: of all that is drawn.
        precision: ``"bf16"``, ``"fp16"``, ``"fp32"``; chosen if left out.

    Attributes:
        parts: updates of the parts that learn one after the other; empty where all learns at once, without an end.

    Raises:
        DeviceError: networks and images are not on one device.
        ShapeMismatch: the networks differ in classes or in the shared blocks, or do not take such images.
        ReuseError: teacher or student gives more than one tensor.
        BadValue: there are no images, or an option is no such number.
    """

    parts: Sequence[int] = ()

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        *,
        batch: int = 64,
        epochs: bool = False,
        augment: Augment | None = None,
        shared: int = 0,
        seed: int = 0,
        precision: str | None = None,
    ) -> None:
        checks.whole(0, shared=shared)
        checks.some(ImageSet, images=images)
        self.device = run.device_of(teacher=teacher, student=student, images=images)
        self.images, self.batch, self.augment, self.shared, self.seed = images, batch, augment, shared, seed
        check_same_shape(*run.probe(self.probe(), teacher=teacher, student=student))
        self.teacher, self.student = teacher, run.on_device(student, self.device)
        self.precision = run.precision(self.device, precision)
        self.random = run.generator(self.device, seed)
        self.order = torch.zeros(len(images), dtype=torch.int64, device=self.device) if epochs else None
        student.train()
        share_prefix(teacher, student, shared)

    def draw(self) -> Tensor:
        """The batch of this iteration, normalised, (B, C, H, W)."""
        if self.order is None:
            return self.images.sample(self.batch, self.random, self.augment)[0]
        start = self.iteration % self.epoch * self.batch
        if not start:
            self.order.copy_(torch.randperm(len(self.order), device=self.device, generator=self.random))
        pixels = self.images.images[self.order[start : start + self.batch]]
        return self.images.normalised(self.augment(pixels, self.random) if self.augment else pixels)

    @property
    def epoch(self) -> int:
        """Updates of one pass over the images; 1 where every batch is drawn by itself."""
        return 1 if self.order is None else -(-len(self.order) // self.batch)

    @property
    def total(self) -> int:
        """Updates of all parts."""
        return sum(self.parts)

    def turn(self, iteration: int) -> int:
        """Which part is updated in an iteration.

        Raises:
            ReuseError: all parts end before.
        """
        if iteration >= self.total:
            raise ReuseError(f"All {self.total} updates are done; there is no number {iteration + 1}. Plan more.")
        return bisect_right(list(accumulate(self.parts)), iteration)

    def prefix(self, images: Tensor) -> Tensor:
        """What the shared blocks make of images; the images where nothing is shared."""
        return through(blocks_of(self.teacher)[: self.shared], images) if self.shared else images

    def rest(self, network: nn.Module, maps: Tensor) -> Tensor:
        """What the teacher or the student makes of the prefix's maps."""
        return through(blocks_of(network)[self.shared :], maps) if self.shared else network(maps)

    def probe(self) -> Tensor:
        """Two of the images, normalised, to read shapes from."""
        return self.images.normalised(self.images.images[:2])


def spread(total: int, parts: int) -> list[int]:
    """Updates in parts as equal as whole numbers can be."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


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
    for own, model in pairs[:shared]:
        try:
            own.load_state_dict(model.state_dict())
        except RuntimeError as error:
            raise ShapeMismatch(
                f"The student's first {shared} blocks are not built like the teacher's, so they cannot be shared "
                f"({error}). Build the student with the teacher's widths there, or lower shared."
            ) from error
        own.requires_grad_(False).eval()
