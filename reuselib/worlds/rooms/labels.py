"""The labels of BoxRooms-32: one pure function each, of what was rendered or of the image as it was rounded.

`x` is always an image as networks get it: float32 (N, 3, H, W) in [-1, 1], made from uint8. Beyond the border, an image
goes on as its outermost pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from reuselib.data.image_set import GREY_WEIGHTS
from reuselib.worlds.rooms.render import ROOM, camera_axes, camera_rays, dot
from reuselib.worlds.rooms.scene import MATERIALS, SOLIDS, Scenes

HOLE = 12  # pixels a side
NOISE = 0.3  # standard deviation that `denoise` takes away
OFFSETS = ((0, 3), (3, 0), (3, 3), (3, -3))  # rows down and columns to the right
HARRIS = 0.05
JUMP, LARGEST_JUMP = 0.04, 0.5  # of the logarithm of depth

# Mean and standard deviation of `room_box` and `room_directions` over the 8,192 rooms of the split "zoo" with seed 0
# (in float64, rounded to four digits). They are constants: no split has its own.
LAYOUT_MEAN = (-0.0024, 0.2038, 1.8327, 5.036, 2.8791, 5.8808, -0.0035, 0.1487, -0.0003)
LAYOUT_STD = (0.8897, 0.3279, 0.6227, 1.4488, 0.4247, 1.6215, 0.3349, 0.1143, 0.0691)
VP_MEAN = (-0.0004, -0.0035, -0.0003, -0.1487, 0.0034, 0.1397)
VP_STD = (0.0903, 0.329, 0.0679, 0.1143, 0.3343, 0.11)


def grey(x: Tensor) -> Tensor:
    """Return the luma of images (N, 3, H, W): (N, 1, H, W)."""
    red, green, blue = GREY_WEIGHTS
    return (red * x[:, 0] + green * x[:, 1] + blue * x[:, 2]).unsqueeze(1)


# ---- of the image


def color(x: Tensor) -> Tensor:
    """Return 2 (R - G) and 2 (B - G), of channels in [0, 1]: (N, 2, H, W)."""
    red, green, blue = x.unbind(1)
    return torch.stack([red - green, blue - green], 1)


def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the central differences of the luma, to the right and downwards, each (N, 1, H, W)."""
    padded = functional.pad(grey(x), (1, 1, 1, 1), mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    return right, (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2


def edge2d(x: Tensor) -> Tensor:
    """Return twice the length of the luma's gradient, (N, 1, H, W)."""
    right, down = gradient(x)
    return 2 * (right * right + down * down).sqrt()


def kp2d(x: Tensor) -> Tensor:
    """Return six times the cube root of the positive Harris response, (N, 1, H, W).

    The response is det(M) - .05 trace(M)^2, of the mean M of the gradient's outer product over 3x3 pixels.
    """
    right, down = gradient(x)
    products = functional.pad(torch.cat([right * right, down * down, right * down], 1), (1, 1, 1, 1), mode="replicate")
    first, second, mixed = functional.avg_pool2d(products, 3, 1).split(1, 1)
    response = first * second - mixed * mixed - HARRIS * (first + second) ** 2
    return 6 * response.clamp(min=0).pow(1 / 3)


# ---- of what was rendered


def alike(ids: Tensor) -> Tensor:
    """Return whether the pixels at the four `OFFSETS` have the pixel's own id, float32 (N, 4, H, W).

    Of segments this is the label of `seg2d`, of surfaces that of `seg25d`.

    Args:
        ids: (N, H, W).
    """
    rows, columns = (torch.arange(length, device=ids.device) for length in ids.shape[1:])
    below = [(rows + down).clamp(max=len(rows) - 1) for down, _ in OFFSETS]
    beside = [(columns + right).clamp(0, len(columns) - 1) for _, right in OFFSETS]
    others = [ids[:, row][:, :, column] for row, column in zip(below, beside, strict=True)]
    return (torch.stack(others, 1) == ids.unsqueeze(1)).float()


def edge3d(depth: Tensor, surface: Tensor) -> Tensor:
    """Return three times the largest jump of log depth to one of 8 neighbours on another surface, (N, 1, H, W).

    Jumps of up to .04 count as none, larger ones than .5 as .5.

    Args:
        depth: (N, H, W).
        surface: (N, H, W).
    """
    height, width = depth.shape[1:]
    logs = functional.pad(depth.log().unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    ids = functional.pad(surface.float().unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    own, here = logs[:, :, 1:-1, 1:-1], ids[:, :, 1:-1, 1:-1]
    largest = torch.zeros_like(own)
    for down in range(3):
        for right in range(3):
            window = (..., slice(down, down + height), slice(right, right + width))
            jump = (logs[window] - own).abs()
            largest = torch.maximum(largest, torch.where((ids[window] != here) & (jump > JUMP), jump, 0.0))
    return 3 * largest.clamp(max=LARGEST_JUMP)


def log_depth(depth: Tensor) -> Tensor:
    """Return (log z - .8) / .7, (N, 1, H, W), of depths (N, H, W)."""
    return (depth.log() - 0.8).unsqueeze(1) / 0.7


def reshade(depth: Tensor, normal: Tensor, focal: Tensor) -> Tensor:
    """Return 3 (max(0, -n.ray) / (1 + .08 d^2) - .4), (N, 1, H, W): a light at the camera, one albedo for all.

    Args:
        depth: (N, H, W).
        normal: In the camera's frame, (N, 3, H, W).
        focal: (N,).
    """
    ray = camera_rays(focal, depth.shape[-1]).view(3, *depth.shape)
    length = dot(ray, ray).sqrt()
    cosine = -dot(ray, normal.transpose(0, 1)) / length
    return 3 * (cosine.clamp(min=0) / (1 + 0.08 * (depth * length) ** 2) - 0.4).unsqueeze(1)


def obj(surface: Tensor, shape: Tensor, material: Tensor) -> Tensor:
    """Return shape x material of the solid with most pixels, int64 (N,): 2 x shape + material.

    Of several with as many pixels it is the first; where none is to be seen, it is the first solid.

    Args:
        surface: (N, H, W).
        shape: (N, 4).
        material: (N, 4).
    """
    pixels = torch.stack([(surface == ROOM + solid).flatten(1).sum(1) for solid in range(SOLIDS)], 1)
    order = torch.arange(SOLIDS - 1, -1, -1, device=surface.device)
    largest = (pixels * SOLIDS + order).argmax(1, keepdim=True)
    return (len(MATERIALS) * shape + material).gather(1, largest).squeeze(1)


def room_box(scenes: Scenes) -> Tensor:
    """Return the room's centre in the camera's frame, its width, height and depth, and the sines of yaw, pitch, roll.

    Returns:
        (N, 9), in metres and without a unit.
    """
    axes = camera_axes(scenes.angles)
    centre = (scenes.size / 2 - scenes.camera).T
    return torch.cat([torch.stack([dot(axis, centre) for axis in axes], 1), scenes.size, scenes.angles.sin()], 1)


def room_directions(scenes: Scenes) -> Tensor:
    """Return where the room's axes point in the camera's frame, (N, 6).

    Of the axis to the right the parts up and ahead, of the upright one those right and ahead, of the one ahead those
    right and up: the part that is left out follows from length 1, and is positive.
    """
    right, up, ahead = camera_axes(scenes.angles).unbind(0)
    return torch.stack([up[0], ahead[0], right[1], ahead[1], right[2], up[2]], 1)


def layout(scenes: Scenes) -> Tensor:
    """Return `room_box`, standardised, (N, 9)."""
    return _standardised(room_box(scenes), LAYOUT_MEAN, LAYOUT_STD)


def vp(scenes: Scenes) -> Tensor:
    """Return `room_directions`, standardised, (N, 6)."""
    return _standardised(room_directions(scenes), VP_MEAN, VP_STD)


def _standardised(values: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (values - values.new_tensor(mean)) / values.new_tensor(std)


def box_of(layouts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre, size and the camera's angles from labels of `layout`, (N, 3) each: its inverse."""
    values = layouts * layouts.new_tensor(LAYOUT_STD) + layouts.new_tensor(LAYOUT_MEAN)
    return values[:, :3], values[:, 3:6], values[:, 6:].clamp(-1, 1).asin()


def directions_of(vps: Tensor) -> Tensor:
    """Return the room's axes in the camera's frame from labels of `vp`, (axis, part, N), each of length 1."""
    values = vps * vps.new_tensor(VP_STD) + vps.new_tensor(VP_MEAN)
    pairs = values.T.reshape(3, 2, -1)
    rest = (1 - pairs.square().sum(1)).clamp(min=0).sqrt()
    (up, ahead), (right, along), (across, above) = pairs.unbind(0)
    parts = [[rest[0], up, ahead], [right, rest[1], along], [across, above, rest[2]]]
    return torch.stack([torch.stack(axis) for axis in parts])


# ---- what a network is given


def with_noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return images with normal noise of standard deviation .3, not clipped."""
    return x + NOISE * torch.randn(x.shape, generator=generator, device=x.device)


def with_hole(x: Tensor) -> Tensor:
    """Return images whose middle 12x12 pixels are 0, which is grey."""
    rows, columns = ((torch.arange(length, device=x.device) - (length - 1) / 2).abs() for length in x.shape[2:])
    inside = (rows.unsqueeze(1) < HOLE / 2) & (columns < HOLE / 2)
    return torch.where(inside, 0.0, x)


def without_color(x: Tensor) -> Tensor:
    """Return the luma three times, (N, 3, H, W)."""
    return grey(x).expand(-1, 3, -1, -1)
