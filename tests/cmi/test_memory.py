"""The pool of finished images and the bank of their features (property 8, pitfalls 6 and 7)."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from reuselib.cmi import MemoryBank, Pool
from reuselib.data.image_set import Augment
from reuselib.errors import ReuseError, ShapeMismatch

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5), (0.2, 0.25)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pool(capacity: int = 10, augment: Augment | None = None) -> Pool:
    return Pool(capacity, (2, 3, 3), MEAN, STD, CPU, augment)


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
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---- pool


def test_images_are_rounded_to_eight_bits() -> None:
    images = torch.rand(200, 2, 3, 3)
    images[0, 0, 0] = torch.tensor([-0.3, 1.7, 0.5])
    kept = pool(200)
    kept.add(images, torch.zeros(200, dtype=torch.int64))
    found = kept.images().images
    assert found.dtype == torch.uint8
    assert found.tolist() == [
        [[[min(max(round(value * 255), 0), 255) for value in row] for row in plane] for plane in image]
        for image in images.tolist()
    ]
    error = (found.float() / 255 - images.clamp(0, 1)).abs().max()
    assert 0 < error <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_images_that_are_eight_bit_already_stay_as_they_are(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16:
        values = torch.tensor([0, 1]).view(2, 1, 1, 1).expand(2, 2, 3, 3)  # what bfloat16 can say exactly
    else:
        values = torch.arange(256)[:, None, None, None].expand(256, 2, 3, 3) / 255
    kept = pool(len(values))
    kept.add(values.to(dtype), torch.zeros(len(values), dtype=torch.int64))
    assert torch.equal(kept.images().images, (values * 255).round().byte())


def test_images_and_classes_keep_their_order_and_their_graph_is_dropped() -> None:
    kept = pool()
    for first in (0, 4):
        kept.add(numbered(first, 4).clone().requires_grad_(), torch.arange(first, first + 4))
    assert len(kept) == 8 and not kept.images().images.requires_grad
    found = kept.images()
    assert found.images[:, 0, 0, 0].tolist() == found.labels.tolist() == list(range(8))
    assert (found.mean, found.std, found.shape) == (MEAN, STD, (2, 3, 3))
    assert kept.images(3).labels.tolist() == [0, 1, 2] and len(kept.images(99)) == 8 and len(pool().images()) == 0


def test_both_normalisations_agree() -> None:
    kept = filled(10)
    images = kept.images()
    expected = (images.images / 255 - torch.tensor(MEAN).view(1, 2, 1, 1)) / torch.tensor(STD).view(1, 2, 1, 1)
    torch.testing.assert_close(images.normalised(images.images), expected)
    unit = (images.images / 255).requires_grad_()
    torch.testing.assert_close(kept.normalised(unit), expected)
    kept.normalised(unit).sum().backward()
    torch.testing.assert_close(unit.grad[:1, :, 0, 0], 1 / torch.tensor([STD]))


def test_an_epoch_gives_every_image_once_in_an_order_of_its_own() -> None:
    source, random = filled(8), generator()
    epochs = [[n for _ in range(4) for n in numbers(source(2, random))] for _ in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = filled(8)
    assert [n for _ in range(4) for n in numbers(again(2, generator()))] == epochs[0]


def test_the_rest_that_fills_no_batch_is_passed_over() -> None:
    source, random = filled(8), generator()
    for _ in range(5):
        seen = [n for _ in range(2) for n in numbers(source(3, random))]
        assert len(set(seen)) == 6


def test_more_than_there_is_gives_all_there_is() -> None:
    source, random = filled(4), generator()
    for _ in range(3):
        assert sorted(numbers(source(99, random))) == [0, 1, 2, 3]


def test_new_images_are_mixed_in_at_once() -> None:
    source, random = filled(4), generator()
    source(2, random)
    source.add(numbered(4, 4), torch.arange(4, 8))
    assert sorted(n for _ in range(4) for n in numbers(source(2, random))) == list(range(8))


def test_the_augmentation_sees_pixels_and_the_same_generator() -> None:
    seen = []

    def darker(images: Tensor, random: torch.Generator | None) -> Tensor:
        seen.append((images.dtype, random))
        return images // 2

    kept, random = pool(4, darker), generator()
    kept.add(numbered(100, 4), torch.zeros(4, dtype=torch.int64))
    assert sorted(numbers(kept(4, random))) == [50, 50, 51, 51]
    assert seen == [(torch.uint8, random)]
    assert kept.images().images[:, 0, 0, 0].tolist() == [100, 101, 102, 103]


def test_a_pool_that_overflows_or_is_empty_is_named() -> None:
    kept = filled(4, capacity=6)
    with pytest.raises(ReuseError, match="A pool of 6 images cannot hold 8. Give it a larger capacity"):
        kept.add(numbered(4, 4), torch.arange(4))
    assert len(kept) == 4
    kept.add(numbered(4, 2), torch.arange(2))
    with pytest.raises(ReuseError, match="The pool is empty. Synthesise"):
        pool()(2, generator())


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_saved_pool_goes_on_within_its_epoch(taken: int) -> None:
    first, random = filled(8), generator()
    for _ in range(taken):
        first(2, random)
    state, drawn = through_a_file(first.state_dict()), random.get_state()
    expected = [numbers(first(2, random)) for _ in range(9)]
    second = filled(2)
    second(2, generator(7))
    second.load_state_dict(state)
    random.set_state(drawn)
    assert [numbers(second(2, random)) for _ in range(9)] == expected
    assert torch.equal(second.images().labels, first.images().labels)


def test_a_saved_pool_is_a_copy_of_what_it_holds() -> None:
    kept = filled(3, capacity=1000)
    state = kept.state_dict()
    kept.add(numbered(3, 3), torch.arange(3))
    kept(2, generator())
    assert len(state["images"]) == len(state["labels"]) == 3 and len(state["order"]) == 0
    assert all(
        value.untyped_storage().nbytes() == value.nbytes for value in state.values() if isinstance(value, Tensor)
    )


# ---- bank


def rows(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float()[:, None].expand(count, 2)


def held(bank: MemoryBank) -> list[int]:
    return sorted(bank.sample(len(bank), generator())[:, 0].int().tolist())


@pytest.mark.parametrize("adds", range(8))
def test_property_8_the_bank_holds_the_latest_rows(adds: int) -> None:
    bank = MemoryBank(12, 2, CPU)
    for index in range(adds):
        bank.add(rows(4 * index, 4))
    assert len(bank) == min(4 * adds, 12)
    # First in, first out: the rows of the latest three batches.
    assert held(bank) == list(range(max(0, 4 * adds - 12), 4 * adds))


def test_property_8_a_sample_has_no_duplicates_and_its_size() -> None:
    bank, random = MemoryBank(12, 2, CPU), generator()
    assert bank.sample(5, random).shape == (0, 2)
    for index in range(5):
        bank.add(rows(4 * index, 4))
        for count in (1, 5, 12, 99):
            sample = bank.sample(count, random)[:, 0].tolist()
            assert len(sample) == len(set(sample)) == min(count, len(bank))
    samples = {tuple(bank.sample(5, random)[:, 0].tolist()) for _ in range(20)}
    assert len(samples) > 10
    assert {n for sample in samples for n in sample} == set(range(8, 20))


def test_pitfall_6_a_bank_that_is_exactly_full_gives_all_its_rows() -> None:
    bank = MemoryBank(8, 2, CPU)
    for first in (0, 4):
        bank.add(rows(first, 4))
    assert len(bank) == 8 and held(bank) == list(range(8))
    assert bank.sample(3, generator()).shape == (3, 2)
    bank.add(rows(8, 4))
    assert len(bank) == 8 and held(bank) == list(range(4, 12))
    whole = MemoryBank(4, 2, CPU)  # as large as a batch
    for first in (0, 4):
        whole.add(rows(first, 4))
        assert held(whole) == list(range(first, first + 4))


def test_property_3_what_is_remembered_has_no_graph() -> None:
    bank, features = MemoryBank(8, 2, CPU), rows(0, 4).clone().requires_grad_()
    bank.add(2 * features)
    with torch.no_grad():
        features.zero_()
    assert not bank.sample(4, generator()).requires_grad
    assert held(bank) == [0, 2, 4, 6]


@pytest.mark.parametrize("count", [3, 5, 16])
def test_a_bank_that_batches_do_not_fill_is_refused(count: int) -> None:
    with pytest.raises(ShapeMismatch, match=f"A bank of 8 rows does not fill with batches of {count}"):
        MemoryBank(8, 2, CPU).add(rows(0, count))


@pytest.mark.parametrize("adds", [0, 1, 2, 3])
def test_a_saved_bank_goes_on(adds: int) -> None:
    first, second = MemoryBank(8, 2, CPU), MemoryBank(8, 2, CPU)
    for index in range(adds):
        first.add(rows(4 * index, 4))
    for _ in range(2):
        second.add(rows(50, 4))
    state = first.state_dict()
    assert state["rows"].untyped_storage().nbytes() == state["rows"].nbytes
    second.load_state_dict(through_a_file(state))
    for index in range(adds, adds + 3):
        first.add(rows(4 * index, 4))
        second.add(rows(4 * index, 4))
        assert torch.equal(*(bank.sample(5, generator(3)) for bank in (first, second)))
