"""The equations of chapter 10 against plain formulas, limits and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reuselib.errors import ReuseError
from reuselib.selective import AugmentedNetwork, losses

SEEN, UNSEEN = 9, 4
CODES = F.normalize(torch.randn(SEEN + UNSEEN, 7, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.mark.parametrize("task", losses.TASKS)
def test_residual_attributes_learn_alone_or_on_top_of_what_is_defined_and_never_reach_its_head(task: str) -> None:
    network = AugmentedNetwork(CODES, range(SEEN), 12, 5)
    x, y = torch.randn(8, 12), torch.randint(SEEN, (8,))
    attributes, residual = network.bridge(x), network.residual(x)
    defined, scores = network.score(attributes)[:, :SEEN], network.residual_scores(residual)
    torch.testing.assert_close(losses.defined_loss(defined, y), F.cross_entropy(defined, y))
    loss = losses.residual_loss(defined, scores, y, task)
    torch.testing.assert_close(loss, F.cross_entropy(scores if task == "own" else defined + scores, y))
    parts = loss, losses.decorrelation(attributes, residual)
    losses.augmented_loss(torch.zeros(()), *parts, beta=1.0, eta=1.0).backward()
    assert all(parameter.grad is None for parameter in network.bridge.parameters())
    assert all((parameter.grad != 0).any() for parameter in (network.residual.weight, network.prototypes))


def test_decorrelation_is_the_mean_squared_correlation_whatever_the_scales() -> None:
    d, r = torch.randn(40, 3), torch.randn(40, 5)
    expected = (np.corrcoef(d.numpy().T, r.numpy().T)[:3, 3:] ** 2).mean()
    for scaled in (d, d * torch.tensor([2.0, 9.0, 0.1])):
        assert losses.decorrelation(scaled, 7 * r + 3).item() == pytest.approx(expected, abs=1e-6)
    assert losses.decorrelation(d, torch.full((40, 2), 0.3)).item() == pytest.approx(0, abs=1e-6)


def test_ridge_weights_are_the_minimum_and_its_limits() -> None:
    seen, unseen = CODES[:SEEN].double(), CODES[SEEN:].double()
    weights = losses.ridge_weights(unseen, seen, 0.5).requires_grad_()
    ((unseen - weights @ seen).square().sum() + 0.5 * weights.square().sum()).backward()
    torch.testing.assert_close(weights.grad, torch.zeros_like(weights), atol=1e-10, rtol=0)
    few, prototypes = seen[:5], torch.randn(5, 5)
    weights = losses.ridge_weights(few[[3, 1]], few, 1e-9)  # a code that is there
    made = losses.synthesised(weights, prototypes)
    torch.testing.assert_close(made, F.normalize(prototypes, dim=1)[[3, 1]], atol=1e-4, rtol=0)
    torch.testing.assert_close(losses.synthesised(weights, prototypes * torch.rand(5, 1)), made)
    expected = (5 * unseen @ seen.T).softmax(1)
    torch.testing.assert_close(losses.similarity_weights(unseen, seen), expected)
    for kappa in (0, math.nan):
        with pytest.raises(ReuseError, match="above 0"):
            losses.ridge_weights(unseen, seen, kappa)
