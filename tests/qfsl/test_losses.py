"""The equations of QFSL against slow formulas, hand-computed cases and autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib.qfsl import losses

CLASSES = 7
UNSEEN, SEEN = torch.tensor([1, 4, 5]), torch.tensor([0, 2, 3, 6])


def scores(seed: int = 0, images: int = 5) -> Tensor:
    return (2 * torch.randn(images, CLASSES, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def gradient(loss: Tensor, s: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), s)[0]


def test_the_bias_loss_and_its_gradient_are_the_published_ones() -> None:
    s = scores()
    p = s.softmax(1)
    unseen = p[:, UNSEEN].sum(1, keepdim=True)
    torch.testing.assert_close(losses.bias_loss(s, UNSEEN), -unseen.squeeze(1).log())
    expected = p.index_copy(1, UNSEEN, p[:, UNSEEN] * (1 - 1 / unseen))
    found = gradient(losses.bias_loss(s, UNSEEN), s)
    torch.testing.assert_close(found, expected)
    assert found.sum(1).abs().max() < 1e-6


def test_the_bias_loss_and_its_gradient_are_finite_where_the_softmax_underflows() -> None:
    s = torch.zeros(2, CLASSES).index_copy(1, SEEN, torch.tensor([[100.0], [1000.0]]).expand(2, 4)).requires_grad_()
    loss = losses.bias_loss(s, UNSEEN)
    assert loss.tolist() == pytest.approx([100 + math.log(4 / 3), 1000 + math.log(4 / 3)], rel=1e-6)
    found = gradient(loss, s)
    torch.testing.assert_close(found[:, UNSEEN], torch.full((2, 3), -1 / 3))
    torch.testing.assert_close(found[:, SEEN], torch.full((2, 4), 1 / 4))


def test_the_bias_loss_knows_only_sets_and_vanishes_where_the_unseen_have_everything() -> None:
    s = scores(3, images=200).detach()
    loss = losses.bias_loss(s, UNSEEN)
    assert loss.min() > 0
    torch.testing.assert_close(losses.bias_loss(s + 3.7, UNSEEN), loss)
    moved = s.clone()
    moved[:, UNSEEN], moved[:, SEEN] = s[:, UNSEEN.flip(0)], s[:, SEEN.roll(1)]
    torch.testing.assert_close(losses.bias_loss(moved, UNSEEN), loss)
    s[:, UNSEEN] += 60
    assert losses.bias_loss(s, UNSEEN).abs().max() < 1e-5  # float32 near 60


def test_the_bias_loss_in_its_limits() -> None:
    assert losses.bias_loss(torch.full((1, CLASSES), 2.5), UNSEEN).item() == pytest.approx(math.log(7 / 3), rel=1e-6)
    s = scores(4)
    one = losses.bias_loss(s, torch.tensor([4]))
    torch.testing.assert_close(one, F.cross_entropy(s, torch.full((5,), 4), reduction="none"))
    every = losses.bias_loss(s, torch.arange(CLASSES))
    assert every.abs().max() == 0 and gradient(every, s).abs().max() == 0


def test_the_controls() -> None:
    s = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -80.0, -80.0]])
    expected = [math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert losses.entropy(s).tolist() == pytest.approx(expected, rel=1e-6)
    s = scores(5, images=40)
    for term, among in (("pseudo_labels", range(CLASSES)), ("unseen_pseudo_labels", UNSEEN.tolist())):
        likeliest = torch.tensor([max(among, key=lambda k: row[k]) for row in s.detach()])
        loss, plain = losses.TERMS[term](s, UNSEEN), F.cross_entropy(s, likeliest, reduction="none")
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(gradient(loss, s), gradient(plain, s))
    knows = {name for name, term in losses.TERMS.items() if not torch.equal(term(s, UNSEEN), term(s, SEEN))}
    assert knows == {"bias", "unseen_pseudo_labels"}


@pytest.mark.parametrize("name", losses.TERMS)
def test_a_class_that_cannot_be_counts_nothing_and_half_precision_is_lifted(name: str) -> None:
    """p ln p is 0 at p = 0: a class of score -inf, or so low that its probability underflows, is as good as none."""
    term = losses.TERMS[name]
    s = scores(9).detach()
    for nothing in (-torch.inf, -1e4):
        more = torch.cat([s, torch.full((5, 1), nothing)], 1).requires_grad_()
        loss = term(more, UNSEEN)
        plain = term(without := s.clone().requires_grad_(), UNSEEN)
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(gradient(loss, more)[:, :-1], gradient(plain, without))
    assert losses.entropy(torch.tensor([[0.0, -torch.inf]])).item() == 0
    value = term(s.bfloat16(), UNSEEN)
    assert value.dtype == torch.float32 and value.shape == (5,) and value.isfinite().all()


def test_the_objective_is_a_mean_of_each_kind_and_an_empty_one_counts_nothing() -> None:
    s, extra, y = scores(7), scores(8, images=3), torch.tensor([0, 2, 6, 3, 0])
    p, q = s.detach().softmax(1), extra.detach().softmax(1)
    expected = sum(-math.log(p[i, y[i]]) for i in range(5)) / 5
    labelled, unlabelled = losses.cross_entropy(s, y), losses.bias_loss(extra, UNSEEN)
    assert losses.quasi_fully_supervised(labelled, unlabelled[:0], 1.0).item() == pytest.approx(expected, rel=1e-5)
    both = expected + 0.3 * sum(-math.log(q[j, UNSEEN].sum()) for j in range(3)) / 3
    assert losses.quasi_fully_supervised(labelled, unlabelled, 0.3).item() == pytest.approx(both, rel=1e-5)
    alone = losses.quasi_fully_supervised(labelled[:0], unlabelled, 1.0)
    torch.testing.assert_close(alone, unlabelled.mean())
    assert gradient(alone, extra).isfinite().all()
