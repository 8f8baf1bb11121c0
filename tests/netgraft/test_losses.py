"""The equations of grafting and of its rivals against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.errors import BadValue, ShapeMismatch
from reuselib.netgraft import losses


def logits(seed: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_normalised_distance_is_the_sum_of_two_minus_two_cosines_and_sees_no_length() -> None:
    u, v, zero = logits(0), logits(1).requires_grad_(), torch.zeros(6, 5, requires_grad=True)
    found = losses.normalised_logits_distance(u, v)
    by_hand = ((v / v.norm(dim=1, keepdim=True) - u / u.norm(dim=1, keepdim=True)) ** 2).sum()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert found.item() == pytest.approx(2 * (1 - F.cosine_similarity(u, v)).sum().item(), rel=1e-5)
    lengths = torch.tensor([1e-3, 0.1, 1, 7, 100, 1e4]).view(6, 1)
    for pair in ((u, lengths * v), (lengths * u, v)):
        torch.testing.assert_close(losses.normalised_logits_distance(*pair), found)
    assert losses.normalised_logits_distance(u, u) == 0
    assert losses.normalised_logits_distance(u, -u).item() == pytest.approx(4 * len(u))
    (gradient,) = torch.autograd.grad(found, v)
    assert gradient.norm(dim=1).min() > 0.1 and (gradient * v).sum(1).abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(loss := losses.normalised_logits_distance(u, zero), zero)
    assert loss.item() == pytest.approx(6) and gradient.isfinite().all()


def test_the_other_distances_by_hand() -> None:
    u, v = logits(0), logits(1)
    squares = ((u - v) ** 2).sum().item()
    assert losses.logits_distance(u, v).item() == pytest.approx(squares, rel=1e-5)
    assert losses.feature_distance(u, v).item() == pytest.approx(squares / 30, rel=1e-5)
    p, q = (u / 4).softmax(1), (v / 4).softmax(1)
    expected = 16 * (p * (p / q).log()).sum() / len(u)
    assert losses.soft_targets(u, v).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_cross_distance_weighs_imitation_and_correction() -> None:
    layer = nn.Linear(3, 4)
    h_t, h_s, target = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 4)
    parts = F.mse_loss(layer(h_t), target), F.mse_loss(layer(h_s), target)
    expected = 0.25 * parts[0] + 0.75 * parts[1]
    torch.testing.assert_close(losses.cross_distance(layer, h_t, h_s, target, 0.25), expected)


# --- least squares


def slow_least_squares(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """The same as one tall ordinary least-squares problem, row by row of M, in double precision."""
    channels = x.shape[1]
    weight = ridge * np.mean(np.sum(x**2, 0))
    tall, wanted = (np.vstack([each, np.sqrt(weight) * np.eye(channels)]) for each in (x, y))
    return np.linalg.lstsq(tall, wanted, rcond=None)[0].T


@pytest.mark.parametrize("shape", [(4, 5, 3, 3), (40, 5), (3, 5)])
def test_the_matrix_is_that_of_the_augmented_problem(shape: tuple[int, ...]) -> None:
    x, y = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    rows = [maps.movedim(1, -1).reshape(-1, 5).numpy() for maps in (x, y)]
    torch.testing.assert_close(losses.least_squares(x, y, 0.5), torch.from_numpy(slow_least_squares(*rows, 0.5)))


def test_where_nothing_is_known_the_matrix_is_the_identity_and_what_cannot_be_is_refused() -> None:
    x = torch.randn(50, 4, 6, 6)
    assert torch.equal(losses.least_squares(x, x), torch.eye(4))
    assert torch.equal(losses.least_squares(torch.zeros(3, 4, 2, 2), torch.randn(3, 4, 2, 2)), torch.eye(4))
    assert losses.least_squares(x.bfloat16(), x.bfloat16()).dtype == torch.float32
    with pytest.raises(ShapeMismatch, match=r"\(2, 4, 4, 4\) and \(2, 3, 4, 4\)"):
        losses.least_squares(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))
    with pytest.raises(BadValue, match="ridge must be a finite number above 0, not 0"):
        losses.least_squares(x, x, 0)


@pytest.mark.parametrize("shape", [(30, 4, 3, 3), (200, 4)])
def test_a_mixture_is_found_again_and_a_bias_costs_nothing(shape: tuple[int, ...]) -> None:
    x, mixture, bias = torch.randn(shape) + 5, torch.randn(4, 4), torch.randn(4)
    y = torch.einsum("ij,bj...->bi...", mixture, x) + bias.view(1, 4, *[1] * (len(shape) - 2))
    torch.testing.assert_close(losses.affine_least_squares(x, y, 1e-7), (mixture, bias), rtol=1e-2, atol=2e-2)
    matrix, shift = losses.affine_least_squares(x, x + 7, ridge=1e3)
    torch.testing.assert_close(matrix, torch.eye(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shift, torch.full((4,), 7.0), rtol=1e-2, atol=1e-2)
