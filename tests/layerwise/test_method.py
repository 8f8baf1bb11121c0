"""The three stages: merge, teacher forcing, which loss reaches what, and one method of all of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName
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
    make_encoders,
    merge,
)
from reuselib.layerwise.autoencoder import affine
from reuselib.layerwise.method import joint_loss, layerwise_loss
from reuselib.nets.imitation import kl_divergence


def with_biases(network: nn.Module) -> nn.Module:
    """Biases that are not zero, so that one left out is noticed."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return network


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# --- merge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(3, 6, 5, stride=2, padding=2),
        nn.Conv2d(3, 6, (1, 3), padding=(0, 1), dilation=2),
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
        nn.Linear(3, 6),
    ],
    ids=str,
)
def test_a_merged_layer_is_the_layer_and_its_adapter(layer: nn.Conv2d | nn.Linear) -> None:
    spatial = isinstance(layer, nn.Conv2d)
    adapter = with_biases(affine(6, 6, spatial))
    before = players.state(layer)
    merged = merge(adapter, layer)
    images = torch.randn(4, 3, 9, 9) if spatial else torch.randn(4, 3)
    close(merged(images), adapter(layer(images)))
    assert type(merged) is type(layer) and not list(players.differences(before, players.state(layer)))


def test_merging_entry_by_entry() -> None:
    layer, adapter = nn.Conv2d(2, 3, 2), with_biases(affine(3, 3, True))
    merged = merge(adapter, layer)
    for i in range(3):
        weight = sum(adapter.weight[i, j, 0, 0] * layer.weight[j] for j in range(3))
        bias = sum(adapter.weight[i, j, 0, 0] * layer.bias[j] for j in range(3)) + adapter.bias[i]
        close(merged.weight[i], weight), close(merged.bias[i], bias)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, bias=False)])
def test_what_cannot_be_merged_is_refused(layer: nn.Conv2d) -> None:
    with pytest.raises(ReuseError, match="several groups or no bias.*fam=False"):
        merge(affine(4, 4, True), layer)
    network = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ReuseError, match="Layer '0' has several groups or no bias"):
        AdaptedStudent(network)
    assert len(AdaptedStudent(network, fam=False).links) == 2


def test_an_adapter_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="5 channels does not fit 4"):
        merge(affine(5, 5, False), nn.Linear(3, 4))


def alexnet_like() -> nn.Module:
    return initialise(nets.plain_vgg(((6,), (7, 5)), hidden=8, classes=4, size=8, head_norm=False))


def test_a_merged_student_is_the_adapted_student_to_1e_5() -> None:
    adapted = AdaptedStudent(with_biases(alexnet_like()))
    with_biases(adapted.adapters)
    images = torch.randn(10, *players.IMAGE)
    before, plain = adapted.through(images), adapted.student(images)
    merged = adapted.merged()
    close(merged(images), before)
    assert torch.equal(adapted.student(images), plain), "a copy was merged, not the student"
    assert merged.state_dict().keys() == adapted.student.state_dict().keys()
    assert not torch.allclose(plain, before, atol=1e-2)
    adapted.merge()
    close(adapted.student(images), before)
    once = players.state(adapted)
    adapted.merge()  # what stays behind is the identity
    assert not list(players.differences(once, players.state(adapted)))
    close(adapted.through(images), before)
    assert [type(m) for m in merged.modules()] == [type(m) for m in adapted.student.modules()]


def test_without_adaptation_there_is_nothing_to_merge() -> None:
    adapted, images = AdaptedStudent(alexnet_like(), fam=False), torch.randn(3, *players.IMAGE)
    assert not list(adapted.adapters.parameters())
    assert torch.equal(adapted.through(images), adapted.student(images))
    assert torch.equal(adapted.merged()(images), adapted.student(images))


# --- stage B ---------------------------------------------------------------------------------------------------------


def taught(cast: players.Cast, **options: Any) -> LayerLearning:
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    encoders = make_encoders(teachers, cast.plain, cast.images)
    options = {"stage": Stage(5), "precision": "fp32"} | options
    return LayerLearning(teachers, encoders, cast.plain, cast.images, **options)


