"""Stages 1 and 2 of adaptive amalgamation, and the pool as a menu.

What holds for every method (no host sync, any device, any precision, resuming) is tested in datafree/ and engine/.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import players
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.adaptive import (
    CommonSpace,
    ComponentLearning,
    Ensemble,
    InTurn,
    Lesson,
    TargetLearning,
    choose,
    customise,
    menu,
    selection,
)
from reuselib.adaptive.method import feature_loss, logit_loss, row_norm_regulariser, row_norms
from reuselib.errors import DeviceError, ReuseError, ShapeMismatch, UnknownName

WIDTHS = players.WIDTHS


@pytest.fixture(autouse=True)
def fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits on every processor."""
    monkeypatch.setenv("REUSELIB_PRECISION", "fp32")


def conv(tasks: dict[str, int], widths: tuple[int, ...] = (4, 6), seed: int = 0) -> nets.MultiHead:
    with run.seeded(seed):
        return nets.multi_head_conv(tasks, widths=widths)


def component(**options: Any) -> ComponentLearning:
    return players.make("component", **options)


def encoders_that_copy(method: Any) -> None:
    """Make every encoder the identity."""
    for space in method.spaces:
        for encoder in [*space.source, *space.student]:
            if isinstance(encoder, nn.Conv2d):
                nn.init.dirac_(encoder.weight)
                nn.init.zeros_(encoder.bias)


# ---- losses


def test_feature_loss_is_the_sum_of_the_blocks_means() -> None:
    s, t = ([torch.randn(3, k, k, k) for k in (2, 5)] for _ in range(2))
    plain = sum(float(((a - b) ** 2).sum()) / a.numel() for a, b in zip(s, t, strict=True))
    assert feature_loss(s, t).item() == pytest.approx(plain, rel=1e-5)


def test_logit_loss_and_its_gradient() -> None:
    a = torch.tensor(1.3, requires_grad=True)
    s, t = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    loss = logit_loss(a, s, t)
    loss.backward()
    assert loss.item() == pytest.approx(float(((1.3 * s.detach() - t) ** 2).mean()), rel=1e-5)
    torch.testing.assert_close(s.grad, (2 * a * (a * s - t) / 15).detach())
    torch.testing.assert_close(a.grad, (2 * s * (a * s - t)).mean().detach())


def test_losses_are_float32_whatever_the_networks_give() -> None:
    half = [torch.randn(2, 3, 4, 4).bfloat16()]
    assert feature_loss(half, half).dtype == torch.float32
    assert logit_loss(torch.ones(()), half[0], half[0]).dtype == torch.float32
    assert row_norm_regulariser(half).dtype == torch.float32


def test_the_regulariser_is_zero_for_unit_rows_and_only_for_them() -> None:
    weights = [F.normalize(torch.randn(k, 4, 1, 1), dim=1) for k in (3, 5)]
    assert row_norm_regulariser(weights).item() == pytest.approx(0, abs=1e-10)
    weights[1][2] *= 1.1
    assert row_norm_regulariser(weights).item() == pytest.approx((1.1**2 - 1) ** 2 / 5, rel=1e-4)


def test_the_regulariser_of_zero_weights_counts_the_blocks() -> None:
    assert row_norm_regulariser([torch.zeros(k, 3, 1, 1) for k in (32, 32, 64, 128, 256)]).item() == 5


def test_row_norms_are_one_a_row() -> None:
    weight = torch.randn(6, 4, 1, 1)
    assert row_norms(weight).shape == (6,)
    assert row_norms(weight)[2].item() == pytest.approx(float((weight[2] ** 2).sum()), rel=1e-5)


