"""Scenes of BoxRooms-32: a box room, its paint, one light, a camera and one to four solids, as tensors.

Lengths are in metres, angles in radians. In the room, x goes right along its width, y up along its height and z ahead
along its depth; a camera that is not turned looks along z. Every number of the description of the world stands here,
and so does what it leaves open:

- A box stands on the square in the circle of its radius, so that all solids fit into an upright cylinder.
- Solids are moved inside the room, at least `CLEARANCE` ahead of the camera and below `TOP` of the height (the light
  hangs above them); the first one is moved into the camera's horizontal field of view. They may run into each other.
- The light hangs between .15 and .85 of the width and, lest most solids be seen from their dark side, between .2 and .6
  of the depth. It is as bright far away as nearby.
- The four walls share one paint; floor, walls and ceiling have each pattern equally often. A frequency counts the cells
  of a pattern per metre. Ceilings have a value of at least .85, hues of solids a jitter of .1.
- Saturations, tints and the mix of shapes of each kind of room are those below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.image_set import Rows
from reuselib.worlds.rooms.draws import Draws, keys

ROOMS = ("chamber", "corridor", "closet", "hall", "study", "lounge")
SIZES = ((5, 2.6, 5), (3.2, 2.6, 8), (3.5, 2.5, 3.5), (7, 3.4, 7), (5, 2.8, 6), (6, 3.0, 5))  # width, height, depth
SHAPES = ("sphere", "box", "cylinder", "cone")
MATERIALS = ("matte", "striped")
# How likely each shape is in each kind of room: each kind has its two favourites.
FAVOURITES = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3))
MIX = [[0.4 if shape == most else 0.3 if shape == next_ else 0.15 for shape in range(4)] for most, next_ in FAVOURITES]
# Hue of the walls of each kind of room: rooms of like proportions have like tints, so that grey images tell of colour.
TINTS = (0.14, 0.7, 0.0, 0.5, 0.34, 0.24)
HUES = (0.0, 0.25, 0.5, 0.75)  # of each shape
WARM = 0.08  # orange: a floor's hue is half-way from the tint to it
JITTER, SOLID_JITTER = 0.08, 0.1  # of hues
SATURATION = {"floor": 0.35, "ceiling": 0.06, "wall": 0.3, "solid": 0.6}
VALUE, CEILING_VALUE = (0.45, 1.0), (0.85, 1.0)
PATTERNS = ("plain", "checker", "stripes", "noise", "bands")  # solids have bands, the others are of rooms
FREQUENCY, BANDS = (0.5, 1.8), 4.0  # cells per metre
SOLID_FREQUENCY = (2.0, 4.0)  # of the patterns of solids in close-ups
GREY = 0.7
TONE = (0.45, 0.8)  # albedo of the second tone, of the first one's
SOLIDS = 4
SURFACES = ("floor", "ceiling", "left wall", "right wall", "near wall", "far wall", *SOLIDS * ("solid",))
CLEARANCE, TOP = 0.4, 0.9
IN_VIEW = 0.6  # largest angle between the camera's direction and the first solid's


Set = TypeVar("Set", bound=Rows)


def joined(parts: Sequence[Set]) -> Set:
    """Put sets one after the other; names and the like are those of the first."""
    each = [part._parts() for part in parts]
    rows = {name: [part[name] for part in each] for name in each[0]}
    found = {name: torch.cat(some) if isinstance(some[0], Tensor) else joined(some) for name, some in rows.items()}
    return replace(parts[0], **found)


@dataclass(frozen=True, eq=False)
class Scenes(Rows):
    """N scenes. All tensors are on one device: float32, or what is said.

    Attributes:
        key: int64, (N,): decides the hash of patterns and the noise of images.
        kind: Position in `ROOMS`, int64, (N,).
        size: Width, height and depth of the room, (N, 3).
        camera: Its place, (N, 3).
        angles: Yaw (to the right), pitch (downwards) and roll of the camera, (N, 3).
        focal: Of an image plane [-1, 1]^2, (N,).
        light: Its place, (N, 3).
        present: Which solids are there, bool, (N, 4).
        shape: Position in `SHAPES`, int64, (N, 4).
        material: Position in `MATERIALS`, int64, (N, 4).
        base: Middle of each solid's underside (a sphere's lowest point), (N, 4, 3).
        radius: (N, 4).
        height: (N, 4); of a sphere its diameter.
        turn: About the upright axis, (N, 4).
        colour: Albedo of each of `SURFACES`, RGB in [0, 1], (N, 10, 3).
        pattern: Position in `PATTERNS`, int64, (N, 10).
        frequency: Cells of the pattern per metre, (N, 10).
        tone: Factor of the second tone's albedo, (N, 10).
    """

    key: Tensor
    kind: Tensor
    size: Tensor
    camera: Tensor
    angles: Tensor
    focal: Tensor
    light: Tensor
    present: Tensor
    shape: Tensor
    material: Tensor
    base: Tensor
    radius: Tensor
    height: Tensor
    turn: Tensor
    colour: Tensor
    pattern: Tensor
    frequency: Tensor
    tone: Tensor

    @classmethod
    def sample(cls, count: int, seed: int = 0, device: torch.device | str | None = None, start: int = 0) -> Scenes:
        """Draw rooms: scene `i` depends on the seed and `i` alone.

        They are drawn on the CPU in float64, so that they are the same on every device.

        Args:
            count: How many.
            seed: Of all draws.
            device: Where they go; None for the CPU.
            start: Number of the first scene.
        """
        draw = Draws(keys(seed, _numbers(count, seed, start)))
        room = _room(draw, draw.integer(len(ROOMS)))
        solids = _solids(draw, room["size"], torch.tensor(MIX, dtype=torch.float64)[room["kind"]])
        solids["base"] = _placed(solids, room)
        return cls(**_float32(room | solids | _paint(draw, room["kind"], solids))).to(device or "cpu")

    @classmethod
    def closeups(
        cls, count: int, seed: int = 0, device: torch.device | str | None = None, start: int = 0, textured: bool = True
    ) -> Scenes:
        """Draw rooms with a single solid 1.7 to 2.8 m from the camera, which looks at it; the class is its shape.

        Every four scenes in a row show the four shapes. The camera misses the solid's middle by up to .15 (yaw) and .1
        (pitch) and rolls as in rooms; a room too small for the distance is made larger. Textured: hues of the
        solid and of the room tell nothing of the shape, and the solid bears the patterns of rooms. Else every
        surface is of one grey.

        Args:
            count: How many.
            seed: Of all draws.
            device: Where they go; None for the CPU.
            start: Number of the first scene.
            textured: Whether surfaces have colours and patterns.
        """
        index = _numbers(count, seed, start)
        draw = Draws(keys(seed, index))
        room = _room(draw, draw.integer(len(ROOMS)))
        solids = _solids(draw, room["size"], torch.full((count, len(SHAPES)), 1 / len(SHAPES), dtype=torch.float64))
        order = Draws(keys(~seed, index // len(SHAPES))).uniform(0, 1, len(SHAPES)).argsort(1)
        solids["shape"] = order.gather(1, (index % len(SHAPES)).unsqueeze(1)).expand(-1, SOLIDS).clone()
        solids["height"] = torch.where(solids["shape"] == 0, 2 * solids["radius"], solids["height"])
        solids["present"] = (torch.arange(SOLIDS) == 0).expand(count, -1).clone()
        room, solids = _looked_at(draw, room, solids)
        paint = _paint(draw, room["kind"], solids)
        paint = _recoloured(draw, paint) if textured else _grey(paint)
        return cls(**_float32(room | solids | paint)).to(device or "cpu")


Parts = dict[str, Tensor]


def _numbers(count: int, seed: int, start: int) -> Tensor:
    """Return the numbers of the scenes; BadValue if there is none, or the seed is none."""
    checks.whole(count=count)
    checks.whole(0, checks.SEEDS, seed=seed, start=start)
    return torch.arange(start, start + count)


def _float32(parts: Parts) -> dict[str, Any]:
    return {name: part.float() if part.is_floating_point() else part for name, part in parts.items()}


def _room(draw: Draws, kind: Tensor) -> Parts:
    """Draw size, camera and light of rooms of these kinds."""
    size = torch.tensor(SIZES, dtype=torch.float64)[kind] * draw.uniform(0.85, 1.2, 3)
    place = [draw.uniform(0.3, 0.7), draw.uniform(0.4, 0.65), draw.uniform(0.08, 0.25)]
    angles = [draw.uniform(-0.6, 0.6), draw.uniform(-0.05, 0.35), draw.uniform(-0.12, 0.12)]
    focal = draw.uniform(0.75, 1.05)
    across, ahead = draw.uniform(0.15, 0.85), draw.uniform(0.2, 0.6)
    light = torch.stack([across, torch.full_like(across, 0.95), ahead], 1)
    return {
        "key": draw.keys,
        "kind": kind,
        "size": size,
        "camera": size * torch.stack(place, 1),
        "angles": torch.stack(angles, 1),
        "focal": focal,
        "light": size * light,
    }


def _solids(draw: Draws, size: Tensor, mix: Tensor) -> Parts:
    """Draw four solids, the first one to four of which are there; `base` is not yet where they fit."""
    there = torch.arange(SOLIDS) <= draw.integer(SOLIDS).unsqueeze(1)
    shape = draw.weighted(mix, SOLIDS)
    radius, height = draw.uniform(0.45, 0.9, SOLIDS), draw.uniform(0.7, 1.6, SOLIDS)
    lifted = draw.uniform(0, 1, SOLIDS) < 0.25
    place = [draw.uniform(0.15, 0.85, SOLIDS), draw.uniform(0, 0.8, SOLIDS) * lifted, draw.uniform(0.4, 0.9, SOLIDS)]
    scale = torch.stack([size[:, 0], torch.ones(len(size)), size[:, 2]], 1)
    return {
        "present": there,
        "shape": shape,
        "material": draw.integer(len(MATERIALS), SOLIDS),
        "base": torch.stack(place, 2) * scale.unsqueeze(1),
        "radius": radius,
        "height": torch.where(shape == 0, 2 * radius, height),
        "turn": draw.uniform(0, math.pi, SOLIDS),
    }


def _placed(solids: Parts, room: Parts) -> Tensor:
    """Move the solids' bases into the room, away from the camera, below the light, and the first one into view."""
    (x, y, z), radius = solids["base"].unbind(2), solids["radius"]
    width, height, depth = room["size"].unsqueeze(2).unbind(1)
    right, _, ahead = room["camera"].unsqueeze(2).unbind(1)
    z = torch.maximum(torch.minimum(z, depth - radius), ahead + CLEARANCE + radius)
    low, high = ((room["angles"][:, :1] + side * IN_VIEW).clamp(-1.2, 1.2).tan() for side in (-1, 1))
    seen = torch.minimum(torch.maximum(x, right + (z - ahead) * low), right + (z - ahead) * high)
    x = torch.where(torch.arange(SOLIDS) == 0, seen, x)
    x = torch.maximum(torch.minimum(x, width - radius), radius)
    y = torch.minimum(y, TOP * height - solids["height"])
    return torch.stack([x, y, z], 2)


