"""Stages 1 and 2 of adaptive amalgamation: terms by hand, who teaches what, what learns how fast, what does not fit."""

from __future__ import annotations

from typing import Any

import players
import pytest
import torch
from torch import nn

from reuselib import nets, run
from reuselib.adaptive import CommonSpace, ComponentLearning, Ensemble, Lesson, TargetLearning, selection
from reuselib.errors import DeviceError, NonFinite, ReuseError, ShapeMismatch, UnknownName

WIDTHS = players.WIDTHS


def conv(tasks: dict[str, int], widths: tuple[int, ...] = (4, 6), **options: int) -> nets.MultiHead:
    with run.seeded(0):
        return nets.multi_head_conv(tasks, widths=widths, **options)


def component(**options: Any) -> ComponentLearning:
    return players.make("component", **options)


def test_encoders_lead_to_the_common_width_or_to_the_components_own() -> None:
    student, source = ([torch.randn(2, k, 8, 8), torch.randn(2, k + 2, 4, 4)] for k in (3, 4))
    for side in CommonSpace(source=(4, 6), student=(3, 5), widths=(7, 2))(student, source):
        assert [tuple(maps.shape) for maps in side] == [(2, 7, 8, 8), (2, 2, 4, 4)]
    encoded, theirs = CommonSpace(source=(4, 6), student=(3, 5))(student, source)
    assert [maps.shape[1] for maps in encoded] == [4, 6]
    assert all(a is b for a, b in zip(theirs, source, strict=True))


def test_the_mean_of_the_logits_as_a_source() -> None:
    pool = [source for source in players.pool(players.cast()).values() if "b" in source.tasks]
    images, ensemble = torch.randn(5, *players.IMAGE), Ensemble(pool, "b")
    with run.frozen(ensemble):
        torch.testing.assert_close(ensemble(images), {"b": sum(source(images)["b"] for source in pool) / 2})


# --- stage 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["component", "target"])
def test_the_loss_is_the_sum_over_the_sources_of_the_papers_three_terms_each_on_its_own_images(name: str) -> None:
    method = players.make(name, features=0.5, regulariser=3.0)
    images, parts = method.draw()
    expected = dict.fromkeys(("features", "logits", "regulariser"), torch.zeros(()))
    with run.frozen(method.student, method.sources), torch.no_grad():
        taught = method.sources([images[part] for part in parts], True)
        found = method.objective(method.student.both(images), taught, parts)
        for lesson, space, part in zip(method.lessons, method.spaces, parts, strict=True):
            x, task = images[part], lesson.task
            sides = (method.student.both(x)[0], lesson.source.both(x)[0], space.student, space.source)
            for s, t, g, e in zip(*sides, strict=True):
                expected["features"] = expected["features"] + ((g(s) - e(t)) ** 2).mean()
                norms = (e.weight**2).sum((1, 2, 3)) if name == "component" else torch.ones(1)
                expected["regulariser"] = expected["regulariser"] + ((norms - 1) ** 2).mean()
            z = space.scale * method.student(x)[task] - lesson.source(x)[task]
            expected["logits"] = expected["logits"] + (z**2).mean()
    expected["loss"] = 0.5 * expected["features"] + expected["logits"] + 3 * expected["regulariser"]
    torch.testing.assert_close(found, expected)


def test_each_source_gets_its_share_of_its_own_images_and_the_student_sees_all_at_once_with_the_same_noise() -> None:
    method, seen = component(batch=16, noise=0.0), []
    assert method.sizes == selection.sub_batches([32, 8], 16) == [16, 4]
    images, parts = method.draw()
    assert [part.indices(99)[:2] for part in parts] == [(0, 16), (16, 20)] and len(images) == 20
    everything = method.images.normalised(method.images.images)
    for lesson, part in zip(method.lessons, parts, strict=True):
        mine = {image.numpy().tobytes() for image in everything[lesson.index]}
        assert all(image.numpy().tobytes() in mine for image in images[part])
    turned = component(batch=16, noise=0.0, augment=lambda images, _: 255 - images).draw()[0]
    torch.testing.assert_close(turned * 0.25 + 0.5, 1 - (images * 0.25 + 0.5))
    method = component(noise=0.5)
    for network in (*method.sources, method.student):
        network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    method.step()
    assert len(seen) == 3 and torch.equal(torch.cat(seen[:2]), seen[2])


def test_a_source_without_images_is_left_out() -> None:
    cast = players.cast()
    first, second, _ = players.pool(cast).values()
    taught = [Lesson(first, "a", torch.arange(0)), Lesson(second, "a", torch.arange(40))]
    method = ComponentLearning(conv({"a": 3}), taught, cast.images, widths=WIDTHS, batch=8)
    assert [*method.sources] == [second] and method.sizes == [8]


