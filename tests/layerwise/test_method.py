"""The three stages, one method of all of them, and the rivals: which loss reaches what, and each update by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
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
    Encoders,
    FeatureLearning,
    JointLearning,
    LayerLearning,
    LayerwiseAmalgamation,
    OneStageAmalgamation,
    Stage,
    Teachers,
    losses,
    make_encoders,
)
from reuselib.layerwise.rivals import convolutions

SGD: dict[str, Any] = {"momentum": 0.9, "cosine": False}
PLAIN: dict[str, Any] = {"batch": 4, "precision": "fp32"}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def teachers_of(cast: players.Cast) -> Teachers:
    return Teachers(cast.teachers, ClassSets(players.KNOWN))


# --- stage B ---------------------------------------------------------------------------------------------------------


def taught(cast: players.Cast, stage: Stage = Stage(5)) -> LayerLearning:  # noqa: B008
    """Stage B; its student has activations that learn."""
    for block in cast.plain.blocks:
        block[1] = nn.PReLU(block[0].out_channels)
    teachers = teachers_of(cast)
    encoders = make_encoders(teachers, cast.plain, cast.images)
    return LayerLearning(teachers, encoders, cast.plain, cast.images, stage, **PLAIN)


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
    for _ in range(2):  # what stays behind is the identity
        adapted.merge()
        close(adapted.student(images), before)
        close(adapted.through(images), before)
    bare = AdaptedStudent(merged, fam=False)
    assert not list(bare.adapters.parameters()) and torch.equal(bare.merged()(images), bare.through(images))


def test_every_layer_is_fed_with_the_code_before_it_and_its_loss_reaches_no_other() -> None:
    method, images = taught(players.cast()), torch.randn(5, *players.IMAGE)
    codes, scores = codes_of(method, images)
    adapters, student = method.adapted.adapters, method.adapted.student
    inputs = [images, *(adapter(code) for adapter, code in zip(adapters, codes, strict=True))]
    phi = [nn.Identity(), *(block[1:] for block in student.blocks)]
    expected = [student.blocks[k][0](phi[k](inputs[k])) for k in range(3)]
    expected.append(student.head(student.pool(phi[3](inputs[3]))))
    for output, wanted in zip(method.adapted(images, codes), expected, strict=True):
        close(output, wanted)
    everything = [*method.adapted.parameters(), *method.encoders.parameters(), *method.teachers.parameters()]
    layers = [*(block[0] for block in student.blocks), student.head]
    for number, target in enumerate([*codes, scores]):
        for parameter in everything:
            parameter.grad = None
        losses.layerwise_loss(target, method.adapted(images, codes)[number]).backward()
        reached = {id(p) for p in everything if p.grad is not None and p.grad.abs().sum() > 0}
        before = [adapters[number - 1], phi[number]] if number else []
        assert reached == {id(p) for module in [*before, layers[number]] for p in module.parameters()}
        assert reached == {id(p) for p in method.adapted.layer_parameters()[number]}


def test_dropout_is_off_while_layers_learn_and_on_afterwards() -> None:
    cast = players.cast(dropout=0.9)
    method, dropout, seen = taught(cast), cast.plain.pool[-1], []
    dropout.register_forward_hook(lambda module, _, __: seen.append(module.training))
    method.step()
    assert seen == [False] and dropout.training


# --- one update by hand ----------------------------------------------------------------------------------------------


def descended(method: Any, parts: list[nn.Module], loss: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Make a step, which is to be one of gradient descent on a loss of the images and of copies of the parts."""
    copies, images = copy.deepcopy(parts), method.draw()
    method.random.manual_seed(0)
    loss(images, *copies).backward()
    report = method.step()
    for own, other in zip(parts, copies, strict=True):
        for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
            close(mine, theirs - 0.1 * theirs.grad)
    return report


def test_layers_learn_each_for_itself_with_rates_of_their_own() -> None:
    method, pairs = taught(players.cast(), Stage(5, 0.1, **SGD)), []

    def loss(images: Tensor, adapted: AdaptedStudent) -> Tensor:
        codes, scores = codes_of(method, images)
        pairs.extend(zip([*codes, scores], adapted(images, codes), strict=True))
        return sum((output - target).square().mean() for target, output in pairs)

    report = descended(method, [method.adapted], loss)
    for number, (target, output) in enumerate(pairs, 1):
        spread = target.movedim(1, -1).flatten(0, -2).var(0, correction=0).mean()
        error = (output - target).square().mean() / spread
        assert report[f"nmse_{number}"].item() == pytest.approx(error.item(), rel=1e-4)
    method = taught(players.cast(), Stage(5, (0.4, 0.3, 0.2, 0.0)))
    groups = zip(method.optimizer.param_groups, method.adapted.layer_parameters(), (0.4, 0.3, 0.2, 0.0), strict=True)
    assert all(group["lr"] == lr and list(map(id, group["params"])) == list(map(id, own)) for group, own, lr in groups)
    with pytest.raises(ShapeMismatch, match="4 layers need one learning rate or as many, not 2"):
        taught(players.cast(), Stage(5, (0.1, 0.1)))


