"""The network with frozen codes, training on seen classes, QFSL: updates against plain torch; what never changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.data import ImageSet
from reuselib.errors import BadValue, DeviceError, NonFinite, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import QFSL, FeatureSet, SeenTraining, ZeroShotNetwork, bridge, class_codes
from reuselib.qfsl.rivals.trained import CodewordNetwork, SCoReTraining

TOY = zeroshot_toys.toy()
CODES = class_codes(TOY.attributes, TOY.seen)
OPTIONS: dict[str, Any] = {"batch": 6, "lr": 0.05, "precision": "fp32"}


def features(where: str = "cpu") -> tuple[FeatureSet, FeatureSet]:
    """Labelled features of the seen classes and features of the unseen ones, with the labels that no one may read."""
    pairs = (TOY.train, TOY.train_labels), (TOY.new, TOY.new_labels)
    labelled, new = (FeatureSet(x.to(where), y.to(where)) for x, y in pairs)
    return labelled, new


def network(start: int = 0, where: str = "cpu") -> ZeroShotNetwork:
    with run.seeded(start):
        return ZeroShotNetwork(CODES, bridge(9, 8, std=0.3)).to(where)


def images(count: int, classes: Tensor, where: str = "cpu") -> ImageSet:
    with run.seeded(count):
        pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8)
        labels = classes[torch.randint(len(classes), (count,))]
    return ImageSet("tiny", pixels, labels, tuple("abcdefghi"), (0.5,), (0.25,)).to(where)


def seen_training(start: int = 0, where: str = "cpu", **options: Any) -> SeenTraining:
    return SeenTraining(network(start, where), features(where)[0], TOY.seen, **OPTIONS | options)


def qfsl(start: int = 0, where: str = "cpu", **options: Any) -> QFSL:
    return QFSL(network(start, where), *features(where), TOY.seen, **OPTIONS | options)


def qfsl_on_images(start: int = 0, where: str = "cpu", **options: Any) -> QFSL:
    sets = images(40, TOY.seen, where), images(30, TOY.unseen, where)
    with run.seeded(start):
        small = nets.conv3(width=2, classes=4, batch_norm=True)
        top = bridge(small.head.in_features, 8, dropout=0.2, std=0.3)
        student = ZeroShotNetwork(CODES, top, nn.Sequential(small.blocks, small.pool)).to(where)
    return QFSL(student, *sets, TOY.seen, **OPTIONS | options)


def codewords(start: int = 0, where: str = "cpu", **options: Any) -> SCoReTraining:
    with run.seeded(start):
        student = CodewordNetwork(CODES, TOY.seen, bridge(9, 8, std=0.3)).to(where)
    return SCoReTraining(student, features(where)[0], **OPTIONS | options)


# --- the network ------------------------------------------------------------------------------------------------------


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
    assert isinstance(layer, nn.Linear) and layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not layer.bias.any()


# --- updates ----------------------------------------------------------------------------------------------------------


def draws(count: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(count, (6,), generator=random) for _ in range(4)]


@pytest.mark.parametrize(("weight", "softmax"), [(None, "seen"), (None, "all"), (0.7, "all")])
def test_training_is_sgd_on_the_losses_as_the_paper_writes_them(weight: float | None, softmax: str) -> None:
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


def test_without_weight_qfsl_is_training_over_all_classes() -> None:
    method, plain = qfsl(weight=0.0, seed=5), seen_training(softmax="all", seed=5)
    for _ in range(5):
        method.step()
        plain.step()
    torch.testing.assert_close(method.student.state_dict(), plain.student.state_dict(), rtol=1e-5, atol=1e-7)


def test_the_bias_goes() -> None:
    def measure(net: nn.Module) -> tuple[float, float]:
        s = net(TOY.new)
        away, right = torch.isin(s.argmax(1), TOY.seen), s.argmax(1) == TOY.new_labels
        return away.float().mean().item(), right.float().mean().item()

    warm = seen_training()
    run.run(warm, updates=200, progress=False)
    biased, before = measure(warm.student)
    run.run(QFSL(warm.student, *features(), TOY.seen, **OPTIONS | {"lr": 0.01}), updates=150, progress=False)
    unbiased, after = measure(warm.student)
    assert biased > 0.5 and unbiased < 0.1 and before < 0.3 and after > 0.5


def test_a_step_of_score_by_hand() -> None:
    method = codewords(attributes=0.3, codewords=2.0)
    method.step()
    student, index = copy.deepcopy(method.student), draws(len(TOY.train), 0)[1]
    x, y = TOY.train[index], TOY.train_labels[index]
    z = student.bridge(x)
    expected = F.cross_entropy(z @ student.codewords.T, torch.searchsorted(TOY.seen, y))
    p = torch.sigmoid(z)
    expected += 0.3 * -torch.where(CODES[y] > 0, p, 1 - p).log().mean()
    expected += 2.0 * ((student.codewords - CODES[TOY.seen]) ** 2).sum()
    assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    student = method.student
    assert not torch.equal(student.codewords, CODES[TOY.seen])
    scores, z = student(TOY.test), student.embed(TOY.test)
    torch.testing.assert_close(scores[:, TOY.seen], z @ student.codewords.T)
    torch.testing.assert_close(scores[:, TOY.unseen], z @ CODES[TOY.unseen].T)


# --- what holds for all: devices, precisions and resuming are tested with those of all other methods ------------------


def test_labels_of_unlabelled_images_are_never_read() -> None:
    def after(make: Callable[..., QFSL], labels: Tensor) -> Any:
        found = make()
        extra = found.unlabelled
        assert not extra.labels.any()
        object.__setattr__(extra, "labels", labels[: len(extra)])
        torch.manual_seed(2)  # of the dropout
        run.run(found, updates=4, progress=False)
        assert torch.equal(found.student.codes, CODES)
        return players.state(found.student)

    for make in (qfsl, qfsl_on_images):
        states = [after(make, labels) for labels in (torch.zeros(30).long(), torch.arange(30) % 9)]
        assert not list(players.differences(*states))


def test_the_backbone_has_a_rate_of_its_own_and_can_be_kept() -> None:
    method = qfsl_on_images(backbone_lr=0.2)
    groups = method.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.01])
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in method.student.backbone.parameters()}
    kept = qfsl_on_images(backbone_lr=0.0, frozen_statistics=True)
    before = players.state(kept.student.backbone)
    run.run(kept, updates=3, progress=False)
    assert not list(players.differences(before, players.state(kept.student.backbone)))
    for options, moves in (({}, True), ({"frozen_statistics": True}, False)):
        norm = next(m for m in qfsl_on_images(**options).student.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.training == moves


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    labelled, new = features()
    narrow = FeatureSet(new.features[:, :4], new.labels)
    three = nn.Sequential(network(), nn.Unflatten(1, (9, 1)))
    bad: list[tuple[type[ReuseError], str, Callable[[], Any]]] = [
        (ReuseError, r"classes \[1, 4, 7\], which are not seen", lambda: SeenTraining(network(), new, TOY.seen)),
        (ReuseError, "which are not seen", lambda: QFSL(network(), labelled, new, TOY.seen[:4])),
        (ReuseError, "All classes are seen", lambda: QFSL(network(), labelled, new, range(9))),
        (ReuseError, "classes from 0 to 8", lambda: QFSL(network(), labelled, new, range(10))),
        (ShapeMismatch, r"shape \(2, 4\) do not fit the network", lambda: QFSL(network(), labelled, narrow, TOY.seen)),
        (ShapeMismatch, r"gives \(2, 9, 1\), not scores", lambda: SeenTraining(three, labelled, TOY.seen)),
        (ShapeMismatch, r"not \(48, 9\) and \(3,\)", lambda: FeatureSet(labelled.features, labelled.labels[:3])),
        (DeviceError, "images on meta", lambda: SeenTraining(network(), features("meta")[0], TOY.seen)),
        (UnknownName, "unknown softmax 'every'", lambda: seen_training(softmax="every")),
        (ReuseError, "Give features and attributes", lambda: bridge(5)),
        (ShapeMismatch, "do not fit", lambda: SeenTraining(ZeroShotNetwork(CODES, bridge(9, 6)), labelled, TOY.seen)),
        (ShapeMismatch, "numbers are needed", lambda: SeenTraining(network(), labelled)),
        (ShapeMismatch, r"not \(0, 9\)", lambda: FeatureSet(new.features[:0], new.labels[:0])),
        (NonFinite, "features hold NaN", lambda: FeatureSet(new.features / 0, new.labels)),
        (BadValue, "dropout", lambda: bridge(9, 6, dropout=1.0)),
        (BadValue, "width", lambda: bridge(9, 0)),
        (ShapeMismatch, "codes must be", lambda: ZeroShotNetwork(CODES[0], bridge(9, 8))),
        (NonFinite, "codes hold NaN", lambda: ZeroShotNetwork(CODES / 0, bridge(9, 8))),
        (ShapeMismatch, "must be int64", lambda: FeatureSet(new.features, new.labels.float())),
    ]
    for error, message, attempt in bad:
        with pytest.raises(error, match=message):
            attempt()


@pytest.mark.parametrize("make", [seen_training, qfsl, codewords])
def test_numbers_that_cannot_be_meant_are_refused(make: Callable[..., Any]) -> None:
    bad: dict[str, tuple[Any, ...]] = {"batch": (0, -4, 8.5), "lr": (0, -1.0, float("nan")), "seed": (0.5, -1, 2**63)}
    bad |= {"weight_decay": (-1.0,), "momentum": (-0.1,), "backbone_lr": (-1.0, "slow")}
    own = {qfsl: ("weight",), codewords: ("attributes", "codewords")}
    bad |= dict.fromkeys(own.get(make, ()), (-1.0, float("inf")))
    for name, value in ((name, value) for name, values in bad.items() for value in values):
        with pytest.raises(BadValue, match=name):
            make(**{name: value})