def _looked_at(draw: Draws, room: Parts, solids: Parts) -> tuple[Parts, Parts]:
    """Put the first solid 1.7 to 2.8 m from the camera, inside the room, and turn the camera to it."""
    distance, bearing = draw.uniform(1.7, 2.8, 1), draw.uniform(-0.4, 0.4, 1)
    miss_right, miss_down = draw.uniform(-0.15, 0.15, 1), draw.uniform(-0.1, 0.1, 1)
    width, height, depth = room["size"].unsqueeze(2).unbind(1)
    right, up, ahead = room["camera"].unsqueeze(2).unbind(1)
    radius = solids["radius"]
    x = torch.maximum(torch.minimum(right + distance * bearing.sin(), width - radius), radius)
    y = torch.minimum(solids["base"][:, :, 1], TOP * height - solids["height"])
    z = ahead + (distance**2 - (x - right) ** 2).sqrt()
    depth = torch.maximum(depth, (z + radius)[:, :1] + CLEARANCE)
    yaw = torch.atan2(x - right, z - ahead)[:, :1] + miss_right
    pitch = torch.atan2(up - y - solids["height"] / 2, distance)[:, :1] + miss_down
    angles = torch.cat([yaw, pitch, room["angles"][:, 2:]], 1)
    size = torch.cat([width, height, depth], 1)
    return room | {"size": size, "angles": angles}, solids | {"base": torch.stack([x, y, z], 2)}


