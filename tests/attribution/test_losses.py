"""The equations from attributions to affinities, against loops and closed forms."""

from __future__ import annotations

import itertools

import numpy
import pytest
import torch

from reuselib.attribution import affinity_matrix, distance, normalised, pairwise, without_shared
from reuselib.attribution.losses import cosines, slope


def test_the_slope_of_epsilon_lrp() -> None:
    z = torch.tensor([2.0, -2.0, 0.0])
    assert slope(z.tanh(), z, 0.5).tolist() == pytest.approx([0.96403 / 2.5, 0.96403 / 2.5, 0], rel=1e-4)
    assert float(slope(torch.ones(1), torch.zeros(1), 0.25)) == 4  # the sign of zero is plus


def test_affinity_is_the_mean_cosine_image_by_image_symmetric_and_within_bounds() -> None:
    a = torch.randn(5, 6, 4, 5)
    a[1, 2] *= 1e6  # the size of one map does not count
    a[3], a[4] = a[0], -2 * a[0]
    found = affinity_matrix(a)
    for i, j in itertools.product(range(5), repeat=2):
        pairs = [(a[i, p].numpy().ravel().astype(float), a[j, p].numpy().ravel().astype(float)) for p in range(6)]
        each = [u @ v / numpy.linalg.norm(u) / numpy.linalg.norm(v) for u, v in pairs]
        assert float(found[i, j]) == pytest.approx(numpy.mean(each), abs=1e-6)
    assert torch.equal(found, found.T) and (found.diagonal() == 1).all() and found.abs().max() <= 1
    assert found.dtype == torch.float64 and torch.equal(found, affinity_matrix(list(a)))


def test_maps_of_zeros_have_a_cosine_of_zero_and_tiny_or_huge_ones_do_not_vanish() -> None:
    a = torch.randn(4, 10)
    a[1] = 0
    unit = normalised(a)
    assert (unit[1] == 0).all() and cosines(unit, unit).tolist() == pytest.approx([1, 0, 1, 1])
    for factor in (1e-38, 1e38):
        torch.testing.assert_close(normalised(a * factor), unit, rtol=1e-4, atol=1e-6)


def test_distance_is_one_over_affinity_where_there_is_one() -> None:
    assert distance(torch.tensor([0.5, 1.0, 0.0, -0.2])).tolist() == [2, 1, float("inf"), float("inf")]


def test_the_shared_map_is_taken_off_per_image() -> None:
    a = torch.randn(3, 4, 6, 6)
    found = without_shared(a)
    torch.testing.assert_close(found[2, 1], a[2, 1] - (a[0, 1] + a[1, 1] + a[2, 1]) / 3)
    assert torch.equal(without_shared(a[1], a), found[1])


def test_pairs_that_are_known_are_not_compared_again() -> None:
    calls: list[tuple[int, int]] = []

    def compare(a: int, b: int) -> float:
        calls.append((a, b))
        return float(a + b)

    whole = pairwise([1, 2, 3], compare, own=9.0)
    assert whole.tolist() == [[9, 3, 4], [3, 9, 5], [4, 5, 9]] and calls == [(2, 1), (3, 1), (3, 2)]
    assert torch.equal(pairwise([1, 2, 3], compare, 9.0, whole[:2, :2]), whole) and calls[3:] == [(3, 1), (3, 2)]
