"""The attribute world: its classes, what is said of them, what their images show, and how they are drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from zeroshot_toys import assert_refused

from reuselib.data.attributes import PARTS
from reuselib.errors import BadValue, ReuseError, UnknownName
from reuselib.worlds.attributes import QFSL_PLAN, SELECTIVE_PLAN, AttributeWorld, WorldPlan, classes, drawing
from reuselib.worlds.attributes.classes import REDRAW, draw_classes, frequencies
from reuselib.worlds.attributes.drawing import plain, render
from reuselib.worlds.attributes.factors import ANNOTATED, ATTRIBUTES, FACTORS, NAMES, REGIMES, SIZES, columns, words
from reuselib.worlds.attributes.world import SPLITS
from reuselib.worlds.rooms.draws import Draws, keys

PLANS = {"qfsl": QFSL_PLAN, "selective": SELECTIVE_PLAN}
SMALL = replace(QFSL_PLAN, train_images=3, test_images=2, unseen_images=4, auxiliary_images=2)
SIGMAS = 4.5  # of a binomial: one test in a hundred thousand fails by chance, and the draws are fixed


@pytest.fixture(scope="module")
def world() -> AttributeWorld:
    return AttributeWorld(0, SMALL)


def close(share: Tensor | float, expected: Tensor | float, count: int) -> bool:
    """Return whether a share of `count` draws is as likely as it should be."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    bound = SIGMAS * (expected * (1 - expected) / count).sqrt()
    return bool(((torch.as_tensor(share).double() - expected).abs() <= bound + 1e-9).all())


def many(count: int) -> Tensor:
    """Return random tuples."""
    return torch.stack([Draws(keys(0, torch.arange(count) + 99 * n)).integer(size) for n, size in enumerate(SIZES)], 1)


def one(**values: str) -> Tensor:
    """Return one tuple, (1, 9); what is not given has its first value."""
    return torch.tensor([[FACTORS[name].index(values.get(name, FACTORS[name][0])) for name in NAMES]])


# ---- factors, plans and classes


def test_regimes_cover_their_attributes_and_tuples_have_words() -> None:
    for name, count in {"full": 23, "no-colour": 17, "four": 15}.items():
        described = [ATTRIBUTES[column].split()[0] for column in columns(name)]
        assert len(described) == count and set(described) == set(REGIMES[name]) <= set(ANNOTATED)
    assert words([0, 0, 1, 1, 0, 1, 0, 0, 0]) == "two small red striped discs on grey"
    assert words(torch.tensor([4, 2, 2, 3, 1, 0])) == "one large blue checkered cross on noise"
    assert words([4, 5, 0, 0, 0, 1]) == "two small cyan crosses on dark"


def test_plans_that_fit_no_world_and_what_else_cannot_be_meant(
    world: AttributeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "BLOCKS", 2)
    counts = "families", "train_images", "test_images", "unseen_images", "auxiliary_classes", "auxiliary_images"
    tight, crowded = WorldPlan(classes=12, seen=11), replace(QFSL_PLAN, auxiliary_classes=1700)
    none = "none of 128 worlds had every .* in 2 of 11 seen classes.*Fix: more seen"
    assert_refused(
        (BadValue, "seen must be a whole number from 1 to 29", lambda: WorldPlan(seen=30)),
        *((BadValue, f"{name} must be a whole number of", partial(WorldPlan, **{name: 0})) for name in counts),
        (UnknownName, "regime of annotation 'fuor'. Did you mean 'four'", lambda: WorldPlan(annotated="fuor")),
        (ReuseError, none, lambda: draw_classes(tight, 0)),
        (ReuseError, "of 1700 auxiliary classes differ", lambda: draw_classes(crowded, 0)),
        *((BadValue, "seed must be", partial(AttributeWorld, seed, SMALL)) for seed in (-1, 0.5, 2**62)),
        (UnknownName, "split of the attribute world 'test_unseen'", lambda: world.images("test_unseen")),
    )


