"""Metrics on feature sets and on masks: closed forms, slow loops, hand-made cases, errors."""

from __future__ import annotations

import math
from itertools import combinations

import numpy
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from reuselib import nets
from reuselib.errors import BadValue, NonFinite, ReuseError, ShapeMismatch
from reuselib.report import metrics

COMPARISONS = [metrics.frechet_distance, metrics.kernel_distance, metrics.coverage, metrics.recall]


def normal(count: int, width: int, seed: int = 0) -> Tensor:
    """Correlated normal features with unequal variances."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=random)
    return torch.randn(count, width, generator=random) @ mixing + torch.randn(width, generator=random)


@pytest.fixture(params=[(30, 40, 3), (20, 20, 1)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Two sets of features, of different counts and distributions."""
    real, fake, width = request.param
    return normal(real, width, seed=1), normal(fake, width, seed=2)


def distance(x: Tensor, y: Tensor) -> float:
    return math.dist(x.tolist(), y.tolist())


def radius(points: Tensor, index: int, neighbours: int) -> float:
    return sorted(distance(points[index], other) for i, other in enumerate(points) if i != index)[neighbours - 1]


def test_frechet_against_the_square_root_of_the_product_and_in_closed_form(pair: tuple[Tensor, Tensor]) -> None:
    a, b = (features.double().numpy() for features in pair)
    first, second = (numpy.atleast_2d(numpy.cov(x, rowvar=False)) for x in (a, b))
    cross = numpy.real(scipy.linalg.sqrtm(first @ second))
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + numpy.trace(first + second - 2 * cross)
    assert metrics.frechet_distance(*pair) == pytest.approx(expected, rel=1e-6)
    few, other = normal(5, 40, seed=1), normal(6, 40, seed=2)  # fewer than features
    assert metrics.frechet_distance(few, other) == pytest.approx(metrics.frechet_distance(other, few), rel=1e-6)
    centred = pair[0].double() - pair[0].double().mean(0)  # covariances C and 9 C: tr(C + 9 C - 6 C)
    assert metrics.frechet_distance(centred, 3 * centred) == pytest.approx(4 * centred.var(0).sum().item())


def test_kernel_distance_against_a_double_loop(pair: tuple[Tensor, Tensor]) -> None:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / len(x) + 1) ** 3

    real, fake = pair
    within = [sum(kernel(x, y) for x, y in combinations(s, 2)) / math.comb(len(s), 2) for s in pair]
    between = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    assert metrics.kernel_distance(real, fake) == pytest.approx(sum(within) - 2 * between, rel=1e-6, abs=1e-6)


def test_coverage_and_recall_against_loops(pair: tuple[Tensor, Tensor]) -> None:
    real, fake = pair
    fake = 0.7 * fake + 0.3 * real.mean(0)
    for neighbours in (1, 5):
        covered = [min(distance(x, y) for y in fake) <= radius(real, i, neighbours) for i, x in enumerate(real)]
        assert metrics.coverage(real, fake, neighbours) == pytest.approx(numpy.mean(covered))
        radii = [radius(fake, j, neighbours) for j in range(len(fake))]
        recalled = [any(distance(x, y) <= r for y, r in zip(fake, radii, strict=True)) for x in real]
        assert metrics.recall(real, fake, neighbours) == pytest.approx(numpy.mean(recalled))
    assert metrics.coverage(real, real) == metrics.recall(real, real) == 1
    far = torch.randn(30, 2, dtype=torch.float64) + 1e6  # balls of radius zero, exactly, far from the origin
    assert metrics.recall(far, far[:1].expand(30, 2)) == pytest.approx(1 / 30)
    assert metrics.recall(torch.tensor([[0.0], [9.0]]), torch.tensor([[4.0], [8.0]]), 1) == 1  # the edge is inside