def test_the_regularisers_gradient() -> None:
    weight = torch.randn(5, 3, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(row_norm_regulariser([weight]), weight)
    w = weight.detach().double()
    expected = 4 * ((w**2).sum(1, keepdim=True) - 1) * w / 5
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


# ---- the common space


def test_encoders_give_the_common_width_and_keep_the_size() -> None:
    space = CommonSpace(source=(4, 6), student=(3, 5), widths=(7, 2))
    student = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    source = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    for side in space(student, source):
        assert [tuple(maps.shape) for maps in side] == [(2, 7, 8, 8), (2, 2, 4, 4)]
    assert all(isinstance(e, nn.Conv2d) and e.bias is not None for e in [*space.source, *space.student])
    assert space.scale.item() == 1


def test_in_stage_two_the_components_own_space_is_the_common_one() -> None:
    space = CommonSpace(source=(4, 6), student=(3, 5))
    student = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    source = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    encoded, theirs = space(student, source)
    assert [maps.shape[1] for maps in encoded] == [4, 6] and not space.source_weights()
    assert all(a is b for a, b in zip(theirs, source, strict=True))


# ---- stage 1


def terms(method: Any, images: Tensor, parts: list[slice]) -> dict[str, Tensor]:
    """The loss terms of some images, everything in evaluation mode."""
    with run.frozen(method.student, method.sources):
        taught = method.sources([images[part] for part in parts], True)
        return method._terms(*method.student.both(images), taught, parts)


def test_the_loss_is_the_sum_over_the_sources_of_the_papers_three_terms() -> None:
    method = component(precision="fp32")
    images, parts = method.draw()
    found = terms(method, images, parts)
    expected = dict.fromkeys(found, 0.0)
    with run.frozen(method.student, method.sources), torch.no_grad():
        for lesson, space, part in zip(method.lessons, method.spaces, parts, strict=True):
            x = images[part]
            for s, t, g, e in zip(
                method.student.both(x)[0], lesson.source.both(x)[0], space.student, space.source, strict=True
            ):
                expected["features"] += float(((g(s) - e(t)) ** 2).mean())
                expected["regulariser"] += float((((e.weight**2).sum((1, 2, 3)) - 1) ** 2).mean())
            z = space.scale * method.student(x)["a"] - lesson.source(x)["a"]
            expected["logits"] += float((z**2).mean())
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


def test_a_step_reports_the_weighted_sum() -> None:
    report = component(features=0.5, logits=2.0, regulariser=3.0).step()
    weighted = 0.5 * report["features"] + 2 * report["logits"] + 3 * report["regulariser"]
    assert report["loss"].item() == pytest.approx(weighted.item(), rel=1e-5)


def test_a_sample_teaches_through_its_own_source_only() -> None:
    """Another image for the second source changes nothing of what the first one's term says."""
    method = component()
    images, parts = method.draw()
    first = component(seed=0)
    first.lessons, first.sources = method.lessons[:1], type(method.sources)(method.sources[:1])
    first.spaces, first.student = method.spaces[:1], method.student
    changed = images.clone()
    changed[parts[1]] += 1
    for name in ("features", "logits", "regulariser"):
        assert terms(first, images, parts[:1])[name] == terms(first, changed, parts[:1])[name]
    assert terms(method, images, parts)["logits"] != terms(method, changed, parts)["logits"]


def test_each_source_gets_its_share_of_its_own_images() -> None:
    method = component(batch=16, noise=0.0)
    assert method.sizes == selection.sub_batches([32, 8], 16) == [16, 4]
    images, parts = method.draw()
    assert [part.indices(99)[:2] for part in parts] == [(0, 16), (16, 20)] and len(images) == 20
    everything = method.images.normalised(method.images.images)
    for lesson, part in zip(method.lessons, parts, strict=True):
        mine = {image.numpy().tobytes() for image in everything[lesson.index]}
        assert all(image.numpy().tobytes() in mine for image in images[part])


def test_the_student_sees_all_images_of_an_update_at_once() -> None:
    method, seen = component(batch=8), []
    method.student.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    method.step()
    assert seen == [sum(method.sizes)]


def test_a_source_without_images_is_left_out() -> None:
    cast = players.cast()
    pool = list(players.pool(cast).values())
    everything, nothing = torch.arange(40), torch.arange(0)
    taught = [Lesson(pool[0], "a", nothing), Lesson(pool[1], "a", everything)]
    method = ComponentLearning(conv({"a": 3}), taught, cast.images, widths=WIDTHS, batch=8)
    assert len(method.sources) == 1 and method.sizes == [8] and method.step()["loss"].isfinite()
    with pytest.raises(ReuseError, match="nothing to learn"):
        ComponentLearning(conv({"a": 3}), taught[:1], cast.images, widths=WIDTHS)


def test_a_copy_of_its_only_source_has_nothing_to_learn() -> None:
    cast = players.cast()
    source = conv({"a": 3})
    student = copy.deepcopy(source)
    method = ComponentLearning(student, [Lesson(source, "a")], cast.images, widths=(4, 6), batch=8)
    encoders_that_copy(method)
    found = terms(method, *method.draw())
    assert all(value.item() == pytest.approx(0, abs=1e-10) for value in found.values())


def test_without_the_regulariser_an_empty_common_space_is_a_solution() -> None:
    method = component()
    for space in method.spaces:
        for parameter in [*space.source.parameters(), *space.student.parameters()]:
            nn.init.zeros_(parameter)
    images, parts = method.draw()
    maps, logits = method.student.both(images)
    taught = method.sources([images[part] for part in parts], True)
    found = method._terms(maps, logits, taught, parts)
    gradients = torch.autograd.grad(found["features"], list(method.student.parameters()), allow_unused=True)
    assert found["features"] == 0 and all(each is None or not each.any() for each in gradients)
    assert found["regulariser"] == 2 * len(WIDTHS)  # two sources


def test_the_regulariser_moves_the_sources_encoders_and_nothing_else() -> None:
    method = component()
    images, parts = method.draw()
    maps, logits = method.student.both(images)
    loss = method._terms(maps, logits, method.sources([images[part] for part in parts], True), parts)["regulariser"]
    loss.backward()
    for space in method.spaces:
        for encoder in space.source:
            assert encoder.weight.grad.abs().sum() > 0 and encoder.bias.grad is None
        assert all(parameter.grad is None for parameter in [*space.student.parameters(), space.scale])
    assert all(parameter.grad is None for parameter in method.student.parameters())


def test_an_update_moves_student_encoders_and_scales() -> None:
    method = component(scale_lr=1e-3)
    before = players.state([method.student, method.spaces])
    method.step()
    moved = set(players.differences(before, players.state([method.student, method.spaces])))
    names = {place for place in moved if place.startswith("/1/0")}
    assert any("source" in name for name in names) and any("student" in name for name in names)
    assert "/1/0/scale" in moved and any(place.startswith("/0") for place in moved)


def test_scales_stay_at_one_when_told() -> None:
    method = component(scale_lr=0.0)
    method.step()
    assert all(space.scale.item() == 1 for space in method.spaces)


def test_every_block_has_its_own_learning_rate() -> None:
    method = component(lr=0.5, encoder_lr=(0.1, 0.2), scale_lr=0.3)
    groups = method.optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.1, 0.2, 0.3]
    second = {id(p) for space in method.spaces for side in (space.source, space.student) for p in side[1].parameters()}
    assert {id(p) for p in groups[2]["params"]} == second
    assert [group["lr"] for group in component(lr=0.5).optimizer.param_groups] == [0.5, 0.5, 0.5, 1e-6]
    assert all(group["weight_decay"] == 0 for group in groups)
    with pytest.raises(ShapeMismatch, match="2 blocks need one encoder_lr or 2 of them, not 3"):
        component(encoder_lr=(0.1, 0.2, 0.3))


