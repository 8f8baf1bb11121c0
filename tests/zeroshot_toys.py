"""A tiny world of features and attributes and every zero-shot classifier on it.

toy = zeroshot_toys.toy()                      # features of 6 seen and 3 unseen classes
classifier = zeroshot_toys.fitted("eszsl", toy)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.base import clone
from torch import Tensor

from reuselib import qfsl
from reuselib.qfsl import rivals

SEEN, UNSEEN, ATTRIBUTES, FEATURES = 6, 3, 8, 9


@dataclass(frozen=True)
class Toy:
    """Labelled features of the seen classes for training and for testing, and features of the unseen ones."""

    attributes: Tensor
    seen: Tensor
    unseen: Tensor
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    new: Tensor
    new_labels: Tensor


def toy(seed: int = 53, images: int = 8, noise: float = 0.3) -> Toy:
    """Binary attributes, all classes different; features are a noisy linear map; 1, 4 and 7 are unseen."""
    random = torch.Generator().manual_seed(seed)
    count = SEEN + UNSEEN
    attributes = (torch.rand(count, ATTRIBUTES, generator=random) < 0.5).float()
    attributes[:, 0] = torch.arange(count) % 2  # no row and no column is all the same
    attributes[:, 1] = torch.arange(count) // 5
    mixing = torch.randn(ATTRIBUTES, FEATURES, generator=random)

    def draw(classes: Tensor) -> tuple[Tensor, Tensor]:
        labels = classes.repeat_interleave(images)
        return attributes[labels] @ mixing + noise * torch.randn(len(labels), FEATURES, generator=random), labels

    unseen = torch.tensor([1, 4, 7])
    seen = torch.tensor([0, 2, 3, 5, 6, 8])
    return Toy(attributes, seen, unseen, *draw(seen), *draw(seen), *draw(unseen))


FEW: dict[str, Any] = {"steps": 20}
CLASSIFIERS: dict[str, qfsl.ZeroShotClassifier] = {
    "minus-a": qfsl.SeenClassifier(**FEW),
    "minus-b": qfsl.SeenClassifier(softmax="all", **FEW),
    "qfsl": qfsl.QFSLClassifier(unlabelled_steps=10, **FEW),
}
for name, kind in rivals.RIVALS.items():
    CLASSIFIERS[name] = kind(**FEW) if hasattr(kind, "steps") else kind()
CLASSIFIERS["sae-to-features"] = rivals.RIVALS["sae"](projection="to_features")


def assert_refused(*cases: tuple[type[Exception], str, Callable[[], Any]]) -> None:
    """Assert that every attempt raises its error, with a message that says so."""
    for error, message, attempt in cases:
        with pytest.raises(error, match=message):
            attempt()


def fitted(name: str, world: Toy, **options: Any) -> Any:
    """A copy of a classifier, fitted."""
    classifier = clone(CLASSIFIERS[name]).set_params(**options)
    unlabelled = world.new if classifier.transductive else None
    return classifier.fit(world.train, world.train_labels, world.attributes, unlabelled=unlabelled)
