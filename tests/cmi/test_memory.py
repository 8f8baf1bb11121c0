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


def numbered(first: int, count: int) -> tuple[Tensor, Tensor]:
    """Images that tell their number, all pixels n / 255, and their numbers as labels."""
    labels = torch.arange(first, first + count)
    return (labels / 255).view(-1, 1, 1, 1).expand(count, 2, 3, 3), labels


def pool(capacity: int = 10, filled: int = 0, augment: Augment | None = None) -> Pool:
    space = replace(players.space((2, 3, 3), MEAN, STD), classes=tuple("abcdefgh"))
    result = Pool(space, capacity, augment)
    result.add(*numbered(0, filled))
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


def test_images_are_rounded_to_eight_bits_in_their_order_and_without_their_graph() -> None:
    images, labels = torch.rand(200, 2, 3, 3), torch.arange(200) % 8
    images[0, 0, 0] = torch.tensor([-0.3, 1.7, 0.5])
    kept = pool(200)
    for part in (slice(100), slice(100, None)):
        kept.add(images[part].requires_grad_(), labels[part])
    found = kept.images()
    assert found.images.flatten().tolist() == [min(max(round(v * 255), 0), 255) for v in images.flatten().tolist()]
    assert torch.equal(found.labels, labels) and (len(kept), found.mean, found.std) == (200, MEAN, STD)
    for dtype, levels in ((torch.float64, 255), (torch.bfloat16, 1)):  # 8-bit ones stay as they are
        kept = pool(levels + 1)
        kept.add((torch.arange(levels + 1) / levels).to(dtype).view(-1, 1, 1, 1), torch.zeros(levels + 1))
        assert kept.images().images[:, 0, 0, 0].tolist() == list(range(0, 256, 255 // levels))
    torch.testing.assert_close(kept.normalised(found.images / 255), found.normalised(found.images))


def test_an_epoch_gives_every_image_once_in_an_order_of_its_own() -> None:
    source, random = pool(filled=8), generator()
    epochs = [[n for _ in range(4) for n in numbers(source(2, random))] for _ in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3
    for _ in range(5):  # the rest that fills no batch is passed over
        assert len({n for _ in range(2) for n in numbers(source(3, random))}) == 6
    for _ in range(3):  # more than there is gives all there is
        assert sorted(numbers(source(99, random))) == list(range(8))
    fewer = pool(filled=4)
    fewer(2, random)
    fewer.add(*numbered(4, 4))  # new images are mixed in at once
    assert sorted(n for _ in range(4) for n in numbers(fewer(2, random))) == list(range(8))


def test_the_augmentation_sees_pixels_and_the_same_generator() -> None:
    seen, random = [], generator()
    kept = pool(filled=4, augment=lambda *given: (seen.append(given), given[0] // 2)[1])
    assert sorted(numbers(kept(4, random))) == [0, 0, 1, 1] and kept.images().images.max() == 3
    assert seen[0][0].dtype == torch.uint8 and seen[0][1] is random


def test_a_pool_that_overflows_or_is_empty_and_capacities_that_cannot_be_meant_are_named() -> None:
    with pytest.raises(ReuseError, match="A pool of 6 images cannot hold 8. Give it a larger capacity"):
        pool(capacity=6, filled=8)
    with pytest.raises(ReuseError, match="The pool is empty. Synthesise"):
        pool()(2, generator())
    for make in (pool, bank):
        with pytest.raises(BadValue, match="capacity must be a whole number of at least 1"):
            make(0)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_saved_pool_is_a_copy_of_what_it_holds_and_goes_on_within_its_epoch(taken: int) -> None:
    first, random = pool(capacity=100, filled=8), generator()
    for _ in range(taken):
        first(2, random)
    state, drawn = first.state_dict(), random.get_state()
    expected = [numbers(first(2, random)) for _ in range(9)]
    second = pool(filled=2)
    second(2, generator(7))
    second.load_state_dict(through_a_file(state))
    random.set_state(drawn)
    assert [numbers(second(2, random)) for _ in range(9)] == expected


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


@pytest.mark.parametrize("capacity", [4, 8, 12])
def test_property_8_and_pitfall_6_the_bank_holds_the_latest_rows_and_samples_them_without_duplicates(
    capacity: int,
) -> None:
    for adds in range(8):
        kept = bank(capacity, adds)
        assert len(kept) == min(4 * adds, capacity)
        assert held(kept) == list(range(max(0, 4 * adds - capacity), 4 * adds))  # first in, first out
        for count in (1, 5, 99):
            sample = kept.sample(count, generator())[:, 0].tolist()
            assert len(sample) == len(set(sample)) == min(count, len(kept))
        second = bank(capacity, 2)
        second.load_state_dict(through_a_file(kept.state_dict()))
        for index in range(adds, adds + 3):
            for each in (kept, second):
                each.add(rows(4 * index, 4))
            assert torch.equal(*(each.sample(5, generator(3)) for each in (kept, second)))


def test_property_3_what_is_remembered_has_no_graph_and_batches_must_fill_the_bank() -> None:
    kept, features = bank(8), rows(0, 4).clone().requires_grad_()
    kept.add(2 * features)
    with torch.no_grad():
        features.zero_()
    assert not kept.sample(4, generator()).requires_grad and held(kept) == [0, 2, 4, 6]
    for count in (3, 16):
        with pytest.raises(ShapeMismatch, match=f"A bank of 8 rows does not fill with batches of {count}"):
            kept.add(rows(0, count))