@pytest.mark.parametrize("name", PLANS)
def test_every_world_keeps_the_rules(name: str) -> None:
    plan = PLANS[name]
    for found in (draw_classes(plan, 0), draw_classes(plan, 1)):
        assert found.tuples.shape == (plan.classes, 9) and found.auxiliary.shape == (plan.auxiliary_classes, 6)
        annotated = found.tuples[:, :6]
        differences = (annotated.unsqueeze(0) != annotated.unsqueeze(1)).sum(2)
        assert (differences + 6 * torch.eye(plan.classes)).min() >= 2
        assert found.families.tolist() == [i % 6 for i in range(plan.classes)]
        seen, unseen = found.seen.tolist(), found.unseen.tolist()
        assert len(seen) == plan.seen and sorted(seen + unseen) == [*range(plan.classes)]
        assert seen == sorted(seen) and unseen == sorted(unseen)
        for place, size in enumerate(SIZES):
            assert found.tuples[found.seen, place].bincount(minlength=size).min() >= 2, NAMES[place]
        assert found.families[found.seen].bincount(minlength=6).min() >= 2
        tuples = [tuple(row) for row in torch.cat([annotated, found.auxiliary]).tolist()]
        assert len(set(tuples)) == len(tuples), "an auxiliary class is no other class"


def test_auxiliary_images_have_any_hidden_factors() -> None:
    """Whatever their class: a network that learns these classes must not lean on the hidden factors."""
    world = AttributeWorld(0, replace(QFSL_PLAN, auxiliary_images=200))
    tuples = world.scenes("auxiliary").tuples
    for place, size in enumerate(SIZES[6:], 6):
        shares = functional.one_hot(tuples[:, place].view(50, 200), size).double().mean(1)
        assert close(shares, 1 / size, 200), NAMES[place]


