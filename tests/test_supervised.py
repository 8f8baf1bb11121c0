"""Training with labels. What holds for every method is tested in datafree/test_every_method.py."""

from __future__ import annotations

import copy
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reuselib import engine, models
from reuselib.data import ImageSet
from reuselib.errors import DeviceError, ShapeMismatch
from reuselib.supervised import Supervised

CLASSES = players.CLASSES


def separable(count: int = 64) -> ImageSet:
    """Images whose class is the quarter that is bright."""
    labels = torch.arange(count) % CLASSES
    with engine.seeded(9):
        images = torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    return ImageSet("quarters", images, labels, tuple("abcd"), (0.3,), (0.3,))


def supervised(images: ImageSet | None = None, **options: Any) -> Supervised:
    with engine.seeded(0):
        network = models.conv3(4, classes=CLASSES)
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


def test_label_smoothing_is_torchs() -> None:
    loss, _, logits = first_step(label_smoothing=0.2, seed=1)
    _, y = separable().sample(16, torch.Generator().manual_seed(1))
    assert loss == pytest.approx(F.cross_entropy(logits, y, label_smoothing=0.2).item(), rel=1e-5)


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


@pytest.mark.parametrize("options", [{"crop": 2}, {"flip": True}, {"crop": 1, "flip": True}])
def test_crops_and_flips_change_images_and_keep_their_shape(options: dict[str, Any]) -> None:
    _, seen, _ = first_step(seed=1, **options)
    clean, _ = separable().sample(16, torch.Generator().manual_seed(1))
    same = [torch.equal(a, b) for a, b in zip(seen, clean, strict=True)]
    assert seen.shape == clean.shape and not all(same)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(precision: str) -> None:
    images = separable()
    method = supervised(images, lr=0.1, batch=32, precision=precision, schedule=engine.cosine(60))
    method.steps_per_round = 10
    history = engine.run(method, 6, progress=False)
    assert history.curve("loss")[1][0] > 2 * history.last("loss")
    assert engine.accuracy(method.student, images) > 0.9


def test_the_learning_rate_follows_its_schedule() -> None:
    method = supervised(lr=0.4, schedule=engine.step_decay([1]))
    method.step()
    assert method.optimizer.param_groups[0]["lr"] == pytest.approx(0.04)


def test_too_few_outputs_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="3 outputs for 4 classes of quarters. Build it with classes=4"):
        Supervised(models.conv3(4, classes=3), separable())


@pytest.mark.parametrize(
    ("network", "words"), [(models.conv3(4, channels=3), "channels=1"), (models.lenet5(), "size=32")]
)
def test_images_that_the_network_does_not_take_are_refused(network: models.Classifier, words: str) -> None:
    with pytest.raises(ShapeMismatch, match=words):
        Supervised(network, separable())


def test_images_on_another_device_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"Images are on meta, the network on cpu.*images.to"):
        Supervised(models.conv3(4, classes=CLASSES), separable().to("meta"))
