"""Class codes: gaps filled, the seen mean taken off, rows of length one; and what cannot be a code is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from zeroshot_toys import assert_refused

from reuselib.errors import NonFinite, ReuseError, UnknownName
from reuselib.qfsl import class_codes, class_indices
from reuselib.qfsl.codes import centred, filled, geometry, others

SEEN = [0, 2, 3, 6]
A = torch.rand(7, 4, generator=torch.Generator().manual_seed(0))


def test_rows_have_length_one_and_only_seen_classes_have_a_part_in_the_mean() -> None:
    before, codes = centred(A, torch.tensor(SEEN)), class_codes(A, SEEN)
    torch.testing.assert_close(before, A - A[SEEN].mean(0))
    torch.testing.assert_close(codes, before / before.norm(dim=1, keepdim=True))
    torch.testing.assert_close(class_codes(A, SEEN, "unit"), A / A.norm(dim=1, keepdim=True))
    assert torch.equal(class_codes(A, SEEN, "raw"), A) and others(torch.tensor([3, 0]), 5).tolist() == [1, 2, 4]
    assert torch.equal(others(torch.arange(5), 5), torch.tensor([], dtype=torch.int64))


def test_percentages_are_divided_and_gaps_become_the_mean_of_their_attribute() -> None:
    a = torch.tensor([[10.0, -1.0], [30.0, 20.0], [-1.0, 60.0]])
    expected = torch.tensor([[0.1, 0.4], [0.3, 0.2], [0.2, 0.6]])
    for given in (a, a.where(a >= 0, torch.nan)):
        torch.testing.assert_close(filled(given), expected)
    assert filled(torch.tensor([[0, 1], [1, 0]])).dtype == torch.float32 and filled(a.double()).dtype == torch.float64


def test_what_is_no_attribute_matrix_and_no_class_is_refused() -> None:
    zero = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.9]])
    twice, empty = ([0, 7], [-1, 2], [1, 1]), ([], [0.5], [True, False])
    assert_refused(
        (ReuseError, "look like values. Scale values to 0", lambda: filled(torch.tensor([[-0.5, 1.0], [0.2, -0.3]]))),
        (NonFinite, "infinity", lambda: filled(torch.tensor([[1.0, torch.inf]]))),
        (ReuseError, "Attribute 1 is defined for no", lambda: filled(torch.tensor([[1.0, -1.0], [0.5, -1.0]]))),
        (UnknownName, "kind of codes 'centered'. Did you mean 'centred'", lambda: class_codes(A, SEEN, "centered")),
        (ReuseError, "code of class 2 is zero", lambda: class_codes(zero, [0, 1])),
        *((ReuseError, "seen must be classes from 0 to 6, none twice", partial(class_indices, c, 7)) for c in twice),
        *((ReuseError, "at least one class by its row", partial(class_indices, c, 7)) for c in empty),
    )


def test_the_geometry_of_codes_where_it_is_known() -> None:
    draw = torch.Generator().manual_seed(1)
    single = torch.rand(40, 1, generator=draw)
    told = geometry(single.expand(-1, 8) * torch.linspace(0.5, 1, 8), torch.arange(30, 40))  # one thing, eight names
    assert told["recovered"] > 0.7 and told["independent"] == pytest.approx(1 / 8)
    assert told["nearest"] == pytest.approx(1) and told["crowded"] == pytest.approx(1) == told["spanned"]
    alone = geometry(torch.eye(12), torch.arange(8, 12))  # every class has an attribute of its own
    assert alone["recovered"] < 0.1 and alone["independent"] == pytest.approx(7 / 12)
    assert alone["crowded"] == pytest.approx(-1 / 7)
    assert (alone["nearest"], alone["spanned"]) == pytest.approx((0, 0), abs=1e-9)
