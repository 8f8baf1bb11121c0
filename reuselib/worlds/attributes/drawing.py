"""The renderer of the attribute world: 32x32 pixels, everything elementwise, without a host sync.

Lengths are in pixels; a pixel's middle is at its position plus a half, so that the image reaches from 0 to 32. What the
description of the world leaves open stands here too: the proportions of the shapes, the hues, the ends of the gradient,
and that a texture turns with its object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reuselib import checks
from reuselib.data.image_set import Rows
from reuselib.worlds.attributes.classes import REDRAW
from reuselib.worlds.attributes.factors import NAMES, SIZES
from reuselib.worlds.rooms.draws import Draws, normal

SIZE = 32
COLOURS = (
    (0.90, 0.15, 0.15),
    (0.15, 0.75, 0.20),
    (0.20, 0.35, 0.95),
    (0.95, 0.85, 0.15),
    (0.85, 0.25, 0.85),
    (0.20, 0.85, 0.90),
)
DARK, GREY, GRADIENT = 0.08, 0.55, (0.1, 0.9)  # backgrounds; the gradient from top to bottom
NOISY, SPREAD = 0.3, 0.25  # of the noisy background: middle, and how far it reaches to either side
RADII = (5.0, 8.5)
PAIR, PLACES = 0.75, (9.0, 23.0)  # two objects: their radius, of one's, and how far right they are
SHADE, PERIOD = 0.35, 4  # brightness of the dark cells of a texture, and how long two cells are
# Of the shapes, in radii: half a square; from a triangle's middle to a side; half a diamond, across and along; half a
# cross, and half its arms' width; the middle of a ring, and half its thickness.
SQUARE, TRIANGLE, DIAMOND, CROSS, RING = 0.9, 0.66, (0.6, 1.3), (1.15, 0.28), (0.82, 0.2)
OUTLINE, FRAME = 1.8, 2
FRAMES = ((0.0, 0.0, 0.0), (1.0, 0.55, 0.1), (0.0, 0.35, 0.1))  # of none, orange and green
TILT = math.pi / 4
JITTER, SCALE, COLOUR_JITTER, NOISE = 3.0, (0.9, 1.1), 0.07, 0.06  # from image to image
CHUNK = {"cpu": 64, "other": 4096}  # images at a time, for caches and memory; it changes no pixel
FAR = 1e3  # distance to an object that is not there
GROUND_DRAWS, PIXEL_DRAWS, COLOUR_DRAWS = 1 << 31, 1 << 32, 1 << 33  # where the counters of an image's noise begin


@dataclass(frozen=True, eq=False)
class Scenes(Rows):
    """N images to be rendered, on one device.

    Attributes:
        key: Of the noise, int64, (N,).
        tuples: Position of each factor's value, int64, (N, 9).
        shift: Of a single object from the middle, right and down, float32, (N, 2).
        scale: Of the radius, float32, (N,).
        tint: Added to the colour, float32, (N, 3).
    """

    key: Tensor
    tuples: Tensor
    shift: Tensor
    scale: Tensor
    tint: Tensor

    def value(self, factor: str) -> Tensor:
        """Return the positions of one factor's values, (N, 1, 1)."""
        return self.tuples[:, NAMES.index(factor), None, None]


def sample(tuples: Tensor, keys: Tensor) -> Scenes:
    """Draw images of classes: some factors anew, position, radius and colour around their values.

    Args:
        tuples: Of the class of each image, int64, (N, 9); or (N, 6) of the annotated factors, and then the hidden ones
            are always drawn.
        keys: What each image's draws depend on, int64, (N,).
    """
    draw = Draws(keys)
    anew = torch.stack([draw.integer(size) for size in SIZES], 1)
    kept = draw.uniform(0, 1, len(NAMES)) >= REDRAW
    given = tuples.shape[1]
    tuples = torch.cat([torch.where(kept[:, :given], tuples, anew[:, :given]), anew[:, given:]], 1)
    shift, scale = draw.uniform(-JITTER, JITTER, 2).float(), draw.uniform(*SCALE).float()
    return Scenes(keys, tuples, shift, scale, COLOUR_JITTER * normal(keys, 4, COLOUR_DRAWS)[:, :3])


def plain(tuples: Tensor) -> Scenes:
    """Return images without any instance noise but that of a noisy background: what the values look like."""
    count, device = len(tuples), tuples.device
    none = torch.zeros(count, 2, device=device), torch.ones(count, device=device), torch.zeros(count, 3, device=device)
    return Scenes(torch.arange(count, device=device), tuples, *none)


def render(scenes: Scenes, noise: float = NOISE) -> Tensor:
    """Render images.

    Args:
        scenes: On any device, `meta` too.
        noise: Standard deviation of the pixel noise, of images in [0, 1].

    Returns:
        uint8, (N, 3, 32, 32). An image does not depend on the others.

    Raises:
        BadValue: If the noise is below 0.
    """
    checks.number(noise=noise)
    size = CHUNK.get(scenes.device.type, CHUNK["other"])
    parts = [_render(scenes[start : start + size], noise) for start in range(0, len(scenes), size)]
    return torch.cat(parts).mul(255).round().byte()


