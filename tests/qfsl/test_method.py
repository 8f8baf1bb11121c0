"""The network with frozen codes, training on seen classes, QFSL: updates against plain torch; what never changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
import zeroshot_toys
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.data import ImageSet
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
from reuselib.qfsl import (
    QFSL,
    CodewordNetwork,
    FeatureSet,
    SCoReTraining,
    SeenTraining,
    Standardise,
    ZeroShotNetwork,
    bridge,
    class_codes,
    losses,
)

TOY = zeroshot_toys.toy()
CODES = class_codes(TOY.attributes, TOY.seen)
OPTIONS: dict[str, Any] = {"batch": 6, "lr": 0.05, "precision": "fp32"}


def features(where: str = "cpu") -> tuple[FeatureSet, FeatureSet]:
    """Labelled features of the seen classes and features of the unseen ones, with the labels that no one may read."""
    pairs = (TOY.train, TOY.train_labels), (TOY.new, TOY.new_labels)
    labelled, new = (FeatureSet(x.to(where), y.to(where)) for x, y in pairs)
    return labelled, new


def network(start: int = 0, where: str = "cpu", **options: Any) -> ZeroShotNetwork:
    with run.seeded(start):
        return ZeroShotNetwork(CODES, bridge(9, 8, std=0.3, **options)).to(where)


def images(count: int, classes: list[int], where: str = "cpu") -> ImageSet:
    with run.seeded(count):
        pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8)
        labels = torch.tensor(classes)[torch.randint(len(classes), (count,))]
    return ImageSet("tiny", pixels, labels, tuple("abcdefghi"), (0.5,), (0.25,)).to(where)


def end_to_end(start: int = 0, where: str = "cpu") -> ZeroShotNetwork:
    with run.seeded(start):
        small = nets.conv3(width=2, classes=4, batch_norm=True)
        backbone = nn.Sequential(small.blocks, small.pool)
        return ZeroShotNetwork(CODES, bridge(small.head.in_features, 8, dropout=0.2, std=0.3), backbone).to(where)


def seen_training(start: int = 0, where: str = "cpu", **options: Any) -> SeenTraining:
    return SeenTraining(network(start, where), features(where)[0], TOY.seen, **OPTIONS | options)


def qfsl(start: int = 0, where: str = "cpu", **options: Any) -> QFSL:
    return QFSL(network(start, where), *features(where), TOY.seen, **OPTIONS | options)


def qfsl_on_images(start: int = 0, where: str = "cpu", **options: Any) -> QFSL:
    sets = images(40, TOY.seen.tolist(), where), images(30, TOY.unseen.tolist(), where)
    return QFSL(end_to_end(start, where), *sets, TOY.seen, **OPTIONS | options)


def codewords(start: int = 0, where: str = "cpu", **options: Any) -> SCoReTraining:
    with run.seeded(start):
        student = CodewordNetwork(CODES, TOY.seen, bridge(9, 8, std=0.3)).to(where)
    return SCoReTraining(student, features(where)[0], **OPTIONS | options)


METHODS: dict[str, Callable[..., SeenTraining]] = {
    "seen": seen_training,
    "seen-all": lambda *cast, **options: seen_training(*cast, softmax="all", **options),
    "qfsl": qfsl,
    "qfsl-entropy": lambda *cast, **options: qfsl(*cast, term=losses.entropy, **options),
    "qfsl-pseudo": lambda *cast, **options: qfsl(*cast, term=losses.pseudo_labels, unlabelled_batch=4, **options),
    "qfsl-unseen-pseudo": lambda *cast, **options: qfsl(*cast, term=losses.unseen_pseudo_labels, **options),
    "qfsl-images": qfsl_on_images,
    "qfsl-images-separate": lambda *cast, **options: qfsl_on_images(*cast, joint=False, **options),
    "qfsl-images-frozen": lambda *cast, **options: qfsl_on_images(*cast, frozen_statistics=True, **options),
    "score": codewords,
}


# --- the network ------------------------------------------------------------------------------------------------------


def test_scores_are_products_with_the_codes() -> None:
    net, x = network(), torch.randn(4, 9)
    z = net.bridge(x)
    for i in range(4):
        for k in range(9):
            assert net(x)[i, k].item() == pytest.approx(float(z[i].detach() @ CODES[k]), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(net.embed(x), z)


def test_the_codes_are_a_buffer_that_is_saved() -> None:
    net = network()
    assert {name for name, _ in net.named_parameters()} == {"bridge.weight", "bridge.bias"}
    assert "codes" in net.state_dict()
    assert net.codes.data_ptr() != CODES.data_ptr()


def test_a_bridge_has_relus_between_its_layers_only() -> None:
    kinds = [type(layer) for layer in bridge(5, 8, 6, 7, dropout=0.2)]
    assert kinds == [nn.Dropout, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    layer = bridge(400, 300)
    assert isinstance(layer, nn.Linear) and layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not layer.bias.any()
    with pytest.raises(ReuseError, match="Give features and attributes"):
        bridge(5)


def test_a_bridge_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"gives \(6,\) numbers for codes of 8 attributes. Build it with bridge\(f"):
        ZeroShotNetwork(CODES, bridge(9, 6))(torch.randn(2, 9))
    with pytest.raises(ShapeMismatch, match="codes must be"):
        ZeroShotNetwork(CODES[0], bridge(5, 7))


def test_standardised_features_and_one_that_never_changes() -> None:
    x = torch.randn(50, 3) * torch.tensor([3.0, 1e-3, 0.0]) + torch.tensor([5.0, 1.0, 2.0])
    found = Standardise(x)(x)
    assert found.mean(0).abs().max() < 1e-4 and not found[:, 2].any()
    torch.testing.assert_close(found[:, :2].square().mean(0), torch.ones(2), rtol=1e-3, atol=0)


# --- updates ----------------------------------------------------------------------------------------------------------


def draws(count: int, batch: int, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(count, (batch,), generator=random) for _ in range(4)]


def plain_sgd(weight: float | None, softmax: str, found: nn.Module) -> None:
    """Four updates with torch.optim.SGD on the losses as the paper writes them."""
    optimizer = torch.optim.SGD(found.bridge.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    pairs = zip(draws(len(TOY.train), 6, 3), draws(len(TOY.new), 6, 4), strict=True)
    for index, extra in pairs:
        s, y = found(TOY.train[index]), TOY.train_labels[index]
        if softmax == "seen":
            loss = F.cross_entropy(s[:, TOY.seen], torch.searchsorted(TOY.seen, y))
        else:
            loss = F.cross_entropy(s, y)
        if weight is not None:
            loss = loss - weight * found(TOY.new[extra]).softmax(1)[:, TOY.unseen].sum(1).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("softmax", ["seen", "all"])
def test_training_on_the_seen_classes_is_sgd_on_the_cross_entropy(softmax: str) -> None:
    method = seen_training(softmax=softmax, seed=3, weight_decay=0.01)
    plain = copy.deepcopy(method.student)
    for _ in range(4):
        method.step()
    plain_sgd(None, softmax, plain)
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("joint", [True, False])
def test_qfsl_is_sgd_on_both_losses(joint: bool) -> None:
    method = QFSL(
        network(), *features(), TOY.seen, weight=0.7, joint=joint, **OPTIONS | {"seed": 3, "weight_decay": 0.01}
    )
    plain = copy.deepcopy(method.student)
    for _ in range(4):
        report = method.step()
    plain_sgd(0.7, "all", plain)
    torch.testing.assert_close(method.student.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    assert report["loss"].item() == pytest.approx(float(report["supervised"] + 0.7 * report["unlabelled"]), rel=1e-5)
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

    warm = seen_training(softmax="seen")
    for _ in range(200):
        warm.step()
    biased, before = measure(warm.student)
    method = QFSL(warm.student, *features(), TOY.seen, weight=1.0, **OPTIONS | {"lr": 0.01})
    for _ in range(150):
        method.step()
    unbiased, after = measure(method.student)
    assert biased > 0.5 and unbiased < 0.1 and before < 0.3 and after > 0.5


def test_a_step_of_score_by_hand() -> None:
    method = codewords(attributes=0.3, codewords=2.0)
    method.step()
    student, index = copy.deepcopy(method.student), draws(len(TOY.train), 6, 0)[1]
    x, y = TOY.train[index], TOY.train_labels[index]
    z = student.bridge(x)
    expected = F.cross_entropy(z @ student.codewords.T, torch.searchsorted(TOY.seen, y))
    p = torch.sigmoid(z)
    signs = CODES[y] > 0
    expected += 0.3 * -torch.where(signs, p, 1 - p).log().mean()
    expected += 2.0 * ((student.codewords - CODES[TOY.seen]) ** 2).sum()
    assert method.step()["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_codewords_learn_and_unseen_classes_keep_their_codes() -> None:
    method = codewords(codewords=0.01)
    for _ in range(5):
        method.step()
    student, x = method.student, TOY.test
    assert not torch.equal(student.codewords, CODES[TOY.seen]) and torch.equal(student.codes, CODES)
    scores, z = student(x), student.embed(x)
    torch.testing.assert_close(scores[:, TOY.seen], z @ student.codewords.T)
    torch.testing.assert_close(scores[:, TOY.unseen], z @ CODES[TOY.unseen].T)


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_codes_stay_bit_for_bit_and_no_optimizer_sees_them(name: str) -> None:
    method = METHODS[name]()
    before = players.state(method.student)
    for _ in range(3):
        method.step()
    assert torch.equal(method.student.codes, CODES)
    moved = {id(p) for group in method.optimizer.param_groups for p in group["params"]}
    assert id(method.student.codes) not in moved
    assert list(players.differences(before, players.state(method.student)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_a_step_never_waits_and_stays_on_its_device(name: str, where: str) -> None:
    method = METHODS[name](0, where)
    with zeroshot_toys.NoWaiting(where):
        reports = [method.step() for _ in range(2)]
    assert all(value.shape == () and value.device.type == where for value in reports[1].values())


@pytest.mark.parametrize("name", METHODS)
def test_bf16_is_autocast_in_the_network_and_float32_in_the_losses(name: str) -> None:
    method, seen = METHODS[name](precision="bf16"), set()
    for module in method.student.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    for _ in range(5):
        report = method.step()
        assert all(value.isfinite() and value.dtype == torch.float32 for value in report.values())
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in method.student.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_and_resumed_is_bit_for_bit_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    def method(start: int = 0) -> SeenTraining:
        made = METHODS[name](start, seed=start, schedule=run.cosine(12))
        made.steps_per_round = 2
        return made

    torch.manual_seed(5)
    whole = method()
    history = run.run(whole, 5, progress=False)
    torch.manual_seed(5)
    killed, resumed = method(), method(8)
    killed.step = players.rigged(killed.step, at=7)
    with pytest.raises(players.Explosion):
        run.run(killed, 5, checkpoint=tmp_path / "run.pt", progress=False)
    found = run.run(resumed, 5, checkpoint=tmp_path / "run.pt", progress=False)
    assert found.rounds == history.rounds
    assert not list(players.differences(players.state(whole), players.state(resumed)))


@pytest.mark.parametrize("make", [qfsl, qfsl_on_images])
def test_labels_of_unlabelled_images_are_never_read(make: Callable[..., QFSL]) -> None:
    states = []
    for shuffled in (False, True):
        torch.manual_seed(1)
        found = make()
        images = found.unlabelled
        assert not images.labels.any()
        if shuffled:
            method = QFSL(
                copy.deepcopy(found.student), found.images, images_with_other_labels(images), TOY.seen, **OPTIONS
            )
        else:
            method = QFSL(copy.deepcopy(found.student), found.images, images, TOY.seen, **OPTIONS)
        torch.manual_seed(2)
        for _ in range(4):
            method.step()
        states.append(players.state(method.student))
    assert not list(players.differences(*states))


def images_with_other_labels(images: Any) -> Any:
    """The same inputs, with labels that are not even unseen classes."""
    labels = torch.randint(9, (len(images),))
    if isinstance(images, FeatureSet):
        return FeatureSet(images.features, labels)
    return ImageSet(images.name, images.images, labels, tuple("abcdefghi"), images.mean, images.std)


# --- backbones --------------------------------------------------------------------------------------------------------


def test_the_backbone_has_a_rate_of_its_own_and_can_be_kept() -> None:
    method = qfsl_on_images(backbone_lr=0.2)
    groups = method.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.01])
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in method.student.backbone.parameters()}
    kept = qfsl_on_images(backbone_lr=0.0, frozen_statistics=True)
    before = players.state(kept.student.backbone)
    for _ in range(3):
        kept.step()
    assert not list(players.differences(before, players.state(kept.student.backbone)))


@pytest.mark.parametrize(
    ("options", "moves"), [({}, True), ({"joint": False}, True), ({"frozen_statistics": True}, False)]
)
def test_statistics_of_batch_norm(options: dict[str, bool], moves: bool) -> None:
    method = qfsl_on_images(**options)
    norm = next(module for module in method.student.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    batches = []
    norm.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    method.step()
    assert torch.equal(before, norm.running_mean) != moves
    assert batches == ([6, 6] if options.get("joint") is False else [12])


# --- errors -----------------------------------------------------------------------------------------------------------


def test_labels_of_classes_that_are_not_seen_are_refused() -> None:
    labelled, new = features()
    with pytest.raises(ReuseError, match=r"classes \[1, 4, 7\], which are not seen: leave those images out"):
        SeenTraining(network(), new, TOY.seen)
    with pytest.raises(ReuseError, match="which are not seen"):
        QFSL(network(), labelled, new, TOY.seen[:4])


def test_seen_classes_that_do_not_do_are_refused() -> None:
    labelled, new = features()
    with pytest.raises(ReuseError, match="All classes are seen"):
        QFSL(network(), labelled, new, range(9))
    with pytest.raises(ReuseError, match="classes 0 to 9, but there are 9"):
        QFSL(network(), labelled, new, range(10))


def test_inputs_that_do_not_fit_are_refused() -> None:
    labelled, new = features()
    with pytest.raises(ShapeMismatch, match=r"unlabelled images \(4,\) do not fit the network"):
        QFSL(network(), labelled, FeatureSet(new.features[:, :4], new.labels), TOY.seen)
    with pytest.raises(ShapeMismatch, match=r"gives \(2, 9, 1\), not scores"):
        SeenTraining(nn.Sequential(network(), nn.Unflatten(1, (9, 1))), labelled, TOY.seen)
    with pytest.raises(ShapeMismatch, match=r"not \(48, 9\) and \(3,\)"):
        FeatureSet(labelled.features, labelled.labels[:3])


def test_images_elsewhere_are_refused() -> None:
    labelled, new = features()
    with pytest.raises(DeviceError, match=r"images are on meta, the network on cpu. Use .to\(device\)"):
        SeenTraining(network(), features("meta")[0], TOY.seen)
    with pytest.raises(DeviceError, match="unlabelled images are on meta"):
        QFSL(network(), labelled, features("meta")[1], TOY.seen)


def test_an_unknown_softmax_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown softmax 'every'"):
        seen_training(softmax="every")
    with pytest.raises(ReuseError, match="leave softmax out"):
        qfsl(softmax="seen")


def test_inductive_and_transductive_methods_say_so() -> None:
    assert QFSL.transductive and not SeenTraining.transductive and not SCoReTraining.transductive
