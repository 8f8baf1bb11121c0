"""Training with labels. What holds for every method is tested in datafree/test_every_method.py."""

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
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch
from reuselib.nets.supervised import SegmentationTraining, Supervised, focal_loss, segmentation_scores
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


def supervised(images: ImageSet | None = None, **options: Any) -> Supervised:
    with run.seeded(0):
        network = nets.conv3(4, classes=CLASSES)
    return Supervised(network, images or separable(), **{"precision": "fp32", "batch": 16} | options)


def test_a_plain_step_is_sgd_with_nesterov_momentum_on_the_cross_entropy() -> None:
    method = supervised(lr=0.1, weight_decay=0.01, seed=3)
    plain = copy.deepcopy(method.student)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    random = torch.Generator().manual_seed(3)
    for _ in range(3):
        reported = method.step()["loss"]
        x, y = method.images.sample(16, random)
        loss = F.cross_entropy(plain(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(reported, loss)
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=0, atol=1e-5)


def first_step(**options: Any) -> tuple[float, Tensor, Tensor]:
    """The reported loss, the images that the student saw and the logits that it gave."""
    method, seen = supervised(**options), []
    method.student.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output.detach())))
    loss = method.step()["loss"].item()
    return loss, *seen[0]


def test_mixup_mixes_images_and_labels_alike() -> None:
    loss, seen, logits = first_step(mixup=True, seed=1)
    random = torch.Generator().manual_seed(1)
    x, y = separable().sample(16, random)
    partner, weight = torch.randperm(16, generator=random), torch.rand(16, generator=random)
    total = 0.0
    for i in range(16):
        mixed = weight[i] * x[i] + (1 - weight[i]) * x[partner[i]]
        torch.testing.assert_close(seen[i], mixed)
        log_p = logits[i].log_softmax(0)
        total -= (weight[i] * log_p[y[i]] + (1 - weight[i]) * log_p[y[partner[i]]]).item()
    assert loss == pytest.approx(total / 16, rel=1e-5)


def test_noise_has_a_spread_of_its_own_in_each_image() -> None:
    _, noisy, _ = first_step(noise=0.5, seed=1, batch=64)
    clean, _ = separable().sample(64, torch.Generator().manual_seed(1))
    spreads = (noisy - clean).flatten(1).std(1)
    assert 0.15 < spreads.mean() < 0.35 and spreads.max() < 0.75
    assert spreads.max() - spreads.min() > 0.2


def test_crops_and_flips_change_images_and_keep_their_shape() -> None:
    clean, _ = separable().sample(16, torch.Generator().manual_seed(1))
    for options in ({"crop": 2}, {"flip": True}, {"crop": 1, "flip": True}):
        _, seen, _ = first_step(seed=1, **options)
        assert seen.shape == clean.shape and not all(map(torch.equal, seen, clean))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(precision: str) -> None:
    images = separable()
    method = supervised(images, lr=0.1, batch=32, precision=precision, schedule=run.cosine(60))
    method.steps_per_round = 10
    history = run.run(method, 6, progress=False)
    assert history.curve("loss")[1][0] > 2 * history.last("loss")
    assert run.accuracy(method.student, images) > 0.9


def test_the_learning_rate_follows_its_schedule() -> None:
    method = supervised(lr=0.4, schedule=run.step_decay([1]))
    method.step()
    assert method.optimizer.param_groups[0]["lr"] == pytest.approx(0.04)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="3 outputs for 4 classes of quarters. Build it with classes=4"):
        Supervised(nets.conv3(4, classes=3), separable())
    for network, words in ((nets.conv3(4, channels=3), "channels=1"), (nets.lenet5(), "size=32")):
        with pytest.raises(ShapeMismatch, match=words):
            Supervised(network, separable())
    with pytest.raises(DeviceError, match=r"Images are on meta, the network on cpu.*images.to"):
        Supervised(nets.conv3(4, classes=CLASSES), separable().to("meta"))


# --- segmentation


def halves(count: int = 32) -> SegmentationSet:
    """Images of which one half, at a random height, is bright; the row between the halves has no class."""
    with run.seeded(9):
        edges, images = torch.randint(2, 7, (count,)), torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    masks = (torch.arange(8).view(1, 8, 1) > edges.view(-1, 1, 1)).long().expand(count, 8, 8).clone()
    images[masks.unsqueeze(1) == 1] += 150
    masks[torch.arange(count), edges] = 255
    return segmentation.from_masks("halves", images, masks, ("dark", "bright"), (0.3,), (0.3,))


