"""Sets of rooms: splits, inputs, the tools of image sets; the probes from elsewhere; close-ups; the gallery."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from zeroshot_toys import assert_refused

from reuselib.data import ImageSet
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName
from reuselib.report import figures
from reuselib.worlds import rooms as world
from reuselib.worlds.rooms import SHAPES, TASKS, RoomSet, Scenes, closeups, collage, gallery, noise, room_set
from reuselib.worlds.rooms.draws import keys
from reuselib.worlds.rooms.render import NOISE, render
from reuselib.worlds.rooms.room_set import MOST_STREAMS, SPLITS, STREAMS, inputs, rooms, stream


@pytest.fixture(scope="module")
def few() -> RoomSet:
    return rooms("probes", 24)


# ---- splits


def test_splits_have_their_sizes_and_images_and_share_no_scene(few: RoomSet) -> None:
    assert len(rooms("probes")) == SPLITS["probes"]
    assert few.shape == (3, 32, 32) and few.images.images.dtype == torch.uint8
    assert few.images.mean == few.images.std == (0.5, 0.5, 0.5) and few.images.classes == world.ROOMS
    assert repr(few) == "RoomSet('rooms_probes', 24 x (3, 32, 32), 17 tasks, cpu)"
    used = [stream(name, seed) for name in STREAMS for seed in range(4)]
    assert len(set(used)) == len(used) and len(STREAMS) <= MOST_STREAMS
    every = [keys(stream(split, seed), torch.arange(count)) for split, count in SPLITS.items() for seed in range(3)]
    assert len(torch.cat(every).unique()) == 3 * sum(SPLITS.values())
    assert torch.equal(few.scenes.key, keys(stream("probes", 0), torch.arange(24)))


def test_a_room_depends_on_split_seed_and_place_alone(monkeypatch: pytest.MonkeyPatch, few: RoomSet) -> None:
    again, other, elsewhere = rooms("probes", 5), rooms("probes", 5, seed=1), rooms("test", 5)
    for one in (other, elsewhere):
        assert not (one.images.images == again.images.images).flatten(1).all(1).any()
    assert rooms("probes", 24) is few, "rendered once"
    monkeypatch.setattr(room_set, "CHUNK", 7)
    parts = room_set._rooms.__wrapped__("probes", 24, stream("probes", 0), torch.device("cpu"))
    place = torch.tensor([3, 1, 8])
    part = few.subset(place)
    for name in TASKS:
        assert torch.equal(again.labels(name), few.labels(name)[:5]), name
        assert torch.equal(parts.labels(name), few.labels(name)), name
        assert torch.equal(part.labels(name), few.labels(name)[place]), name
    assert torch.equal(parts.images.images, few.images.images)
    assert len(part) == len(part.scenes) == 3 and len(few.take(12, 0).scenes.key.unique()) == 12


def test_it_is_made_on_another_device() -> None:
    there = rooms("probes", 4, device="meta")
    assert there.device.type == "meta" and all(there.labels(name).is_meta for name in TASKS)
    assert inputs("denoise", there.x).is_meta and all(each.is_meta for each in gallery(there, [0, 1]).values())


def test_what_cannot_be_meant_is_refused(few: RoomSet) -> None:
    numbers = ("count", 0), ("count", 2.5), ("seed", -1), ("seed", 2**62)
    draws = partial(rooms, "test"), collage, noise, partial(closeups, "real", "train")
    bad = {"size": 0}, {"noise": -1.0}
    assert_refused(
        (UnknownName, "unknown split of rooms 'tset'. Did you mean 'test'", lambda: rooms("tset")),
        *(
            (BadValue, f"{name} must be a whole number", partial(draw, **{"count": 2, name: value}))
            for name, value in numbers
            for draw in draws
        ),
        *((BadValue, "must be", partial(render, few.scenes, **options)) for options in bad),
        (UnknownName, "unknown task 'edges'", lambda: few.labels("edges")),
        (ReuseError, "denoise draws noise: pass a torch.Generator", lambda: inputs("denoise", few.x)),
        (ShapeMismatch, "use normalised", lambda: inputs("inpaint", few.images.images)),
        (ShapeMismatch, "use normalised", lambda: inputs("inpaint", few.x[:, :1])),
        (UnknownName, "unknown domain 'reel'. Did you mean 'real'", lambda: closeups("reel", "train", 4)),
        (UnknownName, "unknown split of close-ups 'zoo'", lambda: closeups("real", "zoo", 4)),
    )


def test_what_networks_are_given(few: RoomSet) -> None:
    x = few.x
    assert all(inputs(name, x) is x for name in set(TASKS) - {"denoise", "inpaint", "color"})
    first, again, other = (inputs("denoise", x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs((first - x).std() - 0.3) < 0.005 and abs((first - x).mean()) < 0.005
    kept = torch.ones(32, 32)
    kept[10:22, 10:22] = 0
    assert torch.equal(inputs("inpaint", x), x * kept)
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    assert torch.allclose(inputs("color", x), grey.expand_as(x), atol=1e-6)


# ---- probes from elsewhere


@pytest.mark.parametrize("draw", [collage, noise])
def test_probes_from_elsewhere(draw: object) -> None:
    images = draw(30, seed=2)
    assert isinstance(images, ImageSet) and images.shape == (3, 32, 32) and images.mean == images.std == (0.5,) * 3
    assert images.classes == ("unlabelled",) and (images.labels == 0).all()
    assert torch.equal(draw(9, seed=2).images, images.images[:9]), "image i is the same for any count"
    assert not torch.equal(draw(9, seed=3).images, images.images[:9])
    assert len(draw(1)) == 1 and len(draw()) == 256 and draw(2, device="meta").images.is_meta


# ---- close-ups


def test_a_close_up_is_one_solid_1_7_to_2_8_metres_ahead() -> None:
    scenes = Scenes.closeups(400, seed=3)
    assert (scenes.present.sum(1) == 1).all() and scenes.present[:, 0].all()
    x, _, z = (scenes.base[:, 0] - scenes.camera).unbind(1)
    distance = (x**2 + z**2).sqrt()
    assert 1.7 - 1e-4 <= distance.min() < 1.75 and 2.75 < distance.max() <= 2.8 + 1e-4
    assert (torch.atan2(x, z) - scenes.angles[:, 0]).abs().max() <= 0.15 + 1e-4
    radius, (width, height, depth) = scenes.radius[:, 0], scenes.size.unbind(1)
    x, y, z = scenes.base[:, 0].unbind(1)
    assert (x - radius).min() > -1e-5 and (width - x - radius).min() > -1e-5 and (depth - z - radius).min() > 0
    assert (0.9 * height - y - scenes.height[:, 0]).min() > -1e-5
    assert (render(scenes[:100]).surface == 6).flatten(1).sum(1).min() > 10


@pytest.mark.parametrize("real", [False, True])
def test_domains_show_four_classes_and_differ_in_texture_shadow_noise_and_hue(real: bool) -> None:
    domain = world.DOMAINS[real]
    images, scenes = closeups(domain, "test", 40), Scenes.closeups(40, stream(f"{domain} test", 0), textured=real)
    hits = render(scenes, shadows=real, noise=NOISE if real else 0)
    assert torch.equal(hits.images, images.images) and torch.equal(scenes.shape[:, 0], images.labels)
    assert images.classes == SHAPES and images.labels.view(-1, 4).sort(1).values.tolist() == [[0, 1, 2, 3]] * 10
    assert len(images.labels.view(-1, 4).unique(dim=0)) > 3, "in random order"
    assert torch.equal(closeups(domain, "test", 6).images, images.images[:6])
    for other in (closeups(domain, "train", 6), closeups(domain, "test", 6, seed=1)):
        assert not (other.images == images.images[:6]).flatten(1).all(1).any()
    assert (len(hits.albedo.unique()) > 1) == (hits.segment % 2 == 1).any() == real
    assert real or torch.equal(images.images, images.images[:, :1].expand(-1, 3, -1, -1)), "it is grey"
    many = Scenes.closeups(4000, seed=1)
    means = torch.stack([many.colour[many.shape[:, 0] == shape, 6].mean(0) for shape in range(4)])
    assert (means - means.mean(0)).abs().max() < 0.03, "hues tell nothing of the shape"


# ---- the gallery


def test_the_gallery_shows_every_label_and_the_empty_room_from_nine_numbers(few: RoomSet) -> None:
    """Drawn from the label alone, it has the walls where they are seen; vp gives every ray parts of length 1."""
    pictures = gallery(few, range(24))
    assert list(pictures) == ["image", *(name for name in TASKS if name != "autoencoder")]
    for name, picture in pictures.items():
        assert picture.shape == (24, 3, 32, 32) and picture.dtype == torch.float32, name
        assert 0 <= picture.min() and picture.max() <= 1 and picture.std() > 0.02, name
    assert torch.equal(gallery(few, [3, 0])["image"], pictures["image"][[3, 0]])
    assert figures.image_grid(list(pictures.values()), list(pictures), scale=(0, 1)).axes
    walls = {}
    for surface in (0, 1, 2, 3, 5):
        there = few.surface == surface
        colours, counts = pictures["layout"].movedim(1, -1)[there].unique(dim=0, return_counts=True)
        assert counts.max() / counts.sum() > 0.99, "but for pixels on an edge, within the rounding of the constants"
        walls[surface] = tuple(colours[counts.argmax()].tolist())
    assert len(set(walls.values())) == 5
    assert torch.allclose(pictures["vp"].square().sum(1), torch.ones(24, 32, 32), atol=0.01)
