"""Every label of the rooms: against slow formulas, against the scene, and by what must hold of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional
from zeroshot_toys import assert_refused

from reuselib.errors import ShapeMismatch, UnknownName
from reuselib.worlds.rooms import KINDS, MATERIALS, SHAPES, RoomSet, Scenes, labels, pictures, rooms
from reuselib.worlds.rooms.render import ROOM, camera_axes, camera_rays, dot, render
from reuselib.worlds.rooms.room_set import stream
from reuselib.worlds.rooms.tasks import TASKS, losses, task

OFFSETS = ((0, 3), (3, 0), (3, 3), (3, -3))


@pytest.fixture(scope="module")
def world() -> RoomSet:
    return rooms("probes", 40, seed=7)


def test_labels_have_the_shapes_and_types_that_the_tasks_say(world: RoomSet) -> None:
    for name, asked in TASKS.items():
        found = world.labels(name)
        if asked.loss == "ce":
            assert found.dtype == torch.int64 and found.shape == (len(world), *asked.shape[1:]), name
            assert 0 <= found.min() and found.max() < asked.shape[0] and len(found.unique()) > asked.shape[0] / 2
        else:
            assert found.dtype == torch.float32 and found.shape == (len(world), *asked.shape), name
            assert found.isfinite().all() and found.std() > 0.05, name
    for name in ("autoencoder", "denoise", "inpaint"):
        assert torch.allclose(world.labels(name), world.images.images / 127.5 - 1, atol=1e-6)
    assert torch.equal(world.labels("normals"), world.normal)
    assert torch.equal(world.labels("scene"), world.scenes.kind) and torch.equal(world.images.labels, world.scenes.kind)


# ---- of the image


def test_labels_of_the_image_are_numpys_and_scipys(world: RoomSet) -> None:
    x = world.x.double().numpy()
    expected = np.stack([x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]], 1)  # x spans 2, so that this is twice the difference
    np.testing.assert_allclose(world.labels("color").numpy(), expected, atol=1e-5)
    grey = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    right, down = (ndimage.correlate1d(grey, [-0.5, 0, 0.5], axis, mode="nearest") for axis in (2, 1))
    np.testing.assert_allclose(world.labels("edge2d")[:, 0].numpy(), 2 * np.sqrt(right**2 + down**2), atol=1e-5)
    a, b, c = (ndimage.uniform_filter(each, (0, 3, 3), mode="nearest") for each in (right**2, down**2, right * down))
    harris = a * b - c**2 - 0.05 * (a + b) ** 2
    np.testing.assert_allclose(world.labels("kp2d")[:, 0].numpy(), 6 * np.cbrt(harris.clip(0)), atol=5e-3)


# ---- of the surfaces


@pytest.mark.parametrize("name, ids", [("seg2d", "segment"), ("seg25d", "surface")])
def test_segmentation_agrees_with_the_ids(world: RoomSet, name: str, ids: str) -> None:
    found, own = world.labels(name).numpy(), getattr(world, ids).numpy()
    padded = np.pad(own, ((0, 0), (3, 3), (3, 3)), mode="edge")
    for channel, (down, right) in enumerate(OFFSETS):
        other = padded[:, 3 + down : 35 + down, 3 + right : 35 + right]
        np.testing.assert_array_equal(found[:, channel], other == own)


def test_edge3d_is_the_largest_jump_to_a_neighbour_on_another_surface(world: RoomSet) -> None:
    logs, ids = (np.pad(each.numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge") for each in (world.depth, world.surface))
    logs, jumps = np.log(logs), [np.zeros(world.depth.shape)]
    for row, column in itertools.product(range(3), range(3)):
        there = slice(None), slice(row, row + 32), slice(column, column + 32)
        jump = np.abs(logs[there] - logs[:, 1:-1, 1:-1])
        jumps.append(np.where((ids[there] != ids[:, 1:-1, 1:-1]) & (jump > 0.04), jump, 0))
    np.testing.assert_allclose(world.labels("edge3d")[:, 0].numpy(), 3 * np.max(jumps, 0).clip(0, 0.5), atol=1e-4)


def test_depth_and_reshade_are_their_formulas_and_know_neither_light_nor_paint(world: RoomSet) -> None:
    assert torch.allclose(world.labels("depth")[:, 0], (world.depth.log() - 0.8) / 0.7, atol=1e-6)
    ray = camera_rays(world.scenes.focal, 32).view(3, -1, 32, 32)
    cosine = -dot(functional.normalize(ray, dim=0), world.normal.transpose(0, 1))
    expected = 3 * (cosine.clamp(min=0) / (1 + 0.08 * (ray * world.depth).square().sum(0)) - 0.4)
    assert torch.allclose(world.labels("reshade")[:, 0], expected, atol=1e-5)
    scenes = world.scenes[:4]
    other = render(replace(scenes, light=scenes.camera, colour=scenes.colour.flip(1), key=scenes.key + 1))
    assert torch.equal(labels.reshade(other.depth, other.normal, scenes.focal), world.labels("reshade")[:4])
    assert not torch.equal(other.images, world.images.images[:4])


# ---- of the room


def test_layout_and_vp_give_the_room_back(world: RoomSet) -> None:
    """From the nine numbers alone, and depth: all points are within half the size of the centre, along its axes."""
    directions = labels.directions_of(world.labels("vp"))
    assert torch.allclose(directions, camera_axes(world.scenes.angles).transpose(0, 1), atol=1e-3)
    centre, size, angles = labels.box_of(world.labels("layout"))
    assert torch.allclose(size, world.scenes.size, atol=1e-3) and torch.allclose(angles, world.scenes.angles, atol=1e-3)
    points = camera_rays(world.scenes.focal, 32) * world.depth.flatten(1) - centre.T.unsqueeze(2)
    axes = camera_axes(angles).transpose(0, 1).unsqueeze(3)
    for axis, reach in zip(axes, size.T.unsqueeze(2) / 2, strict=True):
        assert (dot(points, axis).abs() - reach).max() < 1e-3
    far = dot(points, axes[2]) - size[:, 2:] / 2
    assert (far.amax(1).abs() < 1e-3).float().mean() > 0.7, "the far wall is mostly in sight"


def test_the_constants_are_those_of_the_zoos_rooms() -> None:
    scenes = Scenes.sample(8192, stream("zoo", 0))
    for found, constants in (
        (labels.room_box(scenes), (labels.LAYOUT_STD, labels.LAYOUT_MEAN)),
        (labels.room_directions(scenes), (labels.VP_STD, labels.VP_MEAN)),
    ):
        for value, constant in zip(torch.std_mean(found.double(), 0, correction=0), constants, strict=True):
            assert torch.allclose(value, torch.tensor(constant).double(), atol=6e-5)


def test_the_frame_of_a_room_runs_along_the_borders_of_its_walls(world: RoomSet) -> None:
    focal, lines = world.scenes.focal, pictures.box_lines(world.labels("layout"), world.scenes.focal, 32)
    assert lines.shape == (40, 1, 12, 2, 2)
    start, end = lines.squeeze(1).unbind(2)
    points = torch.cat([start + share * (end - start) for share in torch.linspace(0.1, 0.9, 5)], 1)
    found = [
        set(surface[y - 1 : y + 2, x - 1 : x + 2].flatten().tolist())
        for surface, places in zip(world.surface, points.floor().long().tolist(), strict=True)
        for x, y in places
        if 1 <= min(x, y) and max(x, y) <= 30
    ]
    assert len(found) > 500 and all(len(near) > 1 or max(near) >= ROOM for near in found)
    arrows = pictures.direction_arrows(world.labels("vp"), focal, 32)
    assert arrows.shape == (40, 3, 1, 2, 2) and torch.equal(arrows[:, 0, :, 0], arrows[:, 2, :, 0])  # of one place


# ---- of what is in it


def test_semseg_tells_the_surfaces_kinds_and_obj_the_solid_with_most_pixels(world: RoomSet) -> None:
    kinds, solids = world.labels("semseg"), world.scenes.shape + len(KINDS) - len(SHAPES)
    kind_of = torch.cat([torch.tensor([[0, 1, 2, 2, 2, 2]]).expand(len(world), -1), solids], 1)
    assert torch.equal(kinds.flatten(1), kind_of.gather(1, world.surface.flatten(1).long()))
    for n, found in enumerate(world.labels("obj").tolist()):
        pixels = world.surface[n].flatten().bincount(minlength=ROOM + 4)[ROOM:]
        solid = int(pixels.argmax())
        assert found == len(MATERIALS) * world.scenes.shape[n, solid] + world.scenes.material[n, solid]
    shape, material = torch.tensor([[3, 0, 1, 2]] * 2), torch.tensor([[1, 0, 0, 1]] * 2)
    surface = torch.zeros(2, 4, 4, dtype=torch.uint8)  # no solid is seen; two have as many pixels
    surface[1, :2], surface[1, 2:] = ROOM + 3, ROOM + 1
    assert labels.obj(surface, shape, material).tolist() == [7, 0]


# ---- losses


def test_losses_are_means_over_each_image(world: RoomSet) -> None:
    kinds = {"l1": functional.l1_loss, "l2": functional.mse_loss, "ce": functional.cross_entropy}
    kinds["bce"] = functional.binary_cross_entropy_with_logits
    for name, asked in TASKS.items():
        truth, answers = world.subset(slice(5)).labels(name), torch.randn(5, *asked.shape)
        each = [kinds[asked.loss](answers[n : n + 1], truth[n : n + 1]) for n in range(5)]
        assert torch.allclose(losses(name, answers, truth), torch.stack(each), rtol=1e-5), name
    depths, seven = torch.zeros(2, 1, 32, 32), torch.zeros(2, 7, 32, 32)
    assert_refused(
        (ShapeMismatch, r"depth takes answers \(B, \*\(1, 32, 32\)\)", lambda: losses("depth", seven, depths)),
        (ShapeMismatch, "semseg", lambda: losses("semseg", seven, seven)),
        (UnknownName, "unknown task 'depht'. Did you mean 'depth'", lambda: task("depht")),
    )
