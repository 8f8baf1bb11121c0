"""The renderer of the rooms against geometry: what it says of each pixel is what a slow look at the scene finds.

That everything is drawn as ever, checksums of the images hold.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reuselib.worlds.rooms import SHAPES, Scenes
from reuselib.worlds.rooms.render import ROOM, Hits, camera_axes, camera_rays, dot, in_room, render
from reuselib.worlds.rooms.scene import SOLIDS, SURFACES

COUNT = 24


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.sample(COUNT, seed=11)


@pytest.fixture(scope="module")
def hits(scenes: Scenes) -> Hits:
    return render(scenes, noise=0)


def rays(scenes: Scenes, size: int = 32) -> Tensor:
    """Directions in the camera's frame, (3, N, size, size)."""
    return camera_rays(scenes.focal, size).view(3, -1, size, size)


def seen(scenes: Scenes, hits: Hits) -> Tensor:
    """Return the points that are seen, in the room's frame, (3, N, P)."""
    place = (rays(scenes, hits.depth.shape[1]) * hits.depth).flatten(2)
    return scenes.camera.T.unsqueeze(2) + in_room(place, camera_axes(scenes.angles).unsqueeze(3))


def depth_inside(scenes: Scenes, points: Tensor) -> Tensor:
    """Return how deep points (3, N, P) are inside each solid, (N, SOLIDS, P): below 0 outside, in metres or a bound."""
    x, y, z = (points.unsqueeze(2) - scenes.base.permute(2, 0, 1).unsqueeze(3)).unbind(0)
    sin, cos = scenes.turn.sin().unsqueeze(2), scenes.turn.cos().unsqueeze(2)
    x, z = cos * x - sin * z, sin * x + cos * z
    radius, height, shape = (v.unsqueeze(2) for v in (scenes.radius, scenes.height, scenes.shape))
    ends, round_ = torch.minimum(y, height - y), (x * x + z * z).sqrt()
    inside = {
        "sphere": radius - (x * x + (y - radius) ** 2 + z * z).sqrt(),
        "box": torch.minimum(radius / 2**0.5 - torch.maximum(x.abs(), z.abs()), ends),
        "cylinder": torch.minimum(radius - round_, ends),
        "cone": torch.minimum(radius * (1 - y / height) - round_, y),
    }
    chosen = torch.stack([inside[name] for name in SHAPES]).gather(0, shape.expand_as(y)[None])[0]
    return torch.where(scenes.present.unsqueeze(2), chosen, -9.0)


def beyond(scenes: Scenes, points: Tensor) -> Tensor:
    """Return how far points (3, N, P) are from each of `SURFACES`, (N, 10, P): below 0 inside of walls and solids."""
    (x, y, z), (width, height, depth) = points.unbind(0), scenes.size.T.unsqueeze(2).unbind(0)
    walls = torch.stack([y, height - y, x, width - x, z, depth - z], 1)
    return torch.cat([walls, -depth_inside(scenes, points)], 1)


def in_rooms_frame(scenes: Scenes, hits: Hits) -> Tensor:
    """Return the normals in the room's frame, (3, N, P)."""
    return in_room(hits.normal.transpose(0, 1).flatten(2), camera_axes(scenes.angles).unsqueeze(3))


# ---- the scene


def test_solids_fit_into_the_room_away_from_the_camera() -> None:
    scenes = Scenes.sample(2000, seed=1)
    assert scenes.present[:, 0].all() and scenes.present.sum(1).bincount()[1:].min() > 400
    radius, (width, height, depth) = scenes.radius, scenes.size.unsqueeze(2).unbind(1)
    x, y, z = scenes.base.unbind(2)
    assert (x - radius).min() > -1e-5 and (width - x - radius).min() > -1e-5 and (depth - z - radius).min() > -1e-5
    assert (y >= 0).all() and (0.9 * height - y - scenes.height).min() > -1e-5
    assert (z - radius - scenes.camera[:, 2:]).min() > 0.4 - 1e-5, "no solid near the camera"


# ---- the renderer


@pytest.mark.gpu
def test_a_gpu_gives_the_same_images() -> None:
    here, there = Scenes.sample(64), Scenes.sample(64, device="cuda")
    assert all(torch.equal(getattr(here, f.name), getattr(there, f.name).cpu()) for f in fields(Scenes))
    same = render(here).images == render(there).images.cpu()
    assert same.float().mean() > 0.999


