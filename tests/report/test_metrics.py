"""Metrics on feature sets and on masks: closed forms, slow loops, hand-made cases, errors."""

from __future__ import annotations

import math
from itertools import combinations, product

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
SPREADS = [metrics.mean_distance, metrics.cosine_diversity]


def normal(count: int, width: int, seed: int = 0) -> Tensor:
    """Correlated normal features with unequal variances."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=random)
    return torch.randn(count, width, generator=random) @ mixing + torch.randn(width, generator=random)


@pytest.fixture(params=[(30, 40, 3), (60, 25, 8), (20, 20, 1)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Two sets of features, of different counts and distributions."""
    real, fake, width = request.param
    return normal(real, width, seed=1), normal(fake, width, seed=2)


def distance(x: Tensor, y: Tensor) -> float:
    return math.dist(x.tolist(), y.tolist())


def radius(points: Tensor, index: int, neighbours: int) -> float:
    return sorted(distance(points[index], other) for i, other in enumerate(points) if i != index)[neighbours - 1]


def test_frechet_against_the_square_root_of_the_product(pair: tuple[Tensor, Tensor]) -> None:
    a, b = (features.double().numpy() for features in pair)
    first, second = (numpy.atleast_2d(numpy.cov(x, rowvar=False)) for x in (a, b))
    cross = numpy.real(scipy.linalg.sqrtm(first @ second))
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + numpy.trace(first + second - 2 * cross)
    assert metrics.frechet_distance(*pair) == pytest.approx(expected, rel=1e-6)


def test_frechet_in_closed_form() -> None:
    x, few, other = normal(50, 3), normal(5, 40, seed=1), normal(6, 40, seed=2)  # the latter: fewer than features
    assert metrics.frechet_distance(x, x + torch.tensor([3.0, 0, -4])) == pytest.approx(25, rel=1e-4)
    centred = x.double() - x.double().mean(0)  # covariances C and 9 C: tr(C + 9 C - 6 C)
    assert metrics.frechet_distance(centred, 3 * centred) == pytest.approx(4 * centred.var(0).sum().item())
    assert metrics.frechet_distance(few, other) == pytest.approx(metrics.frechet_distance(other, few), rel=1e-6)
    assert metrics.frechet_distance(few, torch.ones(3, 40)) > 0 == round(metrics.frechet_distance(few, few), 9)