def segmenting(images: SegmentationSet | None = None, **options: Any) -> SegmentationTraining:
    with run.seeded(0):
        network = nets.small_segmenter(4, classes=2, channels=1)
    return SegmentationTraining(network, images or halves(), **{"precision": "fp32", "batch": 16} | options)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_by_loops_and_its_finite_gradient(gamma: float) -> None:
    logits, masks = 3 * torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    masks[0, 0] = 255
    loss = focal_loss(logits, masks, gamma)
    assert loss.shape == (2, 4, 5)
    for b, h, w in product(range(2), range(4), range(5)):
        true = masks[b, h, w].item()
        p = logits[b, :, h, w].softmax(0)[true].item() if true != 255 else 1.0
        assert loss[b, h, w].item() == pytest.approx((1 - p) ** gamma * -math.log(p), rel=1e-3, abs=1e-6)
    cross = F.cross_entropy(logits, masks, reduction="none", ignore_index=255)
    torch.testing.assert_close(focal_loss(logits, masks, 0), cross)
    sure = torch.tensor([[[[200.0, 0.0]], [[-200.0, 0.0]]]], requires_grad=True)
    focal_loss(sure, torch.tensor([[[0, 255]]]), gamma).sum().backward()
    assert sure.grad.isfinite().all() and sure.grad.abs().max() < 1e-6


def test_a_plain_step_is_sgd_with_momentum_on_the_focal_loss_of_all_pixels() -> None:
    method = segmenting(lr=0.1, weight_decay=0.01, seed=3, focal=2.0)
    plain = copy.deepcopy(method.student)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    random = torch.Generator().manual_seed(3)
    for _ in range(3):
        reported = method.step()["loss"]
        x, masks = method.images.sample(16, random)
        cross = F.cross_entropy(plain(x), masks, reduction="none", ignore_index=255)
        loss = ((1 - torch.exp(-cross)) ** 2 * cross).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(reported, loss)
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=0, atol=1e-5)


def test_windows_and_mixtures_go_with_their_masks() -> None:
    method, seen = segmenting(window=4, flip=True, mixup=True, seed=1), []
    method.student.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output.detach())))
    loss = method.step()["loss"].item()
    random = torch.Generator().manual_seed(1)
    x, masks = method.images.sample(16, random, method.augment)
    partner, weight = torch.randperm(16, generator=random), torch.rand(16, generator=random)
    assert x.shape == (16, 1, 4, 4) and masks.shape == (16, 4, 4)
    total = 0.0
    for i in range(16):
        torch.testing.assert_close(seen[0][0][i], weight[i] * x[i] + (1 - weight[i]) * x[partner[i]])
        for share, mask in ((weight[i], masks[i]), (1 - weight[i], masks[partner[i]])):
            each = F.cross_entropy(seen[0][1][i : i + 1], mask[None], reduction="none", ignore_index=255)
            total += (share * each.mean()).item()
    assert loss == pytest.approx(total / 16, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_to_segment(precision: str) -> None:
    images = halves()
    method = segmenting(images, lr=0.1, batch=32, precision=precision, flip=True, schedule=run.cosine(60))
    method.steps_per_round = 10
    run.run(method, 6, progress=False)
    assert segmentation_scores(method.student, images)["mean_iou"] > 0.9


def test_segmentation_scores_are_those_of_all_pixels_and_leave_the_network_as_it_was() -> None:
    images, network = halves(), nets.small_segmenter(4, classes=2, channels=1)
    network.train()
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


def test_networks_that_do_not_segment_these_images() -> None:
    with pytest.raises(ShapeMismatch, match="logits of 2 classes for every pixel"):
        SegmentationTraining(nets.conv3(4, classes=2), halves())
    with pytest.raises(ShapeMismatch, match="classes=2"):
        SegmentationTraining(nets.small_segmenter(4, classes=1, channels=1), halves())
    with pytest.raises(ShapeMismatch, match="3 outputs for 2 classes of halves"):
        segmentation_scores(nets.small_segmenter(4, classes=3, channels=1), halves())
    images = halves()
    nothing = segmentation.from_masks(
        "none", images.images.images, torch.full_like(images.masks, 255), "ab", (0.3,), (0.3,)
    )
    with pytest.raises(ReuseError, match="No pixel was counted"):
        segmentation_scores(nets.small_segmenter(4, classes=2, channels=1), nothing)
