"""Who teaches which image: what the sources say, which of them is chosen, and how many images it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, unknown


def oracle(logits: Tensor, labels: Tensor) -> Tensor:
    """The source with the smallest cross-entropy for each image: an upper bound that needs labels.

    Args:
        logits: (sources, N, K).
        labels: int64 (N,).

    Returns:
        int64 (N,), positions of sources.
    """
    each = labels.expand(logits.shape[:2])
    return F.cross_entropy(logits.float().permute(0, 2, 1), each, reduction="none").argmin(0)


@torch.no_grad()
def predictions(sources: Sequence[nn.Module], task: str, images: ImageSet, batch: int = 1000) -> Tensor:
    """The logits that each source gives for one task, in evaluation mode and float32, images as they are.

    Args:
        sources: networks whose forward pass gives a dict of logits; they are left as they were.
        task: name of the head.
        images: on the sources' device.
        batch: images at a time.

    Returns:
        (sources, N, K).

    Raises:
        UnknownName: a source has no such head.
        ShapeMismatch: the sources differ in the number of classes.
        NonFinite: a source gives NaN or infinity: it would be selected silently.
        ReuseError: there is no source, or one gives no dict of logits.
        BadValue: there are no images.
    """
    checks.some(ImageSet, images=images)
    if not sources:
        raise ReuseError(f"no source teaches {task!r}. Add one to the pool, or choose another task.")
    found = [_logits(source, task, images, batch) for source in sources]
    if len({logits.shape for logits in found}) > 1:
        raise ShapeMismatch(
            f"the sources of {task!r} differ in their number of classes: {[logits.shape[1] for logits in found]}. "
            "Give sources whose heads of that name mean the same classes."
        )
    for number, logits in enumerate(found):
        if not logits.is_meta and not logits.isfinite().all():
            raise NonFinite(f"source {number} gives NaN or infinity for {task!r}. Leave it out, or train it again.")
    return torch.stack(found)


def _logits(source: nn.Module, task: str, images: ImageSet, batch: int) -> Tensor:
    with run.frozen(source):
        parts = [heads(source(x), task, source) for x, _ in images.batches(batch)]
    return torch.cat([part[task].float() for part in parts])


def heads(answer: Any, task: str, network: nn.Module, name: str = "") -> dict[str, Tensor]:
    """What a network with heads answers, once it is known that there is one of that name.

    Args:
        answer: of the network.
        task: name of the head.
        network: for messages.
        name: what it is called there.

    Raises:
        ReuseError: the answer is no dict.
        UnknownName: it has no such head; the message gives the nearest.
    """
    if not isinstance(answer, Mapping):
        raise ReuseError(
            f"{name or 'A network'} ({type(network).__name__}) gives {type(answer).__name__}, not a dict of logits by "
            f"task. Wrap it in a torch.nn.Module whose forward(self, x) returns {{{task!r}: self.network(x)}}."
        )
    if task not in answer:
        raise unknown(f"task of {name}" if name else "task", task, answer)
    return dict(answer)


def pseudo_labels(logits: Tensor, choice: Tensor) -> Tensor:
    """What the chosen sources say: the class of the largest logit, int64 (N,).

    Args:
        logits: (sources, N, K).
        choice: int64 (N,), positions of sources.
    """
    return logits.argmax(2).gather(0, choice.unsqueeze(0))[0]


def subsets(choice: Tensor, sources: int) -> list[Tensor]:
    """The positions of the images that each source teaches: disjoint, together all of them.

    Args:
        choice: int64 (N,), positions of sources.
        sources: how many there are.

    Returns:
        For each source int64 (n,), ascending; empty for one that teaches nothing.
    """
    return [(choice == source).nonzero()[:, 0] for source in range(sources)]


def sub_batches(sizes: Sequence[int], batch: int) -> list[int]:
    """How many images of each subset an update takes, so that all subsets are gone through in about the same time.

    The largest subset gives ``batch``; its ``n = int(largest / batch)`` updates are an epoch, and a subset of size s
    gives ``max(1, int(s / n))``. An empty subset gives none, and none gives more images than it has.

    Args:
        sizes: of the subsets.
        batch: at least 1.

    Raises:
        ReuseError: every subset is empty.

    Source: Shen et al. 2019 (ICCV), official code.
    """
    largest = max(sizes, default=0)
    if not largest or batch < 1:
        raise ReuseError(f"no batch of {batch} can be drawn from subsets of {list(sizes)} images.")
    updates = max(1, largest // batch)
    shares = [batch if size == largest else max(1, size // updates) for size in sizes]
    return [min(share, size) for share, size in zip(shares, sizes, strict=True)]
