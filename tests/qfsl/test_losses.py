"""The equations of zero-shot classification against slow formulas, hand-computed cases and autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.qfsl import losses

CLASSES = 7
UNSEEN = torch.tensor([1, 4, 5])
SEEN = torch.tensor([0, 2, 3, 6])


def scores(seed: int = 0, images: int = 5, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(images, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Tensor, s: Tensor) -> Tensor:
    return torch.autograd.grad(loss, s)[0]


# --- the bias loss ----------------------------------------------------------------------------------------------------


def test_the_bias_loss_is_minus_the_log_of_the_unseen_probability() -> None:
    s = scores()
    torch.testing.assert_close(
        losses.bias_loss(s, UNSEEN), -s.softmax(1)[:, UNSEEN].sum(1).log().float(), atol=1e-6, rtol=1e-6
    )


def test_the_bias_loss_and_its_gradient_are_finite_where_the_softmax_underflows() -> None:
    s = torch.zeros(2, CLASSES)
    s[:, SEEN] = torch.tensor([[100.0], [1000.0]])
    s.requires_grad_()
    loss = losses.bias_loss(s, UNSEEN)
    assert loss.tolist() == pytest.approx([100 + math.log(4 / 3), 1000 + math.log(4 / 3)], rel=1e-6)
    found = gradient(loss.sum(), s)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, UNSEEN], torch.full((2, 3), -1 / 3))
    torch.testing.assert_close(found[:, SEEN], torch.full((2, 4), 1 / 4))


def test_the_gradient_of_the_bias_loss() -> None:
    s = scores(1).float().requires_grad_()
    found = gradient(losses.bias_loss(s, UNSEEN).sum(), s)
    p = s.softmax(1)
    unseen = p[:, UNSEEN].sum(1, keepdim=True)
    expected = p.clone()
    expected[:, UNSEEN] = p[:, UNSEEN] * (1 - 1 / unseen)
    torch.testing.assert_close(found, expected)
    assert found.sum(1).abs().max() < 1e-6


def test_the_bias_loss_vanishes_only_where_the_unseen_classes_have_everything() -> None:
    s = scores(2, images=200)
    assert losses.bias_loss(s, UNSEEN).min() > 0
    s[:, UNSEEN] += 60
    assert losses.bias_loss(s, UNSEEN).abs().max() < 1e-5  # float32 near 60


def test_the_bias_loss_knows_only_sets() -> None:
    s = scores(3)
    loss = losses.bias_loss(s, UNSEEN)
    torch.testing.assert_close(losses.bias_loss(s + 3.7, UNSEEN), loss)
    moved = s.clone()
    moved[:, UNSEEN], moved[:, SEEN] = s[:, UNSEEN.flip(0)], s[:, SEEN.roll(1)]
    torch.testing.assert_close(losses.bias_loss(moved, UNSEEN), loss)
    torch.testing.assert_close(losses.bias_loss(s, UNSEEN.flip(0)), loss)


def test_the_bias_loss_of_equal_scores() -> None:
    assert losses.bias_loss(torch.full((1, CLASSES), 2.5), UNSEEN).item() == pytest.approx(math.log(7 / 3), rel=1e-6)


def test_the_bias_loss_of_one_unseen_class_and_of_all_classes() -> None:
    s = scores(4).float().requires_grad_()
    one = losses.bias_loss(s, torch.tensor([4]))
    torch.testing.assert_close(one, F.cross_entropy(s, torch.full((5,), 4), reduction="none"))
    every = losses.bias_loss(s, torch.arange(CLASSES))
    assert every.abs().max() == 0 and gradient(every.sum(), s).abs().max() == 0


# --- the controls -----------------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    s = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -80.0, -80.0]])
    expected = [math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert losses.entropy(s).tolist() == pytest.approx(expected, rel=1e-6)
    far = torch.tensor([[500.0, 0.0]], requires_grad=True)
    assert losses.entropy(far).item() == 0 and gradient(losses.entropy(far).sum(), far).isfinite().all()


@pytest.mark.parametrize(("term", "among"), [("pseudo_labels", range(CLASSES)), ("unseen_pseudo_labels", [1, 4, 5])])
def test_pseudo_labels_are_the_cross_entropy_with_the_likeliest_class(term: str, among: list[int]) -> None:
    s = scores(5, images=40).float().requires_grad_()
    likeliest = torch.tensor([max(among, key=lambda k: row[k]) for row in s.detach()])
    loss, expected = losses.TERMS[term](s, UNSEEN), F.cross_entropy(s, likeliest, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss.sum(), s), gradient(expected.sum(), s))


def test_only_the_bias_loss_and_the_unseen_pseudo_labels_know_what_is_unseen() -> None:
    s = scores(6)
    knows = {name for name, term in losses.TERMS.items() if not torch.equal(term(s, UNSEEN), term(s, SEEN))}
    assert knows == {"bias", "unseen_pseudo_labels"}


# --- the objective ----------------------------------------------------------------------------------------------------


def test_the_objective_is_a_mean_of_each_kind() -> None:
    s, extra, y = scores(7), scores(8, images=3), torch.tensor([0, 2, 6, 3, 0])
    p, q = s.softmax(1), extra.softmax(1)
    expected = sum(-math.log(p[i, y[i]]) for i in range(5)) / 5
    expected += 0.3 * sum(-math.log(q[j, UNSEEN].sum()) for j in range(3)) / 3
    assert losses.quasi_fully_supervised(s, y, extra, UNSEEN, 0.3).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("weight", "images"), [(0.0, 3), (1.0, 0)])
def test_without_weight_or_without_unlabelled_images_it_is_the_supervised_loss(weight: float, images: int) -> None:
    s, extra, y = scores(9).requires_grad_(), scores(10, images=images).requires_grad_(), torch.tensor([0, 2, 6, 3, 0])
    loss = losses.quasi_fully_supervised(s, y, extra, UNSEEN, weight)
    plain = losses.mean(losses.cross_entropy(s, y))
    assert loss.item() == plain.item()
    found, away = torch.autograd.grad(loss, (s, extra))
    assert torch.equal(found, gradient(plain, s)) and not away.any()


def test_without_labelled_images_nothing_is_nan() -> None:
    s, extra = torch.zeros(0, CLASSES, requires_grad=True), scores(11).requires_grad_()
    loss = losses.quasi_fully_supervised(s, torch.zeros(0, dtype=torch.int64), extra, UNSEEN, 1.0)
    assert loss.item() == pytest.approx(losses.bias_loss(extra, UNSEEN).mean().item(), rel=1e-6)
    assert gradient(loss, extra).isfinite().all()


# --- ranking ----------------------------------------------------------------------------------------------------------


def slow(s: Tensor, y: Tensor, margin: float) -> dict[str, list[float]]:
    """DeViSE, SJE and ALE of every image, by loops."""
    result: dict[str, list[float]] = {"devise": [], "sje": [], "ale": []}
    for row, label in zip(s.tolist(), y.tolist(), strict=True):
        hinges = [max(0.0, margin + row[k] - row[label]) for k in range(len(row)) if k != label]
        rank = sum(hinge > 0 for hinge in hinges)
        beta = sum(1 / i for i in range(1, rank + 1))
        result["devise"].append(sum(hinges))
        result["sje"].append(max([*hinges, 0.0]))
        result["ale"].append(beta / rank * sum(hinges) if rank else 0.0)
    return result


RANKING = {"devise": losses.devise_loss, "sje": losses.sje_loss, "ale": losses.ale_loss}


@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_ranking_losses_against_loops(name: str, margin: float) -> None:
    s, y = scores(12, images=60, scale=0.8).float(), torch.arange(60) % CLASSES
    found = RANKING[name](s, y, margin)
    assert found.tolist() == pytest.approx(slow(s, y, margin)[name], rel=1e-4, abs=1e-6)
    assert 0 < (found == 0).sum() < 60 or margin == 1.0


def test_ranking_losses_by_hand() -> None:
    s, y = torch.tensor([[1.0, 0.5, 1.5, -3.0]]), torch.tensor([0])
    # margins: 0.5, 1.5, none
    assert losses.devise_loss(s, y).item() == pytest.approx(2.0)
    assert losses.sje_loss(s, y).item() == pytest.approx(1.5)
    assert losses.ale_loss(s, y).item() == pytest.approx((1 + 1 / 2) / 2 * 2.0)


@pytest.mark.parametrize("name", RANKING)
def test_gradients_of_ranking_losses(name: str) -> None:
    s, y = scores(13, images=30, scale=0.7).float().requires_grad_(), torch.arange(30) % CLASSES
    found = gradient(RANKING[name](s, y).sum(), s)
    expected = torch.zeros_like(s)
    for i, (row, label) in enumerate(zip(s.detach(), y.tolist(), strict=True)):
        violating = [k for k in range(CLASSES) if k != label and 1 + row[k] - row[label] > 0]
        if name == "sje" and violating:
            violating = [max(violating, key=lambda k: row[k])]
        factor = sum(1 / r for r in range(1, len(violating) + 1)) / len(violating) if name == "ale" and violating else 1
        for k in violating:
            expected[i, k] += factor
            expected[i, label] -= factor
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", RANKING)
def test_a_right_answer_beyond_the_margin_costs_nothing(name: str) -> None:
    s = torch.zeros(1, CLASSES, requires_grad=True)
    loss = RANKING[name](s + 1.5 * F.one_hot(torch.tensor([2]), CLASSES), torch.tensor([2]))
    assert loss.item() == 0 and not gradient(loss.sum(), s).any()


def test_hinges_of_synthesised_classifiers_against_loops() -> None:
    s, y = scores(14, images=20), torch.arange(20) % CLASSES
    rest, worst = [], []
    for row, label in zip(s.tolist(), y.tolist(), strict=True):
        rest.append(sum(max(0, 1 - (1 if k == label else -1) * row[k]) ** 2 for k in range(CLASSES)))
        worst.append(max(0, *(1 + row[k] - row[label] for k in range(CLASSES) if k != label)) ** 2)
    assert losses.squared_hinge(s, y).tolist() == pytest.approx(rest)
    assert losses.crammer_singer(s, y).tolist() == pytest.approx(worst)


@pytest.mark.parametrize("name", losses.TERMS)
def test_half_precision_is_lifted(name: str) -> None:
    s = scores(15).bfloat16().requires_grad_()
    value = losses.TERMS[name](s, UNSEEN)
    assert value.dtype == torch.float32 and value.shape == (5,)
    assert gradient(value.sum(), s).isfinite().all()
