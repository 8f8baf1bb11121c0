"""Stages 1 and 2 of adaptive amalgamation: terms by hand, who teaches what, sources left alone, what does not fit."""

from __future__ import annotations

import copy
from typing import Any

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import nets, run
from reuselib.adaptive import CommonSpace, ComponentLearning, Ensemble, Lesson, TargetLearning, selection
from reuselib.errors import BadValue, DeviceError, NonFinite, ReuseError, ShapeMismatch, UnknownName

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


def fill(method: Any, copying: bool) -> None:
    """Make every encoder the identity, or zero."""
    for space in method.spaces:
        for encoder in [*space.source, *space.student]:
            if isinstance(encoder, nn.Conv2d):
                nn.init.dirac_(encoder.weight) if copying else nn.init.zeros_(encoder.weight)
                nn.init.zeros_(encoder.bias)


def objective(method: Any, images: Tensor, parts: list[slice]) -> dict[str, Tensor]:
    """The loss and its terms for some images, everything in evaluation mode."""
    with run.frozen(method.student, method.sources):
        taught = method.sources([images[part] for part in parts], True)
        return method.objective(method.student.both(images), taught, parts)


# --- networks --------------------------------------------------------------------------------------------------------


def test_encoders_lead_to_the_common_width_or_to_the_components_own() -> None:
    student = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    source = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    space = CommonSpace(source=(4, 6), student=(3, 5), widths=(7, 2))
    for side in space(student, source):
        assert [tuple(maps.shape) for maps in side] == [(2, 7, 8, 8), (2, 2, 4, 4)]
    assert all(isinstance(e, nn.Conv2d) and e.bias is not None for e in [*space.source, *space.student])
    assert space.scale.item() == 1
    second = CommonSpace(source=(4, 6), student=(3, 5))
    encoded, theirs = second(student, source)
    assert [maps.shape[1] for maps in encoded] == [4, 6] and not second.source_weights()
    assert all(a is b for a, b in zip(theirs, source, strict=True))


def test_the_mean_of_the_logits_as_a_source() -> None:
    pool = [source for source in players.pool(players.cast()).values() if "b" in source.tasks]
    images, ensemble = torch.randn(5, *players.IMAGE), Ensemble(pool, "b")
    with run.frozen(ensemble):
        torch.testing.assert_close(ensemble(images), {"b": sum(source(images)["b"] for source in pool) / 2})


# --- stage 1 ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_the_sources_of_the_papers_three_terms() -> None:
    method = component(features=0.5, regulariser=3.0)
    images, parts = method.draw()
    found = objective(method, images, parts)
    expected = dict.fromkeys(("features", "logits", "regulariser"), 0.0)
    with run.frozen(method.student, method.sources), torch.no_grad():
        for lesson, space, part in zip(method.lessons, method.spaces, parts, strict=True):
            x = images[part]
            sides = (method.student.both(x)[0], lesson.source.both(x)[0], space.student, space.source)
            for s, t, g, e in zip(*sides, strict=True):
                expected["features"] += float(((g(s) - e(t)) ** 2).mean())
                expected["regulariser"] += float((((e.weight**2).sum((1, 2, 3)) - 1) ** 2).mean())
            z = space.scale * method.student(x)["a"] - lesson.source(x)["a"]
            expected["logits"] += float((z**2).mean())
    expected["loss"] = 0.5 * expected["features"] + expected["logits"] + 3 * expected["regulariser"]
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


def test_a_sample_teaches_through_its_own_source_only() -> None:
    method, first = component(), component()
    images, parts = method.draw()
    first.lessons, first.sources = method.lessons[:1], type(method.sources)(method.sources[:1])
    first.spaces, first.student = method.spaces[:1], method.student
    changed = images.clone()
    changed[parts[1]] += 1
    assert objective(first, images, parts[:1]) == objective(first, changed, parts[:1])
    assert objective(method, images, parts)["logits"] != objective(method, changed, parts)["logits"]


def test_each_source_gets_its_share_of_its_own_images_and_the_student_sees_all_at_once() -> None:
    method, seen = component(batch=16, noise=0.0), []
    assert method.sizes == selection.sub_batches([32, 8], 16) == [16, 4]
    images, parts = method.draw()
    assert [part.indices(99)[:2] for part in parts] == [(0, 16), (16, 20)] and len(images) == 20
    everything = method.images.normalised(method.images.images)
    for lesson, part in zip(method.lessons, parts, strict=True):
        mine = {image.numpy().tobytes() for image in everything[lesson.index]}
        assert all(image.numpy().tobytes() in mine for image in images[part])
    method.student.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    method.step()
    assert seen == [20]


