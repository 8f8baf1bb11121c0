"""The ordinal normalisation: wins, odds, and their principal eigenvector."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from reuselib.attribution.ordinal import affinities, ahp, odds, principal, wins


def losses(sources: int = 5, images: int = 40) -> Tensor:
    return torch.rand(sources, images) + torch.linspace(0, 0.5, sources).unsqueeze(1)


def test_wins_against_a_loop_and_both_ways_together_are_one() -> None:
    found = losses().mul(10).round()  # with ties
    w = wins(found)
    for i in range(5):
        for j in range(5):
            each = [1.0 if a < b else 0.5 if a == b else 0.0 for a, b in zip(found[i], found[j], strict=True)]
            assert float(w[i, j]) == pytest.approx(sum(each) / 40)
    torch.testing.assert_close(w + w.T, torch.ones(5, 5).double())


def test_a_consistent_matrix_gives_its_vector_exactly_and_any_other_numpys() -> None:
    p = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03], dtype=torch.float64)
    shares = p.unsqueeze(1) / (p.unsqueeze(1) + p)  # wins of sources that win in proportion to p
    torch.testing.assert_close(principal(odds(shares)), p, rtol=1e-12, atol=0)
    matrix = odds(wins(losses()))
    values, vectors = numpy.linalg.eig(matrix.numpy())
    expected = numpy.abs(numpy.real(vectors[:, numpy.argmax(numpy.real(values))]))
    torch.testing.assert_close(principal(matrix), torch.from_numpy(expected / expected.sum()), rtol=1e-9, atol=0)


def test_it_settles_also_where_everyone_is_beaten_by_the_next() -> None:
    ordered = torch.arange(20.0).unsqueeze(1).expand(20, 100)
    found = ahp(ordered)
    assert found.argsort(descending=True).tolist() == list(range(20)) and found.min() > 0
    circle = torch.tensor([[0, 2, 1], [1, 0, 2], [2, 1, 0]])  # each beats one of the two others more often
    assert ahp(circle.repeat(1, 30)).tolist() == pytest.approx([1 / 3] * 3)


def test_increasing_maps_change_nothing_and_every_target_has_its_own() -> None:
    found = torch.stack([losses(), losses()]).double()
    for change in (torch.exp, lambda x: 5 * x - 20):  # below zero too
        assert torch.equal(ahp(change(found[0])), ahp(found[0]))
    assert torch.equal(affinities(found), torch.stack([ahp(found[0]), ahp(found[1])]))


def test_who_always_wins_is_first_and_clipped() -> None:
    found = losses()
    found[3] = -1
    w, others = wins(found), [0, 1, 2, 4]
    assert w[3].sum() == 4.5 and ahp(found).argmax() == 3
    assert torch.allclose(odds(w)[3, others], torch.tensor(999.0).double()) and float(odds(w)[3, 3]) == 1
    assert odds(w)[others, 3].tolist() == pytest.approx([1 / 999] * 4)
