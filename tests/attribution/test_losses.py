"""The equations from attributions to affinities, against loops and closed forms."""

from __future__ import annotations

import itertools

import numpy
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial.distance import pdist
from torch import Tensor

from reuselib.attribution import cka, ordinal_ranks, rsa, spearman, spearman_of_ranks, svcca, upper
from reuselib.attribution.losses import affinity_matrix, cosines, distance, normalised, pairwise, slope, without_shared
from reuselib.attribution.rivals import dissimilarity


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
    assert distance(torch.tensor([0.5, 1.0, 0.0, -0.2])).tolist() == [2, 1, float("inf"), float("inf")]
    for factor in (1e-38, 1e38):
        torch.testing.assert_close(normalised(a * factor), unit, rtol=1e-4, atol=1e-6)


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


# --- features in place of maps: RSA, SVCCA and CKA against SciPy and closed forms


def features(units: int = 12, images: int = 30) -> Tensor:
    return torch.randn(images, units).relu()


def rotation(units: int) -> Tensor:
    return torch.linalg.qr(torch.randn(units, units)).Q


def test_ranks_are_a_stable_permutation_and_pairs_are_taken_row_by_row() -> None:
    values = torch.tensor([3.0, 1.0, 3.0, 2.0, 1.0])
    assert ordinal_ranks(values).tolist() == [3, 0, 4, 2, 1] and ordinal_ranks(values).dtype == torch.int64
    assert upper(torch.arange(9).view(3, 3)).tolist() == [1, 2, 5]


def test_spearman_is_scipys() -> None:
    for count in (2, 10, 5000):
        a, b = torch.randn(count).double(), torch.randn(count).double()
        b += a
        expected = scipy.stats.spearmanr(a, b).statistic
        assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
        assert spearman(a, b, "average") == pytest.approx(expected, abs=1e-12)
    a, b = a.round(), b.round()
    assert spearman(a, b, "average") == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert numpy.isnan(spearman(a, torch.zeros(5000), "average"))
    forwards = torch.arange(1000 * 999 // 2)  # the pairs of a thousand probes do not overflow
    assert spearman_of_ranks(forwards, forwards.flip(0)) == -1 and spearman_of_ranks(forwards, forwards) == 1


def test_rsa_is_scipys() -> None:
    x, y = features(), features(40)
    x[0] = 2
    assert dissimilarity(x, centred=False)[:29].eq(1).all()  # equal features correlate with nothing
    plain = torch.from_numpy(pdist(y.double(), "correlation"))
    torch.testing.assert_close(dissimilarity(y, centred=False), plain)
    a, b = (pdist((f.double() - f.double().mean(0)).numpy(), "correlation") for f in (x, y))
    assert rsa(x, y) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12) and rsa(y, x) == rsa(x, y)
    assert rsa(x, x) == 1 and rsa(x, y, centred=False) != rsa(x, y)


def canonical(x: Tensor, y: Tensor) -> numpy.ndarray:
    """Canonical correlations by SciPy: cosines of the angles between the column spaces of centred matrices."""
    return numpy.cos(scipy.linalg.subspace_angles((x - x.mean(0)).double().numpy(), (y - y.mean(0)).double().numpy()))


def test_svcca_is_scipys_cca_of_the_fewest_directions_that_reach_the_share() -> None:
    x, y = (torch.randn(80, 20) * torch.logspace(0, -2, 20) for _ in range(2))
    y += x
    assert svcca(x[:, :5], y[:, :8], 1) == pytest.approx(canonical(x[:, :5], y[:, :8]).mean(), abs=1e-5)
    kept = []
    for f in (x, y):
        f = (f - f.mean(0)).double().numpy()
        values, vectors = numpy.linalg.eigh(f.T @ f)
        values, vectors = values[::-1], vectors[:, ::-1]
        count = next(k for k in range(1, 21) if values[:k].sum() >= 0.9 * values.sum())
        kept.append(torch.from_numpy(f @ vectors[:, :count]))
    assert svcca(x, y, 0.9) == pytest.approx(canonical(*kept).mean(), abs=1e-5)
    assert svcca(x, 3 * x @ rotation(20) + torch.randn(20)) == pytest.approx(1, abs=1e-5)
    assert svcca(x, torch.ones(80, 4)) == 0


def test_cka_in_both_forms_and_in_closed_form() -> None:
    for units in ((6, 9), (90, 70), (6, 90)):
        x, y = features(units[0], 40), features(units[1], 40)
        centring = numpy.eye(40) - 1 / 40
        k, m = (centring @ (f.double() @ f.double().T).numpy() @ centring for f in (x, y))
        expected = (k * m).sum() / numpy.linalg.norm(k) / numpy.linalg.norm(m)
        assert cka(x, y) == pytest.approx(expected, abs=1e-10) and cka(y, x) == pytest.approx(cka(x, y), abs=1e-12)
    assert cka(x, -2 * x @ rotation(6) + 5) == pytest.approx(1, abs=1e-6)
    one, two = (torch.tensor(row).view(4, 1) for row in ([1.0, -1, 0, 0], [1.0, 0, -1, 0]))
    assert cka(one, two) == pytest.approx(0.25)  # of two directions, the squared correlation
    assert cka(x, torch.ones(40, 4)) == 0
