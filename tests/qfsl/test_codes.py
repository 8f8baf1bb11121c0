"""Class codes: gaps filled, the seen mean taken off, rows of length one; and what cannot be a code is refused."""

from __future__ import annotations

import pytest
import torch

from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import centred, class_codes, class_folds, filled
from reuselib.qfsl.codes import class_indices, others


def attributes(seed: int = 0) -> torch.Tensor:
    return torch.rand(7, 4, generator=torch.Generator().manual_seed(seed))


SEEN = [0, 2, 3, 6]


def test_rows_have_length_one_and_the_seen_mean_was_zero() -> None:
    a = attributes()
    before = centred(a, torch.tensor(SEEN))
    assert before[SEEN].mean(0).abs().max() < 1e-6 and before.mean(0).abs().max() > 1e-3
    codes = class_codes(a, SEEN)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(codes * before.norm(dim=1, keepdim=True), before)


def test_unseen_classes_have_no_part_in_the_mean() -> None:
    a = attributes()
    other = a.clone()
    other[1] = torch.rand(4)
    same = [0, 2, 3, 4, 5, 6]
    assert torch.equal(class_codes(a, SEEN)[same], class_codes(other, SEEN)[same])


def test_unit_and_raw_codes() -> None:
    a = attributes()
    torch.testing.assert_close(class_codes(a, SEEN, "unit"), a / a.norm(dim=1, keepdim=True))
    assert torch.equal(class_codes(a, SEEN, "raw"), a)
    with pytest.raises(UnknownName, match="unknown kind of codes 'centered'. Did you mean 'centred'"):
        class_codes(a, SEEN, "centered")


def test_percentages_are_divided_and_gaps_become_the_mean_of_their_attribute() -> None:
    a = torch.tensor([[10.0, -1.0], [30.0, 20.0], [-1.0, 60.0]])
    expected = torch.tensor([[0.1, 0.4], [0.3, 0.2], [0.2, 0.6]])
    torch.testing.assert_close(filled(a), expected)
    torch.testing.assert_close(filled(a.where(a >= 0, torch.nan)), expected)
    torch.testing.assert_close(filled(a.double()), expected.double())
    assert filled(torch.tensor([[0, 1], [1, 0]])).dtype == torch.float32


def test_shares_are_left_alone() -> None:
    a = attributes()
    assert torch.equal(filled(a), a)


def test_signed_attributes_keep_their_negative_entries() -> None:
    a = torch.tensor([[-3.0, torch.nan], [2.0, 400.0], [1.0, -200.0]])
    expected = torch.tensor([[-3.0, 100.0], [2.0, 400.0], [1.0, -200.0]])
    torch.testing.assert_close(filled(a, signed=True), expected)


@pytest.mark.parametrize(
    "a", [torch.tensor([[-0.5, 1.0], [0.2, -0.3]]), torch.tensor([[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])]
)
def test_negative_values_are_not_taken_for_gaps(a: torch.Tensor) -> None:
    with pytest.raises(ReuseError, match="give signed=True"):
        filled(a)
    assert torch.equal(filled(a, signed=True), a)


def test_what_is_no_attribute_matrix_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(classes, attributes\), not \(3,\)"):
        filled(torch.rand(3))
    with pytest.raises(NonFinite, match="infinity"):
        filled(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(ReuseError, match="Attribute 1 is defined for no class"):
        filled(torch.tensor([[1.0, -1.0], [0.5, -1.0]]))


def test_a_class_without_a_direction_is_refused() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.9]])
    with pytest.raises(ReuseError, match="code of class 2 is zero"):
        class_codes(a, [0, 1])
    assert class_codes(a, [0, 1], "raw").shape == (4, 2)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "at least one class"),
        ([0, 7], "has classes 0 to 7, but there are 7"),
        ([-1, 2], "classes -1 to 2"),
        ([1, 1], "twice"),
        ([0.5], "by its row"),
        ([True, False], "by its row"),
    ],
)
def test_classes_that_do_not_exist_are_refused(classes: list[int], message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        class_indices(classes, 7)


def test_the_others_are_the_rest() -> None:
    assert others(torch.tensor([3, 0]), 5).tolist() == [1, 2, 4]


def test_folds_hold_out_every_class_once() -> None:
    classes = torch.tensor([2, 5, 7, 11, 13])
    parts = class_folds(classes, 3, seed=1)
    assert torch.cat(parts).sort().values.tolist() == classes.tolist()
    assert sorted(map(len, parts)) == [1, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(parts, class_folds(classes, 3, seed=1), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(parts, class_folds(classes, 3, seed=2), strict=True))
    for folds in (1, 6):
        with pytest.raises(ReuseError, match="ask for 2 to 5"):
            class_folds(classes, folds)
