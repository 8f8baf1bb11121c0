"""Pictures of every label, for a figure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from reuselib import run
from reuselib.worlds.rooms import labels
from reuselib.worlds.rooms.render import ROOM, camera_axes, camera_rays, dot, in_room, meet_room
from reuselib.worlds.rooms.room_set import RoomSet, inputs
from reuselib.worlds.rooms.scene import MATERIALS
from reuselib.worlds.rooms.tasks import TASKS

# Okabe and Ito's palette, which colour-blind readers can tell apart, and two greys.
PALETTE = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.60, 0.60, 0.60),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.00, 0.45, 0.70),
    (0.84, 0.37, 0.00),
    (0.80, 0.47, 0.65),
    (0.20, 0.20, 0.20),
)
NOISE_SEED = 0


def gallery(rooms: RoomSet, index: Sequence[int]) -> dict[str, Tensor]:
    """Return a picture of every label of some rooms, for `figures.image_grid` with ``scale=(0, 1)``.

    The first row is the image. "denoise" and "inpaint" show what a network is given, for its label is the image.
    Numbers become grey between their least and greatest usual value, vectors and classes become colours:

    - "color": the two differences, on middle grey. "normals": right, up and ahead as red, green and blue.
    - "seg2d" and "seg25d": the share of the four pixels nearby that are alike.
    - "layout": the empty room drawn again from the nine numbers alone. "vp": each ray's parts along the room's three
      directions, from the six numbers alone, as red, green and blue.
    - "semseg": one colour for each of `KINDS`. "obj": the solid that was asked for, in a colour of shape and material.
      "scene": one colour for each of `ROOMS`.

    Args:
        rooms: On any device.
        index: Positions of the rooms to be shown.

    Returns:
        "image" and each of `TASKS` except "autoencoder" -> float32 (len(index), 3, 32, 32) in [0, 1].
    """
    shown = rooms.subset(list(index))
    pictures = {"image": _light(shown.x)}
    pictures |= {name: _PICTURES[name](shown).clamp(0, 1) for name in TASKS if name != "autoencoder"}
    return {name: picture.expand(-1, 3, -1, -1) for name, picture in pictures.items()}


def in_pixels(points: Tensor, focal: Tensor, side: int) -> Tensor:
    """Where the camera, of focal lengths (N,), sees points (3, N, ...) of its frame, on images of that side."""
    x, y, z = points
    focal = focal.view(-1, *[1] * (x.ndim - 1))
    return torch.stack([side / 2 * (1 + focal * x / z), side / 2 * (1 - focal * y / z)], -1)


def box_lines(layouts: Tensor, focal: Tensor, side: int, near: float = 0.05) -> Tensor:
    """Twelve edges of the room of labels of "layout", as pairs of pixels, (N, 1, 12, 2, 2).

    What lies nearer than ``near`` metres, or behind the camera, is cut off.
    """
    centre, size, angles = labels.box_of(layouts)
    corners = layouts.new_tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    neighbours = (corners.unsqueeze(1) != corners).sum(2) == 1
    axes = camera_axes(angles) * size.T / 2  # (part, axis of the room, N)
    places = centre.T.unsqueeze(2) + torch.einsum("pan,ca->pnc", axes, corners)
    start, end = (places[:, :, each] for each in neighbours.triu().nonzero().T)
    front, back = torch.where(start[2] < end[2], end, start), torch.where(start[2] < end[2], start, end)
    share = ((front[2] - near) / (front[2] - back[2]).clamp(min=1e-6)).clamp(0, 1)
    ends = in_pixels(torch.stack([front, front + share * (back - front)], 3), focal, side)
    return torch.where((front[2] <= near)[..., None, None], -9.0, ends).unsqueeze(1)


def direction_arrows(vps: Tensor, focal: Tensor, side: int, metres: float = 1.0) -> Tensor:
    """Right, up and ahead of labels of "vp", seen 1.8 m ahead, as pairs of pixels, (N, 3, 1, 2, 2)."""
    directions = labels.directions_of(vps).permute(1, 2, 0)  # (part, N, axis)
    start = directions.new_tensor([-0.2, -0.7, 1.8]).view(3, 1, 1).expand_as(directions)
    ends = torch.stack([start, start + metres * directions], 3)
    return in_pixels(ends, focal, side).unsqueeze(2)


def _light(x: Tensor) -> Tensor:
    """Bring [-1, 1] to [0, 1]."""
    return (x + 1) / 2


def _colours(classes: Tensor) -> Tensor:
    """Give each class its colour: int64 (N, H, W) to (N, 3, H, W)."""
    palette = torch.tensor(PALETTE, device=classes.device)
    return palette[classes].movedim(-1, 1)


def _layout(rooms: RoomSet) -> Tensor:
    """Cast the rays again into the empty room that the label describes."""
    centre, size, angles = labels.box_of(rooms.labels("layout"))
    axes = camera_axes(angles).unsqueeze(3)
    ray = camera_rays(rooms.scenes.focal, rooms.shape[1])
    size = size.T.unsqueeze(2)
    _, _, surface = meet_room(size, size / 2 - in_room(centre.T.unsqueeze(2), axes), in_room(ray, axes))
    return _colours(surface.view_as(rooms.surface))


def _vp(rooms: RoomSet) -> Tensor:
    directions = labels.directions_of(rooms.labels("vp")).unsqueeze(3)
    ray = camera_rays(rooms.scenes.focal, rooms.shape[1])
    parts = torch.stack([dot(ray, direction) for direction in directions], 1).abs()
    return (parts / dot(ray, ray).sqrt().unsqueeze(1)).view(len(rooms), *rooms.shape)


def _obj(rooms: RoomSet) -> Tensor:
    """Colour the solids that are as the label says, on a darkened image."""
    wanted = rooms.labels("obj")
    kinds = len(MATERIALS) * rooms.scenes.shape + rooms.scenes.material
    kinds = torch.cat([torch.full_like(kinds[:, :1], -1).expand(-1, ROOM), kinds], 1)
    found = kinds.gather(1, rooms.surface.flatten(1).long()).view_as(rooms.surface) == wanted.view(-1, 1, 1)
    colours = _colours(wanted.view(-1, 1, 1).expand_as(rooms.surface))
    return torch.where(found.unsqueeze(1), colours, _light(labels.grey(rooms.x)) / 2)


_PICTURES: dict[str, Callable[[RoomSet], Tensor]] = {
    "denoise": lambda rooms: _light(inputs("denoise", rooms.x, run.generator(rooms.device, NOISE_SEED))),
    "inpaint": lambda rooms: _light(inputs("inpaint", rooms.x)),
    "color": lambda rooms: 0.5 + functional.pad(rooms.labels("color"), (0, 0, 0, 0, 0, 1))[:, [0, 2, 1]] / 2,
    "edge2d": lambda rooms: rooms.labels("edge2d") / 2,
    "kp2d": lambda rooms: rooms.labels("kp2d") / 2,
    "seg2d": lambda rooms: rooms.labels("seg2d").mean(1, keepdim=True),
    "edge3d": lambda rooms: rooms.labels("edge3d") / (3 * labels.LARGEST_JUMP),
    "depth": lambda rooms: (rooms.labels("depth") + 2) / 4,
    "normals": lambda rooms: _light(rooms.labels("normals")),
    "reshade": lambda rooms: rooms.labels("reshade") / 3 + 0.4,
    "seg25d": lambda rooms: rooms.labels("seg25d").mean(1, keepdim=True),
    "layout": _layout,
    "vp": _vp,
    "semseg": lambda rooms: _colours(rooms.labels("semseg")),
    "obj": _obj,
    "scene": lambda rooms: _colours(rooms.labels("scene").view(-1, 1, 1).expand_as(rooms.surface)),
}
