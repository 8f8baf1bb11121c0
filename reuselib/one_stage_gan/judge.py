"""Judging generated images by the features of a network that had no part in making them."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS, Statistics
from reuselib.nets import pretrained, zoo
from reuselib.report import metrics

INCEPTION = "inception_v3"
NEIGHBOURHOOD = 2000
"""Images that the kernel distance and the coverage look at: both take all pairs."""

BATCH = 200


class Judge:
    """A classifier's view of images in [-1, 1].

    Args:
        name: a network of the zoo, or ``"inception_v3"`` for torchvision's, trained on ImageNet.
        real: the images to compare with, normalised to [-1, 1].
        count: how many of them, drawn once for all runs.
    """

    def __init__(self, name: str, real: ImageSet, count: int) -> None:
        self.device = real.device
        self.network, self.size, normalisation = _network(name, self.device)
        self.mean, self.std = (torch.tensor(values, device=self.device).view(1, -1, 1, 1) for values in normalisation)
        chosen = real.take(min(count, len(real)), 0)
        self.real = self.features(chosen.normalised(chosen.images))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """The penultimate features (N, D) of images (N, C, H, W) in [-1, 1], in float32."""
        parts = images.to(self.device).float().split(BATCH)
        return torch.cat([metrics.features_of(self.network, self._prepared(part)) for part in parts])

    def frechet(self, features: Tensor) -> float:
        """The Fréchet distance of such features to those of the real images; not a FID, but on Inception's.

        Equation: `one-stage-frechet`.
        """
        return metrics.frechet_distance(self.real, features)

    @torch.no_grad()
    def metrics(self, features: Tensor) -> dict[str, float]:
        """All that is recorded of a set of features: distances to the real ones, coverage, classes in even use."""
        logits = cast(nn.Linear, self.network.head)(features)
        real, few = self.real[:NEIGHBOURHOOD], features[:NEIGHBOURHOOD]
        return {
            "frechet": self.frechet(features),
            "kernel_distance": metrics.kernel_distance(real, few),
            "coverage": metrics.coverage(real, few),
            "classes": metrics.effective_number(logits.argmax(1), logits.shape[1]),
        }

    def _prepared(self, images: Tensor) -> Tensor:
        images = (images + 1) / 2
        if images.shape[2] > self.size:
            images = F.adaptive_avg_pool2d(images, self.size)
        elif images.shape[2] < self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        return (images - self.mean) / self.std


def _network(name: str, where: torch.device) -> tuple[nn.Module, int, Statistics]:
    """A network with ``features`` and ``head``, the side of its images, and their mean and std."""
    if name == INCEPTION:
        return _Inception().to(where).eval(), 299, IMAGENET_STATISTICS
    network = zoo.load(name, where)
    card = zoo.card(name)
    return network, card["image"][1], (card["mean"], card["std"])


class _Inception(nn.Module):
    """torchvision's Inception-v3: not the port of TensorFlow's weights that FID means, so not comparable with FID."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = pretrained.classifier(INCEPTION, "cpu")
        self.head, self.trunk.fc = self.trunk.fc, nn.Identity()

    def features(self, images: Tensor) -> Tensor:
        return self.trunk(images)