def test_the_schedule_moves_every_rate() -> None:
    method = component(lr=0.4, encoder_lr=0.2, schedule=run.step_decay([1]))
    method.step()
    assert [group["lr"] for group in method.optimizer.param_groups[:2]] == pytest.approx([0.04, 0.02])


def test_without_features_no_map_is_looked_at_and_there_is_no_space() -> None:
    method = players.make("component-logits")
    for network in (method.student, *method.sources):
        network.both = players.rigged(network.both, at=0)
    report = method.step()
    assert report["features"] == report["regulariser"] == 0 and report["logits"] > 0
    assert not any(space.source_weights() for space in method.spaces) and len(method.block_norms()) == 0


def test_block_norms_are_means_over_rows_and_sources() -> None:
    method = component()
    expected = [
        sum(float((space.source[block].weight.detach() ** 2).sum()) / width for space in method.spaces) / 2
        for block, width in enumerate(WIDTHS)
    ]
    assert method.block_norms().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regulariser", [0.0, 1.0])
def test_the_regulariser_keeps_the_common_space_from_shrinking(regulariser: float) -> None:
    method = component(regulariser=regulariser, lr=0.02, noise=0.0, batch=16)
    before = method.block_norms().mean()
    for _ in range(60):
        method.step()
    after = method.block_norms().mean()
    assert (after - 1).abs() < 0.2 if regulariser else after < before


