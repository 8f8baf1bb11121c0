"""What is learned from: features as they are drawn, and arrays as tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reuselib.data import ImageSet
from reuselib.data.image_set import Batches, Change
from reuselib.errors import NonFinite, ShapeMismatch


@dataclass(frozen=True, eq=False)
class FeatureSet(Batches):
    """Feature vectors and labels on one device, drawn from as images are.

    Attributes:
        features: float, (N, d).
        labels: int64, (N,).

    Raises:
        ShapeMismatch: they do not fit together, or there is none.
        NonFinite: the features hold NaN or infinity.
    """

    features: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.features.ndim != 2 or not self.features.numel() or self.labels.shape != self.features.shape[:1]:
            shapes = f"{tuple(self.features.shape)} and {tuple(self.labels.shape)}"
            raise ShapeMismatch(f"features must be (N, d) with one label (N,) each, not {shapes}.")
        if self.labels.dtype != torch.int64:
            raise ShapeMismatch(f"labels must be int64, not {self.labels.dtype}: a label is a column of the scores.")
        check_finite(features=self.features)

    def _batch(self, index: Tensor | slice, change: Change | None = None) -> tuple[Tensor, Tensor]:
        features = self.features[index]
        return features if change is None else change(features), self.labels[index]

    def unlabelled(self) -> FeatureSet:
        """Return the same features, labelled 0, for methods that must not see a label."""
        return replace(self, labels=torch.zeros_like(self.labels))


Samples = ImageSet | FeatureSet
"""What a training method draws from."""


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is, without gradient; an array, a list or a table as a tensor on the CPU.

    Raises:
        ShapeMismatch: the values are no array of numbers.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise ShapeMismatch(f"numbers are needed, in an array of one shape ({error}).") from error
    if array.dtype.kind not in "fiub":
        raise ShapeMismatch(f"numbers are needed, in an array of one shape, not {array.dtype}.")
    return torch.tensor(array)


def like(result: Tensor, given: Any) -> Any:
    """A result as the caller's kind: a tensor for a tensor, else a NumPy array."""
    return result if isinstance(given, Tensor) else result.cpu().numpy()


def check_finite(**values: Tensor) -> None:
    """Refuse NaN and infinity, by the names that callers know the tensors by; on ``meta`` there is nothing to see.

    Raises:
        NonFinite: one is there.
    """
    for name, tensor in values.items():
        if not tensor.is_meta and not tensor.isfinite().all():
            raise NonFinite(f"{name} hold NaN or infinity: look at the images, or at the network that read them.")


def as_matrix(values: Any, name: str) -> Tensor:
    """Features as a float32 matrix.

    Raises:
        ShapeMismatch: they are none, or empty.
        NonFinite: they hold NaN or infinity.
    """
    found = as_tensor(values).float()
    if found.ndim != 2 or not found.numel():
        raise ShapeMismatch(f"{name} must be (images, features), not {tuple(found.shape)}. Flatten maps first.")
    check_finite(**{name: found})
    return found


def as_labels(labels: Any, count: int) -> Tensor:
    """Labels as int64 (count,) on the CPU.

    Raises:
        ShapeMismatch: there are not that many, or they are no integers.
    """
    found = as_tensor(labels).cpu()
    if found.shape != (count,) or found.is_floating_point() or found.dtype == torch.bool:
        shown = f"{found.dtype} {tuple(found.shape)}"
        raise ShapeMismatch(f"labels must be {count} integers, rows of the attributes, one an image, not {shown}.")
    return found.long()


class Standardise(nn.Module):
    """``(x - shift) / scale``, fixed: each feature with mean 0 and standard deviation 1 over given features (N, d).

    Attributes:
        shift: (d,), a buffer.
        scale: (d,), a buffer; 1 for a feature that never changes, lest it become noise.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        shift = features.detach().mean(0)
        spread = (features.detach() - shift).square().mean(0).sqrt()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", torch.where(spread > 1e-6 * shift.abs().clamp(min=1e-30), spread, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise features (B, d)."""
        return (x - self.shift) / self.scale


def solved(matrix: Tensor, targets: Tensor, strength: float) -> Tensor:
    """``(M + strength I)⁻¹ T`` of a square matrix M and targets T: what every ridge comes to."""
    return torch.linalg.solve(matrix + strength * torch.eye(len(matrix)).to(matrix), targets)
