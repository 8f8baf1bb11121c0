"""Pools: which images each source sees, what is left for students, and sources trained once."""

from __future__ import annotations

from pathlib import Path

import players
import pytest
import torch

from reuselib import chapters, data
from reuselib.adaptive import pools
from reuselib.errors import ReuseError, UnknownName
from reuselib.nets import zoo

CPU = torch.device("cpu")
PLAN = chapters.study("adaptive", "smoke").settings["shapes-select"].pool
CLASSES = PLAN.but(
    dataset="digits",
    size=None,
    auxiliary="printed_digits",
    sources=tuple(((pools.PARTS[k // 2],), k) for k in range(4)),
    half=(),
    network=("multi_head_conv", {"widths": (4, 6)}),
    updates=10,
)


def pixels(images: data.MultiLabelSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images.images}


def test_the_three_pieces_are_disjoint_and_drawn_by_the_seed() -> None:
    pool, again, other = (pools.pool_images(PLAN, seed, CPU) for seed in (0, 0, 1))
    mine = set.union(*map(pixels, pool.lessons))
    assert len(mine) <= 200 and len(pixels(pool.transfer)) == 120 and len(pixels(pool.test)) == 2000
    assert len(set.union(mine, pixels(pool.transfer), pixels(pool.test))) == len(mine) + 2120
    assert [tuple(lesson.tasks) for lesson in pool.lessons] == [tasks for tasks, _ in PLAN.sources]
    assert torch.equal(pool.transfer.images.images, again.transfer.images.images)
    assert torch.equal(pool.lessons[1].targets, again.lessons[1].targets)
    assert not torch.equal(pool.transfer.images.images, other.transfer.images.images)


def test_a_source_sees_a_tenth_of_the_other_side() -> None:
    pool = pools.pool_images(PLAN.but(source_images=4000), 0, CPU)
    for (_, side), lesson in zip(PLAN.sources, pool.lessons, strict=True):
        sides = pools.side_of(lesson.images, PLAN.half)
        assert float((sides == 1 - side).float().sum()) / 2000 == pytest.approx(0.1, abs=0.03)
        assert float((sides == side).float().sum()) == pytest.approx(2000, abs=100)
    assert torch.equal(pools.side_of(pool.test.images, PLAN.half), pool.test.labels("polarity"))


def test_pools_that_cannot_be_and_pools_without_counts() -> None:
    with pytest.raises(ReuseError, match="has 6000 images, not 6000 for sources and 120 for students"):
        pools.pool_images(PLAN.but(source_images=6000), 0, CPU)
    with pytest.raises(UnknownName, match="set with several labels 'shape_atributes'. Did you mean 'shape_attributes'"):
        pools.pool_images(PLAN.but(dataset="shape_atributes"), 0, CPU)
    pool = pools.pool_images(PLAN.but(source_images=None, transfer_images=None, half=(), rare=1.0), 0, CPU)
    assert len(pool.transfer) == 6000 and pool.sides is None
    assert all(torch.equal(lesson.images.images, pool.transfer.images.images) for lesson in pool.lessons)


def test_a_source_of_classes_learns_its_part_and_its_quarter_and_each_image_is_asked_about_its_own_part() -> None:
    pool = pools.pool_images(CLASSES, 0, CPU)
    main, other = data.load("digits", "train"), data.load("printed_digits", "train")
    halves, quarters = pools.class_parts(10, 2), pools.class_parts(10, 4)
    assert sorted(sum(halves, [])) == list(range(10)) == sorted(sum(quarters, [])) != sum(halves, [])
    assert list(map(len, halves)) == [5, 5] and list(map(len, quarters)) == [2, 2, 2, 4]
    assert list(pool.transfer.tasks) == ["part 1", "part 2"] and len(pool.transfer) == len(main)
    for k, half in enumerate(halves):
        labels, mine = pool.transfer.labels(f"part {k + 1}"), torch.isin(main.labels, torch.tensor(half))
        assert torch.equal(labels >= 0, mine) and torch.equal(torch.tensor(half)[labels[mine]], main.labels[mine])
    for ((task,), number), lesson in zip(CLASSES.sources, pool.lessons, strict=True):
        half, quarter, labels = halves[pools.PARTS.index(task)], quarters[number], lesson.labels(pools.ALL)
        names = [main.classes[k] for k in half] + [other.classes[k] for k in quarter]
        assert lesson.tasks == {pools.ALL: tuple(names)}
        first = torch.isin(main.labels, torch.tensor(half))
        count = int(first.sum())
        assert torch.equal(lesson.images.images[:count], main.images[first])
        assert labels[:count].tolist() == [half.index(label) for label in main.labels[first].tolist()]
        assert (labels[count:].min(), labels[count:].max()) == (len(half), len(names) - 1)
        assert len(labels) - count == sum(int((other.labels == label).sum()) for label in quarter)


def test_sources_are_trained_once_decided_by_their_seed_and_kept_if_told(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PLAN.but(updates=2, others=("multi_head_residual", {"widths": (8, 10, 12)}))
    first, other = (pools.trained_pool(plan, seed, CPU).sources for seed in (0, 1))
    assert [source.widths for source in first.values()] == [(16, 32, 32), (8, 10, 12)] * 2
    assert list(first) == ["s1", "s2", "s3", "s4"] and not zoo.Piece("pools").folder.exists()
    assert list(players.differences(players.state(first), players.state(other)))
    assert not any(s.training or any(p.requires_grad for p in s.parameters()) for s in first.values())
    torch.manual_seed(5)  # the global state must not matter
    pools.trained_pool(plan.but(kept=True), 0, CPU)
    assert sum(name.startswith("pools/") for name in zoo.names()) == 4
    monkeypatch.setattr(pools.MultiTaskSupervised, "step", players.rigged(lambda _: {}, at=0))
    for again in (plan, plan.but(kept=True)):
        found = pools.trained_pool(again, 0, CPU).sources
        assert not list(players.differences(players.state(first), players.state(found)))


def test_no_more_than_the_two_splits_of_one_set_are_held() -> None:
    """At 224 pixels the two of CelebA take 27.5 GB."""
    pools._labelled.cache_clear()
    for plan in (PLAN, PLAN.but(size=8), PLAN.but(size=8)):
        pools.pool_images(plan, 0, CPU)
    assert (pools._labelled.cache_info().currsize, pools._labelled.cache_info().hits) == (2, 2)
