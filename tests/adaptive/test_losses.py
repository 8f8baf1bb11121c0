"""Who is sure and who teaches which image, and the equations of learning from a source, against plain formulas."""

from __future__ import annotations

import math

import players
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reuselib import nets, run
from reuselib.adaptive import losses, selection
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, UnknownName


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_entropy_is_the_plain_formula_and_finite_where_that_is_not(classes: int) -> None:
    logits = 5 * torch.randn(500, classes, dtype=torch.float64)
    entropies, p = losses.entropy(logits), logits.softmax(1)
    torch.testing.assert_close(entropies, -(p * p.log()).sum(1).float(), atol=1e-6, rtol=1e-4)
    assert (entropies >= 0).all() and (entropies <= math.log(classes) + 1e-6).all()
    for scale in (88.8, 1e4):  # one sure of the first class, and one of none
        extreme = scale * torch.stack([torch.eye(classes)[0], torch.ones(classes)])
        p = extreme.exp() / extreme.exp().sum(1, keepdim=True)
        assert not (p * p.log()).sum(1).isfinite().all()
        assert losses.entropy(extreme).tolist() == pytest.approx([0, math.log(classes)], abs=1e-6)


def test_the_least_entropy_is_selected_and_ties_go_to_the_first() -> None:
    entropies = torch.tensor([[0.3, 0.2, 0.5], [0.1, 0.2, 0.6], [0.2, 0.2, 0.4]])
    assert losses.select(entropies).tolist() == [1, 0, 2]
    for classes in (2, 3):  # with two sources and two classes the mean of the logits decides as the selection does
        logits = torch.randn(2, 1000, classes)
        chosen = selection.pseudo_labels(logits, losses.select(losses.entropy(logits)))
        assert torch.equal(chosen, logits.mean(0).argmax(1)) == (classes == 2)


def test_feature_and_logit_losses_and_their_gradients_in_float32_whatever_the_networks_give() -> None:
    s, t = ([torch.randn(3, k, k, k) for k in (2, 5)] for _ in range(2))
    plain = sum(float(((a - b) ** 2).sum()) / a.numel() for a, b in zip(s, t, strict=True))
    assert losses.feature_loss(s, t).item() == pytest.approx(plain, rel=1e-5)
    a, s, t = torch.tensor(1.3, requires_grad=True), torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    loss = losses.logit_loss(a, s, t)
    loss.backward()
    assert loss.item() == pytest.approx(float(((1.3 * s.detach() - t) ** 2).mean()), rel=1e-5)
    torch.testing.assert_close(s.grad, (2 * a * (a * s - t) / 15).detach())
    torch.testing.assert_close(a.grad, (2 * s * (a * s - t)).mean().detach())
    half = [torch.randn(2, 3, 4, 4).bfloat16()]
    found = (losses.feature_loss(half, half), losses.logit_loss(torch.ones(()), half[0], half[0]))
    assert {each.dtype for each in (*found, losses.row_norm_regulariser(half))} == {torch.float32}


def test_the_regulariser_is_zero_for_unit_rows_and_only_for_them_and_its_gradient() -> None:
    weights = [F.normalize(torch.randn(k, 4, 1, 1), dim=1) for k in (3, 5)]
    assert losses.row_norm_regulariser(weights).item() == pytest.approx(0, abs=1e-10)
    weights[1][2] *= 1.1
    assert losses.row_norm_regulariser(weights).item() == pytest.approx((1.1**2 - 1) ** 2 / 5, rel=1e-4)
    weight = torch.randn(5, 3, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.row_norm_regulariser([weight]), weight)
    w = weight.detach()
    torch.testing.assert_close(losses.row_norms(weight), (w**2).sum((1, 2, 3)))
    torch.testing.assert_close(gradient, 4 * ((w**2).sum(1, keepdim=True) - 1) * w / 5)


# --- selection -------------------------------------------------------------------------------------------------------


def test_subsets_are_disjoint_and_the_oracle_takes_the_smallest_cross_entropy() -> None:
    choice = torch.randint(2, (100,)) * 2
    parts = selection.subsets(choice, 3)
    assert torch.cat(parts).sort().values.tolist() == list(range(100)) and len(parts[1]) == 0
    assert all((choice[part] == source).all() for source, part in enumerate(parts))
    logits, labels = torch.randn(3, 40, 5), torch.randint(5, (40,))
    each = torch.stack([F.cross_entropy(z, labels, reduction="none") for z in logits])
    assert torch.equal(selection.oracle(logits, labels), each.argmin(0))


def test_sub_batches_follow_the_official_rule() -> None:
    for largest, second in ((640, 640), (1000, 37), (5000, 4999), (200, 3), (64, 1), (700, 350)):
        sizes = selection.sub_batches([second, largest], 64)
        assert sizes == [64 if second == largest else max(1, int(second / int(largest / 64))), 64]
    assert selection.sub_batches([10, 0, 4], 64) == [10, 0, 4] and selection.sub_batches([100, 0], 32) == [32, 0]
    for sizes, batch in (([0, 0], 8), ([], 8), ([5], 0)):
        with pytest.raises(ReuseError, match="no batch of"):
            selection.sub_batches(sizes, batch)


def test_predictions_are_those_of_the_evaluation_mode_and_what_cannot_be_selected_is_refused() -> None:
    cast = players.cast()
    images, pool = cast.images, [source for source in players.pool(cast).values() if "b" in source.tasks]
    pool[0].train()
    before = players.state(pool[0])
    found = selection.predictions(pool, "b", images, batch=7)
    assert pool[0].training and not list(players.differences(before, players.state(pool[0])))
    with run.frozen(*pool), torch.no_grad():
        expected = torch.stack([source(images.normalised(images.images))["b"] for source in pool])
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 40, 2) and not found.requires_grad
    broken = nets.multi_head_conv({"b": 2}, widths=(2, 2))
    nn.init.constant_(broken.heads["b"].bias, torch.nan)
    for sources, task, error, message in (
        (pool, "e", UnknownName, "task 'e'"),
        ([], "b", ReuseError, "no source teaches 'b'"),
        ([*pool, nets.multi_head_conv({"b": 3}, widths=(2, 2))], "b", ShapeMismatch, r"of classes: \[2, 2, 3\]"),
        ([*pool, broken], "b", NonFinite, "source 2 gives NaN or infinity for 'b'"),
        ([nn.Flatten()], "b", ReuseError, r"\(Flatten\) gives Tensor, not a dict of logits by task. Wrap it .*'b'"),
    ):
        with pytest.raises(error, match=message):
            selection.predictions(sources, task, images)