def test_a_component_learns_what_its_sources_say() -> None:
    cast = players.cast()
    source = conv({"a": 3}, seed=1)
    student = conv({"a": 3}, seed=2)
    method = ComponentLearning(student, [Lesson(source, "a")], cast.images, widths=(4, 6), lr=0.02, batch=16)
    method.steps_per_round = 20
    history = run.run(method, 5, progress=False)
    assert history.curve("logits")[1][0] > 5 * history.last("logits")


def test_noise_and_augmentation_reach_source_and_student_alike() -> None:
    method, seen = component(noise=0.5, augment=lambda images, _: 255 - images), []
    method.student.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for source in method.sources:
        source.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    method.step()
    assert torch.equal(torch.cat(seen[:2]), seen[2])
    plain = component(noise=0.0, augment=lambda images, _: 255 - images)
    x, _ = plain.draw()
    y, _ = component(noise=0.0).draw()
    torch.testing.assert_close((x * 0.25 + 0.5), 1 - (y * 0.25 + 0.5))


def test_the_mean_of_the_logits_as_a_source() -> None:
    pool = [source for source in players.pool(players.cast()).values() if "b" in source.tasks]
    images = torch.randn(5, *players.IMAGE)
    with run.frozen(*pool):
        mean = sum(source(images)["b"] for source in pool) / 2
        assert Ensemble(pool, "b")(images).keys() == {"b"}
        torch.testing.assert_close(Ensemble(pool, "b").eval()(images)["b"], mean)


# ---- stage 2


def test_stage_two_shows_every_image_to_every_component() -> None:
    method = players.make("target", batch=8)
    images, parts = method.draw()
    assert len(images) == 8 and all(len(images[part]) == 8 for part in parts) and len(parts) == 2
    assert method.step()["regulariser"] == 0


def test_stage_two_of_a_copy_is_nothing_to_learn() -> None:
    cast = players.cast()
    first = conv({"a": 3})
    method = TargetLearning(copy.deepcopy(first), {"a": first}, cast.images, batch=8)
    encoders_that_copy(method)
    found = terms(method, *method.draw())
    assert all(value.item() == pytest.approx(0, abs=1e-10) for value in found.values())
    assert [encoder.out_channels for encoder in method.spaces[0].student] == [4, 6]


def test_stage_two_forwards_the_target_once() -> None:
    method, calls = players.make("target"), []
    method.student.register_forward_hook(lambda *_: calls.append(1))
    method.step()
    assert len(calls) == 1


# ---- sources


@pytest.mark.parametrize("name", players.ADAPTIVE)
@pytest.mark.parametrize("training", [True, False])
def test_sources_are_untouched(name: str, training: bool) -> None:
    method = players.make(name)
    method.sources.train(training)
    for parameter in method.sources.parameters():
        parameter.requires_grad_(training)
    before = players.state(method.sources)
    for _ in range(2):
        method.step()
    assert not list(players.differences(before, players.state(method.sources)))
    assert all(module.training == training for module in method.sources.modules())
    assert all(p.requires_grad == training and p.grad is None for p in method.sources.parameters())
    assert players.hooks(method.sources) == players.hooks(method.student) == 0


@pytest.mark.parametrize("name", players.ADAPTIVE)
def test_sources_are_read_in_evaluation_mode(name: str) -> None:
    method, modes = players.make(name), []
    method.sources.register_forward_pre_hook(lambda module, _: modes.append([m.training for m in module.modules()]))
    method.step()
    assert modes and not any(modes[0])
    assert all(module.training for module in method.student.modules())


@pytest.mark.parametrize("name", players.ADAPTIVE)
def test_labels_are_never_read(name: str) -> None:
    results = []
    for shift in (0, 1):
        method = players.make(name)
        labels = (method.images.labels + shift) % players.CLASSES
        method.images = replace(method.images, labels=labels)
        results.append(players.state(method.step()))
    assert not list(players.differences(*results))


# ---- wrong input


def test_a_common_space_needs_widths() -> None:
    with pytest.raises(ReuseError, match="give widths, one for each block, or features=0"):
        component(widths=None)


