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


def test_residual_attributes_learn_alone_or_on_top_of_what_is_defined() -> None:
    defined, residual, y = torch.randn(6, SEEN), torch.randn(6, SEEN), torch.randint(SEEN, (6,))
    torch.testing.assert_close(losses.defined_loss(defined, y), F.cross_entropy(defined, y))
    torch.testing.assert_close(losses.residual_loss(defined, residual, y), F.cross_entropy(residual, y))
    for task in ("remainder", "decorrelated"):
        found = losses.residual_loss(defined, residual, y, task)
        torch.testing.assert_close(found, F.cross_entropy(defined + residual, y))
        silent = losses.residual_loss(defined, torch.zeros_like(residual), y, task)
        torch.testing.assert_close(silent, F.cross_entropy(defined, y))


@pytest.mark.parametrize("task", losses.TASKS)
def test_no_gradient_of_the_residual_part_reaches_the_defined_head(task: str) -> None:
    network = AugmentedNetwork(CODES, range(SEEN), 12, 5)
    x, y = torch.randn(8, 12), torch.randint(SEEN, (8,))
    attributes, residual = network.bridge(x), network.residual(x)
    defined, scores = network.score(attributes)[:, :SEEN], network.residual_scores(residual)
    parts = losses.residual_loss(defined, scores, y, task), losses.decorrelation(attributes, residual)
    losses.augmented_loss(torch.zeros(()), *parts, beta=1.0, eta=1.0).backward()
    assert all(parameter.grad is None for parameter in network.bridge.parameters())
    assert all((parameter.grad != 0).any() for parameter in (network.residual.weight, network.prototypes))


def test_decorrelation_is_the_mean_squared_correlation_whatever_the_scales() -> None:
    d, r = torch.randn(40, 3), torch.randn(40, 5)
    expected = np.corrcoef(d.numpy().T, r.numpy().T)[:3, 3:]
    found = losses.decorrelation(d, r)
    assert found.item() == pytest.approx((expected**2).mean(), abs=1e-6)
    torch.testing.assert_close(losses.decorrelation(d * torch.tensor([2.0, 9.0, 0.1]), 7 * r + 3), found)
    assert losses.decorrelation(d[:, :1], -7 * d[:, :1]).item() == pytest.approx(1)
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert losses.decorrelation(signs[:, :1], signs[:, 1:]).item() == 0
    assert losses.decorrelation(d, torch.full((40, 2), 0.3)).item() == pytest.approx(0, abs=1e-6)


def test_ridge_weights_are_the_minimum_and_its_limits() -> None:
    seen, unseen = CODES[:SEEN].double(), CODES[SEEN:].double()
    weights = losses.ridge_weights(unseen, seen, 0.5).requires_grad_()
    ((unseen - weights @ seen).square().sum() + 0.5 * weights.square().sum()).backward()
    torch.testing.assert_close(weights.grad, torch.zeros_like(weights), atol=1e-10, rtol=0)
    few, prototypes = seen[:5], torch.randn(5, 5)
    weights = losses.ridge_weights(few[[3, 1]], few, 1e-9)  # a code that is there
    torch.testing.assert_close(weights, F.one_hot(torch.tensor([3, 1]), 5).double(), atol=1e-5, rtol=0)
    made = losses.synthesised(weights, prototypes)
    torch.testing.assert_close(made, F.normalize(prototypes, dim=1)[[3, 1]], atol=1e-4, rtol=0)
    torch.testing.assert_close(losses.synthesised(weights, prototypes * torch.rand(5, 1)), made)
    large = 1e9 * losses.ridge_weights(unseen, seen, 1e9)
    torch.testing.assert_close(large, unseen @ seen.T, atol=1e-6, rtol=0)
    expected = (5 * unseen @ seen.T).exp()
    torch.testing.assert_close(losses.similarity_weights(unseen, seen), expected / expected.sum(1, keepdim=True))
    for kappa in (0, -1.0, math.nan):
        with pytest.raises(ReuseError, match="above 0"):
            losses.ridge_weights(unseen, seen, kappa)