def test_spreads_neighbours_and_numbers_of_classes_against_loops_and_by_hand() -> None:
    features, references = normal(600, 3, seed=1), normal(40, 3, seed=1)
    expected = [min(range(40), key=lambda j: distance(x, references[j])) for x in features]
    assert metrics.nearest(features, references).tolist() == expected
    close = torch.tensor([[4096.0, 0], [4096, 0.01], [4096, 0.02]]).repeat(20, 1)  # far from the origin
    assert metrics.nearest(close[[2, 1, 0]].repeat(20, 1), close).tolist() == [2, 1, 0] * 20
    pairs = list(combinations(references, 2))
    assert metrics.mean_distance(references) == pytest.approx(sum(distance(x, y) for x, y in pairs) / len(pairs))
    cosine = sum(F.cosine_similarity(x, y, dim=0).item() for x, y in pairs) / len(pairs)
    assert metrics.cosine_diversity(references) == pytest.approx(1 - cosine, abs=1e-6)
    # Orthogonal, parallel, opposite, and no direction at all, which counts as unrelated.
    for rows, value in ((torch.eye(4), 1), ([[1, 2], [2, 4]], 0), ([[1, 0], [-1, 0]], 2), ([[1, 0], [0, 0]], 1)):
        assert metrics.cosine_diversity(torch.as_tensor(rows).float()) == pytest.approx(value, abs=1e-12)
    assert metrics.effective_number(torch.arange(32).repeat(3), 32) == pytest.approx(32)
    entropy = -sum(share * math.log(share) for share in (0.75, 0.25))
    assert metrics.effective_number(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(math.exp(entropy))


def test_features_are_those_in_evaluation_mode_and_the_mode_comes_back_after_errors_too() -> None:
    network, images = nets.conv4(width=4), torch.randn(7, 1, 16, 16)
    network.blocks[1].eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    features = metrics.features_of(network, images, batch=3)
    with pytest.raises(ShapeMismatch, match="channels"):
        metrics.features_of(network, torch.randn(2, 3, 16, 16))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not features.requires_grad and features.dtype == torch.float32
    assert torch.allclose(features, network.eval().features(images), atol=1e-6)
    with pytest.raises(ReuseError, match=r"no method features\(images\)"):
        metrics.features_of(nn.Linear(3, 2), torch.randn(2, 3))


@pytest.mark.parametrize(("ignore", "classes"), [(255, 2), (0, 5)])
def test_the_mean_iou_is_that_of_loops_and_of_scikit_learn(ignore: int, classes: int) -> None:
    labels, predictions = torch.randint(classes, (2, 6, 6, 5))
    labels[torch.rand(6, 6, 5) < 0.2] = ignore
    counted = labels != ignore
    pixels = list(zip(labels[counted].tolist(), predictions[counted].tolist(), strict=True))
    confusion = metrics.confusion_matrix(predictions, labels, classes, ignore)
    slow = [[pixels.count((true, said)) for said in range(classes)] for true in range(classes)]
    assert confusion.dtype == torch.int64 and confusion.tolist() == slow
    expected = jaccard_score(labels[counted], predictions[counted], average=None, labels=list(range(classes)))
    assert metrics.intersection_over_union(confusion).tolist() == pytest.approx(expected.tolist())
    assert metrics.mean_iou(confusion) == pytest.approx(expected.mean())
    predictions[~counted] = 0  # ignored pixels never matter
    parts = zip(predictions.split(4), labels.split(4), strict=True)  # and batches add up
    assert torch.equal(sum(metrics.confusion_matrix(*part, classes, ignore) for part in parts), confusion)


def test_classes_that_are_nowhere_do_not_count() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    confusion = metrics.confusion_matrix(torch.tensor([0, 1, 1, 1]), labels, 4)  # two classes are nowhere
    assert metrics.intersection_over_union(confusion)[2:].isnan().all()
    assert metrics.mean_iou(confusion) == pytest.approx((1 / 2 + 2 / 3) / 2)
    wrong = metrics.confusion_matrix(torch.tensor([3, 0, 1, 1]), labels, 4)  # predicted, but not there: it counts
    assert metrics.mean_iou(wrong) == pytest.approx((1 / 2 + 1 + 0) / 3)
    meta = torch.zeros(2, 4, 4, dtype=torch.int64, device="meta")  # nothing is read off the device
    assert metrics.confusion_matrix(meta, meta, 3).is_meta


def test_what_does_not_fit_is_refused() -> None:
    x, y, whole = torch.randn(9, 3), torch.randn(9, 4), torch.arange(4)
    unknown = torch.full((9, 3), math.nan)
    for metric in COMPARISONS:
        assert isinstance(metric(x.bfloat16().requires_grad_(), x.double()), float)
        for pair, error, words in (
            ((x, y), ShapeMismatch, r"matrices \(N, D\)"),
            ((x, x[:1]), ShapeMismatch, "N of at least 2"),
            ((x, unknown), NonFinite, "NaN or infinity"),
        ):
            with pytest.raises(error, match=words):
                metric(*pair)
    for call, error, words in (
        (lambda: metrics.mean_distance(x[:1]), ShapeMismatch, "N of at least 2"),
        (lambda: metrics.cosine_diversity(x[0]), ShapeMismatch, "N of at least 2"),
        (lambda: metrics.coverage(x, x, 9), BadValue, "neighbours must be a whole number from 1 to 8"),
        (lambda: metrics.recall(x, x, 0), BadValue, "neighbours must be a whole number from 1 to 8"),
        (lambda: metrics.nearest(x, y), ShapeMismatch, "references"),
        (lambda: metrics.nearest(unknown, x), NonFinite, "NaN or infinity"),
        (lambda: metrics.effective_number(whole + 2, 5), ShapeMismatch, "classes=5"),
        (lambda: metrics.effective_number(whole[:0], 5), ShapeMismatch, "classes=5"),
        (lambda: metrics.confusion_matrix(whole, whole[:3], 4), ShapeMismatch, "one predicted and one true class"),
        (lambda: metrics.confusion_matrix(whole, whole, 3), ShapeMismatch, "none of the 3 classes, nor 255"),
        (lambda: metrics.confusion_matrix(whole - 1, whole, 4), ShapeMismatch, "none of the 4 classes"),
        (lambda: metrics.mean_iou(-torch.eye(2)), ShapeMismatch, "Counts must be"),
        (lambda: metrics.mean_iou(torch.zeros(2, 2)), ReuseError, "No pixel was counted"),
    ):
        with pytest.raises(error, match=words):
            call()
