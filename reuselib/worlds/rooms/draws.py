"""Random numbers that depend on a key and a counter alone: one scene is the same in any batch, on any device.

A generator that is drawn from in turn would tie a scene to those before it. Here the number is a hash: the finaliser of
SplitMix64 (Steele, Lea and Flood 2014) in int64 arithmetic, which wraps around alike on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the odd number next to 2^64 over the golden ratio, as int64
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def mixed(state: Tensor) -> Tensor:
    """Return a bijective hash of every int64."""
    state = (state ^ _shifted(state, 30)) * FIRST
    state = (state ^ _shifted(state, 27)) * SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, places: int) -> Tensor:
    """Shift to the right and fill with zeros: `>>` alone repeats the sign."""
    return (state >> places) & ((1 << (64 - places)) - 1)


def keys(seed: int, index: Tensor) -> Tensor:
    """Return one key for each index: int64, the same for (seed, index) always, and no two of one seed alike."""
    start = mixed(torch.tensor(seed, dtype=torch.int64, device=index.device) + GOLDEN)
    return mixed(start + index * GOLDEN)


class Draws:
    """Draws for N things at once: the k-th draw for a thing is a hash of its key and k.

    Args:
        keys: int64, (N,).
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.used = keys, 0

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        """Draw float64 ``(N, *shape)``, uniform on [low, high)."""
        count = math.prod(shape)
        numbers = torch.arange(self.used, self.used + count, device=self.keys.device)
        self.used += count
        words = mixed(self.keys.unsqueeze(1) + numbers * GOLDEN)
        return low + (high - low) * (_shifted(words, 11).double() * 2**-53).reshape(-1, *shape)

    def integer(self, count: int, *shape: int) -> Tensor:
        """Draw int64 ``(N, *shape)``, each of 0 to count - 1 equally likely."""
        return self.uniform(0, count, *shape).long()

    def weighted(self, weights: Tensor, *shape: int) -> Tensor:
        """Draw int64 ``(N, *shape)`` by the weights of each thing, (N, classes), which sum to 1."""
        ends = weights.cumsum(1)[:, :-1].reshape(len(weights), *[1] * len(shape), -1)
        return (self.uniform(0, 1, *shape).unsqueeze(-1) >= ends).sum(-1)


def normal(keys: Tensor, count: int, first: int = 1 << 32) -> Tensor:
    """Draw float32 (N, count) from the standard normal distribution (Box and Muller 1958), on the keys' device.

    Args:
        keys: int64, (N,).
        count: How many for each key, an even number.
        first: Where the counter begins: far from what `Draws` uses.
    """
    numbers = torch.arange(first, first + count // 2, device=keys.device)
    words = mixed(keys.unsqueeze(1) + numbers * GOLDEN)
    angle = (words & 0xFFFFFF).float() * (2 * math.pi * 2**-24)
    radius = (-2 * ((_shifted(words, 40).float() + 0.5) * 2**-24).log()).sqrt()
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
