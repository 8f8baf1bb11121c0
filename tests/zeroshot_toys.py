"""A tiny world of features and attributes, every zero-shot classifier on it, and a guard against waiting.

toy = zeroshot_toys.toy()                      # features of 6 seen and 3 unseen classes
classifier = zeroshot_toys.fitted("eszsl", toy)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


def fitted(name: str, world: Toy, **options: Any) -> Any:
    """A copy of a classifier, fitted."""
    classifier = clone(CLASSIFIERS[name]).set_params(**options)
    unlabelled = world.new if classifier.transductive else None
    return classifier.fit(world.train, world.train_labels, world.attributes, unlabelled=unlabelled)


class NoWaiting(TorchDispatchMode):
    """Fail on every operation whose result the host must wait for, and on tensors of another device than `where`."""

    SYNCING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2")

    def __init__(self, where: str = "cpu") -> None:
        super().__init__()
        self.where = where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        masks = [t for t in indices if isinstance(t, Tensor) and t.dtype == torch.bool]
        assert name not in self.SYNCING and not masks, f"{func} waits for the device"
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            assert not isinstance(value, Tensor) or value.device.type == self.where, f"{func} left {self.where}"
        return result
