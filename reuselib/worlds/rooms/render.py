"""The renderer of BoxRooms-32: a ray through the middle of each pixel, met with room and solids in closed form.

Vectors are tensors whose first dimension is 3, so that a component is contiguous; rays of N scenes and P pixels are
(3, N, P). A ray's direction is 1 long along the camera's axis: its parameter is then the depth itself. Everything is
elementwise or a gather, without a host sync, and so the same for a scene in any batch.

A sphere, an upright cylinder and an upright cone are one quadric, x^2 + z^2 + a y^2 + b y + c = 0 for y from 0 to the
height, in a frame whose origin is the middle of the underside; a box and the flat ends are met axis by axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.image_set import Rows
from reuselib.worlds.rooms.draws import GOLDEN, mixed, normal
from reuselib.worlds.rooms.scene import PATTERNS, SHAPES, SOLIDS, SURFACES, Scenes, joined

AMBIENT = 0.35  # light that reaches every place
NOISE = 0.01  # standard deviation, of images in [0, 1]
CURVED = 3  # the face of a hit that is on no plane; 0, 1 and 2 are planes across that axis
OFFSET = 1e-3  # metres between a surface and the start of its ray to the light
NEAREST = 1e-4  # least parameter of a hit
KINDS = ("floor", "ceiling", "wall", *SHAPES)
ROOM = len(SURFACES) - SOLIDS  # the first surfaces are the room's, the solids follow


@dataclass(frozen=True, eq=False)
class Hits(Rows):
    """What each pixel's ray meets first. Images are (N, H, W), float32 or what is said.

    Attributes:
        depth: Along the camera's axis, in metres.
        normal: Of the surface, facing the camera, unit length, in the camera's frame (right, up, ahead), (N, 3, H, W).
        surface: Position in `scene.SURFACES`, uint8.
        kind: Position in `KINDS`, uint8.
        segment: Twice the surface, plus 1 on the second tone of its pattern, uint8.
        albedo: RGB in [0, 1], (N, 3, H, W).
        lit: Whether the light reaches the place, bool.
        shading: Of light that falls there, in [0, 1].
        rgb: The image before it is rounded, in [0, 1], (N, 3, H, W): albedo x shading, and noise.
    """

    depth: Tensor
    normal: Tensor
    surface: Tensor
    kind: Tensor
    segment: Tensor
    albedo: Tensor
    lit: Tensor
    shading: Tensor
    rgb: Tensor

    @property
    def images(self) -> Tensor:
        """The images, uint8 (N, 3, H, W)."""
        return self.rgb.mul(255).round().byte()


def render(scenes: Scenes, size: int = 32, shadows: bool = True, noise: float = NOISE) -> Hits:
    """Render scenes.

    Args:
        scenes: On any device, `meta` too.
        size: Height and width in pixels.
        shadows: Whether solids keep the light from what is behind them.
        noise: Standard deviation of the image noise.

    Raises:
        BadValue: If the size is below 1, or the noise below 0.
    """
    checks.whole(size=size)
    checks.number(noise=noise)
    chunk = max(1, (2**13 if scenes.device.type == "cpu" else 2**20) // size**2)  # for caches and memory
    starts = range(0, len(scenes), chunk)
    return joined([_render(scenes[start : start + chunk], size, shadows, noise) for start in starts])


def camera_rays(focal: Tensor, size: int) -> Tensor:
    """Return the directions of the rays in the camera's frame, (3, N, size^2), row after row from the upper left.

    Args:
        focal: (N,).
        size: Height and width in pixels.
    """
    places = (torch.arange(size, device=focal.device) + 0.5) * (2 / size) - 1
    right = (places.repeat(size) / focal.unsqueeze(1)).expand(len(focal), -1)
    up = (-places.repeat_interleave(size) / focal.unsqueeze(1)).expand(len(focal), -1)
    return torch.stack([right, up, torch.ones_like(up)])


def camera_axes(angles: Tensor) -> Tensor:
    """Return the camera's directions right, up and ahead in the room's frame: (3, 3, N), the axis first.

    Args:
        angles: Yaw, pitch (downwards) and roll, (N, 3).
    """
    sin_yaw, sin_pitch, sin_roll = angles.sin().unbind(1)
    cos_yaw, cos_pitch, cos_roll = angles.cos().unbind(1)
    ahead = torch.stack([sin_yaw * cos_pitch, -sin_pitch, cos_yaw * cos_pitch])
    level = torch.stack([cos_yaw, torch.zeros_like(sin_yaw), -sin_yaw])
    upright = torch.stack([sin_yaw * sin_pitch, cos_pitch, cos_yaw * sin_pitch])
    return torch.stack([cos_roll * level + sin_roll * upright, cos_roll * upright - sin_roll * level, ahead])


def in_room(vectors: Tensor, axes: Tensor) -> Tensor:
    """Turn vectors (3, N, P) of the camera's frame into the room's, by `camera_axes` as (3, 3, N, 1)."""
    return vectors[0] * axes[0] + vectors[1] * axes[1] + vectors[2] * axes[2]


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner products of vectors (3, ...)."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


def quadric(shape: Tensor, radius: Tensor, height: Tensor) -> Tensor:
    """Return a, b and c of x^2 + z^2 + a y^2 + b y + c = 0, stacked; a box's are its cylinder's.

    Args:
        shape: Position in `SHAPES`, any shape.
        radius: Of the same shape.
        height: Of the same shape.
    """
    sphere, cone = shape == SHAPES.index("sphere"), shape == SHAPES.index("cone")
    slope, none = radius / height, torch.zeros_like(radius)
    first = torch.where(sphere, 1.0, torch.where(cone, -slope * slope, none))
    second = torch.where(sphere, -2 * radius, torch.where(cone, 2 * slope * radius, none))
    return torch.stack([first, second, torch.where(sphere, none, -radius * radius)])


def _turned(vectors: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn vectors (3, ...) about the upright axis."""
    x, y, z = vectors.unbind(0)
    x, z = cos * x - sin * z, sin * x + cos * z
    return torch.stack([x, y.expand_as(x), z])


