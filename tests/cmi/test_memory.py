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
    images = torch.rand(200, 2, 3, 3).requires_grad_()
    with torch.no_grad():
        images[0, 0, 0] = torch.tensor([-0.3, 1.7, 0.5])
    kept = pool(200)
    for part in images.split(100):
        kept.add(part, torch.arange(100) % 8)
    found = kept.images()
    assert len(kept) == len(found) == 200 and len(pool().images()) == 0
    assert found.images.flatten().tolist() == [min(max(round(v * 255), 0), 255) for v in images.flatten().tolist()]
    assert (found.labels.tolist(), found.mean, found.std) == (2 * [k % 8 for k in range(100)], MEAN, STD)
    for dtype, levels in ((torch.float32, 255), (torch.float64, 255), (torch.bfloat16, 1)):  # 8-bit ones stay
        values = (torch.arange(levels + 1) / levels)[:, None, None, None].expand(-1, 2, 3, 3)
        kept = pool(len(values))
        kept.add(values.to(dtype), torch.zeros(len(values), dtype=torch.int64))
        assert torch.equal(kept.images().images, (values * 255).round().byte())
    unit = (found.images / 255).requires_grad_()
    torch.testing.assert_close(kept.normalised(unit), found.normalised(found.images))
    kept.normalised(unit).sum().backward()
    torch.testing.assert_close(unit.grad[:1, :, 0, 0], 1 / torch.tensor([STD]))


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
    seen = []

    def darker(images: Tensor, random: torch.Generator | None) -> Tensor:
        seen.append((images.dtype, random))
        return images // 2

    kept, random = pool(filled=4, augment=darker), generator()
    assert sorted(numbers(kept(4, random))) == [0, 0, 1, 1] and seen == [(torch.uint8, random)]
    assert kept.images().images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_pool_that_overflows_or_is_empty_and_capacities_that_cannot_be_meant_are_named() -> None:
    kept = pool(capacity=6, filled=4)
    with pytest.raises(ReuseError, match="A pool of 6 images cannot hold 8. Give it a larger capacity"):
        kept.add(*numbered(4, 4))
    assert len(kept) == 4
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