@pytest.mark.parametrize("widths", [(4,), (4, 4, 4)])
def test_widths_of_another_number_of_blocks(widths: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match=f"2 blocks, source 0 2, the common space {len(widths)}"):
        component(widths=widths)


def learn(source: nn.Module, student: nn.Module, **options: Any) -> ComponentLearning:
    return ComponentLearning(
        student, [Lesson(source, "a")], players.cast().images, **{"widths": WIDTHS, "batch": 4} | options
    )


def test_sources_of_another_depth() -> None:
    deep = nets.multi_head_conv({"a": 3}, widths=(4, 4, 4))
    with pytest.raises(ShapeMismatch, match="2 blocks, source 0 3.*learn from logits alone with features=0"):
        learn(deep, conv({"a": 3}))
    learn(deep, conv({"a": 3}), features=0.0, widths=None).step()


class Strided(nets.MultiHead):
    """A network whose second map is as large as its first."""

    def __init__(self) -> None:
        super().__init__([nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)], (3, 4), {"a": 3})


def test_maps_of_other_sizes() -> None:
    with pytest.raises(ShapeMismatch, match="maps of block 1 are 4x4 in the student and 8x8 in source 0.*features=0"):
        learn(Strided(), conv({"a": 3}))
    learn(Strided(), conv({"a": 3}), features=0.0, widths=None).step()


def test_heads_that_are_not_there_or_differ() -> None:
    with pytest.raises(UnknownName, match="task of student 'a'"):
        learn(conv({"a": 3}), conv({"b": 3}))
    with pytest.raises(UnknownName, match="task of source 0 'a'"):
        learn(conv({"b": 3}), conv({"a": 3}))
    with pytest.raises(ShapeMismatch, match="'a' has 2 classes in the student and 3 in source 0"):
        learn(conv({"a": 3}), conv({"a": 2}))


def test_networks_that_cannot_be_watched() -> None:
    ensemble = Ensemble([conv({"a": 3})], "a")
    with pytest.raises(ReuseError, match=r"source 0 \(Ensemble\) cannot be watched.*features=0"):
        learn(ensemble, conv({"a": 3}))


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ShapeMismatch, match="images of shape"):
        learn(nets.multi_head_conv({"a": 3}, widths=(4, 6), channels=3), conv({"a": 3}))


def test_devices_that_differ() -> None:
    with pytest.raises(DeviceError, match="different devices"):
        learn(conv({"a": 3}).to("meta"), conv({"a": 3}))


def test_no_component() -> None:
    with pytest.raises(ReuseError, match="nothing to learn"):
        TargetLearning(conv({"a": 3}), {}, players.cast().images)


# ---- the menu


def cast_pool() -> tuple[dict[str, nets.MultiHead], Any]:
    cast = players.cast()
    return players.pool(cast), cast.images


def small(tasks: dict[str, int]) -> nets.MultiHead:
    return nets.multi_head_conv(tasks, widths=(3, 5))


order = functools.partial(
    customise,
    component=small,
    target=functools.partial(nets.multi_head_conv, widths=(5, 7)),
    widths=WIDTHS,
    updates=(4, 6),
    component_options={"batch": 8},
    target_options={"batch": 8},
    progress=False,
)


def test_the_menu_lists_who_teaches_what() -> None:
    pool, _ = cast_pool()
    assert menu(pool) == {"a": ["s1", "s2"], "c": ["s1"], "b": ["s2", "s3"]}


def test_every_image_goes_to_the_surest_source() -> None:
    pool, images = cast_pool()
    chosen = choose(pool, "b", images)
    assert chosen.names == ["s2", "s3"] and chosen.sources == [pool["s2"], pool["s3"]] and chosen.classes == 2
    logits = selection.predictions(chosen.sources, "b", images)
    assert torch.equal(chosen.index, selection.entropy(logits).argmin(0))
    lessons = chosen.lessons()
    assert sorted(torch.cat([lesson.index for lesson in lessons]).tolist()) == list(range(40))
    assert all((chosen.index[lesson.index] == k).all() for k, lesson in enumerate(lessons))