def _paint(draw: Draws, kind: Tensor, solids: Parts) -> Parts:
    """Draw colours and patterns of all ten surfaces."""
    tint = torch.tensor(TINTS, dtype=torch.float64)[kind]
    warmer = ((WARM - tint + 0.5) % 1 - 0.5) / 2
    hues = torch.stack([tint + warmer, tint, tint], 1) + draw.uniform(-JITTER, JITTER, 3)
    solid_hues = torch.tensor(HUES, dtype=torch.float64)[solids["shape"]]
    solid_hues = solid_hues + draw.uniform(-SOLID_JITTER, SOLID_JITTER, SOLIDS)
    values = draw.uniform(*VALUE, 2 + SOLIDS)
    values = torch.cat([values[:, :1], draw.uniform(*CEILING_VALUE, 1), values[:, 1:]], 1)
    saturation = torch.tensor([SATURATION[name] for name in ("floor", "ceiling", "wall", *SOLIDS * ("solid",))])
    colours = rgb(torch.cat([hues, solid_hues], 1), saturation.double().expand_as(values), values)
    bands = PATTERNS.index("bands") * solids["material"]
    pattern = torch.cat([draw.integer(len(PATTERNS) - 1, 3), bands], 1)
    frequency = torch.cat([draw.uniform(*FREQUENCY, 3), torch.full_like(solid_hues, BANDS)], 1)
    tone = draw.uniform(*TONE, 3 + SOLIDS)
    walls = torch.tensor([0, 1, 2, 2, 2, 2, 3, 4, 5, 6])
    parts = {"colour": colours, "pattern": pattern, "frequency": frequency, "tone": tone}
    return {name: part[:, walls] for name, part in parts.items()}


