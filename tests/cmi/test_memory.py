"""The pool of finished images and the bank of their features (property 8, pitfalls 6 and 7)."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import players
import pytest
import torch
from torch import Tensor

from reuselib.cmi import MemoryBank, Pool
from reuselib.data.image_set import Augment
from reuselib.errors import BadValue, ReuseError, ShapeMismatch

MEAN, STD = (0.4, 0.5), (0.2, 0.25)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pool(capacity: int = 10, augment: Augment | None = None) -> Pool:
    space = replace(players.space((2, 3, 3), MEAN, STD), classes=tuple("abcdefgh"))
    return Pool(space, capacity, augment)


def numbered(first: int, count: int) -> Tensor:
    """Images that tell their number: all pixels n / 255."""
    return (torch.arange(first, first + count) / 255).view(-1, 1, 1, 1).expand(count, 2, 3, 3)


def filled(count: int, capacity: int = 10) -> Pool:
    result = pool(capacity)
    result.add(numbered(0, count), torch.arange(count))
    return result


def numbers(batch: Tensor) -> list[int]:
    """The numbers of normalised images."""
    return ((batch[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255).round().int().tolist()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in state.values() if isinstance(t, Tensor))
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---- pool


def test_images_are_rounded_to_eight_bits_and_those_that_are_stay_as_they_are() -> None:
    images = torch.rand(200, 2, 3, 3)
    images[0, 0, 0] = torch.tensor([-0.3, 1.7, 0.5])
    kept = pool(200)
    kept.add(images, torch.zeros(200, dtype=torch.int64))
    found = kept.images().images
    assert found.dtype == torch.uint8
    assert found.flatten().tolist() == [min(max(round(value * 255), 0), 255) for value in images.flatten().tolist()]
    assert 0 < (found.float() / 255 - images.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    for dtype, levels in ((torch.float32, 255), (torch.float64, 255), (torch.bfloat16, 1)):
        values = (torch.arange(levels + 1) / levels)[:, None, None, None].expand(-1, 2, 3, 3)
        kept = pool(len(values))
        kept.add(values.to(dtype), torch.zeros(len(values), dtype=torch.int64))
        assert torch.equal(kept.images().images, (values * 255).round().byte())


def test_images_and_classes_keep_their_order_their_graph_is_dropped_and_both_normalisations_agree() -> None:
    kept = pool()
    for first in (0, 4):
        kept.add(numbered(first, 4).clone().requires_grad_(), torch.arange(first, first + 4))
    found = kept.images()
    assert len(kept) == len(found) == 8 and len(pool().images()) == 0
    assert found.images[:, 0, 0, 0].tolist() == found.labels.tolist() == list(range(8))
    assert (found.mean, found.std, found.shape) == (MEAN, STD, (2, 3, 3))
    unit = (found.images / 255).requires_grad_()
    torch.testing.assert_close(kept.normalised(unit), found.normalised(found.images))
    kept.normalised(unit).sum().backward()
    torch.testing.assert_close(unit.grad[:1, :, 0, 0], 1 / torch.tensor([STD]))


def test_an_epoch_gives_every_image_once_in_an_order_of_its_own() -> None:
    source, random = filled(8), generator()
    epochs = [[n for _ in range(4) for n in numbers(source(2, random))] for _ in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3
    again = filled(8)
    assert [n for _ in range(4) for n in numbers(again(2, generator()))] == epochs[0]
    for _ in range(5):  # the rest that fills no batch is passed over
        assert len({n for _ in range(2) for n in numbers(source(3, random))}) == 6
    for _ in range(3):  # more than there is gives all there is
        assert sorted(numbers(source(99, random))) == list(range(8))
    fewer = filled(4)
    fewer(2, random)
    fewer.add(numbered(4, 4), torch.arange(4, 8))  # new images are mixed in at once
    assert sorted(n for _ in range(4) for n in numbers(fewer(2, random))) == list(range(8))


def test_the_augmentation_sees_pixels_and_the_same_generator() -> None:
    seen = []

    def darker(images: Tensor, random: torch.Generator | None) -> Tensor:
        seen.append((images.dtype, random))
        return images // 2

    kept, random = pool(4, darker), generator()
    kept.add(numbered(100, 4), torch.zeros(4, dtype=torch.int64))
    assert sorted(numbers(kept(4, random))) == [50, 50, 51, 51] and seen == [(torch.uint8, random)]
    assert kept.images().images[:, 0, 0, 0].tolist() == [100, 101, 102, 103]


def test_a_pool_that_overflows_or_is_empty_is_named() -> None:
    kept = filled(4, capacity=6)
    with pytest.raises(ReuseError, match="A pool of 6 images cannot hold 8. Give it a larger capacity"):
        kept.add(numbered(4, 4), torch.arange(4))
    assert len(kept) == 4
    kept.add(numbered(4, 2), torch.arange(2))
    with pytest.raises(ReuseError, match="The pool is empty. Synthesise"):
        pool()(2, generator())
    for make in (pool, bank):
        for capacity in (-5, 0, 2.5):
            with pytest.raises(BadValue, match="capacity must be a whole number of at least 1"):
                make(capacity)


def test_a_saved_pool_is_a_copy_of_what_it_holds_and_goes_on_within_its_epoch() -> None:
    for taken in (0, 1, 3):
        first, random = filled(8, capacity=100), generator()
        for _ in range(taken):
            first(2, random)
        state, drawn = first.state_dict(), random.get_state()
        expected = [numbers(first(2, random)) for _ in range(9)]
        assert len(state["images"]) == len(state["labels"]) == 8 and len(state["order"]) == (8 if taken else 0)
        second = filled(2)
        second(2, generator(7))
        second.load_state_dict(through_a_file(state))
        random.set_state(drawn)
        assert [numbers(second(2, random)) for _ in range(9)] == expected
        assert torch.equal(second.images().labels, first.images().labels)


# ---- bank


def rows(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float()[:, None].expand(count, 2)


def bank(capacity: int, adds: int = 0) -> MemoryBank:
    result = MemoryBank(capacity, 2, torch.device("cpu"))
    for index in range(adds):
        result.add(rows(4 * index, 4))
    return result


def held(of: MemoryBank) -> list[int]:
    return sorted(of.sample(len(of), generator())[:, 0].int().tolist())


def test_property_8_and_pitfall_6_the_bank_holds_the_latest_rows() -> None:
    for capacity in (4, 8, 12):
        for adds in range(8):
            full = bank(capacity, adds)
            assert len(full) == min(4 * adds, capacity)
            assert held(full) == list(range(max(0, 4 * adds - capacity), 4 * adds))  # first in, first out


def test_property_8_a_sample_has_no_duplicates_and_its_size() -> None:
    random = generator()
    assert bank(12).sample(5, random).shape == (0, 2)
    for adds in range(1, 6):
        for count in (1, 5, 12, 99):
            sample = bank(12, adds).sample(count, random)[:, 0].tolist()
            assert len(sample) == len(set(sample)) == min(count, 4 * adds, 12)
    full = bank(12, 5)
    samples = {tuple(full.sample(5, random)[:, 0].tolist()) for _ in range(20)}
    assert len(samples) > 10 and {n for sample in samples for n in sample} == set(range(8, 20))


def test_property_3_what_is_remembered_has_no_graph_and_batches_must_fill_the_bank() -> None:
    kept, features = bank(8), rows(0, 4).clone().requires_grad_()
    kept.add(2 * features)
    with torch.no_grad():
        features.zero_()
    assert not kept.sample(4, generator()).requires_grad and held(kept) == [0, 2, 4, 6]
    for count in (3, 5, 16):
        with pytest.raises(ShapeMismatch, match=f"A bank of 8 rows does not fill with batches of {count}"):
            kept.add(rows(0, count))


def test_a_saved_bank_goes_on() -> None:
    for adds in range(4):
        first, second = bank(8, adds), bank(8, 2)
        second.load_state_dict(through_a_file(first.state_dict()))
        for index in range(adds, adds + 3):
            for each in (first, second):
                each.add(rows(4 * index, 4))
            assert torch.equal(*(each.sample(5, generator(3)) for each in (first, second)))
