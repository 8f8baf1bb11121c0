"""Compatibilities of image and class: scores by loops, updates against plain SGD, LatEm's gradient to one map."""

from __future__ import annotations

import pytest
import torch
import zeroshot_toys

from reuselib import qfsl, run
from reuselib.errors import ReuseError
from reuselib.qfsl import losses
from reuselib.qfsl.rivals.compatibility import Compatibility, Regression, distance_loss


def network(maps: int = 1) -> Compatibility:
    with run.seeded(3):
        return Compatibility(5, torch.randn(9, 7), maps, std=0.5)


@pytest.mark.parametrize("maps", [1, 3])
def test_compatibility_against_loops(maps: int) -> None:
    net, x = network(maps), torch.randn(4, 5)
    scores = net(x)
    for b in range(4):
        for k in range(9):
            assert scores[b, k].item() == pytest.approx(
                max(float(x[b] @ w @ net.codes[k]) for w in net.weight.detach()), rel=1e-4, abs=1e-5
            )


def test_only_the_best_map_of_latem_gets_a_gradient() -> None:
    net, x = network(3), torch.randn(1, 5)
    best = (x @ net.weight @ net.codes[2]).flatten().argmax()
    net(x)[0, 2].backward()
    moved = net.weight.grad.flatten(1).abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [best.item()]


def test_without_a_map_there_is_nothing_to_learn() -> None:
    with pytest.raises(ReuseError, match="Give 1 or more"):
        network(0)


def test_the_codes_are_no_parameter() -> None:
    net = network()
    assert [name for name, _ in net.named_parameters()] == ["weight"]


def test_regression_gives_minus_the_squared_distances() -> None:
    net = Regression(5, 4, torch.randn(9, 7))
    x, y = torch.randn(6, 5), torch.arange(6)
    expected = torch.tensor([[-((z - a) ** 2).sum() for a in net.codes] for z in net.layers(x).detach()])
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(distance_loss(net(x), y), -expected[torch.arange(6), y])


@pytest.mark.parametrize(
    ("classifier", "loss"),
    [(qfsl.DeViSE, losses.devise_loss), (qfsl.SJE, losses.sje_loss), (qfsl.ALE, losses.ale_loss)],
)
def test_training_is_sgd_on_the_ranking_loss_over_the_seen_classes(classifier: type, loss: losses.Loss) -> None:
    toy = zeroshot_toys.toy()
    options = {"steps": 4, "lr": 0.02, "batch": 6, "seed": 2, "margin": 0.7, "weight_decay": 0.1}
    found = classifier(scaling="none", codes="raw", **options).fit(toy.train, toy.train_labels, toy.attributes)
    with run.seeded(2):
        w = 0.01 * torch.randn(9, 8)
    velocity = torch.zeros_like(w)
    random = torch.Generator().manual_seed(2)
    seen = toy.attributes[toy.seen]
    for _ in range(4):
        index = torch.randint(len(toy.train), (6,), generator=random)
        places = torch.searchsorted(toy.seen, toy.train_labels[index])
        w.requires_grad_()
        value = loss(toy.train[index] @ w @ seen.T, places, 0.7).mean()
        (gradient,) = torch.autograd.grad(value, w)
        w = w.detach()
        velocity = 0.9 * velocity + gradient + 0.1 * w
        w = w - 0.02 * velocity
    torch.testing.assert_close(found.network_.weight[0].detach(), w, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.decision_function(toy.new), toy.new @ w @ toy.attributes.T, rtol=1e-3, atol=1e-5)