def test_classes_follow_their_families_as_often_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any rejection, in 256 worlds. Two classes of a family have its value, or are alike by chance."""
    monkeypatch.setattr(classes, "APART", 0)
    families = torch.arange(30) % 6
    tuples, seen, _ = classes._draw_worlds(QFSL_PLAN, families, Draws(keys(5, torch.arange(256))))
    for place, size in enumerate(SIZES[:6]):
        own = 0.55 + 0.45 / size
        same = (tuples[:, :6, place] == tuples[:, 6:12, place]).double()
        assert close(same.mean(), own**2 + (size - 1) * (0.45 / size) ** 2, same.numel()), NAMES[place]
    for place, size in enumerate(SIZES[6:]):
        same = (tuples[:, :, 6 + place] == classes.hidden_triple(families, place)).double()
        assert close(same.mean(), 0.85 + 0.15 / size, same.numel())
    assert close(seen.flatten().bincount(minlength=30) / 256, 20 / 30, 256)
    found = draw_classes(SELECTIVE_PLAN, 1)  # of the second plan, the family decides the hidden factors
    assert found.tuples[:, 6:].tolist() == [[i % 3, (i // 2) % 3, (i // 3) % 2] for i in found.families.tolist()]
    assert len(found.tuples[:6, 6:].unique(dim=0)) == 6, "no two families have the same triple"


# ---- attributes


def test_attributes_are_the_frequencies_with_the_noise_of_annotators() -> None:
    worlds = [AttributeWorld(seed) for seed in range(8)]
    tuples = torch.cat([world.classes.tuples for world in worlds])
    exact, said = frequencies(tuples), torch.cat([world.attributes() for world in worlds])
    for row, numbers in zip(tuples[:30].tolist(), exact.tolist(), strict=False):
        expected = [0.08 / size + 0.92 * (value == row[k]) for k, size in enumerate(SIZES[:6]) for value in range(size)]
        assert numbers == pytest.approx(expected, abs=1e-12)
    assert said.dtype == torch.float32 and said.min() == 0 and said.max() == 1, "clipped at both ends"
    # Low frequencies have room above, so that noise upwards is never clipped.
    noise = (said - exact)[exact < 0.5]
    up = noise[noise > 0]
    assert abs((up**2).mean().sqrt() - 0.08) < 0.003, "half a normal distribution, of deviation 0.08"
    assert close((up < 0.08).double().mean(), 0.6827, len(up)) and close(len(up) / len(noise), 0.5, len(noise))


def test_regimes_are_columns_of_the_same_numbers(world: AttributeWorld) -> None:
    full = world.attributes()
    for name in REGIMES:
        part = AttributeWorld(0, replace(SMALL, annotated=name))
        assert torch.equal(part.attributes(), full[:, columns(name)])
        assert torch.equal(world.attributes(name), part.attributes())
        assert world.attribute_names(name) == part.attribute_names()
        assert torch.equal(part.scenes("unseen").tuples, world.scenes("unseen").tuples)
    assert not torch.equal(full, AttributeWorld(1).attributes())


# ---- images


def test_the_tuple_decides_the_image() -> None:
    tuples = torch.cat([many(1500), one(), one(tilt="tilted"), one(shape="ring"), one(shape="ring", tilt="tilted")])
    tuples[tuples[:, 3] == 3, 3] = 0  # a noisy background differs from image to image
    first, again = render(plain(tuples), noise=0), render(plain(tuples.flip(0)), noise=0).flip(0)
    assert torch.equal(first, again)
    # A round shape in one colour has no direction: there alone, tilt is not to be seen.
    round_one = torch.isin(tuples[:, 0], torch.tensor([0, 5])) & (tuples[:, 2] == 0)
    visible = tuples.clone()
    visible[round_one, 8] = 0
    assert len(visible.unique(dim=0)) < len(tuples.unique(dim=0)), "there are such pairs"
    assert len(first.flatten(1).unique(dim=0)) == len(visible.unique(dim=0)), "other tuples never look alike"


# ---- the world as a whole


def test_images_depend_on_seed_split_class_and_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = AttributeWorld(1, replace(SMALL, train_images=5)), AttributeWorld(1, SMALL)
    images = large.images("train").images.view(20, 5, 3, 32, 32)[:, :3]
    assert torch.equal(images.flatten(0, 1), small.images("train").images)
    everything = torch.cat([AttributeWorld(s, SMALL).images(split).images for s in (0, 1) for split in SPLITS])
    assert len(everything.flatten(1).unique(dim=0)) == len(everything)
    scenes = large.scenes("train")
    assert torch.equal(render(scenes[torch.tensor([69, 3])]), large.images("train").images[[69, 3]])
    monkeypatch.setitem(drawing.CHUNK, "cpu", 7)
    assert torch.equal(render(scenes), large.images("train").images)


def test_splits_have_their_sizes_labels_and_tuples(world: AttributeWorld) -> None:
    sizes = {"train": 60, "test_seen": 40, "unseen": 40, "auxiliary": 100}
    for split, size in sizes.items():
        images, scenes = world.images(split), world.scenes(split)
        assert len(images) == len(scenes) == size and images.shape == (3, 32, 32), split
        assert images.mean == images.std == (0.5,) * 3 and images.name == f"attribute_world_{split}"
        assert torch.equal(render(scenes), images.images) and world.images(split) is images, "rendered once"
        tuples = world.classes.auxiliary if split == "auxiliary" else world.classes.tuples
        same = scenes.tuples[:, :6] == tuples[images.labels, :6]
        assert close(same.double().mean(), 1 - REDRAW * (1 - (1 / torch.tensor(SIZES[:6])).mean()), 6 * size)
        assert images.classes == tuple(words(row) for row in tuples) and len(set(images.classes)) == len(images.classes)
    assert world.images("auxiliary").labels.bincount().tolist() == [2] * 50
    assert repr(world) == "AttributeWorld(seed 0, 20 seen, 10 unseen and 50 auxiliary classes, 23 attributes, cpu)"
    found = world.zero_shot()
    assert torch.equal(found.attributes, world.attributes()) and found.classes == world.class_names
    assert found.attribute_names == world.attribute_names()
    for part, split, kind in zip(PARTS, SPLITS, ("seen", "seen", "unseen"), strict=False):
        images, own = found.part_images(part), getattr(world, kind)
        assert torch.equal(images.images, world.images(split).images)
        assert torch.equal(images.labels, world.images(split).labels)
        assert torch.equal(images.labels.unique(), own) and torch.equal(getattr(found, kind), own)


def test_it_is_made_on_another_device() -> None:
    there = AttributeWorld(0, SMALL, device="meta")
    assert all(there.images(split).images.is_meta and there.images(split).labels.is_meta for split in SPLITS)
    found = there.zero_shot()
    assert found.device.type == "meta" and found.attributes.shape == (30, 23) and found.images.images.is_meta