def _recoloured(draw: Draws, paint: Parts) -> Parts:
    """Draw hues that tell nothing of shape and kind of room, one for all walls, and patterns for the solids."""
    hue = draw.uniform(0, 1, len(SURFACES))
    hue[:, 2:6] = hue[:, 2:3]
    value = paint["colour"].amax(2)
    saturation = 1 - paint["colour"].amin(2) / value
    drawn = draw.integer(len(PATTERNS), SOLIDS)
    cells = torch.where(drawn == PATTERNS.index("bands"), BANDS, draw.uniform(*SOLID_FREQUENCY, SOLIDS))
    pattern = torch.cat([paint["pattern"][:, :-SOLIDS], drawn], 1)
    frequency = torch.cat([paint["frequency"][:, :-SOLIDS], cells], 1)
    return paint | {"colour": rgb(hue, saturation, value), "pattern": pattern, "frequency": frequency}


def _grey(paint: Parts) -> Parts:
    """Give every surface one plain grey."""
    return paint | {"colour": torch.full_like(paint["colour"], GREY), "pattern": torch.zeros_like(paint["pattern"])}


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Turn hue (1 is once round), saturation and value into red, green and blue in [0, 1], last dimension 3."""
    place = (hue.unsqueeze(-1) * 6 + torch.tensor([5, 3, 1], dtype=hue.dtype)) % 6
    share = torch.minimum(place, 4 - place).clamp(0, 1)
    return value.unsqueeze(-1) * (1 - saturation.unsqueeze(-1) * share)