def test_a_source_without_images_is_left_out() -> None:
    cast = players.cast()
    pool = list(players.pool(cast).values())
    taught = [Lesson(pool[0], "a", torch.arange(0)), Lesson(pool[1], "a", torch.arange(40))]
    method = ComponentLearning(conv({"a": 3}), taught, cast.images, widths=WIDTHS, batch=8)
    assert len(method.sources) == 1 and method.sizes == [8] and method.step()["loss"].isfinite()
    with pytest.raises(ReuseError, match="nothing to learn"):
        ComponentLearning(conv({"a": 3}), taught[:1], cast.images, widths=WIDTHS)


def test_a_copy_of_its_only_source_has_nothing_to_learn_in_either_stage() -> None:
    cast, source = players.cast(), conv({"a": 3})
    first = ComponentLearning(copy.deepcopy(source), [Lesson(source, "a")], cast.images, widths=(4, 6), batch=8)
    second = TargetLearning(copy.deepcopy(source), {"a": source}, cast.images, batch=8)
    for method in (first, second):
        fill(method, copying=True)
        found = objective(method, *method.draw())
        assert all(value.item() == pytest.approx(0, abs=1e-10) for value in found.values())
    assert [encoder.out_channels for encoder in second.spaces[0].student] == [4, 6]


def test_without_the_regulariser_an_empty_common_space_is_a_solution() -> None:
    method = component()
    fill(method, copying=False)
    images, parts = method.draw()
    taught = method.sources([images[part] for part in parts], True)
    found = method.objective(method.student.both(images), taught, parts)
    gradients = torch.autograd.grad(found["features"], list(method.student.parameters()), allow_unused=True)
    assert found["features"] == 0 and all(each is None or not each.any() for each in gradients)
    assert found["regulariser"] == 2 * len(WIDTHS)  # two sources


def test_the_regulariser_moves_the_sources_encoders_and_nothing_else() -> None:
    method = component()
    images, parts = method.draw()
    taught = method.sources([images[part] for part in parts], True)
    method.objective(method.student.both(images), taught, parts)["regulariser"].backward()
    for space in method.spaces:
        assert all(e.weight.grad.abs().sum() > 0 and e.bias.grad is None for e in space.source)
        assert all(parameter.grad is None for parameter in [*space.student.parameters(), space.scale])
    assert all(parameter.grad is None for parameter in method.student.parameters())


@pytest.mark.parametrize("regulariser", [0.0, 1.0])
def test_the_regulariser_keeps_the_common_space_from_shrinking(regulariser: float) -> None:
    method = component(regulariser=regulariser, lr=0.02, noise=0.0, batch=16)
    squares = torch.tensor(
        [[float(e.weight.detach().square().sum()) / len(e.weight) for e in space.source] for space in method.spaces]
    )
    torch.testing.assert_close(method.block_norms(), squares.mean(0))
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
    still = component(scale_lr=0.0)
    still.step()
    assert all(space.scale.item() == 1 for space in still.spaces)


def test_without_features_no_map_is_looked_at_and_there_is_no_space() -> None:
    method = players.make("component-logits")
    for network in (method.student, *method.sources):
        network.both = players.rigged(network.both, at=0)
    report = method.step()
    assert report["features"] == report["regulariser"] == 0 and report["logits"] > 0
    assert not any(space.source_weights() for space in method.spaces) and len(method.block_norms()) == 0


def test_a_component_learns_what_its_source_says() -> None:
    lesson, student = Lesson(conv({"a": 3}, seed=1), "a"), conv({"a": 3}, seed=2)
    method = ComponentLearning(student, [lesson], players.cast().images, widths=(4, 6), lr=0.02, batch=16)
    history = run.run(method, updates=100, report_every=20, progress=False)
    assert history.curve("logits")[1][0] > 5 * history.last("logits")


def test_noise_and_augmentation_reach_source_and_student_alike() -> None:
    method, seen = component(noise=0.5, augment=lambda images, _: 255 - images), []
    for network in (*method.sources, method.student):
        network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    method.step()
    assert torch.equal(torch.cat(seen[:2]), seen[2])
    x, _ = component(noise=0.0, augment=lambda images, _: 255 - images).draw()
    y, _ = component(noise=0.0).draw()
    torch.testing.assert_close((x * 0.25 + 0.5), 1 - (y * 0.25 + 0.5))


