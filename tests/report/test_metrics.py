"""Metrics on feature sets and on masks: closed forms, slow loops, hand-made cases, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from reuselib import nets
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch
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


# ---- Fréchet distance


def test_frechet_against_the_square_root_of_the_product(pair: tuple[Tensor, Tensor]) -> None:
    a, b = (features.double().numpy() for features in pair)
    first, second = (numpy.atleast_2d(numpy.cov(x, rowvar=False)) for x in (a, b))
    cross = numpy.real(scipy.linalg.sqrtm(first @ second))
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + numpy.trace(first + second - 2 * cross)
    assert metrics.frechet_distance(*pair) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_a_set_and_itself_is_zero() -> None:
    features = normal(50, 6)
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(features, features[torch.randperm(50)]) == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_shift_is_its_squared_length() -> None:
    features = normal(50, 3)
    assert metrics.frechet_distance(features, features + torch.tensor([3.0, 0, -4])) == pytest.approx(25, rel=1e-4)


def test_frechet_of_a_scaling() -> None:
    features = normal(50, 4).double()
    features -= features.mean(0)
    # Covariances C and 9 C: tr(C + 9 C - 6 C).
    assert metrics.frechet_distance(features, 3 * features) == pytest.approx(4 * features.var(0).sum().item())


def test_frechet_of_diagonal_gaussians() -> None:
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    unit = signs * math.sqrt(3 / 4)  # sample covariance: the identity
    a, b = unit * torch.tensor([1.0, 2]), unit * torch.tensor([3.0, 5]) + torch.tensor([0.5, 0])
    assert metrics.frechet_distance(a, b) == pytest.approx(0.25 + (3 - 1) ** 2 + (5 - 2) ** 2)


def test_frechet_with_fewer_images_than_features() -> None:
    a, b = normal(5, 40, seed=1), normal(6, 40, seed=2)
    value = metrics.frechet_distance(a, b)
    assert math.isfinite(value) and value == pytest.approx(metrics.frechet_distance(b, a), rel=1e-6)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, torch.ones(3, 40)) > 0  # no variance at all


# ---- kernel distance


def test_kernel_distance_against_a_double_loop(pair: tuple[Tensor, Tensor]) -> None:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / len(x) + 1) ** 3

    real, fake = pair
    within = [sum(kernel(x, y) for x, y in combinations(s, 2)) / math.comb(len(s), 2) for s in pair]
    between = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    assert metrics.kernel_distance(real, fake) == pytest.approx(sum(within) - 2 * between, rel=1e-6, abs=1e-6)


def test_kernel_distance_is_unbiased() -> None:
    """Around zero for two samples of one distribution, whatever their counts; not so for another distribution."""
    values = [
        metrics.kernel_distance(*torch.randn(22, 4, generator=torch.Generator().manual_seed(seed)).split([15, 7]))
        for seed in range(400)
    ]
    mean, error = numpy.mean(values), numpy.std(values) / 20
    assert abs(mean) < 4 * error and min(values) < 0
    assert metrics.kernel_distance(torch.randn(50, 4), torch.randn(50, 4) + 2) > 5


# ---- spread of one set


def test_spreads_against_loops() -> None:
    features = normal(30, 5)
    pairs = list(combinations(features, 2))
    assert metrics.mean_distance(features) == pytest.approx(sum(distance(x, y) for x, y in pairs) / len(pairs))
    cosine = sum(F.cosine_similarity(x, y, dim=0).item() for x, y in pairs) / len(pairs)
    assert metrics.cosine_diversity(features) == pytest.approx(1 - cosine, abs=1e-6)


def test_spreads_of_hand_made_sets() -> None:
    triangle = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
    assert metrics.mean_distance(triangle) == pytest.approx(4)
    assert metrics.mean_distance(torch.full((1200, 3), 7.1)) == 0
    assert metrics.cosine_diversity(torch.eye(4) * torch.tensor([1.0, 2, 3, 4])) == pytest.approx(1)
    assert metrics.cosine_diversity(torch.tensor([[1.0, 2], [2, 4], [3, 6]])) == pytest.approx(0, abs=1e-12)
    assert metrics.cosine_diversity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(2)
    assert metrics.cosine_diversity(torch.tensor([[1.0, 0], [0, 0]])) == pytest.approx(1)  # no direction: unrelated


def test_a_set_larger_than_a_block() -> None:
    features = normal(1203, 2)
    assert metrics.mean_distance(features) == pytest.approx(torch.pdist(features.double()).mean().item())


# ---- coverage and recall


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_coverage_and_recall_against_loops(pair: tuple[Tensor, Tensor], neighbours: int) -> None:
    real, fake = pair
    fake = 0.7 * fake + 0.3 * real.mean(0)
    covered = [min(distance(x, y) for y in fake) <= radius(real, i, neighbours) for i, x in enumerate(real)]
    assert metrics.coverage(real, fake, neighbours) == pytest.approx(numpy.mean(covered))
    radii = [radius(fake, j, neighbours) for j in range(len(fake))]
    recalled = [any(distance(x, y) <= r for y, r in zip(fake, radii, strict=True)) for x in real]
    assert metrics.recall(real, fake, neighbours) == pytest.approx(numpy.mean(recalled))


def test_a_missing_mode_shows() -> None:
    """Four clusters, of which the fakes show one, two or four."""
    centres = torch.tensor([[0.0, 0], [50, 0], [0, 50], [50, 50]])
    real = torch.cat([centre + torch.randn(20, 2) for centre in centres])
    for modes in (1, 2, 4):
        fake = torch.cat([centre + 0.5 * torch.randn(20, 2) for centre in centres[:modes]])
        assert 0 < metrics.recall(real, fake) <= modes / 4
        assert 0.8 * modes / 4 < metrics.coverage(real, fake) <= modes / 4


def test_an_outlier_among_the_fakes_raises_recall_but_not_coverage() -> None:
    """Why both are reported: the ball of one far fake swallows every real image."""
    real, fake = torch.randn(40, 2), 100 + torch.randn(20, 2)
    assert metrics.recall(real, fake) == metrics.coverage(real, fake) == 0
    fake[0] = -100
    assert metrics.recall(real, fake) == 1 and metrics.coverage(real, fake) == 0


def test_a_set_covers_itself() -> None:
    features = normal(30, 20)
    assert metrics.coverage(features, features) == metrics.recall(features, features) == 1


def test_fakes_that_are_all_one_image() -> None:
    """Their balls have radius zero, exactly: large coordinates must not blur it."""
    real = torch.randn(30, 2, dtype=torch.float64) + 1e6
    collapsed = real[:1].expand(30, 2)
    assert metrics.recall(real, collapsed) == pytest.approx(1 / 30)
    assert metrics.recall(real[1:] + 1e-6, collapsed) == 0


def test_on_a_line() -> None:
    real, fake = torch.tensor([[0.0], [1], [2], [10]]), torch.tensor([[1.5], [12]])
    # Radii of the real with k = 1: 1, 1, 1, 8; nearest fakes: 1.5, .5, .5, 2.
    assert metrics.coverage(real, fake, 1) == 0.75
    # Radii of both fakes: 10.5; the ball of 1.5 holds all.
    assert metrics.recall(real, fake, 1) == 1
    # A point on the edge is inside.
    assert metrics.recall(torch.tensor([[0.0], [9.0]]), torch.tensor([[4.0], [8.0]]), 1) == 1


# ---- nearest, labels, features


def test_nearest_against_a_loop() -> None:
    queries, references = normal(700, 3, seed=1), normal(40, 3, seed=1)
    expected = [min(range(40), key=lambda j: distance(q, references[j])) for q in queries]
    assert metrics.nearest(queries, references).tolist() == expected
    assert metrics.nearest(references[:1], references[:1]).tolist() == [0]


def test_nearest_tells_close_references_far_from_the_origin_apart() -> None:
    references = torch.tensor([[4096.0, 0], [4096, 0.01], [4096, 0.02]]).repeat(20, 1)
    queries = references[[2, 1, 0]].repeat(20, 1)
    assert metrics.nearest(queries, references).tolist() == [2, 1, 0] * 20


def test_effective_number() -> None:
    assert metrics.effective_number(torch.arange(32).repeat(3), 32) == pytest.approx(32)
    assert metrics.effective_number(torch.full((9,), 4), 10) == pytest.approx(1)
    assert metrics.effective_number(torch.tensor([0, 0, 1, 1]), 10) == pytest.approx(2)
    shares = [0.75, 0.25]
    entropy = -sum(share * math.log(share) for share in shares)
    assert metrics.effective_number(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("labels", [[], [0, 5], [-1, 0]])
def test_labels_out_of_range_are_refused(labels: list[int]) -> None:
    with pytest.raises(ShapeMismatch, match="classes=5"):
        metrics.effective_number(torch.tensor(labels, dtype=torch.int64), 5)


@pytest.mark.parametrize("training", [True, False])
def test_features_are_those_in_evaluation_mode(training: bool) -> None:
    network, images = nets.conv4(width=4), torch.randn(7, 1, 16, 16)
    network.train(training)
    network.blocks[1].train(not training)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    features = metrics.features_of(network, images, batch=3)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not features.requires_grad and features.dtype == torch.float32
    assert torch.allclose(features, network.eval().features(images), atol=1e-6)


def test_the_mode_comes_back_after_an_error() -> None:
    network = nets.conv4(width=4).train()
    with pytest.raises(ShapeMismatch, match="channels"):
        metrics.features_of(network, torch.randn(2, 3, 16, 16))
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("network", [nn.Linear(3, 2), nn.ModuleDict({"x": nn.Identity()})])
def test_a_network_without_features_is_refused(network: nn.Module) -> None:
    with pytest.raises(ReuseError, match=r"no method features\(images\)"):
        metrics.features_of(network, torch.randn(2, 3))


# ---- masks


def slow_confusion(predictions: list[int], labels: list[int], classes: int, ignore: int) -> list[list[int]]:
    counts = [[0] * classes for _ in range(classes)]
    for predicted, true in zip(predictions, labels, strict=True):
        if true != ignore:
            counts[true][predicted] += 1
    return counts


def slow_mean_iou(predictions: list[int], labels: list[int], classes: int, ignore: int) -> float:
    values = []
    for c in range(classes):
        pixels = [(p == c, t == c) for p, t in zip(predictions, labels, strict=True) if t != ignore]
        if union := sum(p or t for p, t in pixels):
            values.append(sum(p and t for p, t in pixels) / union)
    return sum(values) / len(values)


@pytest.mark.parametrize("ignore", [255, 7])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_mean_iou_is_that_of_loops_and_of_scikit_learn(classes: int, ignore: int) -> None:
    labels, predictions = torch.randint(classes, (2, 3, 6, 5))
    labels[torch.rand(3, 6, 5) < 0.2] = ignore
    pixels = predictions.flatten().tolist(), labels.flatten().tolist()
    confusion = metrics.confusion_matrix(predictions, labels, classes, ignore)
    assert confusion.dtype == torch.int64 and confusion.tolist() == slow_confusion(*pixels, classes, ignore)
    assert metrics.mean_iou(confusion) == pytest.approx(slow_mean_iou(*pixels, classes, ignore))
    counted = labels != ignore
    expected = jaccard_score(labels[counted], predictions[counted], average=None, labels=list(range(classes)))
    assert metrics.intersection_over_union(confusion).tolist() == pytest.approx(expected.tolist())


def test_a_perfect_mask_has_one_and_a_wrong_one_none() -> None:
    labels = torch.randint(4, (2, 8, 8))
    assert metrics.mean_iou(metrics.confusion_matrix(labels, labels, 4)) == 1
    assert metrics.mean_iou(metrics.confusion_matrix((labels + 1) % 4, labels, 4)) == 0


def test_ignored_pixels_never_matter() -> None:
    labels, predictions = torch.randint(3, (2, 4, 4, 4))
    labels[:, :2] = 255
    expected = metrics.confusion_matrix(predictions, labels, 3)
    for value in range(3):
        predictions[:, :2] = value
        assert torch.equal(metrics.confusion_matrix(predictions, labels, 3), expected)


def test_a_class_that_is_nowhere_is_left_out() -> None:
    labels, predictions = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    confusion = metrics.confusion_matrix(predictions, labels, 4)
    each = metrics.intersection_over_union(confusion)
    assert each[:2].tolist() == pytest.approx([1 / 2, 2 / 3]) and each[2:].isnan().all()
    assert metrics.mean_iou(confusion) == pytest.approx((1 / 2 + 2 / 3) / 2)
    wrong = metrics.confusion_matrix(torch.tensor([3, 0, 1, 1]), labels, 4)  # predicted, but not there: it counts
    assert metrics.mean_iou(wrong) == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_confusion_matrices_add_up_over_batches() -> None:
    labels, predictions = torch.randint(5, (2, 9, 4, 4))
    parts = zip(predictions.split(4), labels.split(4), strict=True)
    total = sum(metrics.confusion_matrix(*part, 5) for part in parts)
    assert torch.equal(total, metrics.confusion_matrix(predictions, labels, 5))


def test_counting_reads_nothing_off_the_device() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64, device="meta")
    found = metrics.confusion_matrix(labels, labels, 3)
    assert found.is_meta and found.shape == (3, 3)


def test_masks_that_cannot_be_compared() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(2, 4\) and \(2, 5\)"):
        metrics.confusion_matrix(torch.zeros(2, 4).long(), torch.zeros(2, 5).long(), 3)
    with pytest.raises(ReuseError, match="No pixel was counted"):
        metrics.mean_iou(metrics.confusion_matrix(torch.zeros(4).long(), torch.full((4,), 255), 3))


# ---- errors


@pytest.mark.parametrize("metric", COMPARISONS)
@pytest.mark.parametrize("shapes", [((9, 3), (9, 4)), ((9, 3), (1, 3)), ((9,), (9,)), ((9, 3, 1), (9, 3, 1))], ids=str)
def test_features_that_do_not_fit(metric: Callable[..., float], shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ShapeMismatch, match=r"matrices \(N, D\)"):
        metric(*map(torch.randn, shapes))


@pytest.mark.parametrize("metric", SPREADS)
@pytest.mark.parametrize("shape", [(1, 4), (4,)])
def test_a_set_of_one_has_no_spread(metric: Callable[..., float], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="N of at least 2"):
        metric(torch.randn(shape))


@pytest.mark.parametrize("metric", COMPARISONS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite(metric: Callable[..., float], value: float) -> None:
    fake = torch.randn(9, 3)
    fake[4, 1] = value
    with pytest.raises(NonFinite, match="NaN or infinity"):
        metric(torch.randn(9, 3), fake)


@pytest.mark.parametrize("neighbours", [0, -1, 9, 20])
def test_impossible_neighbours(neighbours: int) -> None:
    for metric in (metrics.coverage, metrics.recall):
        with pytest.raises(ReuseError, match=f"9 images have no {neighbours} neighbours"):
            metric(torch.randn(9, 3), torch.randn(9, 3), neighbours)


@pytest.mark.parametrize("shapes", [((5, 3), (5, 2)), ((5, 3), (0, 3)), ((3,), (5, 3))], ids=str)
def test_nearest_refuses_what_does_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ShapeMismatch, match="references"):
        metrics.nearest(*map(torch.randn, shapes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_and_graph_will_do(dtype: torch.dtype) -> None:
    a, b = (torch.randn(12, 3).to(dtype).requires_grad_() for _ in range(2))
    for metric in COMPARISONS:
        assert isinstance(metric(a, b), float)
    for metric in SPREADS:
        assert isinstance(metric(a), float)
