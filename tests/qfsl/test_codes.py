"""Class codes: gaps filled, the seen mean taken off, rows of length one; and what cannot be a code is refused."""

from __future__ import annotations

import pytest
import torch

from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import class_codes, class_indices
from reuselib.qfsl.codes import centred, filled, geometry, others

SEEN = [0, 2, 3, 6]
A = torch.rand(7, 4, generator=torch.Generator().manual_seed(0))


def test_rows_have_length_one_and_the_seen_mean_was_zero() -> None:
    before = centred(A, torch.tensor(SEEN))
    assert before[SEEN].mean(0).abs().max() < 1e-6 and before.mean(0).abs().max() > 1e-3
    codes = class_codes(A, SEEN)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(codes * before.norm(dim=1, keepdim=True), before)
    torch.testing.assert_close(class_codes(A, SEEN, "unit"), A / A.norm(dim=1, keepdim=True))
    assert torch.equal(class_codes(A, SEEN, "raw"), A)


def test_unseen_classes_have_no_part_in_the_mean() -> None:
    other = A.clone()
    other[1] = torch.rand(4)
    same = [0, 2, 3, 4, 5, 6]
    assert torch.equal(class_codes(A, SEEN)[same], class_codes(other, SEEN)[same])


def test_percentages_are_divided_and_gaps_become_the_mean_of_their_attribute() -> None:
    a = torch.tensor([[10.0, -1.0], [30.0, 20.0], [-1.0, 60.0]])
    expected = torch.tensor([[0.1, 0.4], [0.3, 0.2], [0.2, 0.6]])
    for given in (a, a.where(a >= 0, torch.nan)):
        torch.testing.assert_close(filled(given), expected)
    torch.testing.assert_close(filled(a.double()), expected.double())
    assert filled(torch.tensor([[0, 1], [1, 0]])).dtype == torch.float32 and torch.equal(filled(A), A)


def test_what_is_no_attribute_matrix_is_refused() -> None:
    for a in (torch.tensor([[-0.5, 1.0], [0.2, -0.3]]), torch.tensor([[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])):
        with pytest.raises(ReuseError, match="look like values. Scale values to 0 to 1"):
            filled(a)
    with pytest.raises(ShapeMismatch, match=r"\(classes, attributes\), not \(3,\)"):
        filled(torch.rand(3))
    with pytest.raises(NonFinite, match="infinity"):
        filled(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(ReuseError, match="Attribute 1 is defined for no class"):
        filled(torch.tensor([[1.0, -1.0], [0.5, -1.0]]))
    with pytest.raises(UnknownName, match="unknown kind of codes 'centered'. Did you mean 'centred'"):
        class_codes(A, SEEN, "centered")
    with pytest.raises(ReuseError, match="code of class 2 is zero"):
        class_codes(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.9]]), [0, 1])


def test_classes_that_do_not_exist_are_refused() -> None:
    for classes in ([0, 7], [-1, 2], [1, 1]):
        with pytest.raises(ReuseError, match="seen must be classes from 0 to 6, none twice"):
            class_indices(classes, 7)
    for empty in ([], [0.5], [True, False], 3):
        with pytest.raises(ReuseError, match="at least one class by its row"):
            class_indices(empty, 7)
    for words in (None, "seen", [[0], [1, 2]]):
        with pytest.raises(ShapeMismatch, match="numbers are needed"):
            class_indices(words, 7)
    assert others(torch.tensor([3, 0]), 5).tolist() == [1, 2, 4]


def test_the_geometry_of_codes_where_it_is_known() -> None:
    draw = torch.Generator().manual_seed(1)
    single = torch.rand(40, 1, generator=draw)
    told = geometry(single.expand(-1, 8) * torch.linspace(0.5, 1, 8), torch.arange(30, 40))  # one thing, eight names
    assert told["recovered"] > 0.7 and told["independent"] == pytest.approx(1 / 8)
    assert told["nearest"] == pytest.approx(1) and told["crowded"] == pytest.approx(1) == told["spanned"]
    alone = geometry(torch.eye(12), torch.arange(8, 12))  # every class has an attribute of its own
    assert alone["recovered"] < 0.1 and alone["independent"] == pytest.approx(7 / 12)
    assert alone["crowded"] == pytest.approx(-1 / 7) and alone["nearest"] == pytest.approx(0, abs=1e-9)
    assert alone["spanned"] == pytest.approx(0, abs=1e-9)
    table = torch.rand(30, 10, generator=draw)
    hidden = table.clone()
    hidden[25:] = hidden[25:].flip(0)
    again = [geometry(each, torch.arange(25, 30), seed=3) for each in (table, table, hidden)]
    assert again[0] == again[1] and again[2] == pytest.approx(again[0])