def _render(scenes: Scenes, noise: float) -> Tensor:
    """Render one chunk: float32 (N, 3, 32, 32) in [0, 1]."""
    right, down, distance = _objects(scenes)
    rgb = _ground(scenes).unsqueeze(1)
    outlined = (scenes.value("outline") > 0) & (distance > 0) & (distance <= OUTLINE)
    level = (scenes.value("outline") == 1).float()  # white; black else
    rgb = torch.where(outlined.unsqueeze(1), level.unsqueeze(1), rgb)
    rgb = torch.where((distance <= 0).unsqueeze(1), _paint(scenes, right, down), rgb)
    outside = (_places(scenes.device) - SIZE / 2).abs() > SIZE / 2 - FRAME
    framed = (scenes.value("frame") > 0) & (outside | outside.unsqueeze(1))
    rgb = torch.where(framed.unsqueeze(1), _colour(FRAMES, scenes, "frame"), rgb)
    if noise:
        rgb = rgb + noise * normal(scenes.key, 3 * SIZE * SIZE, PIXEL_DRAWS).view(-1, 3, SIZE, SIZE)
    return rgb.clamp(0, 1)


def _colour(table: tuple, scenes: Scenes, factor: str) -> Tensor:
    """Return the entry of a table that each image's value of a factor has, (N, 3, 1, 1)."""
    return torch.tensor(table, device=scenes.device)[scenes.tuples[:, NAMES.index(factor)], :, None, None]


def _places(device: torch.device) -> Tensor:
    """Return the middles of a row of pixels, (32,)."""
    return torch.arange(SIZE, device=device) + 0.5


def _objects(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pixel's place in the frame of the nearer object, right and down, and the distance to it, (N, 32, 32).

    The distance is from the nearest side's line, or the nearest circle: negative inside.
    """
    two, device = scenes.value("count") == 1, scenes.device
    radius = torch.tensor(RADII, device=device)[scenes.value("size")] * scenes.scale[:, None, None]
    radius = torch.where(two, PAIR * radius, radius)
    angle = TILT * scenes.value("tilt")
    sin, cos = angle.sin(), angle.cos()
    middle = SIZE / 2 + scenes.shift[:, :, None, None]
    found = []
    for place in PLACES:
        x = _places(device) - torch.where(two, place, middle[:, 0])
        y = _places(device).unsqueeze(1) - torch.where(two, SIZE / 2, middle[:, 1])
        right, down = cos * x + sin * y, cos * y - sin * x
        found.append((right, down, _distance(scenes.value("shape"), right, down, radius)))
    (right, down, distance), (second_right, second_down, second) = found
    second = torch.where(two, second, FAR)
    nearer = second < distance
    right, down = torch.where(nearer, second_right, right), torch.where(nearer, second_down, down)
    return right, down, torch.minimum(distance, second)


def _distance(shape: Tensor, right: Tensor, down: Tensor, radius: Tensor) -> Tensor:
    """Return the distances to the shape of each image, (N, 32, 32): disc, square, triangle, diamond, cross or ring.

    A triangle is equilateral with its tip up; a diamond is higher than wide, for a turned square is none.
    """
    across, along, round_ = right.abs(), down.abs(), torch.hypot(right, down)
    (wide, high), long, narrow = DIAMOND, CROSS[0] * radius, CROSS[1] * radius
    bars = torch.maximum(across - long, along - narrow), torch.maximum(across - narrow, along - long)
    distance, *others = (
        round_ - radius,
        torch.maximum(across, along) - SQUARE * radius,
        torch.maximum(down, math.sqrt(0.75) * across - down / 2) - TRIANGLE * radius,
        (high * across + wide * along - wide * high * radius) / math.hypot(wide, high),
        torch.minimum(*bars),
        (round_ - RING[0] * radius).abs() - RING[1] * radius,
    )
    for number, other in enumerate(others, 1):
        distance = torch.where(shape == number, other, distance)
    return distance


def _ground(scenes: Scenes) -> Tensor:
    """Return the grey levels of the background, (N, 32, 32)."""
    kind, device = scenes.value("background"), scenes.device
    draw = Draws(scenes.key)
    draw.used = GROUND_DRAWS
    noisy = draw.uniform(NOISY - SPREAD, NOISY + SPREAD, SIZE, SIZE).float()
    top, bottom = GRADIENT
    gradient = (top + (bottom - top) * _places(device) / SIZE).unsqueeze(1)
    return torch.where(kind == 3, noisy, torch.where(kind == 2, gradient, torch.where(kind == 1, GREY, DARK)))


def _paint(scenes: Scenes, right: Tensor, down: Tensor) -> Tensor:
    """Return the colour that an object has at each pixel, (N, 3, 32, 32)."""
    texture = scenes.value("texture")
    across, along = ((place / (PERIOD // 2)).floor().long() & 1 for place in (right, down))
    dark = torch.where(texture == 2, across ^ along, along) == 1
    tone = torch.where((texture > 0) & dark, SHADE, 1.0)
    colour = _colour(COLOURS, scenes, "colour") + scenes.tint[:, :, None, None]
    return colour.clamp(0, 1) * tone.unsqueeze(1)
