"""What inversion keeps: finished images for the student, and their features for the contrast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data import ImageSet
from reuselib.data.image_set import Augment
from reuselib.errors import ReuseError, ShapeMismatch


class Pool:
    """Finished images as 8-bit pixels with the classes that were asked for; a source for the student.

    Called as a source, it gives every image once in random order, then all again in another order; the rest that fills
    no batch is passed over. New images are mixed in at once.

    Args:
        space: images as the teacher takes them: their shape, mean, std, classes and device count.
        capacity: most images that it will hold.
        augment: applied to the uint8 batches, a random crop for instance.
    """

    def __init__(self, space: ImageSet, capacity: int, augment: Augment | None = None) -> None:
        checks.whole(capacity=capacity)
        pixels = torch.zeros(capacity, *space.shape, dtype=torch.uint8, device=space.device)
        labels = torch.zeros(capacity, dtype=torch.int64, device=space.device)
        self._set = replace(space, name="synthesised", images=pixels, labels=labels)
        self._order = torch.arange(capacity, device=space.device)
        self._filled = self._position = self._shuffled = 0
        self.image, self.mean, self.std, self.augment = space.shape, space.mean, space.std, augment
        mean, std = (torch.tensor(v, device=space.device).view(1, -1, 1, 1) for v in (space.mean, space.std))
        self._scale, self._shift = 1 / std, mean / std

    def __len__(self) -> int:
        """How many images there are."""
        return self._filled

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] in the teacher's normalisation, with their graph."""
        return images * self._scale - self._shift

    def add(self, images: Tensor, targets: Tensor) -> None:
        """Keep images (B, C, H, W) in [0, 1], rounded to 8 bits, and their classes (B,).

        Raises:
            ReuseError: the pool is full.
        """
        end = self._filled + len(images)
        if end > len(self._set):
            raise ReuseError(f"A pool of {len(self._set)} images cannot hold {end}. Give it a larger capacity.")
        self._set.images[self._filled : end] = images.detach().float().mul(255).round().clamp(0, 255).byte()
        self._set.labels[self._filled : end] = targets
        self._filled = end

    def __call__(self, count: int, random: torch.Generator | None) -> Tensor:
        """The next ``count`` normalised images, fewer if the pool holds fewer.

        Raises:
            ReuseError: the pool is empty.
        """
        if not self._filled:
            raise ReuseError("The pool is empty. Synthesise a batch before the student learns from it.")
        count = min(count, self._filled)
        if self._shuffled != self._filled or self._position + count > self._filled:
            order = torch.randperm(self._filled, device=self._order.device, generator=random)
            self._order[: self._filled] = order
            self._position, self._shuffled = 0, self._filled
        batch = self._set.images[self._order[self._position : self._position + count]]
        self._position += count
        return self._set.normalised(self.augment(batch, random) if self.augment else batch)

    def images(self) -> ImageSet:
        """The images, labelled with the classes that were asked for."""
        return self._set.subset(slice(self._filled))

    def state_dict(self) -> dict[str, Any]:
        """Images, classes and the place in the current order; copies, since a view would save the whole capacity."""
        parts = {"images": self._set.images[: self._filled], "labels": self._set.labels[: self._filled]}
        parts["order"] = self._order[: self._shuffled]
        return {name: part.clone() for name, part in parts.items()} | {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self._filled, self._shuffled, self._position = len(state["images"]), len(state["order"]), state["position"]
        self._set.images[: self._filled] = state["images"]
        self._set.labels[: self._filled] = state["labels"]
        self._order[: self._shuffled] = state["order"]


class MemoryBank:
    """Features of finished images, the oldest overwritten when it is full.

    Args:
        capacity: rows, a multiple of the batch.
        width: numbers in a row.
        where: device.
    """

    def __init__(self, capacity: int, width: int, where: torch.device) -> None:
        checks.whole(capacity=capacity, width=width)
        self._rows = torch.zeros(capacity, width, device=where)
        self._filled = self._next = 0

    def __len__(self) -> int:
        """How many rows are valid."""
        return self._filled

    def add(self, rows: Tensor) -> None:
        """Remember rows (B, width), without their graph.

        Raises:
            ShapeMismatch: the capacity is no multiple of B.
        """
        if len(self._rows) % len(rows):
            raise ShapeMismatch(f"A bank of {len(self._rows)} rows does not fill with batches of {len(rows)}.")
        self._rows[self._next : self._next + len(rows)] = rows.detach()
        self._filled = max(self._filled, self._next + len(rows))
        self._next = (self._next + len(rows)) % len(self._rows)

    def sample(self, count: int, random: torch.Generator | None) -> Tensor:
        """At most ``count`` different rows: (min(count, len), width)."""
        chosen = torch.randperm(self._filled, device=self._rows.device, generator=random)[:count]
        return self._rows[chosen]

    def state_dict(self) -> dict[str, Any]:
        """The valid rows, and where the next one goes."""
        return {"rows": self._rows[: self._filled].clone(), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self._filled, self._next = len(state["rows"]), state["next"]
        self._rows[: self._filled] = state["rows"]
