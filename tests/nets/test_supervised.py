"""Training with labels of images and of pixels; what holds for every method is tested for all of them together."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import product
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import nets, run
from reuselib.data import SegmentationSet
from reuselib.errors import BadValue, DeviceError, ReuseError, ShapeMismatch
from reuselib.nets.supervised import (
    MultiTaskSupervised,
    SegmentationTraining,
    Supervised,
    focal_loss,
    segmentation_scores,
)
from reuselib.report import metrics

IMAGES = players.cast().images


def halves() -> SegmentationSet:
    """The tiny images of all methods, each with a mask of two classes; some pixels have none."""
    masks = (IMAGES.images[:, 0] > 128).long().masked_fill(IMAGES.images[:, 0] > 240, 255)
    return SegmentationSet(IMAGES, masks, ("dark", "bright"))


def segmenter(classes: int = 2) -> nets.Segmenter:
    return nets.small_segmenter(4, classes=classes, channels=1)


def training(kind: type[Supervised], **options: Any) -> Supervised:
    network, images = (nets.conv3(4), IMAGES) if kind is Supervised else (segmenter(), halves())
    return kind(network, images, **{"precision": "fp32", "batch": 16} | options)


@pytest.mark.parametrize("kind", [Supervised, SegmentationTraining])
def test_a_plain_step_is_sgd_with_momentum_whose_rate_follows_its_schedule(kind: type[Supervised]) -> None:
    focal = {} if kind is Supervised else {"focal": 2.0}
    method = training(kind, lr=0.1, weight_decay=0.01, seed=3, schedule=run.cosine(4), **focal)
    plain, random = copy.deepcopy(method.student), torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=not focal)
    for iteration in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 * run.cosine(4)(iteration)
        reported = method.step()["loss"]
        x, y = method.images.sample(16, random)
        loss = F.cross_entropy(plain(x), y, reduction="none", ignore_index=255)
        loss = ((1 - torch.exp(-loss)) ** 2 * loss if focal else loss).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(reported, loss)
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=0, atol=1e-5)


def first_step(kind: type[Supervised] = Supervised, **options: Any) -> tuple[float, Tensor, Tensor, Supervised]:
    """The reported loss, the images that the student saw and the logits that it gave."""
    method, seen = training(kind, **options), []
    method.student.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output.detach())))
    loss = method.step()["loss"].item()
    return loss, *seen[0], method


@pytest.mark.parametrize("kind", [Supervised, SegmentationTraining])
def test_mixup_mixes_images_and_labels_alike(kind: type[Supervised]) -> None:
    windows = {} if kind is Supervised else {"window": 4, "flip": True}
    loss, seen, logits, method = first_step(kind, mixup=True, seed=1, **windows)
    random = torch.Generator().manual_seed(1)
    x, y = method.images.sample(16, random, method.augment)
    partner, weight = torch.randperm(16, generator=random), torch.rand(16, generator=random)
    assert x.shape == (16, 1, *((8, 8) if kind is Supervised else (4, 4))) and len(y) == 16
    total = 0.0
    for i, j in enumerate(partner.tolist()):
        torch.testing.assert_close(seen[i], weight[i] * x[i] + (1 - weight[i]) * x[j])
        for share, label in ((weight[i], y[i]), (1 - weight[i], y[j])):
            each = F.cross_entropy(logits[i : i + 1], label[None], reduction="none", ignore_index=255)
            total += (share * each.mean()).item()
    assert loss == pytest.approx(total / 16, rel=1e-5)


def test_noise_has_a_spread_of_its_own_in_each_image() -> None:
    _, noisy, *_ = first_step(noise=0.5, seed=1, batch=64)
    clean, _ = IMAGES.sample(64, torch.Generator().manual_seed(1))
    spreads = (noisy - clean).flatten(1).std(1)
    assert 0.15 < spreads.mean() < 0.35 and spreads.max() < 0.75
    assert spreads.max() - spreads.min() > 0.2


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_by_loops_and_its_finite_gradient(gamma: float) -> None:
    logits, masks = 3 * torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    masks[0, 0] = 255
    loss = focal_loss(logits, masks, gamma)
    for b, h, w in product(range(2), range(4), range(5)):
        true = masks[b, h, w].item()
        p = logits[b, :, h, w].softmax(0)[true].item() if true != 255 else 1.0
        assert loss[b, h, w].item() == pytest.approx((1 - p) ** gamma * -math.log(p), rel=1e-3, abs=1e-6)
    cross = F.cross_entropy(logits, masks, reduction="none", ignore_index=255)
    torch.testing.assert_close(focal_loss(logits, masks, 0), cross)
    sure = torch.tensor([[[[200.0, 0.0]], [[-200.0, 0.0]]]], requires_grad=True)
    focal_loss(sure, torch.tensor([[[0, 255]]]), gamma).sum().backward()
    assert sure.grad.isfinite().all() and sure.grad.abs().max() < 1e-6


def test_segmentation_scores_are_those_of_all_pixels() -> None:
    images, network = halves(), segmenter().train()
    with torch.no_grad(), run.frozen(network):
        decisions = network(images.normalised(images.images.images)).argmax(1)
    counted = images.masks != 255
    expected = (decisions == images.masks)[counted].float().mean().item()
    for batch in (None, 5):
        scores = segmentation_scores(network, images, batch)
        assert scores["pixel_accuracy"] == pytest.approx(expected)
        assert scores["mean_iou"] == metrics.mean_iou(metrics.confusion_matrix(decisions, images.masks, 2))
    assert all(module.training for module in network.modules())
    with pytest.raises(ShapeMismatch, match="3 outputs for 2 classes of tiny"):
        segmentation_scores(segmenter(3), images)
    nothing = replace(images, masks=torch.full_like(images.masks, 255))
    with pytest.raises(ReuseError, match="No pixel was counted"):
        segmentation_scores(network, nothing)


@pytest.mark.parametrize(
    ("kind", "network", "images", "options", "error", "words"),
    [
        (Supervised, nets.conv3(4, classes=3), IMAGES, {}, ShapeMismatch, "3 outputs for 4 .*classes=4"),
        (Supervised, nets.conv3(4, channels=3), IMAGES, {}, ShapeMismatch, "channels=1"),
        (Supervised, nets.conv3(4), IMAGES.to("meta"), {}, DeviceError, "network on cpu.*images on meta"),
        (Supervised, nets.conv3(4), IMAGES.subset([]), {}, BadValue, "images must be Batches with something"),
        (Supervised, nets.conv3(4), IMAGES, {"noise": "a"}, BadValue, "noise must be a finite number"),
        (MultiTaskSupervised, nets.conv3(4), IMAGES, {}, BadValue, "images must be MultiLabelSet"),
        (SegmentationTraining, nets.conv3(4), halves(), {}, ShapeMismatch, "logits of 2 classes for every pixel"),
        (SegmentationTraining, segmenter(1), halves(), {}, ShapeMismatch, "classes=2"),
        (SegmentationTraining, segmenter(), IMAGES, {}, BadValue, "images must be SegmentationSet"),
        (SegmentationTraining, segmenter(), halves(), {"window": 9}, BadValue, "window must be .* from 1 to 8"),
        (SegmentationTraining, segmenter(), halves(), {"crop": 1}, BadValue, "crop would pad the masks"),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: type, network: Any, images: Any, options: dict, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        kind(network, images, **options)
