"""Training with labels of images and of pixels; what holds for every method is tested for all of them together."""

from __future__ import annotations

import copy
import math
from itertools import product
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import nets, run
from reuselib.data import ImageSet, SegmentationSet, segmentation
from reuselib.errors import BadValue, DeviceError, ReuseError, ShapeMismatch
from reuselib.nets.supervised import (
    MultiTaskSupervised,
    SegmentationTraining,
    Supervised,
    focal_loss,
    segmentation_scores,
)
from reuselib.report import metrics

CLASSES = players.CLASSES


def separable(count: int = 64) -> ImageSet:
    """Images whose class is the quarter that is bright."""
    labels = torch.arange(count) % CLASSES
    with run.seeded(9):
        images = torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    return ImageSet("quarters", images, labels, tuple("abcd"), (0.3,), (0.3,))


def halves(count: int = 32) -> SegmentationSet:
    """Images of which one half, at a random height, is bright; the row between the halves has no class."""
    with run.seeded(9):
        edges, images = torch.randint(2, 7, (count,)), torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    masks = (torch.arange(8).view(1, 8, 1) > edges.view(-1, 1, 1)).long().expand(count, 8, 8).clone()
    images[masks.unsqueeze(1) == 1] += 150
    masks[torch.arange(count), edges] = 255
    return segmentation.from_masks("halves", images, masks, ("dark", "bright"), (0.3,), (0.3,))


def segmenter(classes: int = 2) -> nets.Segmenter:
    return nets.small_segmenter(4, classes=classes, channels=1)


def training(kind: type[Supervised], **options: Any) -> Supervised:
    with run.seeded(0):
        network = nets.conv3(4, classes=CLASSES) if kind is Supervised else segmenter()
    images = separable() if kind is Supervised else halves()
    return kind(network, images, **{"precision": "fp32", "batch": 16} | options)


def cross_entropy(kind: type[Supervised], logits: Tensor, y: Tensor) -> Tensor:
    """The loss of each image, as one would first write it."""
    each = F.cross_entropy(logits, y, reduction="none", ignore_index=255)
    return each if kind is Supervised else each.mean((1, 2))


@pytest.mark.parametrize("kind", [Supervised, SegmentationTraining])
def test_a_plain_step_is_sgd_with_momentum(kind: type[Supervised]) -> None:
    focal = {} if kind is Supervised else {"focal": 2.0}
    method = training(kind, lr=0.1, weight_decay=0.01, seed=3, **focal)
    plain, random = copy.deepcopy(method.student), torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=not focal)
    for _ in range(3):
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
            total += (share * cross_entropy(kind, logits[i : i + 1], label[None])).item()
    assert loss == pytest.approx(total / 16, rel=1e-5)


def test_noise_has_a_spread_of_its_own_in_each_image() -> None:
    _, noisy, *_ = first_step(noise=0.5, seed=1, batch=64)
    clean, _ = separable().sample(64, torch.Generator().manual_seed(1))
    spreads = (noisy - clean).flatten(1).std(1)
    assert 0.15 < spreads.mean() < 0.35 and spreads.max() < 0.75
    assert spreads.max() - spreads.min() > 0.2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_learn_and_the_rate_follows_its_schedule(precision: str) -> None:
    options = {"lr": 0.1, "batch": 32, "precision": precision, "schedule": run.cosine(60)}
    method = training(Supervised, **options)
    history = run.run(method, updates=60, report_every=10, progress=False)
    assert history.curve("loss")[1][0] > 2 * history.last("loss")
    assert run.accuracy(method.student, method.images) > 0.9
    assert method.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    method = training(SegmentationTraining, flip=True, **options)
    run.run(method, updates=60, progress=False)
    assert segmentation_scores(method.student, method.images)["mean_iou"] > 0.9


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


def test_segmentation_scores_are_those_of_all_pixels_and_leave_the_network_as_it_was() -> None:
    images, network = halves(), segmenter().train()
    with torch.no_grad(), run.frozen(network):
        decisions = network(images.normalised(images.images.images)).argmax(1)
    counted = images.masks != 255
    expected = (decisions == images.masks)[counted].float().mean().item()
    for batch in (None, 5, 32):
        scores = segmentation_scores(network, images, batch)
        assert scores["pixel_accuracy"] == pytest.approx(expected)
        assert scores["mean_iou"] == metrics.mean_iou(metrics.confusion_matrix(decisions, images.masks, 2))
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_networks_and_images_that_do_not_fit_are_refused() -> None:
    for kind, network, images, words in (
        (
            Supervised,
            nets.conv3(4, classes=3),
            separable(),
            "3 outputs for 4 classes of quarters. Build it with classes=4",
        ),
        (Supervised, nets.conv3(4, channels=3), separable(), "channels=1"),
        (Supervised, nets.lenet5(), separable(), "size=32"),
        (SegmentationTraining, nets.conv3(4, classes=2), halves(), "logits of 2 classes for every pixel"),
        (SegmentationTraining, segmenter(1), halves(), "classes=2"),
    ):
        with pytest.raises(ShapeMismatch, match=words):
            kind(network, images)
    network, images = nets.conv3(4, classes=CLASSES), separable()
    with pytest.raises(DeviceError, match=r"network on cpu.*images on meta"):
        Supervised(network, images.to("meta"))
    for wrong in (images.images, images.subset([]), [images]):
        with pytest.raises(BadValue, match="images must be Batches with something in it, not"):
            Supervised(network, wrong)
    for kind, wrong, options, words in (
        (SegmentationTraining, separable(), {}, "images must be SegmentationSet"),
        (MultiTaskSupervised, separable(), {}, "images must be MultiLabelSet"),
        (SegmentationTraining, halves(), {"window": 9}, "window must be a whole number from 1 to 8"),
        (SegmentationTraining, halves(), {"crop": 1}, "crop would pad the masks"),
        (SegmentationTraining, halves(), {"focal": -1}, "focal must be"),
    ):
        with pytest.raises(BadValue, match=words):
            kind(segmenter(), wrong, **options)
    numbers = {"batch": (0, -4, 8.5), "lr": (-1, math.nan), "weight_decay": (-0.1,), "crop": (-1,), "noise": (-1, "a")}
    for name, value in [(name, value) for name, values in numbers.items() for value in values]:
        with pytest.raises(BadValue, match=f"{name} must be a (whole|finite) number"):
            Supervised(network, images, **{name: value})
    with pytest.raises(ShapeMismatch, match="3 outputs for 2 classes of halves"):
        segmentation_scores(segmenter(3), halves())
    pixels, ignored = halves().images.images, torch.full_like(halves().masks, 255)
    nothing = segmentation.from_masks("none", pixels, ignored, "ab", (0.3,), (0.3,))
    with pytest.raises(ReuseError, match="No pixel was counted"):
        segmentation_scores(segmenter(), nothing)
