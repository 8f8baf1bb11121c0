"""The pool as a menu: who teaches what, and networks made to order."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import players
import pytest
import torch

from reuselib import nets, run
from reuselib.adaptive import ComponentLearning, InTurn, TargetLearning, choose, customise, losses, menu, selection
from reuselib.errors import BadValue, ReuseError, ShapeMismatch, UnknownName

component = functools.partial(nets.multi_head_conv, widths=(3, 5))
target = functools.partial(nets.multi_head_conv, widths=(5, 7))
BUILT = {"component": component, "target": target, "widths": players.WIDTHS, "updates": (4, 6), "progress": False}
order = functools.partial(customise, **BUILT, component_options={"batch": 8}, target_options={"batch": 8})


def cast_pool() -> tuple[dict[str, nets.MultiHead], Any]:
    cast = players.cast()
    return players.pool(cast), cast.images


def test_every_image_goes_to_the_surest_source_on_the_menu() -> None:
    pool, images = cast_pool()
    assert menu(pool) == {"a": ["s1", "s2"], "c": ["s1"], "b": ["s2", "s3"]}
    chosen = choose(pool, "b", images)
    assert chosen.names == ["s2", "s3"] and chosen.sources == [pool["s2"], pool["s3"]] and chosen.classes == 2
    logits = selection.predictions(chosen.sources, "b", images)
    assert torch.equal(chosen.index, losses.entropy(logits).argmin(0))
    lessons = chosen.lessons()
    assert sum(len(lesson.index) for lesson in lessons) == 40
    assert all((chosen.index[lesson.index] == k).all() for k, lesson in enumerate(lessons))


def test_an_order_is_what_its_stages_give_one_by_one_decided_by_its_seed() -> None:
    (pool, images), tasks = cast_pool(), ["c", "b"]
    before = players.state(list(pool.values()))
    torch.manual_seed(5)
    made = order(pool, tasks, images, seed=3)
    assert made.student.tasks == {"c": 2, "b": 2} and list(made.choices) == tasks
    assert not list(players.differences(before, players.state(list(pool.values()))))
    assert [made.history.curve(f"{name}/loss")[0][-1] for name in (*tasks, "target")] == [4, 8, 14]
    passes = made.history.cost.passes
    assert passes["target/student_forward"] == passes["target/student_backward"] == 6
    with run.seeded(3):
        components, student = {task: component({task: 2}) for task in tasks}, target({"c": 2, "b": 2})
    for task, network in components.items():
        lessons = choose(pool, task, images).lessons()
        first = ComponentLearning(network, lessons, images, widths=players.WIDTHS, batch=8, seed=3)
        for _ in range(4):
            first.step()
    second = TargetLearning(student, components, images, batch=8, seed=3)
    for _ in range(6):
        second.step()
    assert not list(players.differences(players.state(made.student), players.state(student)))
    assert list(players.differences(players.state(student), players.state(order(pool, tasks, images).student)))


def test_an_order_goes_on_from_its_checkpoint_with_the_same_pool_only(tmp_path: Path) -> None:
    pool, images = cast_pool()
    first, again = (order(pool, ["a", "b"], images, checkpoint=tmp_path / "run.pt") for _ in range(2))
    assert first.history.rounds == again.history.rounds
    assert not list(players.differences(players.state(first.student), players.state(again.student)))
    with torch.no_grad():
        pool["s1"].heads["a"].bias.add_(1)
    with pytest.raises(ReuseError, match="the given's weights is"):
        order(pool, ["a", "b"], images, checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("more", "tasks", "options", "error", "message"),
    [
        ({}, ["d"], {}, UnknownName, "task of the pool 'd'.*Known: a, b, c"),
        ({"s9": torch.nn.Linear(2, 2)}, ["a"], {}, ReuseError, "'s9' does not say its tasks: use a nets.MultiHead"),
        ({}, ["a"], {"updates": (0, 5)}, BadValue, "updates of a must be a whole number of at least 1, not 0"),
        *(({}, tasks, {}, ReuseError, "Choose each task once, at least one of a, c, b") for tasks in ([], ["a"] * 2)),
        ({}, ["target"], {}, ReuseError, "Choose each task once"),
        ({"s4": component({"a": 4})}, ["a"], {}, ShapeMismatch, r"number of classes: \[3, 3, 4\]"),
    ],
)
def test_what_is_not_on_the_menu(more: dict, tasks: list[str], options: dict, error: type, message: str) -> None:
    pool, images = cast_pool()
    with pytest.raises(error, match=message):
        order(pool | more, tasks, images, **options)


def test_methods_in_turn_report_under_their_names_and_share_no_round() -> None:
    turns = InTurn({"x": players.make("component"), "y": players.make("target")}, {"x": 4, "y": 6})
    assert turns.steps_per_round == 2
    history = run.run(turns, updates=10, report_every=2, progress=False)
    reports = [{name.split("/")[0] for name in entry if "/" in name} for entry in history.rounds]
    assert reports == [{"x"}] * 2 + [{"y"}] * 3
    assert set(turns.networks()) == {"x/student", "x/sources", "y/student", "y/sources"}
