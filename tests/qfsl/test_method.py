"""The network with frozen codes, training on seen classes, QFSL: updates against plain torch; what never changes."""

from __future__ import annotations

import copy
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import BadValue, DeviceError, NonFinite, ReuseError, ShapeMismatch
from reuselib.qfsl import QFSL, FeatureSet, SeenTraining, ZeroShotNetwork, bridge, class_codes
from reuselib.qfsl.rivals.trained import CodewordNetwork, SCoReTraining

TOY = zeroshot_toys.toy()
CODES = class_codes(TOY.attributes, TOY.seen)
OPTIONS: dict[str, Any] = {"batch": 6, "lr": 0.05, "precision": "fp32"}
LABELLED, NEW = FeatureSet(TOY.train, TOY.train_labels), FeatureSet(TOY.new, TOY.new_labels)


def network() -> ZeroShotNetwork:
    with run.seeded(0):
        return ZeroShotNetwork(CODES, bridge(9, 8, std=0.3))


def seen_training(**options: Any) -> SeenTraining:
    return SeenTraining(network(), LABELLED, TOY.seen, **OPTIONS | options)


def qfsl(**options: Any) -> QFSL:
    return QFSL(network(), LABELLED, NEW, TOY.seen, **OPTIONS | options)


def test_scores_are_products_with_codes_that_no_optimizer_sees() -> None:
    net, x = network(), torch.randn(4, 9)
    z = net.embed(x)
    torch.testing.assert_close(net(x), torch.stack([(z * code).sum(1) for code in CODES], 1))
    assert {name for name, _ in net.named_parameters()} == {"bridge.weight", "bridge.bias"}
    assert "codes" in net.state_dict() and net.codes.data_ptr() != CODES.data_ptr()


def test_a_bridge_has_relus_between_its_layers_only() -> None:
    kinds = [type(layer) for layer in bridge(5, 8, 6, 7, dropout=0.2)]
    assert kinds == [nn.Dropout, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    layer = bridge(400, 300)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02) and not layer.bias.any()


def draws(count: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(count, (6,), generator=random) for _ in range(4)]


@pytest.mark.parametrize(("weight", "softmax"), [(None, "seen"), (None, "all"), (0.7, "all")])
def test_training_is_sgd_on_the_losses_as_the_paper_writes_them(weight: float | None, softmax: str) -> None:
    """Labelled batches do not depend on whether there are unlabelled ones."""
    options: dict[str, Any] = {"seed": 3, "weight_decay": 0.01}
    method = seen_training(softmax=softmax, **options) if weight is None else qfsl(weight=weight, **options)
    plain = copy.deepcopy(method.student)
    for _ in range(4):
        report = method.step()
    optimizer = torch.optim.SGD(plain.bridge.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    for index, extra in zip(draws(len(TOY.train), 3), draws(len(TOY.new), 4), strict=True):
        s, y = plain(TOY.train[index]), TOY.train_labels[index]
        among = s[:, TOY.seen], torch.searchsorted(TOY.seen, y)
        loss = F.cross_entropy(*(among if softmax == "seen" else (s, y)))
        if weight is not None:
            loss = loss - weight * plain(TOY.new[extra]).softmax(1)[:, TOY.unseen].sum(1).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    assert report["loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    if weight is not None:
        assert loss.item() == pytest.approx(float(report["supervised"] + weight * report["unlabelled"]), rel=1e-4)
        assert 0 < report["unseen_probability"].item() < 1


def test_a_step_of_score_by_hand() -> None:
    student = CodewordNetwork(CODES, TOY.seen, bridge(9, 8, std=0.3))
    method = SCoReTraining(student, LABELLED, attributes=0.3, codewords=2.0, **OPTIONS)
    method.step()
    before, index = copy.deepcopy(student), draws(len(TOY.train), 0)[1]
    x, y = TOY.train[index], TOY.train_labels[index]
    z = before.bridge(x)
    expected = F.cross_entropy(z @ before.codewords.T, torch.searchsorted(TOY.seen, y))
    p = torch.sigmoid(z)
    expected += 0.3 * -torch.where(CODES[y] > 0, p, 1 - p).log().mean()
    expected += 2.0 * ((before.codewords - CODES[TOY.seen]) ** 2).sum()
    assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not torch.equal(student.codewords, CODES[TOY.seen])
    scores, z = student(TOY.test), student.embed(TOY.test)
    torch.testing.assert_close(scores[:, TOY.seen], z @ student.codewords.T)
    torch.testing.assert_close(scores[:, TOY.unseen], z @ CODES[TOY.unseen].T)


# --- what holds for all: devices, precisions, numbers and resuming are tested with those of all other methods ---------


def test_labels_of_unlabelled_images_are_never_read_and_codes_never_change() -> None:
    for make in (qfsl, lambda: players.make("zero-shot-qfsl")):
        states = []
        for shift in (0, 1):
            method = make()
            codes, extra = method.student.codes.clone(), method.unlabelled
            assert not extra.labels.any()
            object.__setattr__(extra, "labels", (extra.labels + shift) % 9)
            run.run(method, updates=4, progress=False)
            assert torch.equal(method.student.codes, codes)
            states.append(players.state(method.student))
        assert not list(players.differences(*states))


def test_the_backbone_has_a_rate_of_its_own_and_can_be_kept() -> None:
    method = players.make("zero-shot-qfsl", lr=0.05, backbone_lr=0.2)
    groups = method.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.01])
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in method.student.backbone.parameters()}
    kept = players.make("zero-shot-qfsl", backbone_lr=0.0, frozen_statistics=True)
    before = players.state(kept.student.backbone)
    run.run(kept, updates=3, progress=False)
    assert not list(players.differences(before, players.state(kept.student.backbone)))
    norms = [[m.training for m in each.student.modules() if isinstance(m, nn.BatchNorm2d)] for each in (method, kept)]
    assert all(norms[0]) and not any(norms[1])


def test_what_does_not_fit_is_refused() -> None:
    narrow = FeatureSet(TOY.new[:, :4], TOY.new_labels)
    away = FeatureSet(TOY.train.to("meta"), TOY.train_labels.to("meta"))
    three = nn.Sequential(network(), nn.Unflatten(1, (9, 1)))
    zeroshot_toys.assert_refused(
        (ReuseError, r"classes \[1, 4, 7\], which are not seen", lambda: SeenTraining(network(), NEW, TOY.seen)),
        (ShapeMismatch, r"shape \(2, 4\) do not fit the network", lambda: QFSL(network(), LABELLED, narrow, TOY.seen)),
        (ShapeMismatch, r"gives \(2, 9, 1\), not scores", lambda: SeenTraining(three, LABELLED, TOY.seen)),
        (DeviceError, "images on meta", lambda: SeenTraining(network(), away, TOY.seen)),
        (ShapeMismatch, r"not \(48, 9\) and \(3,\)", lambda: FeatureSet(TOY.train, TOY.train_labels[:3])),
        (BadValue, "dropout", lambda: bridge(9, 6, dropout=1.0)),
        (NonFinite, "codes hold NaN", lambda: ZeroShotNetwork(CODES / 0, bridge(9, 8))),
    )
