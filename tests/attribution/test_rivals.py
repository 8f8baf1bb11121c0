"""RSA, SVCCA and CKA against SciPy, scikit-learn and closed forms."""

from __future__ import annotations

import numpy
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial.distance import pdist
from torch import Tensor

from reuselib.attribution import cka, ordinal_ranks, rsa, spearman, spearman_of_ranks, svcca, upper
from reuselib.attribution.rivals import dissimilarity
from reuselib.depara import edge_values


def features(units: int = 12, images: int = 30) -> Tensor:
    return torch.randn(images, units).relu()


def rotation(units: int) -> Tensor:
    return torch.linalg.qr(torch.randn(units, units)).Q


# --- ranks


def test_ordinal_ranks_are_a_stable_permutation() -> None:
    values = torch.tensor([3.0, 1.0, 3.0, 2.0, 1.0])
    assert ordinal_ranks(values).tolist() == [3, 0, 4, 2, 1] and ordinal_ranks(values).dtype == torch.int64


def test_spearman_is_scipys() -> None:
    for count in (2, 10, 5000):
        a, b = torch.randn(count).double(), torch.randn(count).double()
        b += a
        expected = scipy.stats.spearmanr(a, b).statistic
        assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
        assert spearman(a, b, "average") == pytest.approx(expected, abs=1e-12)
    a, b = a.round(), b.round()
    assert spearman(a, b, "average") == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_at_its_ends() -> None:
    values = torch.randn(100)
    assert spearman(values, values) == 1 and spearman(values, -values) == -1
    assert numpy.isnan(spearman(values, torch.zeros(100), "average"))


def test_ranks_of_a_thousand_probes_do_not_overflow() -> None:
    count = 1000 * 999 // 2
    forwards = torch.arange(count)
    assert spearman_of_ranks(forwards, forwards.flip(0)) == -1
    assert spearman_of_ranks(forwards, forwards) == 1


# --- RSA


def test_dissimilarity_is_scipys_correlation_distance() -> None:
    x = features()
    torch.testing.assert_close(dissimilarity(x, centred=False), torch.from_numpy(pdist(x.double(), "correlation")))
    torch.testing.assert_close(
        dissimilarity(x), torch.from_numpy(pdist((x - x.mean(0)).double(), "correlation")), atol=1e-5, rtol=0
    )


def test_rsa_is_scipys() -> None:
    x, y = features(), features(40)
    a, b = (pdist((f.double() - f.double().mean(0)).numpy(), "correlation") for f in (x, y))
    expected = scipy.stats.spearmanr(a, b).statistic
    assert rsa(x, y) == pytest.approx(expected, abs=1e-12) and rsa(y, x) == rsa(x, y)
    assert rsa(x, x) == 1 and rsa(x, 3 * x + 2) == pytest.approx(1, abs=1e-9)
    assert rsa(x, y, centred=False) != rsa(x, y)


def test_rsa_is_the_order_of_edges_once_rows_have_zero_mean() -> None:
    """DEPARA property 6: negated copies make the second centring empty."""
    pairs = [torch.cat([f, -f], 1) for f in (features(), features(20))]
    edges = [edge_values(f) for f in pairs]
    assert rsa(*pairs) == pytest.approx(spearman(*edges), abs=1e-12)
    others = features(), features(20)
    assert rsa(*others) != pytest.approx(spearman(*(edge_values(f) for f in others)), abs=1e-6)


def test_an_image_with_equal_features_correlates_with_nothing() -> None:
    x = features()
    x[0] = 2
    assert dissimilarity(x, centred=False)[:29].eq(1).all()


# --- SVCCA


def canonical(x: Tensor, y: Tensor) -> numpy.ndarray:
    """Canonical correlations by SciPy: cosines of the angles between the column spaces of centred matrices."""
    return numpy.cos(scipy.linalg.subspace_angles((x - x.mean(0)).double().numpy(), (y - y.mean(0)).double().numpy()))


def test_svcca_of_all_variance_is_scipys_cca() -> None:
    x, y = features(5, 60).double(), features(8, 60).double()
    y[:, :3] = x[:, :3] + 0.3 * y[:, :3]
    assert svcca(x, y, 1) == pytest.approx(canonical(x, y).mean(), abs=1e-10) and svcca(y, x, 1) == pytest.approx(
        svcca(x, y, 1)
    )


def test_svcca_cuts_to_the_fewest_directions_that_reach_the_share() -> None:
    variance = 0.9
    x, y = (torch.randn(80, 20) * torch.logspace(0, -2, 20) for _ in range(2))
    y += x
    kept = []
    for f in (x, y):
        f = (f - f.mean(0)).double().numpy()
        values, vectors = numpy.linalg.eigh(f.T @ f)
        values, vectors = values[::-1], vectors[:, ::-1]
        count = next(k for k in range(1, 21) if values[:k].sum() >= variance * values.sum())
        kept.append(torch.from_numpy(f @ vectors[:, :count]))
    assert svcca(x, y, variance) == pytest.approx(canonical(*kept).mean(), abs=1e-5)


def test_svcca_sees_through_rotation_scale_and_shift() -> None:
    x = features()
    assert svcca(x, 3 * x @ rotation(12) + torch.randn(12)) == pytest.approx(1, abs=1e-6)
    assert svcca(x, torch.ones(30, 4)) == 0


# --- CKA


def test_cka_in_both_forms() -> None:
    for units in ((6, 9), (90, 70), (6, 90)):
        x, y = features(units[0], 40), features(units[1], 40)
        centring = numpy.eye(40) - 1 / 40
        k, m = (centring @ (f.double() @ f.double().T).numpy() @ centring for f in (x, y))
        expected = (k * m).sum() / numpy.linalg.norm(k) / numpy.linalg.norm(m)
        assert cka(x, y) == pytest.approx(expected, abs=1e-10) and cka(y, x) == pytest.approx(cka(x, y), abs=1e-12)


def test_cka_in_closed_form() -> None:
    x = features()
    assert cka(x, -2 * x @ rotation(12) + 5) == pytest.approx(1, abs=1e-6)
    one, two = (torch.zeros(4, 1) + torch.tensor(row).view(4, 1) for row in ([1.0, -1, 0, 0], [1.0, 0, -1, 0]))
    assert cka(one, two) == pytest.approx(0.25)  # of two directions, the squared correlation
    assert cka(x, torch.ones(30, 4)) == 0


def test_upper_goes_row_by_row() -> None:
    assert upper(torch.arange(9).view(3, 3)).tolist() == [1, 2, 5]