def codes_of(method: LayerLearning, images: Tensor) -> tuple[list[Tensor], Tensor]:
    features, scores = method.teachers(images, method.encoders.layers)
    with torch.no_grad():
        return method.encoders(features)[0], scores


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
    codes = [code.requires_grad_() for code in codes]
    everything = [*method.adapted.parameters(), *method.encoders.parameters(), *method.teachers.parameters()]
    for number, target in enumerate([*codes, scores]):
        for parameter in everything:
            parameter.grad = None
        layerwise_loss(target, method.adapted(images, codes)[number]).backward()
        reached = {id(p) for p in everything if p.grad is not None and p.grad.abs().sum() > 0}
        layer = list(method.adapted.links[number].layer.parameters())
        before = list(method.adapted.adapters[number - 1].parameters()) if number else []
        assert reached == {id(p) for p in [*layer, *before]}
        assert reached == {id(p) for p in method.adapted.layer_parameters()[number]}
        assert codes[number].grad is None if number < 3 else True, "the target learned"
        for code in codes:
            code.grad = None


def test_the_first_layer_is_exactly_solvable() -> None:
    method, images = taught(players.cast()), torch.randn(5, *players.IMAGE)
    codes, _ = codes_of(method, images)
    firsts = [teacher.blocks[0][0] for teacher in method.teachers.networks]
    encoder = method.encoders.amalgams[0].autoencoders[0].encoder
    nn.init.normal_(encoder.bias)
    codes, _ = codes_of(method, images)
    matrix = encoder.weight.flatten(1)
    own = method.adapted.links[0].layer
    with torch.no_grad():
        own.weight.copy_(torch.einsum("ij,jchw->ichw", matrix, torch.cat([first.weight for first in firsts])))
        own.bias.copy_(matrix @ torch.cat([first.bias for first in firsts]) + encoder.bias)
        assert layerwise_loss(codes[0], method.adapted(images, codes)[0]) < 1e-10


def test_one_teacher_with_identities_is_copied() -> None:
    cast = players.cast()
    teacher, student = cast.teachers[0], copy.deepcopy(cast.teachers[0])
    teachers = Teachers([teacher])
    encoders = make_encoders(teachers, student, cast.images)
    method = LayerLearning(teachers, encoders, student, cast.images, stage=Stage(5), precision="fp32")
    with torch.no_grad():
        for layer in [each.autoencoders[0].encoder for each in encoders.amalgams] + list(method.adapted.adapters):
            layer.weight.copy_(torch.eye(len(layer.weight)).view_as(layer.weight))
            layer.bias.zero_()
    images = cast.images.normalised(cast.images.images)
    codes, scores = codes_of(method, images)
    for target, output in zip([*codes, scores], method.adapted(images, codes), strict=True):
        assert layerwise_loss(target, output) < 1e-12
    close(method.adapted.through(images), teacher(images))
    close(method.adapted.merged()(images), teacher(images))


def test_dropout_is_off_while_layers_learn_and_on_afterwards() -> None:
    cast = players.cast(dropout=0.9)
    method, images = taught(cast), torch.randn(5, *players.IMAGE)
    codes, _ = codes_of(method, images)
    seen: list[bool] = []
    dropout = cast.plain.pool[-1]
    dropout.register_forward_hook(lambda module, _, __: seen.append(module.training))
    method.step()
    assert seen == [False] and dropout.training
    first, second = (method.adapted(images, codes)[-1] for _ in range(2))
    assert not torch.equal(first, second)


def test_layers_get_learning_rates_of_their_own() -> None:
    cast = players.cast()
    method = taught(cast, stage=Stage(5, (0.4, 0.3, 0.2, 0.0), momentum=0.0, cosine=False))
    before = [players.state(list(parameters)) for parameters in method.adapted.layer_parameters()]
    method.step()
    after = [players.state(list(parameters)) for parameters in method.adapted.layer_parameters()]
    moved = [bool(list(players.differences(a, b))) for a, b in zip(before, after, strict=True)]
    assert moved == [True, True, True, False]
    assert isinstance(method.optimizer, torch.optim.SGD) and method.optimizer.param_groups[0]["lr"] == 0.4
    with pytest.raises(ShapeMismatch, match="4 layers need one learning rate or as many, not 2"):
        taught(cast, stage=Stage(5, (0.1, 0.1)))


