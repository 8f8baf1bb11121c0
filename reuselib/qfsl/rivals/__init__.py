"""What QFSL is compared with, and the options of each: always by class-wise cross-validation on seen classes alone.

For worlds, digits and clothes they were chosen once, on worlds and splits that no record has, among those that
``options.yaml`` lists as tried. For photographs and benchmarks :func:`tuned` chooses among the same, on every split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from reuselib.errors import unknown
from reuselib.qfsl.estimator import ZeroShotClassifier
from reuselib.qfsl.rivals.gaussians import GFZSL, TransductiveGFZSL
from reuselib.qfsl.rivals.linear import ESZSL, SAE, SynC
from reuselib.qfsl.rivals.probabilistic import DAP, IAP, ConSE
from reuselib.qfsl.rivals.trained import ALE, CMT, SJE, DeViSE, LatEm, SCoRe
from reuselib.qfsl.selection import select

CLASSES = DAP, IAP, ConSE, DeViSE, SJE, LatEm, ESZSL, ALE, SynC, SAE, GFZSL, CMT, SCoRe
RIVALS: dict[str, type[ZeroShotClassifier]] = {each.__name__.lower(): each for each in CLASSES}
RIVALS["gfzsl-transductive"] = TransductiveGFZSL
"""Every method that learns from features, but QFSL and its ablations."""

OPTIONS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("options.yaml").read_text("utf-8"))
"""Kind of features → method → the options chosen; ``"tried"`` → method → option → values."""


def chosen(kind: str, method: str, steps: int | None = None) -> dict[str, Any]:
    """The options of a method for a kind of features: none where nothing was chosen.

    Args:
        kind: "world", "digits", "fashion", or anything else.
        method: a key of ``RIVALS``.
        steps: updates, of a method that learns step by step; its own number if left out.
    """
    found = dict(OPTIONS.get(kind, {}).get(method, {}))
    if steps is not None and hasattr(RIVALS[method], "steps"):
        found["steps"] = steps
    return found


def build(method: str, seed: int = 0, **options: Any) -> ZeroShotClassifier:
    """A classifier that is not fitted yet; ``seed`` is for those that draw.

    Raises:
        UnknownName: there is no such method, or it has no such option.
    """
    if method not in RIVALS:
        raise unknown("zero-shot method", method, RIVALS)
    known = RIVALS[method]().get_params()
    for name in options:
        if name not in known:
            raise unknown(f"option of {method}", name, known)
    if "seed" in known:
        options["seed"] = seed
    return RIVALS[method](**options)


def tuned(
    method: str, features: Tensor, labels: Tensor, attributes: Tensor, *, seed: int, folds: int, images: int
) -> dict[str, Any]:
    """The options of a method that are best on seen classes which play the unseen ones, among those listed as tried.

    Args:
        method: a key of ``RIVALS``.
        features: (N, d), of seen classes.
        labels: (N,), rows of the attributes.
        attributes: (C, m).
        seed: of the draw, the folds and the method.
        folds: into how many parts the seen classes are cut.
        images: at most as many of each class take part.

    Raises:
        UnknownName: there is no such method.
        ReuseError: there are too few seen classes.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn = order[labels.cpu()[order].argsort(stable=True)]  # class by class, at random within
    counts = labels.cpu().unique(return_counts=True)[1].tolist()
    few = torch.cat([own[:images] for own in drawn.split(counts)]).to(labels.device)
    given = features[few], labels[few], attributes
    return select(build(method, seed), OPTIONS["tried"][method], *given, folds=folds, seed=seed)[0]