def test_auto_encoders_learn_each_for_itself() -> None:
    cast = players.cast()
    teachers = teachers_of(cast)
    encoders = make_encoders(teachers, cast.plain, cast.images)
    method = FeatureLearning(teachers, encoders, cast.images, Stage(5, 0.1, **SGD), **PLAIN)

    def loss(images: Tensor, encoders: Encoders) -> Tensor:
        joined = [torch.cat(each, 1) for each in teachers(images, encoders.layers)[0]]
        pairs = zip(encoders.amalgams, joined, strict=True)
        return sum((amalgam.autoencoders[0](each)[1] - each).square().mean() for amalgam, each in pairs)

    assert descended(method, [encoders], loss).keys() == {f"unexplained_{number}" for number in (1, 2, 3)}


@pytest.mark.parametrize(
    ("kind", "loss"), [(JointLearning, losses.joint_loss), (AmalgamationKD, losses.distillation_loss)]
)
def test_the_whole_student_learns_the_scores(kind: Any, loss: Callable[..., Tensor]) -> None:
    cast = players.cast()
    method = kind(teachers_of(cast), cast.plain, cast.images, Stage(5, 0.1, **SGD), **PLAIN)
    descended(method, [cast.plain], lambda images, student: loss(method.teachers(images)[1], student(images)))


def one_stage(cast: players.Cast, **options: Any) -> OneStageAmalgamation:
    return OneStageAmalgamation(teachers_of(cast), cast.plain, cast.images, Stage(5, 0.1, **SGD), **PLAIN, **options)


@pytest.mark.parametrize("fam", [True, False])
def test_one_stage_learns_everything_at_once(fam: bool) -> None:
    cast = players.cast()
    method, seen = one_stage(cast, fam=fam), {}

    def loss(images: Tensor, student: nn.Module, encoders: Encoders, adapters: nn.ModuleList) -> Tensor:
        taught, scores = method.teachers(images, encoders.layers)
        groups, value = [], images
        for block, features, amalgam, adapter in zip(student.blocks, taught, encoders.amalgams, adapters, strict=True):
            code, returned = amalgam.autoencoders[0](torch.cat(features, 1))
            groups.append((features, code, returned, adapter(block[0](value))))
            value = block(value)
        seen.update(losses.port_loss(scores, student.head(student.pool(value)), groups))
        return seen["loss"]

    report = descended(method, [cast.plain, method.blocks.encoders, method.blocks.adapters], loss)
    torch.testing.assert_close(report, seen, atol=1e-6, rtol=1e-5)
    assert bool(list(method.blocks.adapters.parameters())) == fam


def test_all_convolutions_are_paired_in_order_residual_ones_too_or_groups_are_chosen() -> None:
    cast = players.cast()
    networks = [nets.small_resnet((1, 1), width=width, classes=2) for width in (8, 12, 10)]
    groups = convolutions(networks[2], networks[:2])
    assert len(groups) == sum(isinstance(module, nn.Conv2d) for module in networks[2].modules())
    assert all(own == first == second for own, (first, second) in groups)
    method = one_stage(cast, groups=[("blocks.1.0", ("blocks.1.0", "blocks.1.0")), ("pool", ("pool", "pool"))])
    kinds = [type(amalgam.autoencoders[0].encoder).__name__ for amalgam in method.blocks.encoders.amalgams]
    assert kinds == ["Conv2d", "Linear"] and method.step()["loss"].isfinite()
    with pytest.raises(ReuseError, match=r"student has 3 convolutions, its teachers \[2, 3\].*Give groups"):
        convolutions(cast.plain, [nets.plain_vgg(((3,), (4,)), hidden=4, classes=3, size=8), cast.teachers[1]])
    with pytest.raises(ShapeMismatch, match=r"'blocks.0.0' the student has maps of 8x8 .*'4x4'.*groups of layers"):
        one_stage(cast, groups=[("blocks.0.0", ("blocks.0.0", "blocks.1.0"))])


# --- all stages ------------------------------------------------------------------------------------------------------