def test_kernel_distance_against_a_double_loop_and_without_bias(pair: tuple[Tensor, Tensor]) -> None:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / len(x) + 1) ** 3

    real, fake = pair
    within = [sum(kernel(x, y) for x, y in combinations(s, 2)) / math.comb(len(s), 2) for s in pair]
    between = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    assert metrics.kernel_distance(real, fake) == pytest.approx(sum(within) - 2 * between, rel=1e-6, abs=1e-6)
    seeds = [torch.randn(22, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(400)]
    values = [metrics.kernel_distance(*each.split([15, 7])) for each in seeds]
    assert abs(numpy.mean(values)) < 4 * numpy.std(values) / 20 and min(values) < 0


def test_spreads_against_loops_and_by_hand() -> None:
    features = normal(30, 5)
    pairs = list(combinations(features, 2))
    assert metrics.mean_distance(features) == pytest.approx(sum(distance(x, y) for x, y in pairs) / len(pairs))
    cosine = sum(F.cosine_similarity(x, y, dim=0).item() for x, y in pairs) / len(pairs)
    assert metrics.cosine_diversity(features) == pytest.approx(1 - cosine, abs=1e-6)
    assert metrics.mean_distance(torch.full((1200, 3), 7.1)) == 0  # more than a block
    # Orthogonal, parallel, opposite, and no direction at all, which counts as unrelated.
    for rows, expected in ((torch.eye(4), 1), ([[1, 2], [2, 4]], 0), ([[1, 0], [-1, 0]], 2), ([[1, 0], [0, 0]], 1)):
        assert metrics.cosine_diversity(torch.as_tensor(rows).float()) == pytest.approx(expected, abs=1e-12)


def test_coverage_and_recall_against_loops(pair: tuple[Tensor, Tensor]) -> None:
    real, fake = pair
    fake = 0.7 * fake + 0.3 * real.mean(0)
    for neighbours in (1, 3, 5):
        covered = [min(distance(x, y) for y in fake) <= radius(real, i, neighbours) for i, x in enumerate(real)]
        assert metrics.coverage(real, fake, neighbours) == pytest.approx(numpy.mean(covered))
        radii = [radius(fake, j, neighbours) for j in range(len(fake))]
        recalled = [any(distance(x, y) <= r for y, r in zip(fake, radii, strict=True)) for x in real]
        assert metrics.recall(real, fake, neighbours) == pytest.approx(numpy.mean(recalled))
    assert metrics.coverage(real, real) == metrics.recall(real, real) == 1


def test_coverage_and_recall_of_hand_made_sets() -> None:
    centres = torch.tensor([[0.0, 0], [50, 0], [0, 50], [50, 50]])
    real = torch.cat([centre + torch.randn(20, 2) for centre in centres])
    for modes in (1, 2, 4):  # a missing mode shows
        fake = torch.cat([centre + 0.5 * torch.randn(20, 2) for centre in centres[:modes]])
        assert 0 < metrics.recall(real, fake) <= modes / 4
        assert 0.8 * modes / 4 < metrics.coverage(real, fake) <= modes / 4
    fake = 200 + torch.randn(20, 2)
    assert metrics.recall(real, fake) == metrics.coverage(real, fake) == 0
    fake[0] = -200  # one outlier's ball swallows every real image: why both are reported
    assert metrics.recall(real, fake) == 1 and metrics.coverage(real, fake) == 0
    far = torch.randn(30, 2, dtype=torch.float64) + 1e6  # balls of radius zero, exactly, far from the origin
    assert metrics.recall(far, far[:1].expand(30, 2)) == pytest.approx(1 / 30)
    assert metrics.recall(far[1:] + 1e-6, far[:1].expand(30, 2)) == 0
    assert metrics.recall(torch.tensor([[0.0], [9.0]]), torch.tensor([[4.0], [8.0]]), 1) == 1  # the edge is inside


def test_nearest_against_a_loop_and_far_from_the_origin() -> None:
    queries, references = normal(700, 3, seed=1), normal(40, 3, seed=1)
    expected = [min(range(40), key=lambda j: distance(q, references[j])) for q in queries]
    assert metrics.nearest(queries, references).tolist() == expected
    close = torch.tensor([[4096.0, 0], [4096, 0.01], [4096, 0.02]]).repeat(20, 1)
    assert metrics.nearest(close[[2, 1, 0]].repeat(20, 1), close).tolist() == [2, 1, 0] * 20
    for shapes in (((5, 3), (5, 2)), ((5, 3), (0, 3)), ((3,), (5, 3))):
        with pytest.raises(ShapeMismatch, match="references"):
            metrics.nearest(*map(torch.randn, shapes))
    for sets in ((torch.full((2, 3), math.nan), torch.randn(5, 3)), (torch.randn(2, 3), torch.full((5, 3), math.inf))):
        with pytest.raises(NonFinite, match="NaN or infinity"):
            metrics.nearest(*sets)


def test_effective_number() -> None:
    assert metrics.effective_number(torch.arange(32).repeat(3), 32) == pytest.approx(32)
    assert metrics.effective_number(torch.full((9,), 4), 10) == pytest.approx(1)
    entropy = -sum(share * math.log(share) for share in (0.75, 0.25))
    assert metrics.effective_number(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(math.exp(entropy))
    for labels in (torch.tensor([]).long(), torch.tensor([0, 5]), torch.tensor([-1, 0]), torch.tensor([0.5, math.nan])):
        with pytest.raises(ShapeMismatch, match="classes=5"):
            metrics.effective_number(labels, 5)


@pytest.mark.parametrize("training", [True, False])
def test_features_are_those_in_evaluation_mode_and_the_mode_comes_back_after_errors_too(training: bool) -> None:
    network, images = nets.conv4(width=4), torch.randn(7, 1, 16, 16)
    network.train(training)
    network.blocks[1].train(not training)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    features = metrics.features_of(network, images, batch=3)
    with pytest.raises(ShapeMismatch, match="channels"):
        metrics.features_of(network, torch.randn(2, 3, 16, 16))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not features.requires_grad and features.dtype == torch.float32
    assert torch.allclose(features, network.eval().features(images), atol=1e-6)
    for without in (nn.Linear(3, 2), nn.ModuleDict({"x": nn.Identity()})):
        with pytest.raises(ReuseError, match=r"no method features\(images\)"):
            metrics.features_of(without, torch.randn(2, 3))


def test_the_mean_iou_is_that_of_loops_and_of_scikit_learn() -> None:
    for ignore, classes in product((255, 7, 0), (2, 5)):
        labels, predictions = torch.randint(classes, (2, 6, 6, 5))
        labels[torch.rand(6, 6, 5) < 0.2] = ignore
        counted = labels != ignore
        pixels = list(zip(labels[counted].tolist(), predictions[counted].tolist(), strict=True))
        confusion = metrics.confusion_matrix(predictions, labels, classes, ignore)
        slow = [[pixels.count((true, said)) for said in range(classes)] for true in range(classes)]
        assert confusion.dtype == torch.int64 and confusion.tolist() == slow
        named = {"average": None, "labels": list(range(classes))}
        expected = jaccard_score(labels[counted], predictions[counted], **named)
        assert metrics.intersection_over_union(confusion).tolist() == pytest.approx(expected.tolist())
        assert metrics.mean_iou(confusion) == pytest.approx(expected.mean())
        predictions[~counted] = 0  # ignored pixels never matter
        parts = zip(predictions.split(4), labels.split(4), strict=True)  # and batches add up
        total = sum(metrics.confusion_matrix(*part, classes, ignore) for part in parts)
        assert torch.equal(total, confusion)


def test_classes_that_are_nowhere_do_not_count_and_what_is_no_class_is_refused() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    confusion = metrics.confusion_matrix(torch.tensor([0, 1, 1, 1]), labels, 4)  # two classes are nowhere
    assert metrics.intersection_over_union(confusion)[2:].isnan().all()
    assert metrics.mean_iou(confusion) == pytest.approx((1 / 2 + 2 / 3) / 2)
    wrong = metrics.confusion_matrix(torch.tensor([3, 0, 1, 1]), labels, 4)  # predicted, but not there: it counts
    assert metrics.mean_iou(wrong) == pytest.approx((1 / 2 + 1 + 0) / 3)
    meta = torch.zeros(2, 4, 4, dtype=torch.int64, device="meta")  # nothing is read off the device
    assert metrics.confusion_matrix(meta, meta, 3).is_meta
    for said, true in ((torch.zeros(2, 4).long(), torch.zeros(2, 5).long()), (torch.full((2,), math.nan), labels[:2])):
        with pytest.raises(ShapeMismatch, match="one predicted and one true class"):
            metrics.confusion_matrix(said, true, 3)
    for counts in (torch.rand(2, 3), torch.full((2, 2), math.nan), -torch.eye(2)):
        with pytest.raises(ShapeMismatch, match="Counts must be"):
            metrics.mean_iou(counts)
    for said, true in (([0, 3], [0, 1]), ([0, -1], [0, 1]), ([0, 1], [0, 3]), ([0, 1], [0, -1])):
        with pytest.raises(ShapeMismatch, match="none of the 3 classes, nor 255"):
            metrics.confusion_matrix(torch.tensor(said), torch.tensor(true), 3)
    with pytest.raises(ReuseError, match="No pixel was counted"):
        metrics.mean_iou(metrics.confusion_matrix(labels, torch.full((4,), 255), 3))


def test_features_of_any_float_type_are_taken_and_those_that_do_not_fit_refused() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        a, b = (torch.randn(12, 3).to(dtype).requires_grad_() for _ in range(2))
        assert all(isinstance(metric(a, b), float) for metric in COMPARISONS)
        assert all(isinstance(metric(a), float) for metric in SPREADS)
    for metric in COMPARISONS:
        for shapes in (((9, 3), (9, 4)), ((9, 3), (1, 3)), ((9,), (9,)), ((9, 3, 1), (9, 3, 1))):
            with pytest.raises(ShapeMismatch, match=r"matrices \(N, D\)"):
                metric(*map(torch.randn, shapes))
        for value in (math.nan, math.inf):
            with pytest.raises(NonFinite, match="NaN or infinity"):
                metric(torch.randn(9, 3), torch.full((9, 3), value))
    for metric, shape in product(SPREADS, [(1, 4), (4,)]):
        with pytest.raises(ShapeMismatch, match="N of at least 2"):
            metric(torch.randn(shape))
    for metric, neighbours in product((metrics.coverage, metrics.recall), (0, -1, 9, 2.5)):
        with pytest.raises(BadValue, match="neighbours must be a whole number from 1 to 8"):
            metric(torch.randn(9, 3), torch.randn(9, 3), neighbours)
