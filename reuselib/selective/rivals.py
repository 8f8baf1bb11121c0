"""Other prototypes of unseen classes than the synthesised ones: an oracle, transductive ones, and two controls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import checks
from reuselib.errors import BadValue
from reuselib.selective.evidence import Evidence


def class_means(residual: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The directions of the mean residual attributes of each class: with true labels an oracle, an upper bound.

    Args:
        residual: r(x), (n, q).
        labels: int64 (n,), 0 to T - 1; a class without images gets zeros.
        classes: T.

    Returns:
        (T, q), rows of length one.

    Raises:
        BadValue: a label is none of the classes.
    """
    if len(odd := labels[(labels < 0) | (labels >= classes)].unique()):
        raise BadValue(f"labels {odd.tolist()[:8]} are none of 0 to {classes - 1}: positions among the unseen classes.")
    return F.normalize(F.one_hot(labels, classes).to(residual.dtype).T @ residual, dim=1)


def bootstrapped(
    defined: Tensor,
    residual: Tensor,
    prototypes: Tensor,
    *,
    rounds: int = 3,
    share: float = 1 / 3,
    confidence: str = "standardised",
    weight: float = 1.0,
) -> Tensor:
    """Prototypes from the unseen images themselves, without their labels: this is transductive.

    Each round keeps, of the images predicted as a class, those that are trusted most, and moves the class's prototype
    to their mean. Where most predictions of a class are wrong, it locks them in.

    Args:
        defined: ``d(x)·ã_u``, (n, T); the predictions, which never change, are made from these.
        residual: r(x), (n, q).
        prototypes: ρ_u to start from, (T, q).
        rounds: how often.
        share: of the images of a predicted class that are kept, one at least.
        confidence: one of ``CONFIDENCES``.
        weight: of the residual part in it.

    Returns:
        (T, q), rows of length one; a class that is never predicted keeps its prototype.
    """
    checks.whole(0, rounds=rounds)
    checks.number(0, 1, above=True, share=share)
    predicted = defined.argmax(1)
    counts = predicted.bincount(minlength=len(prototypes))
    keep = (counts.double() * share - 1e-9).ceil().long()
    for _ in range(rounds):
        trust = Evidence.of(defined, residual, prototypes).confidence(confidence, weight)
        # By class first, the most trusted first within each: a stable sort by trust, then one by class.
        order = trust.argsort(descending=True, stable=True)
        order = order[predicted[order].argsort(stable=True)]
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[predicted[order]]
        chosen = order[place < keep[predicted[order]]]
        means = class_means(residual[chosen], predicted[chosen], len(prototypes))
        prototypes = torch.where(counts.unsqueeze(1) > 0, means, prototypes)
    return prototypes


def permuted(prototypes: Tensor, seed: int = 0) -> Tensor:
    """A control: the prototypes (T, q), each given to another class; no class keeps its own.

    Raises:
        BadValue: there is only one class, whose prototype cannot go to another one.
    """
    checks.whole(2, classes=len(prototypes))
    order = torch.randperm(len(prototypes), generator=torch.Generator().manual_seed(seed)).to(prototypes.device)
    shuffled = torch.empty_like(prototypes)
    shuffled[order] = prototypes[order.roll(1)]
    return shuffled


def random_prototypes(like: Tensor, seed: int = 0) -> Tensor:
    """A control: random directions, (T, q), rows of length one."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=1).to(like)
