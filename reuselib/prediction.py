"""What a preset would cost on a GPU: operations counted on the ``meta`` device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SUSTAINED = {"T4, fp16": 12e12, "A100, bf16": 80e12}
"""Operations per second that small convolutions are assumed to sustain: about a fifth of each card's peak."""


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of one run.

    Attributes:
        operations: floating-point operations of the whole run, a multiply-add counted as two.
        memory: bytes of weights, optimizer states and one step's saved activations.
    """

    operations: float
    memory: float

    def hours(self, device: str) -> float:
        """Hours on a device of ``SUSTAINED``."""
        return self.operations / SUSTAINED[device] / 3600


SPACES = {
    "fashion_mnist": (10, 1, 28),
    "shapes": (4, 1, 16),
    "shape_cells": (32, 1, 16),
    "symbols": (10, 1, 16),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "tiny_imagenet": (200, 3, 64),
    "imagenet": (1000, 3, 224),
}
"""Image set → classes, channels, pixels a side."""


def saved_bytes(work: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd keeps for the backward passes of some work."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(kept.values())