# --- stage 2 and sources ---------------------------------------------------------------------------------------------


def test_stage_two_shows_every_image_to_every_component_and_to_the_target_once() -> None:
    method, calls = players.make("target", batch=8), []
    images, parts = method.draw()
    assert len(images) == 8 and all(len(images[part]) == 8 for part in parts) and len(parts) == 2
    method.student.register_forward_hook(lambda *_: calls.append(1))
    assert method.step()["regulariser"] == 0 and len(calls) == 1


# --- wrong input -----------------------------------------------------------------------------------------------------


def learn(source: nn.Module, student: nn.Module, **options: Any) -> ComponentLearning:
    settings = {"widths": WIDTHS, "batch": 4} | options
    return ComponentLearning(student, [Lesson(source, "a")], players.cast().images, **settings)


class Strided(nets.MultiHead):
    """A network whose second map is as large as its first."""

    def __init__(self) -> None:
        super().__init__([nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)], (3, 4), {"a": 3})


class Bare(nn.Module):
    """A source whose answer is no dict."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def broken(value: float) -> nets.MultiHead:
    network = conv({"a": 3})
    nn.init.constant_(network.heads["a"].bias, value)
    return network


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (conv({"a": 3}, (4, 4, 4)), ShapeMismatch, r"maps of \['8x8', '4x4'\], source 0 of .*'2x2'\].*features=0"),
        (Strided(), ShapeMismatch, r"maps of \['8x8', '4x4'\], source 0 of \['8x8', '8x8'\].*features=0"),
        (Ensemble([conv({"a": 3})], "a"), ReuseError, r"source 0 \(Ensemble\) cannot be watched.*features=0"),
        (conv({"aa": 3}), UnknownName, "task of source 0 'a'. Did you mean 'aa'"),
        (conv({"a": 2}), ShapeMismatch, "'a' has 3 classes in the student and 2 in source 0"),
        (nets.multi_head_conv({"a": 3}, widths=(4, 6), channels=3), ShapeMismatch, "images of shape"),
        (conv({"a": 3}).to("meta"), DeviceError, "different devices"),
        (broken(float("nan")), NonFinite, "source 0 gives NaN or infinity for 'a'. Leave it out"),
        (broken(float("inf")), NonFinite, "source 0 gives NaN or infinity for 'a'. Leave it out"),
    ],
)
def test_sources_that_do_not_fit(source: nn.Module, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        learn(source, conv({"a": 3}))
    if "features=0" in message:
        learn(source, conv({"a": 3}), features=0.0, widths=None).step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": None}, "give widths, one for each block, or features=0"),
        ({"widths": (4,)}, "the common space 1 blocks"),
        ({"widths": (4, 4, 4)}, "the common space 3 blocks"),
        ({"widths": (4, 0)}, "widths must be a whole number of at least 1, not 0"),
        ({"encoder_lr": (0.1, 0.2, 0.3)}, "2 blocks need one encoder_lr or 2 of them, not 3"),
        ({"encoder_lr": (0.1, -1)}, "encoder_lr must be a finite number"),
        *(({name: -1}, f"{name} must be") for name in ("batch", "lr", "noise", "features", "regulariser", "scale_lr")),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReuseError, match=message):
        component(**options)


def test_students_lessons_and_sources_that_are_none() -> None:
    images = players.cast().images
    with pytest.raises(UnknownName, match="task of student 'a'"):
        learn(conv({"a": 3}), conv({"b": 3}))
    with pytest.raises(ReuseError, match=r"student \(Conv2d\) gives Tensor, not a dict of logits by task. Wrap it"):
        learn(conv({"a": 3}), nn.Conv2d(1, 3, 1), features=0.0)
    with pytest.raises(ReuseError, match=r"\(Bare\) gives Tensor, not a dict of logits by task. Wrap it .*'a'"):
        selection.predictions([Bare()], "a", images)
    with pytest.raises(ReuseError, match="nothing to learn"):
        TargetLearning(conv({"a": 3}), {}, images)
    for few in (images.subset([]), images.images):
        with pytest.raises(BadValue, match="images must be ImageSet with something in it"):
            TargetLearning(conv({"a": 3}), {"a": conv({"a": 3})}, few)