def test_the_stages_come_one_after_the_other_and_merging_between_them_changes_nothing() -> None:
    method = players.make("amalgamation")
    method.steps_per_round = 1
    assert (method.lengths, method.layers_from, method.joint_from, method.total) == ([3, 3, 2], 3, 6, 8)
    images = torch.randn(5, *players.IMAGE)
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
    assert torch.equal(method.merged()(images), method.student(images))


def test_a_checkpoint_holds_everything_once(tmp_path: Path) -> None:
    method = players.make("amalgamation")
    run.run(method, updates=7, report_every=1, checkpoint=tmp_path / "run.pt", progress=False)
    state = run.load_checkpoint(tmp_path / "run.pt")["state"]
    assert state.keys() == {"encoders", "encoding", "layerwise", "joint"}
    assert "encoders" not in {**state["encoding"], **state["layerwise"]} and "student" not in state["joint"]
    weights = sum(p.numel() for p in [*method.student.parameters(), *method.layerwise.adapted.adapters.parameters()])
    assert sum(p.numel() for p in state["layerwise"]["adapted"].values()) == weights


def test_the_errors_of_the_layers_fed_with_the_codes_and_by_the_layer_before() -> None:
    cast = players.cast()
    method = LayerwiseAmalgamation(teachers_of(cast), cast.plain, cast.images, Stage(1), Stage(1))
    x, adapted = cast.images.normalised(cast.images.images[:20]), method.layerwise.adapted
    codes, scores = codes_of(method.layerwise, x)
    forced, alone = method.layer_errors(x)
    with torch.no_grad():
        given, own = adapted(x, codes), adapted.through(x)
    expected = [losses.unexplained_variance(*each).item() for each in zip([*codes, scores], given, strict=True)]
    assert forced == pytest.approx(expected) and alone[0] == pytest.approx(forced[0])
    assert alone[-1] == pytest.approx(losses.unexplained_variance(scores, own).item()) != pytest.approx(forced[-1])


# --- bad input -------------------------------------------------------------------------------------------------------


def plain(*widths: int, classes: int = 2, **options: Any) -> nn.Module:
    shape = {"size": 8, "head_norm": False} | options
    return nets.plain_vgg(tuple((w,) for w in widths), hidden=5, classes=classes, **shape)


def endless() -> nn.Module:
    network = plain(3, 4)
    nn.init.constant_(network.head.bias, math.inf)
    return network


@pytest.mark.parametrize(
    ("teachers", "student", "message"),
    [
        ([plain(3, 4)] * 2, plain(3, 4, classes=3), r"of shape \(2, 3\), its teachers know 4 classes.*classes=4"),
        ([plain(3, 4), nets.conv3(2, classes=2)], plain(3, 4, classes=4), "Teacher 2 has the layers.*OneStageAmalgam"),
        ([plain(3, 4), plain(3, 4, size=16)], plain(3, 4, classes=4), "size=16"),
        ([plain(3, 4)], players.cast().student, "'blocks.0.1' is a BatchNorm2d"),
        ([players.cast().teacher], plain(3, 4), "'blocks.0.1' is a BatchNorm2d"),
        ([plain(3, 4), endless()], plain(3, 4, classes=4), r"teacher 2 \(Classifier\) gives NaN or infinity"),
    ],
)
def test_networks_that_do_not_fit_are_refused(teachers: list[nn.Module], student: nn.Module, message: str) -> None:
    together = Teachers(teachers, ClassSets.divide(range(2 * len(teachers)), len(teachers)))
    with pytest.raises(ReuseError, match=message):
        LayerwiseAmalgamation(together, student, players.cast().images, Stage(1), Stage(1))
    if any(word in message for word in ("of shape", "size=", "NaN")):  # for others any network will do
        with pytest.raises(ReuseError, match=message):
            JointLearning(together, student, players.cast().images, Stage(1))


def test_what_cannot_be_meant_is_refused() -> None:
    for bad, message in (
        (partial(Stage, -5), "steps must be a whole number of at least 0, not -5"),
        (partial(Stage, 5, (0.1, -1)), "lr must be a finite number of at least 0, not -1"),
        (partial(Stage, 5, momentum=-0.1), "momentum must be"),
    ):
        with pytest.raises(ReuseError, match=message):
            bad()
    cast = players.cast()
    for method in (JointLearning, partial(LayerwiseAmalgamation, joint=Stage(1))):
        with pytest.raises(ReuseError, match="images must be ImageSet with something in it"):
            method(teachers_of(cast), cast.plain, cast.images.subset([]), Stage(1))
        with pytest.raises(ReuseError, match="different devices.*student on meta"):
            method(teachers_of(cast), players.cast("meta").plain, cast.images, Stage(1))
