"""The three stages: teacher forcing, which loss reaches what, the merge between them, and one method of all of them."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.errors import ReuseError, ShapeMismatch
from reuselib.layerwise import (
    AdaptedStudent,
    AmalgamationKD,
    ClassSets,
    FeatureLearning,
    JointLearning,
    LayerLearning,
    LayerwiseAmalgamation,
    Stage,
    Teachers,
    initialise,
    losses,
    make_encoders,
)
from reuselib.layerwise.autoencoder import incremental

SGD = {"momentum": 0.9, "cosine": False}
ONCE = {"layers": Stage(1), "joint": Stage(1)}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def teachers_of(cast: players.Cast) -> Teachers:
    return Teachers(cast.teachers, ClassSets(players.KNOWN))


# --- stage B ---------------------------------------------------------------------------------------------------------


def taught(cast: players.Cast, stage: Stage = Stage(5), fam: bool = True) -> LayerLearning:  # noqa: B008
    teachers = teachers_of(cast)
    encoders = make_encoders(teachers, cast.plain, cast.images)
    return LayerLearning(teachers, encoders, cast.plain, cast.images, stage, fam, precision="fp32")


def codes_of(method: LayerLearning, images: Tensor) -> tuple[list[Tensor], Tensor]:
    features, scores = method.teachers(images, method.encoders.layers)
    with torch.no_grad():
        return method.encoders(features)[0], scores


def test_a_merged_student_is_the_adapted_student_to_1e_5() -> None:
    adapted = AdaptedStudent(nets.plain_vgg(((6,), (7, 5)), hidden=8, classes=4, size=8, head_norm=False))
    for parameter in adapted.parameters():
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(10, *players.IMAGE)
    before, plain = adapted.through(images), adapted.student(images)
    merged = adapted.merged()
    close(merged(images), before)
    assert torch.equal(adapted.student(images), plain), "a copy was merged, not the student"
    assert not torch.allclose(plain, before, atol=1e-2)
    assert [type(m) for m in merged.modules()] == [type(m) for m in adapted.student.modules()]
    adapted.merge()
    close(adapted.student(images), before)
    once = players.state(adapted)
    adapted.merge()  # what stays behind is the identity
    assert not list(players.differences(once, players.state(adapted)))
    close(adapted.through(images), before)
    bare = AdaptedStudent(merged, fam=False)
    assert not list(bare.adapters.parameters()) and torch.equal(bare.merged()(images), bare.through(images))


def test_every_layer_is_fed_with_the_code_before_it() -> None:
    method, images = taught(players.cast()), torch.randn(5, *players.IMAGE)
    codes, _ = codes_of(method, images)
    adapters, student = method.adapted.adapters, method.adapted.student
    inputs = [images, *(adapter(code) for adapter, code in zip(adapters, codes, strict=True))]
    phi = [nn.Identity(), *[nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))] * 2]
    expected = [student.blocks[k][0](phi[k](inputs[k])) for k in range(3)]
    expected.append(student.head(student.pool(inputs[3].relu())))
    for output, wanted in zip(method.adapted(images, codes), expected, strict=True):
        close(output, wanted)


def test_a_layers_loss_reaches_that_layer_and_the_adapter_before_it_alone() -> None:
    method, images = taught(players.cast()), torch.randn(5, *players.IMAGE)
    codes, scores = codes_of(method, images)
    everything = [*method.adapted.parameters(), *method.encoders.parameters(), *method.teachers.parameters()]
    for number, target in enumerate([*codes, scores]):
        for parameter in everything:
            parameter.grad = None
        losses.layerwise_loss(target, method.adapted(images, codes)[number]).backward()
        reached = {id(p) for p in everything if p.grad is not None and p.grad.abs().sum() > 0}
        layer = list(method.adapted.links[number].layer.parameters())
        before = list(method.adapted.adapters[number - 1].parameters()) if number else []
        assert reached == {id(p) for p in [*layer, *before]}
        assert reached == {id(p) for p in method.adapted.layer_parameters()[number]}


def test_the_first_layer_is_exactly_solvable() -> None:
    method, images = taught(players.cast()), torch.randn(5, *players.IMAGE)
    firsts = [teacher.blocks[0][0] for teacher in method.teachers.networks]
    encoder, own = method.encoders.amalgams[0].autoencoders[0].encoder, method.adapted.links[0].layer
    nn.init.normal_(encoder.bias)
    codes, _ = codes_of(method, images)
    matrix = encoder.weight.flatten(1)
    with torch.no_grad():
        own.weight.copy_(torch.einsum("ij,jchw->ichw", matrix, torch.cat([first.weight for first in firsts])))
        own.bias.copy_(matrix @ torch.cat([first.bias for first in firsts]) + encoder.bias)
        assert losses.layerwise_loss(codes[0], method.adapted(images, codes)[0]) < 1e-10


def test_one_teacher_with_identities_is_copied() -> None:
    cast = players.cast()
    teacher, student = cast.teachers[0], copy.deepcopy(cast.teachers[0])
    teachers = Teachers([teacher], ClassSets(((0, 1, 2),)))
    encoders = make_encoders(teachers, student, cast.images)
    method = LayerLearning(teachers, encoders, student, cast.images, Stage(5), precision="fp32")
    with torch.no_grad():
        for layer in [each.autoencoders[0].encoder for each in encoders.amalgams] + list(method.adapted.adapters):
            layer.weight.copy_(torch.eye(len(layer.weight)).view_as(layer.weight))
            layer.bias.zero_()
    images = cast.images.normalised(cast.images.images)
    codes, scores = codes_of(method, images)
    for target, output in zip([*codes, scores], method.adapted(images, codes), strict=True):
        assert losses.layerwise_loss(target, output) < 1e-12
    close(method.adapted.through(images), teacher(images))
    close(method.adapted.merged()(images), teacher(images))


def test_dropout_is_off_while_layers_learn_and_on_afterwards() -> None:
    cast = players.cast(dropout=0.9)
    method, dropout, seen = taught(cast), cast.plain.pool[-1], []
    dropout.register_forward_hook(lambda module, _, __: seen.append(module.training))
    method.step()
    assert seen == [False] and dropout.training


# --- one update by hand ----------------------------------------------------------------------------------------------


def test_layers_learn_each_for_itself_with_rates_of_their_own() -> None:
    rates = (0.4, 0.3, 0.2, 0.0)
    method = taught(players.cast(), Stage(5, rates, momentum=0.0, cosine=False))
    copied, images = copy.deepcopy(method.adapted), method.draw()
    method.random.manual_seed(0)
    codes, scores = codes_of(method, images)
    pairs = list(zip([*codes, scores], copied(images, codes), strict=True))
    found = [(output - target).square().mean() for target, output in pairs]
    sum(found).backward()
    report = method.step()
    groups = zip(method.adapted.layer_parameters(), copied.layer_parameters(), rates, strict=True)
    for mine, theirs, lr in groups:
        for own, other in zip(mine, theirs, strict=True):
            close(own, other - lr * other.grad)
    for number, (loss, (target, _)) in enumerate(zip(found, pairs, strict=True), 1):
        spread = target.movedim(1, -1).flatten(0, -2).var(0, correction=0).mean()
        assert report[f"nmse_{number}"].item() == pytest.approx((loss / spread).item(), rel=1e-4)
    assert isinstance(method.optimizer, torch.optim.SGD)
    with pytest.raises(ShapeMismatch, match="4 layers need one learning rate or as many, not 2"):
        taught(players.cast(), Stage(5, (0.1, 0.1)))


def test_auto_encoders_learn_each_for_itself() -> None:
    cast, rates = players.cast(), (0.3, 0.2, 0.1)
    teachers = teachers_of(cast)
    encoders = make_encoders(teachers, cast.plain, cast.images)
    copied = copy.deepcopy(encoders)
    method = FeatureLearning(teachers, encoders, cast.images, Stage(5, rates, **SGD), batch=4, precision="fp32")
    images = method.draw()
    method.random.manual_seed(0)
    features, _ = teachers(images, encoders.layers)
    report = method.step()
    for amalgam, own, each, lr in zip(copied.amalgams, encoders.amalgams, features, rates, strict=True):
        joined = torch.cat(each, 1)
        ((amalgam.autoencoders[0](joined)[1] - joined) ** 2).mean().backward()
        for mine, other in zip(own.parameters(), amalgam.parameters(), strict=True):
            close(mine, other - lr * other.grad)
    assert report.keys() == {f"unexplained_{number}" for number in (1, 2, 3)}


@pytest.mark.parametrize("kind", [JointLearning, AmalgamationKD])
def test_one_joint_update_by_hand(kind: Any) -> None:
    cast = players.cast()
    method = kind(teachers_of(cast), cast.plain, cast.images, Stage(5, 0.1, **SGD), batch=4, precision="fp32")
    copied, images = copy.deepcopy(cast.plain), method.draw()
    method.random.manual_seed(0)
    loss = losses.joint_loss if kind is JointLearning else losses.distillation_loss
    wanted = loss(method.teachers(images)[1], copied(images))
    wanted.backward()
    assert method.step()["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    for mine, other in zip(cast.plain.parameters(), copied.parameters(), strict=True):
        close(mine, other - 0.1 * other.grad)
    residual = Teachers([cast.teacher], ClassSets.divide(range(players.CLASSES), 1))  # any network will do
    assert kind(residual, cast.student, cast.images, Stage(2), batch=4).step()["loss"].isfinite()


# --- all stages ------------------------------------------------------------------------------------------------------


def three(**options: Any) -> LayerwiseAmalgamation:
    method = players.make("amalgamation", **options)
    method.steps_per_round = 1
    return method


def test_the_stages_come_one_after_the_other_and_merging_between_them_changes_nothing() -> None:
    method = three()
    assert (method.lengths, method.layers_from, method.joint_from, method.total) == ([3, 3, 2], 3, 6, 8)
    images, teachers = torch.randn(5, *players.IMAGE), players.state(method.teachers)
    parts = {"encoders": method.encoders, "adapters": method.layerwise.adapted.adapters, "student": method.student}
    rounds, changed = method.rounds(), []
    for iteration in range(method.total):
        before, merged = {name: players.state(part) for name, part in parts.items()}, method.merged()(images)
        if iteration == 6:
            close(merged, method.layerwise.adapted.through(images))
            method.joint.optimizer.param_groups[0]["lr"] = 0.0
        report = next(rounds)
        changed.append({n for n in parts if list(players.differences(before[n], players.state(parts[n])))})
        assert report.keys() >= ({"unexplained_1"} if iteration < 3 else {"nmse_1"} if iteration < 6 else {"loss"})
        if iteration == 6:
            close(method.student(images), merged)
    layers = {"adapters", "student"}
    assert changed == [{"encoders"}] * 3 + [layers] * 4 + [{"student"}]
    assert not list(players.differences(teachers, players.state(method.teachers)))
    assert torch.equal(method.merged()(images), method.student(images))


def test_the_closed_form_is_the_default_and_leaves_stage_a_out() -> None:
    method = players.make("amalgamation-closed-form")
    assert method.encoding is None and method.lengths == [0, 4, 4] and "nmse_1" in method.step()
    images = players.cast().images
    codes, _ = codes_of(method.layerwise, images.normalised(images.images))
    for code in codes:  # principal components of all images: without mean, without correlation
        vectors = code.movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(vectors.mean(0), torch.zeros(vectors.shape[1]), atol=1e-5, rtol=0)
        covariance = torch.cov(vectors.T)
        assert (covariance - covariance.diag().diag()).abs().max() < 1e-4 * covariance.max()


def test_incremental_with_two_teachers_is_direct_bit_for_bit() -> None:
    states = []
    for options in ({}, {"entering": incremental([1, 0])}):
        method = three(**options)
        run.run(method, updates=6, report_every=2, progress=False)
        states.append([players.state(method.student), players.state(method.encoders)])
    assert not list(players.differences(*states))


def test_a_student_learns_what_its_teachers_know() -> None:
    """Layer by layer and then jointly it comes near the ensemble."""
    cast = players.cast()
    teachers, untrained = teachers_of(cast), copy.deepcopy(initialise(cast.plain))
    stages = {"layers": Stage(150, 2e-2), "joint": Stage(50, 5e-3)}
    method = LayerwiseAmalgamation(teachers, cast.plain, cast.images, **stages, batch=20)
    assert method.steps_per_round == 50
    history = run.run(method, updates=method.total, progress=False)
    assert all(history.rounds[2][f"nmse_{k}"] < history.rounds[0][f"nmse_{k}"] for k in (1, 2, 3, 4))
    images = cast.images.normalised(cast.images.images)
    start, end = (losses.joint_loss(teachers(images)[1], each(images)) for each in (untrained, method.merged()))
    assert end < 0.02 * start


def test_a_student_with_prelus_learns_them_too() -> None:
    cast = players.cast()
    for block in cast.plain.blocks:
        block[1] = nn.PReLU(block[0].out_channels)
    method = LayerwiseAmalgamation(teachers_of(cast), cast.plain, cast.images, Stage(2, 0.1), Stage(2))
    before = [players.state(block[1]) for block in cast.plain.blocks]
    method.step()
    assert len(list(players.differences(before, [players.state(block[1]) for block in cast.plain.blocks]))) == 3


def test_a_checkpoint_holds_everything_once(tmp_path: Path) -> None:
    method = three()
    run.run(method, updates=7, report_every=1, checkpoint=tmp_path / "run.pt", progress=False)
    state = run.load_checkpoint(tmp_path / "run.pt")["state"]
    assert state.keys() == {"encoders", "encoding", "layerwise", "joint"}
    assert "encoders" not in {**state["encoding"], **state["layerwise"]} and "student" not in state["joint"]
    weights = sum(p.numel() for p in [*method.student.parameters(), *method.layerwise.adapted.adapters.parameters()])
    assert sum(p.numel() for p in state["layerwise"]["adapted"].values()) == weights


# --- bad input -------------------------------------------------------------------------------------------------------


def plain(*widths: int, classes: int = 2, **options: Any) -> nn.Module:
    shape = {"size": 8, "head_norm": False} | options
    return nets.plain_vgg(tuple((w,) for w in widths), hidden=5, classes=classes, **shape)


def wide() -> nn.Module:
    """Layers as in `plain`, but without pooling."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5)]
    return nn.Sequential(*layers, nn.Linear(5, 2))


