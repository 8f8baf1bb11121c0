"""Rooms with their labels: the splits of BoxRooms-32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.files import check_split
from reuselib.data.image_set import HALVES, ImageSet, OfImages
from reuselib.data.segmentation import SegmentationSet
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.worlds.rooms import labels
from reuselib.worlds.rooms.render import KINDS, render
from reuselib.worlds.rooms.scene import ROOMS, Scenes, joined
from reuselib.worlds.rooms.tasks import TASKS, task

SIZE = 32
SPLITS = {"zoo": 8192, "transfer": 1024, "test": 512, "probes": 256}
CHUNK = 1024  # rooms that are rendered at a time, for memory
DOMAINS, CLOSEUP_SPLITS = ("synthetic", "real"), ("train", "test", "probes")
STREAMS = (*SPLITS, "collage", "noise", *(f"{domain} {split}" for domain in DOMAINS for split in CLOSEUP_SPLITS))
"""Everything that is drawn from one seed, each with draws of its own. Add at the end: the place decides the images."""
MOST_STREAMS = 32


@dataclass(frozen=True, eq=False)
class RoomSet(OfImages):
    """Rooms with all their labels, resident on one device. Labels are worked out when they are asked for.

    Attributes:
        images: uint8 (N, 3, 32, 32), normalised to [-1, 1]; its own labels are the kinds of room.
        scenes: What was rendered.
        depth: In metres, (N, 32, 32).
        normal: In the camera's frame, (N, 3, 32, 32).
        surface: Position in `scene.SURFACES`, uint8, (N, 32, 32).
        kind: Position in `KINDS`, uint8, (N, 32, 32).
        segment: Twice the surface, plus 1 on the second tone, uint8, (N, 32, 32).
    """

    scenes: Scenes
    depth: Tensor
    normal: Tensor
    surface: Tensor
    kind: Tensor
    segment: Tensor

    def __repr__(self) -> str:
        """Name the set, its size, shape and device."""
        return f"RoomSet({self.name!r}, {len(self)} x {self.shape}, {len(TASKS)} tasks, {self.device})"

    @property
    def x(self) -> Tensor:
        """The images as networks get them, float32 (N, 3, 32, 32) in [-1, 1]."""
        return self.normalised(self.images.images)

    def labels(self, name: str) -> Tensor:
        """Return the labels of a task for all rooms.

        Returns:
            float32 ``(N, *shape)`` of the task; where its loss is "ce", int64 (N,) or (N, 32, 32).

        Raises:
            UnknownName: If there is no such task.
        """
        task(name)
        return torch.cat([_LABELS[name](self.subset(slice(i, i + CHUNK))) for i in range(0, len(self), CHUNK)])


def inputs(name: str, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return what a network for a task is given: noisy images, images with a hole, grey ones, or the images.

    Args:
        name: Of the task.
        images: In [-1, 1], float32 (B, 3, 32, 32).
        generator: Of the noise of "denoise", on the device of the images.

    Raises:
        UnknownName: If there is no such task.
        ShapeMismatch: If the images are no normalised images in colour.
        ReuseError: If noise is wanted and there is no generator, except on `meta`.
    """
    task(name)
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        found = f"{images.dtype} {tuple(images.shape)}"
        raise ShapeMismatch(f"inputs are made from images in [-1, 1], float (B, 3, H, W), not {found}: use normalised")
    if name == "denoise":
        if generator is None and not images.is_meta:
            raise ReuseError("denoise draws noise: pass a torch.Generator on the device of the images")
        return labels.with_noise(images, generator)
    change = {"inpaint": labels.with_hole, "color": labels.without_color}.get(name)
    return images if change is None else change(images)


_LABELS: dict[str, Callable[[RoomSet], Tensor]] = {
    **dict.fromkeys(("autoencoder", "denoise", "inpaint"), lambda rooms: rooms.x),
    "color": lambda rooms: labels.color(rooms.x),
    "edge2d": lambda rooms: labels.edge2d(rooms.x),
    "kp2d": lambda rooms: labels.kp2d(rooms.x),
    "seg2d": lambda rooms: labels.alike(rooms.segment),
    "edge3d": lambda rooms: labels.edge3d(rooms.depth, rooms.surface),
    "depth": lambda rooms: labels.log_depth(rooms.depth),
    "normals": lambda rooms: rooms.normal,
    "reshade": lambda rooms: labels.reshade(rooms.depth, rooms.normal, rooms.scenes.focal),
    "seg25d": lambda rooms: labels.alike(rooms.surface),
    "layout": lambda rooms: labels.layout(rooms.scenes),
    "vp": lambda rooms: labels.vp(rooms.scenes),
    "semseg": lambda rooms: rooms.kind.long(),
    "obj": lambda rooms: labels.obj(rooms.surface, rooms.scenes.shape, rooms.scenes.material),
    "scene": lambda rooms: rooms.scenes.kind,
}


def stream(name: str, seed: int) -> int:
    """Return the seed of the draws for one of `STREAMS`: no two of (name, seed) have the same; BadValue for no seed."""
    checks.whole(0, checks.SEEDS // MOST_STREAMS - 1, seed=seed)
    return MOST_STREAMS * seed + STREAMS.index(name)


def rooms(split: str, count: int | None = None, seed: int = 0, device: torch.device | str | None = None) -> RoomSet:
    """Render a split, once in a process. Room `i` depends on split, seed and `i` alone.

    Args:
        split: One of `SPLITS`.
        count: How many; None for those of the split.
        seed: Of all randomness: another world.
        device: Where it is rendered and stays; None for the CPU.

    Raises:
        UnknownName: If there is no such split.
        BadValue: If the count is below 1, or the seed is none.
    """
    check_split(split, "rooms", tuple(SPLITS))
    count = SPLITS[split] if count is None else count
    checks.whole(count=count)
    return _rooms(split, count, stream(split, seed), torch.device(device or "cpu"))


def with_masks(split: str = "train") -> SegmentationSet:
    """Render the set "rooms" of `data.segmentation`: 8,192 / 512 images with the kind of surface of every pixel.

    Args:
        split: "train", the split "zoo" of rooms, or "test".

    Raises:
        UnknownName: If the split is neither.
    """
    check_split(split, "rooms")
    part = rooms({"train": "zoo"}.get(split, split))
    return SegmentationSet(part.images, part.labels("semseg"), KINDS)


@cache
def _rooms(split: str, count: int, seed: int, device: torch.device) -> RoomSet:
    starts = range(0, count, CHUNK)
    return joined([_part(split, Scenes.sample(min(CHUNK, count - k), seed, device, k)) for k in starts])


def _part(split: str, scenes: Scenes) -> RoomSet:
    hits = render(scenes, SIZE)
    images = ImageSet(f"rooms_{split}", hits.images, scenes.kind, ROOMS, *HALVES)
    return RoomSet(images, scenes, hits.depth, hits.normal, hits.surface, hits.kind, hits.segment)
