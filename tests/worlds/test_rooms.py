"""Sets of rooms: splits, inputs, the tools of image sets; the probes from elsewhere; close-ups; the gallery."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from reuselib.data import ImageSet
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName
from reuselib.report import figures
from reuselib.worlds import rooms as world
from reuselib.worlds.rooms import (
    SHAPES,
    SPLITS,
    TASKS,
    RoomSet,
    Scenes,
    closeups,
    collage,
    gallery,
    inputs,
    noise,
    rooms,
)
from reuselib.worlds.rooms.render import NOISE, render
from reuselib.worlds.rooms.room_set import MOST_STREAMS, STREAMS, stream


@pytest.fixture(scope="module")
def few() -> RoomSet:
    return rooms("probes", 24)


# ---- splits


def test_splits_have_their_sizes_and_images() -> None:
    assert SPLITS == {"zoo": 8192, "transfer": 1024, "test": 512, "probes": 256}
    probes = rooms("probes")
    assert len(probes) == 256 and probes.shape == (3, 32, 32) and probes.images.images.dtype == torch.uint8
    assert probes.images.mean == probes.images.std == (0.5, 0.5, 0.5) and probes.images.classes == world.ROOMS
    assert repr(probes) == "RoomSet('rooms_probes', 256 x (3, 32, 32), 17 tasks, cpu)"
    assert -1 <= probes.x.min() < -0.8 and 0.8 < probes.x.max() <= 1


def test_no_two_splits_share_a_scene() -> None:
    used = [stream(name, seed) for name in STREAMS for seed in range(4)]
    assert len(set(used)) == len(used) and len(STREAMS) <= MOST_STREAMS
    keys = [Scenes.sample(count, stream(split, seed)).key for split, count in SPLITS.items() for seed in range(3)]
    assert len(torch.cat(keys).unique()) == 3 * sum(SPLITS.values())


def test_a_room_depends_on_split_seed_and_place_alone(few: RoomSet) -> None:
    again, other, elsewhere = rooms("probes", 5), rooms("probes", 5, seed=1), rooms("test", 5)
    for name in TASKS:
        assert torch.equal(again.labels(name), few.labels(name)[:5]), name
    assert torch.equal(again.images.images, few.images.images[:5])
    for one in (other, elsewhere):
        assert not (one.images.images == again.images.images).flatten(1).all(1).any()
    assert rooms("probes", 24) is few, "rendered once"


def test_parts_of_a_long_set_fit_together(monkeypatch: pytest.MonkeyPatch, few: RoomSet) -> None:
    from reuselib.worlds.rooms import room_set

    monkeypatch.setattr(room_set, "CHUNK", 7)
    parts = room_set._rooms.__wrapped__("probes", 24, stream("probes", 0), torch.device("cpu"))
    assert torch.equal(parts.images.images, few.images.images)
    for name in TASKS:
        assert torch.equal(parts.labels(name), few.labels(name)), name


def test_it_is_made_on_another_device() -> None:
    there = rooms("probes", 4, device="meta")
    assert there.device.type == "meta" and all(there.labels(name).is_meta for name in TASKS)
    assert inputs("denoise", there.x).is_meta


def test_unknown_names_and_counts() -> None:
    with pytest.raises(UnknownName, match="unknown split of rooms 'tset'. Did you mean 'test'"):
        rooms("tset")
    for name, value in (("count", 0), ("count", -3), ("count", 2.5), ("seed", -1), ("seed", 0.5), ("seed", 2**62)):
        for draw in (partial(rooms, "test"), collage, noise, partial(closeups, "real", "train")):
            with pytest.raises(BadValue, match=f"{name} must be a whole number"):
                draw(**{"count": 2} | {name: value})
    bad = {"count": 0}, {"count": 2, "seed": -1}, {"count": 2, "start": 0.5}
    for sample, options in itertools.product((Scenes.sample, Scenes.closeups), bad):
        with pytest.raises(BadValue, match="must be a whole number"):
            sample(**options)
    for options in ({"size": 0}, {"noise": -1.0}, {"chunk": -1}):
        with pytest.raises(BadValue, match="must be"):
            render(Scenes.sample(2), **options)
    with pytest.raises(UnknownName, match="unknown task 'edges'"):
        rooms("probes", 24).labels("edges")


# ---- the tools of a set


def test_subsets_are_of_everything(few: RoomSet) -> None:
    place = torch.tensor([3, 1, 8])
    part = few.subset(place)
    for name in TASKS:
        assert torch.equal(part.labels(name), few.labels(name)[place]), name
    assert torch.equal(part.scenes.key, few.scenes.key[place]) and len(few.take(12, 0).scenes.key.unique()) == 12
    assert len(part) == len(part.scenes) == 3 and few.to("meta").labels("depth").is_meta


# ---- inputs


def test_what_networks_are_given(few: RoomSet) -> None:
    x = few.x
    assert all(inputs(name, x) is x for name in set(TASKS) - {"denoise", "inpaint", "color"})
    first, again, other = (inputs("denoise", x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs((first - x).std() - 0.3) < 0.005 and abs((first - x).mean()) < 0.005
    with pytest.raises(ReuseError, match="denoise draws noise: pass a torch.Generator"):
        inputs("denoise", x)
    kept = torch.ones(32, 32)
    kept[10:22, 10:22] = 0
    assert torch.equal(inputs("inpaint", x), x * kept)
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    assert torch.allclose(inputs("color", x), grey.expand_as(x), atol=1e-6)


def test_inputs_refuse_what_is_not_normalised(few: RoomSet) -> None:
    for images in (few.images.images, few.x[:, :1]):
        with pytest.raises(ShapeMismatch, match="use normalised"):
            inputs("inpaint", images)


# ---- probes from elsewhere


@pytest.mark.parametrize("draw", [collage, noise])
def test_probes_from_elsewhere(draw: object) -> None:
    images = draw(30, seed=2)
    assert isinstance(images, ImageSet) and images.shape == (3, 32, 32) and images.mean == images.std == (0.5,) * 3
    assert images.classes == ("unlabelled",) and (images.labels == 0).all()
    assert torch.equal(draw(9, seed=2).images, images.images[:9]), "image i is the same for any count"
    assert not torch.equal(draw(9, seed=3).images, images.images[:9])
    assert len(draw(1)) == 1 and len(draw()) == 256 and draw(2, device="meta").images.is_meta


def test_noise_is_uniform_and_collages_are_flat_with_upright_edges() -> None:
    counts = noise(64).images.flatten().bincount(minlength=256) / (64 * 12)
    assert len(counts) == 256 and (counts - 1).abs().max() < 0.2
    images = collage(64).images.float() / 255
    across = (images[..., 1:] - images[..., :-1]).abs().amax(1) > 10 * NOISE
    assert 0.02 < across.float().mean() < 0.3, "most neighbours are of one rectangle"
    assert ((images[..., 1:] - images[..., :-1]).amax(1)[~across]).std() < 3 * NOISE
    same = (across[:, 1:] & across[:, :-1]).sum() / across[:, :-1].sum()
    assert same > 0.8, "an edge to the right goes on downwards"


# ---- close-ups


@pytest.mark.parametrize("domain", world.DOMAINS)
def test_closeups_are_images_with_four_classes(domain: str) -> None:
    images = closeups(domain, "train", 40)
    assert images.classes == SHAPES and images.shape == (3, 32, 32) and images.labels.bincount().tolist() == [10] * 4
    assert images.labels.view(-1, 4).sort(1).values.tolist() == [[0, 1, 2, 3]] * 10
    assert len(images.labels.view(-1, 4).unique(dim=0)) > 3, "in random order"
    assert torch.equal(closeups(domain, "train", 6).images, images.images[:6])
    for other in (closeups(domain, "test", 6), closeups(domain, "train", 6, seed=1)):
        assert not (other.images == images.images[:6]).flatten(1).all(1).any()


def test_a_close_up_is_one_solid_1_7_to_2_8_metres_ahead() -> None:
    scenes = Scenes.closeups(400, seed=3)
    assert (scenes.present.sum(1) == 1).all() and scenes.present[:, 0].all()
    x, _, z = (scenes.base[:, 0] - scenes.camera).unbind(1)
    distance = (x**2 + z**2).sqrt()
    assert 1.7 - 1e-4 <= distance.min() < 1.75 and 2.75 < distance.max() <= 2.8 + 1e-4
    bearing = torch.atan2(x, z) - scenes.angles[:, 0]
    assert bearing.abs().max() <= 0.15 + 1e-4
    radius, (width, height, depth) = scenes.radius[:, 0], scenes.size.unbind(1)
    x, y, z = scenes.base[:, 0].unbind(1)
    assert (x - radius).min() > -1e-5 and (width - x - radius).min() > -1e-5 and (depth - z - radius).min() > 0
    assert (0.9 * height - y - scenes.height[:, 0]).min() > -1e-5
    sphere = scenes.shape[:, 0] == 0
    assert torch.equal(scenes.height[sphere, 0], 2 * scenes.radius[sphere, 0])
    pixels = (render(scenes[:100]).surface == 6).flatten(1).sum(1)
    assert pixels.min() > 10


@pytest.mark.parametrize("real", [False, True])
def test_domains_differ_in_texture_shadow_noise_and_hue(real: bool) -> None:
    domain = world.DOMAINS[real]
    images, scenes = closeups(domain, "test", 8), Scenes.closeups(8, stream(f"{domain} test", 0), textured=real)
    hits = render(scenes, shadows=real, noise=NOISE if real else 0)
    assert torch.equal(hits.images, images.images) and torch.equal(scenes.shape[:, 0], images.labels)
    assert (len(hits.albedo.unique()) > 1) == (hits.segment % 2 == 1).any() == real
    if not real:
        assert torch.equal(images.images, images.images[:, :1].expand(-1, 3, -1, -1)), "it is grey"
        return
    many = Scenes.closeups(4000, seed=1)
    for colour in (many.colour[:, 6], many.colour[:, 2]):  # of the solid and of the walls
        means = torch.stack([colour[many.shape[:, 0] == shape].mean(0) for shape in range(4)])
        assert (means - means.mean(0)).abs().max() < 0.03, "hues tell nothing of the shape"
    assert many.pattern[:, 6].bincount().min() > 600


def test_closeups_refuse_unknown_names() -> None:
    with pytest.raises(UnknownName, match="unknown domain 'reel'. Did you mean 'real'"):
        closeups("reel", "train", 4)
    with pytest.raises(UnknownName, match="unknown split of close-ups 'zoo'"):
        closeups("real", "zoo", 4)


# ---- the gallery


def test_the_gallery_shows_every_label(few: RoomSet) -> None:
    pictures = gallery(few, [3, 0, 5])
    assert list(pictures) == ["image", *(name for name in TASKS if name != "autoencoder")]
    for name, picture in pictures.items():
        assert picture.shape == (3, 3, 32, 32) and picture.dtype == torch.float32, name
        assert 0 <= picture.min() and picture.max() <= 1 and torch.isfinite(picture).all(), name
        assert picture.std() > 0.02, name
    assert torch.equal(pictures["image"][1], gallery(few, [0])["image"][0])
    assert all(torch.equal(a, b) for a, b in zip(pictures.values(), gallery(few, [3, 0, 5]).values(), strict=True))
    assert figures.image_grid(list(pictures.values()), list(pictures), scale=(0, 1)).axes
    assert all(picture.is_meta for picture in gallery(few.to("meta"), [0, 1]).values())


def test_the_layouts_picture_is_the_empty_room(few: RoomSet) -> None:
    """Drawn from the label alone, it has the walls where they are seen; vp gives every ray parts of length 1."""
    pictures = gallery(few, range(24))
    walls = {}
    for surface in (0, 1, 2, 3, 5):
        there = few.surface == surface
        colours, counts = pictures["layout"].movedim(1, -1)[there].unique(dim=0, return_counts=True)
        assert counts.max() / counts.sum() > 0.99, "but for pixels on an edge, within the rounding of the constants"
        walls[surface] = tuple(colours[counts.argmax()].tolist())
    assert len(set(walls.values())) == 5
    assert torch.allclose(pictures["vp"].square().sum(1), torch.ones(24, 32, 32), atol=0.01)