@pytest.mark.parametrize("tasks", [["b"], ["b", "a"], ["a", "c", "b"]])
def test_an_order_gives_a_network_for_the_chosen_tasks(tasks: list[str]) -> None:
    pool, images = cast_pool()
    before = players.state(list(pool.values()))
    made = order(pool, tasks, images)
    assert made.student.tasks == {task: {"a": 3, "b": 2, "c": 2}[task] for task in tasks}
    assert {task: net.tasks for task, net in made.components.items()} == {
        task: {task: made.student.tasks[task]} for task in tasks
    }
    assert list(made.choices) == tasks and not list(players.differences(before, players.state(list(pool.values()))))
    assert made.history.rounds[-1]["iteration"] == 4 * len(tasks) + 6
    assert [made.history.curve(f"{name}/loss")[0][-1] for name in (*tasks, "target")] == [
        *(4 * (k + 1) for k in range(len(tasks))),
        4 * len(tasks) + 6,
    ]
    passes = made.history.cost.passes
    assert passes["target/student_forward"] == passes["target/student_backward"] == 6


def test_an_order_is_decided_by_its_seed() -> None:
    pool, images = cast_pool()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))
        results.append(players.state(order(pool, ["a", "b"], images, seed=seed).student))
    assert not list(players.differences(*results[:2])) and list(players.differences(*results[1:]))


def test_an_order_is_what_its_stages_give_one_by_one() -> None:
    pool, images = cast_pool()
    made = order(pool, ["b"], images, seed=3)
    with run.seeded(3):
        component, target = small({"b": 2}), nets.multi_head_conv({"b": 2}, widths=(5, 7))
    first = ComponentLearning(component, choose(pool, "b", images).lessons(), images, widths=WIDTHS, batch=8, seed=3)
    for _ in range(4):
        first.step()
    second = TargetLearning(target, {"b": component}, images, batch=8, seed=3)
    for _ in range(6):
        second.step()
    assert not list(players.differences(players.state(made.student), players.state(target)))


@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_interrupted_order_goes_on_bit_for_bit(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, images = cast_pool()
    whole = order(pool, ["a", "b"], images)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(InTurn, "step", players.rigged(InTurn.step, at=2 * at))
        with pytest.raises(players.Explosion):
            order(pool, ["a", "b"], images, checkpoint=tmp_path / "run.pt")
    again = order(pool, ["a", "b"], images, checkpoint=tmp_path / "run.pt")
    for first, second in ((whole.student, again.student), (whole.components, again.components)):
        assert not list(players.differences(players.state(first), players.state(second)))
    assert whole.history.rounds == again.history.rounds


def test_a_checkpoint_of_another_pool_is_refused(tmp_path: Path) -> None:
    pool, images = cast_pool()
    order(pool, ["a"], images, checkpoint=tmp_path / "run.pt")
    with torch.no_grad():
        pool["s1"].heads["a"].bias.add_(1)
    with pytest.raises(ReuseError, match="made with another given"):
        order(pool, ["a"], images, checkpoint=tmp_path / "run.pt")


def test_what_is_not_on_the_menu() -> None:
    pool, images = cast_pool()
    with pytest.raises(UnknownName, match="task of the pool 'd'.*Known: a, b, c"):
        order(pool, ["d"], images)
    for tasks in ([], ["a", "a"], ["target"]):
        with pytest.raises(ReuseError, match="Choose each task once, at least one of a, c, b"):
            order(pool, tasks, images)


def test_sources_that_mean_different_classes() -> None:
    pool, images = cast_pool()
    pool["s4"] = conv({"a": 4})
    with pytest.raises(ShapeMismatch, match=r"number of classes: \[3, 3, 4\]"):
        order(pool, ["a"], images)


def test_methods_in_turn_report_under_their_names_and_share_no_round() -> None:
    methods = {"x": players.make("component"), "y": players.make("target")}
    turns = InTurn(methods, {"x": 4, "y": 6}, round_size=50)
    assert turns.steps_per_round == 2 and turns.round_count == 5
    history = run.run(turns, turns.round_count, progress=False)
    reports = [{name.split("/")[0] for name in entry if "/" in name} for entry in history.rounds]
    assert reports == [{"x"}] * 2 + [{"y"}] * 3
    assert set(turns.networks()) == {"x/student", "x/sources", "y/student", "y/sources"}
