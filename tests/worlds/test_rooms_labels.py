"""Every label of the rooms: against slow formulas, against the scene, and by what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reuselib.errors import ShapeMismatch, UnknownName
from reuselib.worlds.rooms import GROUPS, KINDS, MATERIALS, TASKS, RoomSet, Scenes, labels, losses, rooms, task
from reuselib.worlds.rooms.render import ROOM, camera_axes, camera_rays, dot, render
from reuselib.worlds.rooms.room_set import stream

OFFSETS = ((0, 3), (3, 0), (3, 3), (3, -3))
RANGES = {
    **dict.fromkeys(("autoencoder", "denoise", "inpaint"), (-1, 1)),
    **dict.fromkeys(("seg2d", "seg25d"), (0, 1)),
    **dict.fromkeys(("layout", "vp"), (-5, 5)),
    **{"color": (-2, 2), "edge2d": (0, 2.9), "kp2d": (0, 6), "edge3d": (0, 1.5), "depth": (-3, 2.5)},
    **{"normals": (-1.001, 1.001), "reshade": (-1.2, 1.8)},
}


@pytest.fixture(scope="module")
def world() -> RoomSet:
    return rooms("probes", 40, seed=7)


def x_of(world: RoomSet) -> Tensor:
    return world.normalised(world.images.images)


def inside(row: int, column: int) -> tuple[int, int]:
    return min(max(row, 0), 31), min(max(column, 0), 31)


def test_the_tasks_are_those_of_the_description() -> None:
    assert GROUPS == ("2D", "3D", "geometric", "semantic")
    assert {group: [t.name for t in TASKS.values() if t.group == group] for group in GROUPS} == {
        "2D": ["autoencoder", "denoise", "inpaint", "color", "edge2d", "kp2d", "seg2d"],
        "3D": ["edge3d", "depth", "normals", "reshade", "seg25d"],
        "geometric": ["layout", "vp"],
        "semantic": ["semseg", "obj", "scene"],
    }
    assert len(TASKS) == 17 and all(t.text and t.name == name for name, t in TASKS.items())
    assert [t.name for t in TASKS.values() if t.source_only] == ["inpaint", "color"]
    by_loss = {loss: {t.name for t in TASKS.values() if t.loss == loss} for loss in ("l2", "bce", "ce")}
    assert by_loss == {"l2": {"edge3d", "layout", "vp"}, "bce": {"seg2d", "seg25d"}, "ce": {"semseg", "obj", "scene"}}
    assert not task("vp").dense and task("depth").dense
    with pytest.raises(UnknownName, match="unknown task 'depht'. Did you mean 'depth'"):
        task("depht")


def test_labels_have_their_shape_are_finite_and_in_range(world: RoomSet) -> None:
    for name, asked in TASKS.items():
        found = world.labels(name)
        if asked.loss == "ce":
            assert found.dtype == torch.int64 and found.shape == (len(world), *asked.shape[1:]), name
            assert 0 <= found.min() and found.max() < asked.shape[0] and len(found.unique()) > asked.shape[0] / 2
        else:
            low, high = RANGES[name]
            assert found.dtype == torch.float32 and found.shape == (len(world), *asked.shape), name
            assert low <= found.min() and found.max() <= high and found.std() > 0.05, name
    for name in ("autoencoder", "denoise", "inpaint"):
        assert torch.allclose(world.labels(name), world.images.images / 127.5 - 1, atol=1e-6)
    assert torch.equal(world.labels("normals"), world.normal)
    assert torch.equal(world.labels("scene"), world.scenes.kind) and torch.equal(world.images.labels, world.scenes.kind)


# ---- of the image


def test_color_is_twice_the_difference_of_channels(world: RoomSet) -> None:
    red, green, blue = (world.images.images.float() / 255).unbind(1)
    assert torch.allclose(world.labels("color"), torch.stack([2 * (red - green), 2 * (blue - green)], 1), atol=1e-5)
    assert (labels.color(torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)) == 0).all()


def test_edge2d_by_hand(world: RoomSet) -> None:
    x, found = x_of(world)[:2].double(), world.labels("edge2d")
    grey = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for row, column in ((0, 0), (5, 31), (31, 12), (14, 15), (20, 8)):
        up, down, left, right = (inside(row + a, column + b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)))
        for n in range(2):
            across, along = (grey[n][right] - grey[n][left]) / 2, (grey[n][down] - grey[n][up]) / 2
            assert found[n, 0, row, column].item() == pytest.approx(2 * (across**2 + along**2).sqrt().item(), abs=1e-5)


def test_kp2d_is_at_corners_and_neither_on_edges_nor_on_flat_ground() -> None:
    image = torch.full((1, 3, 32, 32), -0.5)
    image[..., 10:, 12:] = 0.5
    found = labels.kp2d(image)[0, 0]
    assert found.max() == found[8:12, 10:14].max() > 0.5
    assert (found[16:, 10:14] == 0).all() and (found[8:12, 20:] == 0).all() and (found[:6] == 0).all()
    assert torch.allclose(labels.kp2d(image.mT).mT[0, 0], found, atol=1e-6)


def test_kp2d_by_hand(world: RoomSet) -> None:
    x, found = x_of(world)[:1].double(), world.labels("kp2d")[0, 0]
    right, down = (part[0, 0] for part in labels.gradient(x))
    for row, column in ((0, 0), (7, 9), (16, 20), (31, 31), (25, 3)):
        window = [inside(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        m = sum(torch.stack([right[p], down[p]]).outer(torch.stack([right[p], down[p]])) for p in window) / 9
        response = torch.linalg.det(m) - 0.05 * m.trace() ** 2
        assert found[row, column].item() == pytest.approx(6 * max(response.item(), 0) ** (1 / 3), abs=2e-3)


# ---- of the surfaces


@pytest.mark.parametrize("name, ids", [("seg2d", "segment"), ("seg25d", "surface")])
def test_segmentation_agrees_with_the_ids(world: RoomSet, name: str, ids: str) -> None:
    found, ids = world.labels(name), getattr(world, ids)
    for channel, (down, right) in enumerate(OFFSETS):
        for row in range(32):
            for column in range(0, 32, 5):
                other = ids[(slice(None), *inside(row + down, column + right))]
                assert torch.equal(found[:, channel, row, column], (other == ids[:, row, column]).float())


def test_edge3d_by_hand(world: RoomSet) -> None:
    found = world.labels("edge3d")
    logs, surface = world.depth.double().log(), world.surface
    for n in range(4):
        for row in range(0, 32, 3):
            for column in range(0, 32, 3):
                jumps = [0.0]
                for place in {inside(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)}:
                    jump = abs((logs[n][place] - logs[n, row, column]).item())
                    if surface[n][place] != surface[n, row, column] and jump > 0.04:
                        jumps.append(jump)
                assert found[n, 0, row, column].item() == pytest.approx(3 * min(max(jumps), 0.5), abs=1e-4)


def test_depth_and_reshade_are_their_formulas(world: RoomSet) -> None:
    assert torch.allclose(world.labels("depth")[:, 0], (world.depth.log() - 0.8) / 0.7, atol=1e-6)
    ray = camera_rays(world.scenes.focal, 32).view(3, -1, 32, 32)
    unit = functional.normalize(ray, dim=0)
    distance = (ray * world.depth).norm(dim=0)
    expected = 3 * ((-(unit * world.normal.transpose(0, 1)).sum(0)).clamp(min=0) / (1 + 0.08 * distance**2) - 0.4)
    assert torch.allclose(world.labels("reshade")[:, 0], expected, atol=1e-5)


def test_reshade_knows_neither_light_nor_paint() -> None:
    scenes = Scenes.sample(4, seed=1)
    first = render(scenes)
    other = render(replace(scenes, light=scenes.camera, colour=scenes.colour.flip(1), key=scenes.key + 1))
    one, two = (labels.reshade(hits.depth, hits.normal, scenes.focal) for hits in (first, other))
    assert torch.equal(one, two) and not torch.equal(first.images, other.images)


# ---- of the room


def test_the_cameras_angles_come_back_from_vp(world: RoomSet) -> None:
    yaw, pitch, roll = world.scenes.angles.unbind(1)
    values = world.labels("vp") * torch.tensor(labels.VP_STD) + torch.tensor(labels.VP_MEAN)
    _, _, across, ahead, *_ = values.unbind(1)
    assert torch.allclose((-ahead).asin(), pitch, atol=1e-4)
    assert torch.allclose((across / pitch.cos()).asin(), roll, atol=1e-4)
    assert torch.allclose((values[:, 1] / pitch.cos()).asin(), yaw, atol=1e-4)
    directions = labels.directions_of(world.labels("vp"))
    expected = camera_axes(world.scenes.angles).transpose(0, 1)
    assert torch.allclose(directions, expected, atol=1e-3)


def test_vp_points_to_where_parallel_lines_meet(world: RoomSet) -> None:
    """Points ever farther along the room's depth are seen ever nearer to the projection of that direction."""
    ahead = labels.directions_of(world.labels("vp"))[2]
    axes = camera_axes(world.scenes.angles)
    far = torch.tensor([0.3, -0.4, 1e6]).view(3, 1)
    right, up, along = (dot(axis, far) for axis in axes)
    assert torch.allclose(right / along, ahead[0] / ahead[2], atol=1e-3)
    assert torch.allclose(up / along, ahead[1] / ahead[2], atol=1e-3)