@pytest.mark.parametrize("regulariser", [0.0, 1.0])
def test_the_regulariser_keeps_the_common_space_from_shrinking(regulariser: float) -> None:
    method = component(regulariser=regulariser, lr=0.02, noise=0.0, batch=16)
    norms = [[e.weight.detach().square().sum() / len(e.weight) for e in space.source] for space in method.spaces]
    torch.testing.assert_close(method.block_norms(), torch.tensor(norms).mean(0))
    before = method.block_norms().mean()
    for _ in range(60):
        method.step()
    after = method.block_norms().mean()
    assert (after - 1).abs() < 0.2 if regulariser else after < before


def test_an_update_moves_student_encoders_and_scales_each_at_its_own_rate() -> None:
    method = component(lr=0.5, encoder_lr=(0.1, 0.2), scale_lr=0.3, schedule=run.step_decay([1]))
    groups = method.optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.1, 0.2, 0.3]
    second = {id(p) for space in method.spaces for side in (space.source, space.student) for p in side[1].parameters()}
    assert {id(p) for p in groups[2]["params"]} == second and all(group["weight_decay"] == 0 for group in groups)
    before = players.state([method.student, method.spaces])
    method.step()
    moved = set(players.differences(before, players.state([method.student, method.spaces])))
    assert {"/1/0/scale", "/1/0/source.0.weight", "/1/0/student.1.weight", "/0/heads.a.weight"} <= moved
    assert [group["lr"] for group in groups] == pytest.approx([0.05, 0.01, 0.02, 0.03])
    assert [group["lr"] for group in component(lr=0.5).optimizer.param_groups] == [0.5, 0.5, 0.5, 1e-6]


def test_without_features_no_map_is_looked_at_and_there_is_no_space() -> None:
    method = players.make("component-logits")
    for network in (method.student, *method.sources):
        network.both = players.rigged(network.both, at=0)
    report = method.step()
    assert report["features"] == report["regulariser"] == 0 and report["logits"] > 0
    assert not any(space.source_weights() for space in method.spaces) and len(method.block_norms()) == 0


def test_stage_two_shows_every_image_to_every_component_and_to_the_target_once() -> None:
    method, calls = players.make("target", batch=8), []
    images, parts = method.draw()
    assert len(images) == 8 and [len(images[part]) for part in parts] == [8, 8]
    method.student.register_forward_hook(lambda *_: calls.append(1))
    assert method.step()["regulariser"] == 0 and len(calls) == 1


# --- wrong input -----------------------------------------------------------------------------------------------------


def broken() -> nets.MultiHead:
    network = conv({"a": 3})
    nn.init.constant_(network.heads["a"].bias, float("nan"))
    return network


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (conv({"a": 3}, (4, 4, 4)), ShapeMismatch, r"maps of \['8x8', '4x4'\], source 0 of .*'2x2'\].*features=0"),
        (Ensemble([conv({"a": 3})], "a"), ReuseError, r"source 0 \(Ensemble\) cannot be watched.*features=0"),
        (conv({"aa": 3}), UnknownName, "task of source 0 'a'. Did you mean 'aa'"),
        (conv({"a": 2}), ShapeMismatch, "'a' has 3 classes in the student and 2 in source 0"),
        (conv({"a": 3}, channels=3), ShapeMismatch, "images of shape"),
        (conv({"a": 3}).to("meta"), DeviceError, "different devices"),
        (broken(), NonFinite, "source 0 gives NaN or infinity for 'a'. Leave it out"),
    ],
)
def test_sources_that_do_not_fit(source: nn.Module, error: type[Exception], message: str) -> None:
    lessons, images = [Lesson(source, "a")], players.cast().images
    with pytest.raises(error, match=message):
        ComponentLearning(conv({"a": 3}), lessons, images, widths=WIDTHS, batch=4)
    if "features=0" in message:
        ComponentLearning(conv({"a": 3}), lessons, images, features=0.0, batch=4).step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": None}, "give widths, one for each block, or features=0"),
        ({"widths": (4,)}, "the common space 1 blocks"),
        ({"widths": (4, 0)}, "widths must be a whole number of at least 1, not 0"),
        ({"encoder_lr": (0.1, 0.2, 0.3)}, "2 blocks need one encoder_lr or 2 of them, not 3"),
        ({"encoder_lr": (0.1, -1)}, "encoder_lr must be a finite number"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        component(**options)


def test_students_and_lessons_that_are_none() -> None:
    source, images = conv({"a": 3}), players.cast().images
    for student, components, message in (
        (conv({"b": 3}), {"a": source}, "task of student 'a'"),
        (nn.Conv2d(1, 3, 1), {"a": source}, r"student \(Conv2d\) gives Tensor, not a dict"),
        (conv({"a": 3}), {}, "nothing to learn"),
    ):
        with pytest.raises(ReuseError, match=message):
            TargetLearning(student, components, images, features=0.0)
    with pytest.raises(ReuseError, match="images must be ImageSet with something in it"):
        TargetLearning(conv({"a": 3}), {"a": source}, images.subset([]))