def test_one_update_of_released_sgd_by_hand() -> None:
    method = taught(players.cast(), stage=Stage(5, 0.1, momentum=0.0, cosine=False))
    copied = copy.deepcopy(method.adapted)
    images = method.draw()
    method.random.manual_seed(0)
    codes, scores = codes_of(method, images)
    losses = [
        (output - target).square().mean()
        for target, output in zip([*codes, scores], copied(images, codes), strict=True)
    ]
    sum(losses).backward()
    report = method.step()
    for own, other in zip(method.adapted.parameters(), copied.parameters(), strict=True):
        close(own, other - 0.1 * other.grad)
    for number, (loss, target) in enumerate(zip(losses, [*codes, scores], strict=True), 1):
        spread = target.movedim(1, -1).flatten(0, -2).var(0, correction=0).mean()
        assert report[f"nmse_{number}"].item() == pytest.approx((loss / spread).item(), rel=1e-4)


# --- stage A and stage C ---------------------------------------------------------------------------------------------


def test_auto_encoders_learn_each_for_itself() -> None:
    """With SGD, the update of a layer's auto-encoder is that of its own mean squared error."""
    cast = players.cast()
    teachers = Teachers(cast.teachers)
    encoders = make_encoders(teachers, nets.conv3(width=6, classes=5), cast.images)
    copied = copy.deepcopy(encoders)
    stage = Stage(5, (0.3, 0.2, 0.1), momentum=0.9, cosine=False)
    method = FeatureLearning(teachers, encoders, cast.images, stage=stage, batch=4, precision="fp32")
    images = method.draw()
    method.random.manual_seed(0)
    features, _ = teachers(images, encoders.layers)
    report = method.step()
    for amalgam, own, each, lr in zip(copied.amalgams, encoders.amalgams, features, stage.lr, strict=True):
        joined = torch.cat(each, 1)
        code = amalgam.autoencoders[0].encoder(joined)
        ((amalgam.autoencoders[0].decoder(code) - joined) ** 2).mean().backward()
        for mine, other in zip(own.parameters(), amalgam.parameters(), strict=True):
            close(mine, other - lr * other.grad)
    assert report.keys() == {f"unexplained_{number}" for number in (1, 2, 3)}