def test_the_layouts_box_holds_every_point_and_touches_the_outermost(world: RoomSet) -> None:
    """From the nine numbers alone, and depth: all points are within half the size of the centre, along its axes."""
    centre, size, angles = labels.box_of(world.labels("layout"))
    points = camera_rays(world.scenes.focal, 32) * world.depth.flatten(1) - centre.T.unsqueeze(2)
    axes = camera_axes(angles).transpose(0, 1).unsqueeze(3)
    for axis, reach in zip(axes, size.T.unsqueeze(2) / 2, strict=True):
        beyond = dot(points, axis).abs() - reach
        assert beyond.max() < 1e-3
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
    for values in (labels.layout(scenes), labels.vp(scenes)):
        assert values.mean(0).abs().max() < 2e-3 and (values.std(0) - 1).abs().max() < 2e-3


# ---- of what is in it


def test_semseg_parts_the_image(world: RoomSet) -> None:
    kinds = world.labels("semseg")
    shares = torch.stack([(kinds == kind).float() for kind in range(len(KINDS))])
    assert torch.equal(shares.sum(0), torch.ones_like(shares[0])) and (shares.mean((1, 2, 3)) > 0.005).all()
    for surface in range(ROOM):
        assert (kinds[world.surface == surface] == min(surface, 2)).all()
    assert (kinds[world.surface >= ROOM] > 2).all()
    floor = shares[0].nonzero()[:, 1].float().mean()
    assert floor > 18 and shares[1].nonzero()[:, 1].float().mean() < 12, "floors are below, ceilings above"


