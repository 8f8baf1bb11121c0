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


def test_the_bias_loss_and_its_gradient_are_the_published_ones_also_where_the_softmax_underflows() -> None:
    s = scores()
    p = s.softmax(1)
    unseen = p[:, UNSEEN].sum(1, keepdim=True)
    loss = losses.bias_loss(s, UNSEEN)
    torch.testing.assert_close(loss, -unseen.squeeze(1).log())
    torch.testing.assert_close(gradient(loss, s), p.index_copy(1, UNSEEN, p[:, UNSEEN] * (1 - 1 / unseen)))
    s = torch.zeros(2, CLASSES).index_copy(1, SEEN, torch.tensor([[100.0], [1000.0]]).expand(2, 4)).requires_grad_()
    loss = losses.bias_loss(s, UNSEEN)
    assert loss.tolist() == pytest.approx([100 + math.log(4 / 3), 1000 + math.log(4 / 3)], rel=1e-6)
    expected = torch.full((2, CLASSES), 1 / 4).index_fill(1, UNSEEN, -1 / 3)
    torch.testing.assert_close(gradient(loss, s), expected)


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
    term, s = losses.TERMS[name], scores(9)
    plain = term(s, UNSEEN)
    (expected,) = torch.autograd.grad(plain.sum(), s)
    for nothing in (-torch.inf, -1e4):
        more = torch.cat([s.detach(), torch.full((5, 1), nothing)], 1).requires_grad_()
        loss = term(more, UNSEEN)
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(gradient(loss, more)[:, :-1], expected)
    assert term(s.bfloat16(), UNSEEN).dtype == torch.float32


def test_the_objective_is_a_mean_of_each_kind_and_an_empty_one_counts_nothing() -> None:
    s, extra, y = scores(7), scores(8, images=3), torch.tensor([0, 2, 6, 3, 0])
    p, q = s.detach().softmax(1), extra.detach().softmax(1)
    first = sum(-math.log(p[i, y[i]]) for i in range(5)) / 5
    second = sum(-math.log(q[j, UNSEEN].sum()) for j in range(3)) / 3
    labelled, unlabelled = losses.cross_entropy(s, y), losses.bias_loss(extra, UNSEEN)
    for a, b, expected in ((5, 3, first + 0.3 * second), (5, 0, first), (0, 3, 0.3 * second)):
        found = losses.quasi_fully_supervised(labelled[:a], unlabelled[:b], 0.3)
        assert found.item() == pytest.approx(expected, rel=1e-5)
    assert gradient(found, extra).isfinite().all()