def test_the_gradients_of_the_two_losses_of_scores() -> None:
    scores, logits = torch.randn(6, 5), torch.randn(6, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(joint_loss(scores, logits), logits)
    close(gradient, 2 * (logits - scores) / (6 * 5))
    (gradient,) = torch.autograd.grad(kl_divergence(scores, logits), logits)
    close(gradient, (logits.softmax(1) - scores.softmax(1)) / 6)
    close(kl_divergence(scores, logits + 3), kl_divergence(scores, logits))
    assert joint_loss(scores, logits + 3) > joint_loss(scores, logits)
    with pytest.raises(ShapeMismatch):
        joint_loss(scores, logits[:, :4])
    with pytest.raises(ShapeMismatch):
        layerwise_loss(scores, logits[:, :4])


@pytest.mark.parametrize(("method", "loss"), [(JointLearning, joint_loss), (AmalgamationKD, kl_divergence)])
def test_one_joint_update_by_hand(method: Any, loss: Any) -> None:
    cast = players.cast()
    stage = Stage(5, 0.1, momentum=0.9, cosine=False)
    learning = method(
        Teachers(cast.teachers, ClassSets(players.KNOWN)),
        cast.plain,
        cast.images,
        stage=stage,
        batch=4,
        precision="fp32",
    )
    copied = copy.deepcopy(cast.plain)
    images = learning.draw()
    learning.random.manual_seed(0)
    a, b = (teacher.eval()(images).detach() for teacher in cast.teachers)
    target = torch.stack([a[:, 0], (a[:, 1] + b[:, 1]) / 2, a[:, 2], b[:, 0]], 1)
    wanted = loss(target, copied(images))
    wanted.backward()
    assert learning.step()["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    for mine, other in zip(cast.plain.parameters(), copied.parameters(), strict=True):
        close(mine, other - 0.1 * other.grad)


def test_joint_learning_takes_any_network() -> None:
    cast = players.cast()
    learning = JointLearning([cast.teacher], cast.student, cast.images, stage=Stage(2), batch=4)
    assert learning.step()["loss"].isfinite()


# --- all stages ------------------------------------------------------------------------------------------------------


def three(**options: Any) -> LayerwiseAmalgamation:
    method = players.make("amalgamation", **options)
    method.steps_per_round = 1
    return method


def test_the_stages_come_one_after_the_other() -> None:
    method = three()
    assert (method.lengths, method.layers_from, method.joint_from, method.total) == ([3, 3, 2], 3, 6, 8)
    images = torch.randn(5, *players.IMAGE)
    teachers = players.state(method.teachers)
    rounds, changed = method.rounds(), []
    for iteration in range(method.total):
        before = {
            "encoders": players.state(method.encoders),
            "adapters": players.state(method.layerwise.adapted.adapters),
            "student": players.state(method.student),
        }
        merged = method.merged()(images)
        report = next(rounds)
        after = {"encoders": method.encoders, "adapters": method.layerwise.adapted.adapters, "student": method.student}
        changed.append({name for name in before if list(players.differences(before[name], players.state(after[name])))})
        names = {"unexplained_1"} if iteration < 3 else {"nmse_1"} if iteration < 6 else {"loss"}
        assert names <= report.keys()
        if iteration == 6:
            assert not any(adapter.bias.any() for adapter in method.layerwise.adapted.adapters)
        assert not torch.equal(merged, method.merged()(images)) or iteration < 3
    layers, joint = {"adapters", "student"}, {"student"}
    assert changed == [{"encoders"}] * 3 + [layers] * 3 + [layers, joint]
    assert not list(players.differences(teachers, players.state(method.teachers)))
    assert torch.equal(method.merged()(images), method.student(images))


def test_merging_between_the_stages_changes_nothing() -> None:
    method = three()
    rounds, images = method.rounds(), torch.randn(5, *players.IMAGE)
    for _ in range(6):
        next(rounds)
    adapted = method.layerwise.adapted
    before = adapted.through(images)
    close(method.merged()(images), before)
    method.joint.optimizer.param_groups[0]["lr"] = 0.0
    next(rounds)
    close(method.student(images), before)


def test_the_closed_form_is_the_default_and_leaves_stage_a_out() -> None:
    method = players.make("amalgamation-closed-form")
    assert method.encoding is None and method.lengths == [0, 4, 4] and "nmse_1" in method.step()
    codes, _ = codes_of(method.layerwise, players.cast().images.normalised(players.cast().images.images))
    for code in codes:  # principal components of all images: without mean, without correlation
        vectors = code.movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(vectors.mean(0), torch.zeros(vectors.shape[1]), atol=1e-5, rtol=0)
        covariance = torch.cov(vectors.T)
        assert (covariance - covariance.diag().diag()).abs().max() < 1e-4 * covariance.max()
    few = players.make("amalgamation-closed-form", solve_on=5)
    assert list(players.differences(players.state(method.encoders), players.state(few.encoders)))


def test_incremental_with_two_teachers_is_direct_bit_for_bit() -> None:
    states = []
    for incremental in (False, True):
        method = three(incremental=incremental)
        run.run(method, method.total, progress=False)
        states.append([players.state(method.student), players.state(method.encoders)])
    assert not list(players.differences(*states))


def test_a_student_learns_what_its_teachers_know() -> None:
    """Layer by layer and then jointly it comes near the ensemble; the loss of joint learning falls."""
    cast = players.cast()
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    untrained = copy.deepcopy(initialise(cast.plain))
    method = LayerwiseAmalgamation(
        teachers, cast.plain, cast.images, layers=Stage(150, 2e-2), joint=Stage(50, 5e-3), batch=20
    )
    history = run.run(method, 4, progress=False)
    first, last = history.rounds[0], history.rounds[2]
    assert method.steps_per_round == 50
    assert all(last[f"nmse_{k}"] < first[f"nmse_{k}"] for k in (1, 2, 3, 4))
    images = cast.images.normalised(cast.images.images)
    _, scores = teachers(images)
    start, end = (joint_loss(scores, network(images)) for network in (untrained, method.merged()))
    assert end < 0.02 * start


def test_labels_are_never_read() -> None:
    states = []
    for shift in (0, 1):
        cast = players.cast()
        images = replace(cast.images, labels=(cast.images.labels + shift) % players.CLASSES)
        teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
        method = LayerwiseAmalgamation(
            teachers, cast.plain, images, layers=Stage(2), joint=Stage(2), batch=5, precision="fp32"
        )
        run.run(method, 2, progress=False)
        states.append(players.state(method.student))
    assert not list(players.differences(*states))


def test_a_seed_decides_everything() -> None:
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(results))  # the global state must not matter
        cast = players.cast()
        method = LayerwiseAmalgamation(
            cast.teachers,
            nets.conv3(2, classes=5),
            cast.images,
            encoding=Stage(1),
            layers=Stage(1),
            joint=Stage(1),
            seed=seed,
            batch=4,
            precision="fp32",
        )
        with run.seeded(0):
            initialise(method.student)
        run.run(method, 3, progress=False)
        results.append(players.state(method))
    assert not list(players.differences(results[0], results[1]))
    assert list(players.differences(results[0]["encoders"], results[2]["encoders"]))
    assert list(players.differences(results[0]["layerwise"], results[2]["layerwise"]))


def test_a_student_with_prelus_learns_them_too() -> None:
    cast = players.cast()
    for block in cast.plain.blocks:
        block[1] = nn.PReLU(block[0].out_channels)
    method = LayerwiseAmalgamation(
        cast.teachers, nets.conv3(6, classes=5), cast.images, layers=Stage(2), joint=Stage(2)
    )
    assert method.step()
    teachers = Teachers(cast.teachers, ClassSets(players.KNOWN))
    method = LayerwiseAmalgamation(teachers, cast.plain, cast.images, layers=Stage(2, 0.1), joint=Stage(2))
    before = [players.state(block[1]) for block in cast.plain.blocks]
    method.step()
    assert len(list(players.differences(before, [players.state(block[1]) for block in cast.plain.blocks]))) == 3


def test_a_checkpoint_holds_everything_once(tmp_path: Path) -> None:
    method = three()
    run.run(method, 4, checkpoint=tmp_path / "run.pt", progress=False)
    state = run.load_checkpoint(tmp_path / "run.pt")["state"]
    assert state.keys() == {"encoders", "encoding", "layerwise", "joint"}
    assert "encoders" not in {**state["encoding"], **state["layerwise"]} and "student" not in state["joint"]
    weights = sum(p.numel() for p in [*method.student.parameters(), *method.layerwise.adapted.adapters.parameters()])
    assert sum(p.numel() for p in state["layerwise"]["adapted"].values()) == weights


@pytest.mark.parametrize("rounds", [2, 3, 4, 6, 7])
def test_resumed_in_any_stage_equals_uninterrupted(tmp_path: Path, rounds: int) -> None:
    whole = three()
    run.run(whole, 8, progress=False)
    run.run(three(), rounds, checkpoint=tmp_path / "run.pt", progress=False)
    resumed = three(seed=7)
    run.run(resumed, 8, checkpoint=tmp_path / "run.pt", progress=False)
    assert not list(players.differences(players.state(whole), players.state(resumed)))


# --- bad input -------------------------------------------------------------------------------------------------------


def amalgamate(teachers: list[nn.Module], student: nn.Module, classes: tuple | None = None, **options: Any) -> Any:
    several = Teachers(teachers, ClassSets(classes) if classes else None)
    return LayerwiseAmalgamation(several, student, players.cast().images, **options)


def plain(*widths: int, classes: int = 2, **options: Any) -> nn.Module:
    return nets.plain_vgg(tuple((w,) for w in widths), hidden=5, classes=classes, size=8, head_norm=False, **options)


def wide() -> nn.Module:
    """Layers as in `plain`, but without pooling."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5)]
    return nn.Sequential(*layers, nn.Linear(5, 2))


@pytest.mark.parametrize(
    ("teachers", "student", "message"),
    [
        ([plain(3, 4)] * 2, plain(3, 4, classes=3), r"of shape \(2, 3\), its teachers know 4 classes.*classes=4"),
        ([plain(3, 4)] * 2, plain(3, 4, 5, classes=4), "Teacher 1 has the layers.*OneStageAmalgamation"),
        ([plain(3, 4), nets.conv3(2, classes=2)], plain(3, 4, classes=4), "Teacher 2 has the layers Conv2d, Conv2d"),
        ([plain(3, 4), wide()], plain(3, 4, classes=4), "'blocks.1.0' teacher 2 has maps of 8x8 .*student of 4x4"),
        ([plain(3, 4, channels=3)], plain(3, 4), "channels=3"),
    ],
)
def test_networks_that_do_not_fit_are_refused(teachers: list[nn.Module], student: nn.Module, message: str) -> None:
    with pytest.raises(ShapeMismatch, match=message):
        amalgamate(teachers, student)


def test_networks_that_are_not_sequential_are_refused() -> None:
    cast = players.cast()
    with pytest.raises(ReuseError, match="'blocks.0.1' is a BatchNorm2d"):
        amalgamate([cast.teacher], cast.plain)
    with pytest.raises(ReuseError, match="'blocks.0.1' is a BatchNorm2d"):
        amalgamate([plain(3, 4)], cast.student)


def test_wrong_teachers_are_refused() -> None:
    with pytest.raises(ReuseError, match="There is no teacher"):
        Teachers([])
    with pytest.raises(ReuseError, match="cannot be told: it has no linear layer. Give classes"):
        Teachers([nn.Conv2d(1, 2, 1)])
    with pytest.raises(ShapeMismatch, match="2 teachers need as many class sets, not 1"):
        Teachers([plain(3), plain(3)], ClassSets(((0, 1),)))
    with pytest.raises(ShapeMismatch, match=r"Teacher 2 gives outputs of shape \(2, 2\) for 3 classes"):
        amalgamate([plain(3, 4), plain(3, 4)], plain(3, 4, classes=5), ((0, 1), (2, 3, 4)))
    teachers = Teachers([plain(3, 4)])
    with pytest.raises(UnknownName, match="blocks.0.0"):
        teachers(torch.randn(2, *players.IMAGE), [("blocks.0.1x",)])
    with pytest.raises(ShapeMismatch, match="do not fit Linear"):
        Teachers([nn.Linear(7, 2)])(torch.randn(2, 5))


@pytest.mark.parametrize("stranger", ["teacher", "student", "images"])
def test_devices_must_agree(stranger: str) -> None:
    cast = players.cast()
    if stranger == "images":
        cast.images = cast.images.to("meta")
    else:
        (cast.teachers[1] if stranger == "teacher" else cast.plain).to("meta")
    with pytest.raises(DeviceError, match="meta.*Move them with"):
        JointLearning(cast.teachers, cast.plain, cast.images, stage=Stage(1))
    with pytest.raises(DeviceError, match="meta.*Move them with"):
        LayerwiseAmalgamation(cast.teachers, cast.plain, cast.images)


def test_a_joint_student_that_does_not_fit_is_refused() -> None:
    cast = players.cast()
    with pytest.raises(ShapeMismatch, match="its teachers know 5 classes together"):
        JointLearning(cast.teachers, cast.plain, cast.images, stage=Stage(1))
    with pytest.raises(ShapeMismatch, match="size=16"):
        student = nets.plain_vgg(((3,), (4,)), hidden=5, classes=5, size=16)
        JointLearning(cast.teachers, student, cast.images, stage=Stage(1))