def test_obj_is_the_solid_with_most_pixels(world: RoomSet) -> None:
    found = world.labels("obj")
    for n in range(len(world)):
        pixels = [(world.surface[n] == ROOM + solid).sum().item() for solid in range(4)]
        solid = pixels.index(max(pixels))
        shape, material = world.scenes.shape[n, solid], world.scenes.material[n, solid]
        assert max(pixels) and found[n] == len(MATERIALS) * shape + material


def test_obj_takes_the_first_of_equals_and_where_none_is_seen() -> None:
    shape, material = torch.tensor([[3, 0, 1, 2]] * 2), torch.tensor([[1, 0, 0, 1]] * 2)
    surface = torch.zeros(2, 4, 4, dtype=torch.uint8)
    surface[1, :2], surface[1, 2:] = ROOM + 3, ROOM + 1
    assert labels.obj(surface, shape, material).tolist() == [7, 0]


def test_nearly_every_room_shows_a_solid() -> None:
    world = rooms("test", 300)
    pixels = (world.surface >= ROOM).flatten(1).sum(1)
    assert (pixels == 0).sum() <= 1 and (pixels < 8).float().mean() < 0.02 and 0.08 < pixels.float().mean() / 1024 < 0.3


# ---- losses


def test_losses_are_means_over_each_image(world: RoomSet) -> None:
    kinds = {"l1": functional.l1_loss, "l2": functional.mse_loss, "ce": functional.cross_entropy}
    kinds["bce"] = functional.binary_cross_entropy_with_logits
    for name, asked in TASKS.items():
        truth, answers = world.subset(slice(5)).labels(name), torch.randn(5, *asked.shape)
        each = [kinds[asked.loss](answers[n : n + 1], truth[n : n + 1]) for n in range(5)]
        assert torch.allclose(losses(name, answers, truth), torch.stack(each), rtol=1e-5), name
        assert losses(name, answers.to("meta"), truth.to("meta")).is_meta


def test_losses_refuse_other_shapes() -> None:
    with pytest.raises(ShapeMismatch, match=r"depth takes answers \(B, \*\(1, 32, 32\)\)"):
        losses("depth", torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32))
    with pytest.raises(ShapeMismatch, match="semseg"):
        losses("semseg", torch.zeros(2, 7, 32, 32), torch.zeros(2, 7, 32, 32))
