"""What is learned from, and two ways to learn: arrays as tensors, batches of features, L-BFGS and the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from reuselib import run
from reuselib.data.image_set import Augment
from reuselib.errors import NonFinite, ShapeMismatch


class Samples(Protocol):
    """What a training method draws from: an ``ImageSet``, or a :class:`FeatureSet`."""

    @property
    def labels(self) -> Tensor:
        """Their classes, int64 (N,)."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def __len__(self) -> int:
        """How many there are."""

    def sample(
        self, count: int, generator: torch.Generator | None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw inputs and labels at random, with replacement."""

    def batches(self, batch: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels in order."""

    def unlabelled(self) -> Any:
        """Return the same without their labels."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Feature vectors and labels on one device, drawn from as images are.

    Attributes:
        features: float, (N, d).
        labels: int64, (N,).

    Raises:
        ShapeMismatch: they do not fit together.
    """

    features: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise ShapeMismatch(
                f"features must be (N, d) with one label (N,) each, not {tuple(self.features.shape)} and "
                f"{tuple(self.labels.shape)}."
            )

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Where features and labels are."""
        return self.features.device

    def sample(
        self, count: int, generator: torch.Generator | None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw features (count, d) and labels (count,) at random, with replacement."""
        index = torch.randint(len(self), (count,), generator=generator, device=self.device)
        features = self.features[index]
        return features if augment is None else augment(features, generator), self.labels[index]

    def batches(self, batch: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features and labels in order."""
        yield from zip(self.features.split(batch), self.labels.split(batch), strict=True)

    def unlabelled(self) -> FeatureSet:
        """Return the same features, labelled 0, for methods that must not see a label."""
        return FeatureSet(self.features, torch.zeros_like(self.labels))


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is, without gradient; an array, a list or a table as a tensor on the CPU.

    Raises:
        ShapeMismatch: the values are no array of numbers.
    """
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ShapeMismatch(f"numbers are needed, in an array of one shape, not {array.dtype}.")
    return torch.tensor(array)


def like(result: Tensor, given: Any) -> Any:
    """A result as the caller's kind: a tensor for a tensor, else a NumPy array."""
    return result if isinstance(given, Tensor) else result.cpu().numpy()


def as_matrix(values: Any, name: str) -> Tensor:
    """Features as a float32 matrix.

    Raises:
        ShapeMismatch: they are none, or empty.
        NonFinite: they hold NaN or infinity.
    """
    found = as_tensor(values).float()
    if found.ndim != 2 or not found.numel():
        raise ShapeMismatch(f"{name} must be (images, features), not {tuple(found.shape)}. Flatten maps first.")
    if not found.isfinite().all():
        raise NonFinite(f"{name} hold NaN or infinity: look at the images, or at the network that read them.")
    return found


def as_labels(labels: Any, count: int) -> Tensor:
    """Labels as int64 (count,) on the CPU.

    Raises:
        ShapeMismatch: there are not that many, or they are no integers.
    """
    found = as_tensor(labels).cpu()
    if found.shape != (count,) or found.is_floating_point() or found.dtype == torch.bool:
        raise ShapeMismatch(
            f"labels must be {count} integers, one for each row of the features, not {found.dtype} "
            f"{tuple(found.shape)}. A label is a row of the attributes."
        )
    return found.long()


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of features (N, d), (d,) each; 1 for one that never changes, lest it become noise."""
    shift = features.mean(0)
    spread = (features - shift).square().mean(0).sqrt()
    return shift, torch.where(spread > 1e-6 * shift.abs().clamp(min=1e-30), spread, 1)


def minimised(objective: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 500) -> Tensor:
    """The minimum of a convex function by L-BFGS with line search, from ``start``; both float64."""
    found = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=iterations,
        max_eval=4 * iterations,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(found)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return found.detach()


def train(method: run.Method, steps: int, progress: bool = False) -> None:
    """Drive a method for a number of updates with the engine and its guard against NaN."""
    size = max(method.steps_per_round, 1)
    for rounds, length in ((steps // size, size), (1, steps % size)):
        if rounds and length:
            method.steps_per_round = length
            run.run(method, rounds, progress=progress)
    method.steps_per_round = size