def _meet_solids(scenes: Scenes, start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Meet rays that start outside of every solid.

    Args:
        scenes: N scenes.
        start: In the room's frame, (3, N, 1) or (3, N, P).
        ray: (3, N, P).

    Returns:
        The parameter at which each ray enters each solid, inf where it does not, and the face that it enters,
        (N, SOLIDS, P).
    """
    sin, cos = (value.unsqueeze(2) for value in (scenes.turn.sin(), scenes.turn.cos()))
    place = _turned(start.unsqueeze(2) - scenes.base.permute(2, 0, 1).unsqueeze(3), sin, cos)
    ray = _turned(ray.unsqueeze(2), sin, cos)
    radius, height = scenes.radius.unsqueeze(2), scenes.height.unsqueeze(2)
    box = (scenes.shape == SHAPES.index("box")).unsqueeze(2)
    flat, axis = _meet_box(place, ray, radius * math.sqrt(0.5), height)
    shape = quadric(scenes.shape, scenes.radius, scenes.height).unsqueeze(3)
    curved, face = _meet_quadric(place, ray, shape, height)
    found = torch.where(box, flat, curved)
    return torch.where(scenes.present.unsqueeze(2), found, math.inf), torch.where(box, axis, face)


def _meet_box(place: Tensor, ray: Tensor, half: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Meet a box of the given half width and height: the slab method."""
    inverse = 1 / torch.where(ray.abs() < 1e-9, 1e-9, ray)
    middle = torch.stack([place[0], place[1] - height / 2, place[2]]) * inverse
    reach = inverse.abs() * torch.stack([half, height / 2, half])
    into, out = -middle - reach, -middle + reach
    enters = torch.maximum(torch.maximum(into[0], into[1]), into[2])
    leaves = torch.minimum(torch.minimum(out[0], out[1]), out[2])
    axis = torch.where(into[0] == enters, 0, torch.where(into[1] == enters, 1, 2))
    first = torch.where(enters > NEAREST, enters, leaves)
    return torch.where((enters < leaves) & (first > NEAREST), first, math.inf), axis


def _meet_quadric(place: Tensor, ray: Tensor, shape: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Meet the part of a quadric between its flat ends, and the end that the ray sees."""
    (x, y, z), (right, up, ahead), (first, second, last) = place.unbind(0), ray.unbind(0), shape.unbind(0)
    square = right * right + ahead * ahead + first * up * up
    half = x * right + z * ahead + (first * y + second / 2) * up
    rest = x * x + z * z + (first * y + second) * y + last
    root = half * half - square * rest
    # The two roots as q / square and rest / q: no difference of nearly equal numbers.
    q = -half - torch.where(half < 0, -1.0, 1.0) * root.clamp(min=0).sqrt()
    found = torch.full_like(q, math.inf)
    for side in (q / square, rest / q):
        level = y + side * up
        valid = (root > 0) & (side > NEAREST) & (level >= 0) & (level <= height)
        found = torch.where(valid, torch.minimum(found, side), found)
    level = torch.where(up > 0, 0.0, height)
    end = (level - y) / torch.where(up.abs() < 1e-9, 1e-9, up)
    outside = (x + end * right) ** 2 + (z + end * ahead) ** 2 + (first * level + second) * level + last
    end = torch.where((outside < 0) & (end > NEAREST), end, math.inf)
    return torch.minimum(found, end), torch.where(end < found, 1, CURVED)


def meet_room(size: Tensor, start: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Meet the room from within: the parameter, the axis across which the wall stands, and the surface, (N, P)."""
    ahead = ray > 0
    found = torch.where(ahead, size - start, start) / ray.abs()
    x, y, z = found.unbind(0)
    nearest = torch.minimum(torch.minimum(x, y), z)
    face = torch.where(x == nearest, 0, torch.where(y == nearest, 1, 2))
    surface = torch.where(face == 0, 2 + ahead[0].long(), torch.where(face == 1, ahead[1].long(), 4 + ahead[2].long()))
    return nearest, face, surface


def _render(scenes: Scenes, size: int, shadows: bool, noise: float) -> Hits:
    """Render one chunk."""
    ray = camera_rays(scenes.focal, size)
    axes = camera_axes(scenes.angles).unsqueeze(3)
    world = in_room(ray, axes)
    camera = scenes.camera.T.unsqueeze(2)
    depth, face, surface = _first_hit(scenes, camera, world)
    place = camera + depth * world
    outward, across, along = _local(scenes, surface, face, place, world)
    tone = _tone(scenes, surface, across, along)
    colour = scenes.colour.permute(2, 0, 1).gather(2, surface.expand(3, -1, -1))
    albedo = colour * torch.where(tone, scenes.tone.gather(1, surface), 1.0)
    lit, shading = _light(scenes, place, outward, shadows)
    rgb = (albedo * shading).transpose(0, 1)
    if noise:
        rgb = rgb + noise * normal(scenes.key, 3 * size * size).view_as(rgb)
    image = (len(scenes), size, size)
    return Hits(
        depth=depth.view(image),
        normal=torch.stack([dot(axis, outward) for axis in axes], 1).view(-1, 3, size, size),
        surface=surface.byte().view(image),
        kind=_kind(scenes, surface).byte().view(image),
        segment=(2 * surface + tone).byte().view(image),
        albedo=albedo.transpose(0, 1).reshape(-1, 3, size, size),
        lit=lit.view(image),
        shading=shading.view(image),
        rgb=rgb.clamp(0, 1).reshape(-1, 3, size, size),
    )


def _first_hit(scenes: Scenes, camera: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return depth, face and surface of what the camera sees, (N, P)."""
    depth, face, surface = meet_room(scenes.size.T.unsqueeze(2), camera, ray)
    found, faces = _meet_solids(scenes, camera, ray)
    for solid in range(SOLIDS):
        nearer = found[:, solid] < depth
        depth = torch.where(nearer, found[:, solid], depth)
        face = torch.where(nearer, faces[:, solid], face)
        surface = torch.where(nearer, ROOM + solid, surface)
    return depth, face, surface


def _local(scenes: Scenes, surface: Tensor, face: Tensor, place: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normals in the room's frame, (3, N, P), and the two coordinates of the pattern, (N, P).

    They are worked out in the frame of what was met: a solid's own, the room's for the room.
    """

    def of(value: Tensor) -> Tensor:
        """Return what the surface has: 0 for the room, the value of its solid for a solid."""
        return torch.cat([value.new_zeros(len(value), ROOM), value], 1).gather(1, surface)

    turn, radius = of(scenes.turn), of(scenes.radius)
    sin, cos = turn.sin(), turn.cos()
    place = _turned(place - torch.stack([of(base) for base in scenes.base.unbind(2)]), sin, cos)
    ray = _turned(ray, sin, cos)
    first, second, _ = quadric(scenes.shape, scenes.radius, scenes.height).unbind(0)
    slope = torch.stack([place[0], of(first) * place[1] + of(second) / 2, place[2]])
    slope = slope / dot(slope, slope).sqrt().clamp(min=1e-12)
    flat = torch.stack([torch.where(face == axis, -ray[axis].sign(), 0.0) for axis in range(3)])
    outward = _turned(torch.where(face == CURVED, slope, flat), -sin, cos)
    x, y, z = place.unbind(0)
    across = torch.where(face == 0, z, torch.where(face == CURVED, torch.atan2(z, x) * radius, x))
    return outward, across, torch.where(face == 1, z, y)


def _tone(scenes: Scenes, surface: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Return where the second tone of the pattern is, bool (N, P)."""
    pattern, frequency = scenes.pattern.gather(1, surface), scenes.frequency.gather(1, surface)
    across, along = (across * frequency).floor().long(), (along * frequency).floor().long()
    cell = (surface + 1) * 2**40 + across * 2**20 + along
    hashed = mixed(scenes.key.unsqueeze(1) + cell * GOLDEN)
    bits = (0, across + along, across, hashed >> 32, along)
    tone = torch.zeros_like(surface)
    for number in range(1, len(PATTERNS)):
        tone = torch.where(pattern == number, bits[number], tone)
    return tone & 1 == 1


def _kind(scenes: Scenes, surface: Tensor) -> Tensor:
    """Return the position of each surface in `KINDS`, (N, P): the four walls are alike, and solids of one shape."""
    shape = scenes.shape.gather(1, (surface - ROOM).clamp(min=0))
    return torch.where(surface < ROOM, surface.clamp(max=KINDS.index("wall")), len(KINDS) - len(SHAPES) + shape)


def _light(scenes: Scenes, place: Tensor, outward: Tensor, shadows: bool) -> tuple[Tensor, Tensor]:
    """Return where the light reaches the surface, and Lambert's shading with the ambient light, (N, P)."""
    start = place + OFFSET * outward
    ray = scenes.light.T.unsqueeze(2) - start
    cosine = dot(outward, ray) / dot(ray, ray).sqrt()
    lit = cosine > 0
    if shadows:
        blocked, _ = _meet_solids(scenes, start, ray)
        lit = lit & (blocked.amin(1) > 1)
    return lit, AMBIENT + (1 - AMBIENT) * torch.where(lit, cosine, 0.0)