def shifted(value: float) -> nn.Module:
    network = plain(3, 4)
    nn.init.constant_(network.head.bias, value)
    return network


@pytest.mark.parametrize(
    ("teachers", "student", "message"),
    [
        ([plain(3, 4)] * 2, plain(3, 4, classes=3), r"of shape \(2, 3\), its teachers know 4 classes.*classes=4"),
        ([plain(3, 4)] * 2, plain(3, 4, 5, classes=4), "Teacher 1 has the layers.*OneStageAmalgamation"),
        ([plain(3, 4), nets.conv3(2, classes=2)], plain(3, 4, classes=4), "Teacher 2 has the layers Conv2d, Conv2d"),
        ([plain(3, 4), wide()], plain(3, 4, classes=4), r"'blocks.1.0' the student has maps of 4x4 .*'4x4', '8x8'"),
        ([plain(3, 4, channels=3)], plain(3, 4), "channels=3"),
        ([plain(3, 4), plain(3, 4, size=16)], plain(3, 4, classes=4), "size=16"),
        ([plain(3, 4)], players.cast().student, "'blocks.0.1' is a BatchNorm2d"),
        ([players.cast().teacher], plain(3, 4), "'blocks.0.1' is a BatchNorm2d"),
        ([plain(3, 4), shifted(math.nan)], plain(3, 4, classes=4), r"teacher 2 \(Classifier\) gives NaN or infinity"),
        ([plain(3, 4), shifted(math.inf)], plain(3, 4, classes=4), r"teacher 2 \(Classifier\) gives NaN or infinity"),
    ],
)
def test_networks_that_do_not_fit_are_refused(teachers: list[nn.Module], student: nn.Module, message: str) -> None:
    together = Teachers(teachers, ClassSets.divide(range(2 * len(teachers)), len(teachers)))
    with pytest.raises(ReuseError, match=message):
        LayerwiseAmalgamation(together, student, players.cast().images, **ONCE)
    if any(word in message for word in ("of shape", "channels=", "size=", "NaN")):  # for others any network will do
        with pytest.raises(ReuseError, match=message):
            JointLearning(together, student, players.cast().images, Stage(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": players.cast("meta").images}, "different devices.*images on meta"),
        ({"student": players.cast("meta").plain}, "different devices.*student on meta"),
        ({"images": players.cast().images.subset([])}, "images must be ImageSet with something in it"),
        ({"images": torch.zeros(3, 1, 8, 8)}, "images must be ImageSet .*not Tensor"),
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
        ({"noise": -1}, "noise must be a finite number"),
        ({"stage": partial(Stage, -5)}, "steps must be a whole number of at least 0, not -5"),
        ({"stage": partial(Stage, 5, math.nan)}, "lr must be a finite number"),
        ({"stage": partial(Stage, 5, (0.1, -1))}, "lr must be a finite number of at least 0, not -1"),
        ({"stage": partial(Stage, 5, ())}, "1 layers need one learning rate or as many, not 0"),
        ({"stage": partial(Stage, 5, momentum=-0.1)}, "momentum must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    cast = players.cast()
    parties = {"student": cast.plain, "images": cast.images, "stage": partial(Stage, 1), **changes}
    with pytest.raises(ReuseError, match=message):
        JointLearning(teachers_of(cast), **parties | {"stage": parties["stage"]()})
    if "layers need" not in message:
        with pytest.raises(ReuseError, match=message):
            stages = {"layers": parties.pop("stage")(), "joint": Stage(1)}
            LayerwiseAmalgamation(teachers_of(cast), **parties | stages)


def test_the_errors_of_the_layers_fed_with_the_codes_and_by_the_layer_before() -> None:
    cast = players.cast()
    method = LayerwiseAmalgamation(teachers_of(cast), cast.plain, cast.images, **ONCE)
    x, adapted = cast.images.normalised(cast.images.images[:20]), method.layerwise.adapted
    codes, scores = codes_of(method.layerwise, x)
    forced, alone = method.layer_errors(x)
    with torch.no_grad():
        given, own = adapted(x, codes), adapted.through(x)
    expected = [losses.unexplained_variance(*each).item() for each in zip([*codes, scores], given, strict=True)]
    assert forced == pytest.approx(expected) and alone[0] == pytest.approx(forced[0])
    assert alone[-1] == pytest.approx(losses.unexplained_variance(scores, own).item()) != pytest.approx(forced[-1])
