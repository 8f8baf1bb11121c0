"""Telling images apart one by one: the head that the contrast trains, and a test of how well it can be done."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.cmi import losses
from reuselib.cmi.statistics import watch


class InstanceHead(nn.Module):
    """Features → unit vectors in which every image should stand apart: linear, ReLU, linear, scaled to length 1.

    Args:
        features: D, width of the teacher's features.
        outputs: length of the embedding.

    Source: Fang et al. 2021 (CMI), official code.
    """

    def __init__(self, features: int, outputs: int = 256) -> None:
        super().__init__()
        checks.whole(features=features, outputs=outputs)
        self.layers = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, outputs), every row of length 1."""
        return F.normalize(self.layers(features).float())


@torch.no_grad()
def watched_features(teacher: nn.Module, images: Tensor, layers: tuple[str, ...] | None = None) -> Tensor:
    """The features (B, D) that the contrast sees of normalised images (B, C, H, W): inputs of the batch norms."""
    with run.frozen(teacher), watch(teacher, layers) as seen:
        parts = []
        for part in images.split(500):
            teacher(part)
            parts.append(seen.features())
    return torch.cat(parts)


def instance_accuracy(left: Tensor, right: Tensor, *, steps: int = 200, batch: int = 256, seed: int = 0) -> float:
    """How often an image is found again from another view of it, by a head trained afresh on other views.

    Args:
        left: features (V, N, D) of V views of N images. The last view is kept for the test.
        right: features (V, N, D) of V other views of the same images.
        steps: updates of the head.
        batch: images of an update.
        seed: of the head and of the batches.

    Returns:
        Share of the N images whose held-out left view is nearest to its own held-out right view.
    """
    checks.whole(steps=steps, batch=batch)
    views, count, width = left.shape
    random = run.generator(left.device, seed)
    with run.seeded(seed):
        head = InstanceHead(width, 64).to(left.device)
    optimizer = run.adam(head.parameters(), left.device, lr=1e-3)
    with torch.enable_grad():  # measuring code often switches gradients off
        for step in range(steps):
            chosen = torch.randperm(count, generator=random, device=left.device)[:batch]
            view = step % (views - 1)
            anchors, keys = (head(side[view, chosen]) for side in (left, right))
            loss = losses.contrastive_loss(anchors, keys, len(chosen))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        found = (head(left[-1]) @ head(right[-1]).T).argmax(1)
    return float((found == torch.arange(count, device=left.device)).float().mean())
