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
BATCH = {"batch": 8}
order = functools.partial(
    customise,
    component=component,
    target=target,
    widths=players.WIDTHS,
    updates=(4, 6),
    component_options=BATCH,
    target_options=BATCH,
    progress=False,
)


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
    assert sorted(torch.cat([lesson.index for lesson in lessons]).tolist()) == list(range(40))
    assert all((chosen.index[lesson.index] == k).all() for k, lesson in enumerate(lessons))


@pytest.mark.parametrize("tasks", [["b"], ["a", "c", "b"]])
def test_an_order_gives_a_network_for_the_chosen_tasks(tasks: list[str]) -> None:
    pool, images = cast_pool()
    before = players.state(list(pool.values()))
    made = order(pool, tasks, images)
    assert made.student.tasks == {task: {"a": 3, "b": 2, "c": 2}[task] for task in tasks}
    assert {task: net.tasks for task, net in made.components.items()} == {
        task: {task: made.student.tasks[task]} for task in tasks
    }
    assert list(made.choices) == tasks and not list(players.differences(before, players.state(list(pool.values()))))
    ends = [made.history.curve(f"{name}/loss")[0][-1] for name in (*tasks, "target")]
    assert ends == [*(4 * (k + 1) for k in range(len(tasks))), 4 * len(tasks) + 6]
    passes = made.history.cost.passes
    assert passes["target/student_forward"] == passes["target/student_backward"] == 6


def test_an_order_is_what_its_stages_give_one_by_one_decided_by_its_seed() -> None:
    pool, images = cast_pool()
    torch.manual_seed(5)
    made = players.state(order(pool, ["b"], images, seed=3).student)
    with run.seeded(3):
        networks = component({"b": 2}), target({"b": 2})
    lessons = choose(pool, "b", images).lessons()
    first = ComponentLearning(networks[0], lessons, images, widths=players.WIDTHS, batch=8, seed=3)
    for _ in range(4):
        first.step()
    second = TargetLearning(networks[1], {"b": networks[0]}, images, batch=8, seed=3)
    for _ in range(6):
        second.step()
    assert not list(players.differences(made, players.state(networks[1])))
    assert list(players.differences(made, players.state(order(pool, ["b"], images, seed=4).student)))


def test_an_interrupted_order_goes_on_bit_for_bit_with_the_same_pool_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, images = cast_pool()
    monkeypatch.setattr(run, "run", functools.partial(run.run, save_every=0))
    whole, file = order(pool, ["a", "b"], images), tmp_path / "run.pt"
    with monkeypatch.context() as interrupted, pytest.raises(players.Explosion):
        interrupted.setattr(InTurn, "step", players.rigged(InTurn.step, at=6))
        order(pool, ["a", "b"], images, checkpoint=file)
    again = order(pool, ["a", "b"], images, checkpoint=file)
    for first, second in ((whole.student, again.student), (whole.components, again.components)):
        assert not list(players.differences(players.state(first), players.state(second)))
    assert whole.history.rounds == again.history.rounds
    with torch.no_grad():
        pool["s1"].heads["a"].bias.add_(1)
    with pytest.raises(ReuseError, match="the given's weights is"):
        order(pool, ["a", "b"], images, checkpoint=file)


def test_what_is_not_on_the_menu() -> None:
    pool, images = cast_pool()
    with pytest.raises(UnknownName, match="task of the pool 'd'.*Known: a, b, c"):
        order(pool, ["d"], images)
    with pytest.raises(ReuseError, match="'s9' does not say its tasks: use a nets.MultiHead"):
        order(pool | {"s9": torch.nn.Linear(2, 2)}, ["a"], images)
    with pytest.raises(BadValue, match="updates of a must be a whole number of at least 1, not 0"):
        order(pool, ["a"], images, updates=(0, 5))
    for tasks in ([], ["a", "a"], ["target"]):
        with pytest.raises(ReuseError, match="Choose each task once, at least one of a, c, b"):
            order(pool, tasks, images)
    pool["s4"] = component({"a": 4})
    with pytest.raises(ShapeMismatch, match=r"number of classes: \[3, 3, 4\]"):
        order(pool, ["a"], images)


def test_methods_in_turn_report_under_their_names_and_share_no_round() -> None:
    methods = {"x": players.make("component"), "y": players.make("target")}
    turns = InTurn(methods, {"x": 4, "y": 6})
    assert turns.steps_per_round == 2
    history = run.run(turns, updates=10, report_every=2, progress=False)
    reports = [{name.split("/")[0] for name in entry if "/" in name} for entry in history.rounds]
    assert reports == [{"x"}] * 2 + [{"y"}] * 3
    assert set(turns.networks()) == {"x/student", "x/sources", "y/student", "y/sources"}