def test_the_camera_axes_are_a_frame_and_turn_as_said() -> None:
    axes = camera_axes(torch.tensor([[0.4, 0.2, -0.1], [0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.3, 0.0], [0, 0, 0.1]]))
    frame = axes.permute(2, 0, 1)
    assert torch.allclose(frame @ frame.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6)
    assert torch.equal(frame[1], torch.eye(3))
    assert frame[2, 2, 0] > 0.2 and frame[3, 2, 1] < -0.2 and frame[4, 0, 1] > 0.05, "right, down, right side up"


def test_every_point_is_on_its_surface_and_the_normal_leads_away_from_it(scenes: Scenes, hits: Hits) -> None:
    points, surface = seen(scenes, hits).requires_grad_(), hits.surface.flatten(1).long()
    away = beyond(scenes, points)
    assert away.min() > -1e-3, "no point is beyond a wall or inside a solid"
    own = away.gather(1, surface.unsqueeze(1))
    assert own.abs().max() < 1e-3
    assert all((surface == solid).any() for solid in range(ROOM + SOLIDS) if SURFACES[solid] != "near wall")
    (slope,) = torch.autograd.grad(own.sum(), points)
    cosine = dot(functional.normalize(slope, dim=0), in_rooms_frame(scenes, hits))
    assert (cosine > 0.9999).float().mean() > 0.998, "but for points on an edge of a solid, which has two normals"
    assert torch.allclose(hits.normal.norm(dim=1), torch.ones_like(hits.depth), atol=1e-5)
    assert (dot(hits.normal.transpose(0, 1), rays(scenes)) < 1e-3).all(), "they face the camera"


def test_nothing_stands_between_the_camera_and_what_it_sees(scenes: Scenes, hits: Hits) -> None:
    points, camera = seen(scenes, hits), scenes.camera.T.unsqueeze(2)
    for share in torch.linspace(0.02, 0.98, 40).tolist():
        assert depth_inside(scenes, torch.lerp(camera, points, share)).max() < 1e-3


def test_shadows_are_where_a_solid_stands_before_the_light(scenes: Scenes, hits: Hits) -> None:
    points, light, normals = seen(scenes, hits), scenes.light.T.unsqueeze(2), in_rooms_frame(scenes, hits)
    facing = dot(normals, light - points) > 1e-3
    start, lit = points + 2e-3 * normals, hits.lit.flatten(1)
    shares = torch.linspace(0, 1, 150).tolist()
    deepest = torch.stack([depth_inside(scenes, torch.lerp(start, light, share)).amax(1) for share in shares]).amax(0)
    shadow = facing & ~lit
    assert shadow.float().mean() > 0.02 and lit.float().mean() > 0.5
    assert not lit[dot(normals, light - points) < -1e-3].any()
    assert deepest[lit].max() < 5e-3, "lit: nothing stands in the way"
    assert (deepest[shadow] > -0.02).all() and (deepest[shadow] > 0).float().mean() > 0.98, "shadow: something does"


def test_light_and_paint_make_the_image_and_a_segment_is_a_surface_in_one_tone(scenes: Scenes, hits: Hits) -> None:
    ray = functional.normalize(scenes.light.T.unsqueeze(2) - seen(scenes, hits), dim=0)
    cosine = dot(in_rooms_frame(scenes, hits), ray).clamp(min=0).view_as(hits.depth)
    expected = 0.35 + 0.65 * torch.where(hits.lit, cosine, 0.0)
    assert (hits.shading - expected).abs().max() < 0.02 and (hits.shading - expected).abs().mean() < 1e-3
    assert torch.allclose(hits.rgb, hits.albedo * hits.shading.unsqueeze(1))
    without = render(scenes, noise=0, shadows=False)
    cast = without.lit & ~hits.lit
    assert not (hits.lit & ~without.lit).any() and torch.equal(without.rgb.amin(1) > hits.rgb.amin(1), cast)
    surface, tone = hits.surface.flatten(1).long(), (hits.segment % 2).flatten(1).bool()
    assert torch.equal(hits.segment // 2, hits.surface)
    assert not tone[(scenes.pattern == 0).gather(1, surface)].any(), "plain surfaces have one tone"
    factor = torch.where(tone, scenes.tone.gather(1, surface), 1.0).view_as(hits.depth).unsqueeze(1)
    colour = scenes.colour.permute(2, 0, 1).gather(2, surface.expand(3, -1, -1)).transpose(0, 1)
    assert torch.allclose(hits.albedo, colour.view_as(hits.albedo) * factor)
