"""The zoos of room networks: learning a task, the gate, transfers, and that whatever was cut off goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import players
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reuselib import home, nets
from reuselib import run as engine
from reuselib.attribution import learning as room_learning
from reuselib.attribution import ordinal, rooms_zoo
from reuselib.attribution.learning import (
    Lesson,
    TaskLearning,
    Transfer,
    blind_answer,
    blind_loss,
    compact,
    image_losses,
    normalised,
)
from reuselib.attribution.rooms_zoo import UNTRAINED, Member, Zoo, ZooPlan, build
from reuselib.errors import DamagedFile, DeviceError, MissingFile, ReuseError, UnknownName
from reuselib.worlds import rooms

TINY = ZooPlan(
    "tiny",
    ("denoise", "color", "depth", "scene"),
    residual=("depth",),
    deep=("scene",),
    deep_widths=(4, 4),
    deep_strides=(2, 4),
    images=40,
    updates=4,
    batch=8,
    gate=100.0,
    transfer_images=16,
    test_images=12,
    transfer_updates=2,
    top=1,
)


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep networks out of the clone."""
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path))


@pytest.fixture
def zoo() -> Zoo:
    return Zoo(TINY, 0)


def lesson(task: str, where: str = "cpu", count: int = 12) -> Lesson:
    found = rooms.rooms("zoo", count)
    return Lesson(task, found.images.images.to(where), compact(task, found.labels(task)).to(where))


def learning(task: str, where: str = "cpu", seed: int = 0, **options: Any) -> TaskLearning:
    asked = rooms.task(task)
    with engine.seeded(seed):
        network = nets.task_network(asked.shape[0], asked.dense)
    options = {"updates": 8, "batch": 4, "precision": "fp32"} | options
    return TaskLearning(engine.on_device(network, torch.device(where)), lesson(task, where), seed=seed, **options)


def transfer(task: str, where: str = "cpu", seed: int = 0, **options: Any) -> Transfer:
    asked, found = rooms.task(task), lesson(task, where)
    with engine.seeded(seed):
        readout = nets.readout(asked.shape[0], asked.dense).to(where)
    with engine.seeded(99):
        codes = torch.rand(len(found), 8, 8, 8).to(where)
    options = {"updates": 8, "batch": 4, "precision": "fp32"} | options
    return Transfer(readout, dataclasses.replace(found, rows=codes), seed=seed, **options)


METHODS = {"learning": learning, "transfer": transfer}


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_plan_of_the_laptop_scale_is_the_specs() -> None:
    plan = ZooPlan()
    assert (
        len(plan.tasks) == 17
        and len(plan.targets) == 15
        and set(plan.tasks) - set(plan.targets) == {"inpaint", "color"}
    )
    assert (plan.images, plan.transfer_images, plan.test_images) == (8192, 1024, 512)
    assert (plan.updates, plan.batch, plan.lr, plan.weight_decay) == (1500, 64, 2e-3, 2e-6)
    assert (plan.transfer_updates, plan.transfer_lr, plan.transfer_weight_decay) == (150, 3e-3, 1e-6)
    assert (plan.gate, plan.top, rooms_zoo.GATE) == (0.9, 4, 0.9)
    assert list(plan.members)[:17] == list(rooms.TASKS)
    assert json.loads(json.dumps(dataclasses.asdict(plan), allow_nan=False))


def test_every_network_starts_from_weights_of_its_own() -> None:
    everyone = [Member(task, encoder) for encoder in ("plain", "residual", "deep") for task in rooms.TASKS]
    numbers = {member.number for member in everyone}
    others = [rooms_zoo.FRESH, *range(rooms_zoo.READOUTS, rooms_zoo.READOUTS + 17), rooms_zoo.NOISE]
    assert len(numbers.union(others)) == 51 + 19 and max(numbers.union(others)) < rooms_zoo.SEEDS
    zoos = [Zoo(TINY, seed) for seed in (0, 1)]
    firsts = [zoo.fresh(name).encoder[0][0].weight for zoo in zoos for name in ("denoise", "color", "depth", "scene")]
    assert len({tuple(weight.flatten()[:4].tolist()) for weight in firsts}) == 8
    again = Zoo(dataclasses.replace(TINY, tasks=("depth",), residual=()), 1).fresh("depth")
    assert torch.equal(again.encoder[0][0].weight, firsts[6])


@pytest.mark.parametrize("member", [Member("depth"), Member("depth", "residual"), Member("obj", "deep")])
def test_every_kind_of_member_answers_its_task(member: Member) -> None:
    before = torch.get_rng_state()
    network = build(ZooPlan(), member, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, *rooms.task(member.task).shape)
    assert member.name == ("depth" if member.encoder == "plain" else f"{member.task}-{member.encoder}")


def test_unknown_tasks_and_members_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'depth'"):
        Zoo(dataclasses.replace(TINY, tasks=("dept",)), 0)
    with pytest.raises(UnknownName, match="network of tiny-0 'deth'. Did you mean 'depth'"):
        Zoo(TINY, 0).network("deth")


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", rooms.TASKS)
def test_labels_are_kept_in_few_bytes(task: str) -> None:
    exact = rooms.rooms("zoo", 12).labels(task)
    found = lesson(task)
    assert found.labels.element_size() <= 2 and len(found) == 12
    labels = found.answers(slice(None))
    assert labels.dtype == exact.dtype and labels.shape == exact.shape
    assert torch.allclose(labels.float(), exact.float(), rtol=5e-4, atol=1e-6)
    if rooms.task(task).loss in ("ce", "bce"):
        assert torch.equal(labels, exact)


def test_images_are_normalised_as_room_sets_do() -> None:
    found = rooms.rooms("zoo", 12)
    assert torch.allclose(normalised(found.images.images), found.normalised(found.images.images), atol=1e-6)


@pytest.mark.parametrize("task", rooms.TASKS)
def test_no_constant_answer_is_better_than_the_blind_one(task: str) -> None:
    labels = rooms.rooms("zoo", 41).labels(task)
    answer = blind_answer(task, compact(task, labels))
    assert answer.shape == rooms.task(task).shape

    def loss(constant: Tensor) -> float:
        return float(rooms.losses(task, constant.expand(len(labels), *constant.shape), labels).mean())

    best = loss(answer)
    assert best == pytest.approx(blind_loss(task, labels, labels), rel=1e-3)
    for seed in range(6):
        with engine.seeded(seed):
            other = answer + 0.3 * torch.randn(answer.shape)
        assert loss(other) > best - 1e-3


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("task", ["denoise", "seg2d", "semseg", "layout", "scene", "edge3d"])
def test_a_step_runs_on_any_device(kind: str, task: str) -> None:
    report = METHODS[kind](task, "meta").step()
    assert report.keys() == {"loss"} and report["loss"].is_meta and report["loss"].shape == ()


class NoSync(TorchDispatchMode):
    """Fail on every operation whose result the host must wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "_unique2")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_never_waits_for_the_device(kind: str, precision: str) -> None:
    method = METHODS[kind]("semseg", precision=precision)
    with NoSync():
        for _ in range(2):
            method.step()


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("task", ["denoise", "scene"])
def test_resumed_equals_uninterrupted(kind: str, task: str, tmp_path: Path) -> None:
    def run(rounds: int, checkpoint: Path | None, seed: int) -> tuple[Any, engine.History]:
        method = METHODS[kind](task, seed=seed)
        method.steps_per_round = 2
        torch.manual_seed(seed)  # for dropout
        history = engine.run(method, rounds, checkpoint=checkpoint, progress=False)
        return players.state(method), history

    whole, history = run(4, None, 1)
    run(2, tmp_path / "run.pt", 1)
    resumed, again = run(4, tmp_path / "run.pt", 5)
    assert not list(players.differences(whole, resumed))
    assert again.rounds == history.rounds and again.cost.passes == history.cost.passes
    assert (tmp_path / "run.pt").stat().st_size < 2e6, "images and labels are no part of a checkpoint"


@pytest.mark.parametrize("kind", METHODS)
def test_learning_lowers_the_loss(kind: str) -> None:
    method = METHODS[kind]("depth", updates=60, lr=1e-2)
    method.steps_per_round = 10
    losses = engine.run(method, 6, progress=False).curve("loss")[1]
    assert losses[-1] < 0.8 * losses[0]
    assert method.scheduler.get_last_lr()[0] < 1e-4


def test_lesson_and_network_must_be_on_one_device() -> None:
    with pytest.raises(DeviceError, match="one device"):
        TaskLearning(nets.task_network(1), lesson("depth", "meta"), updates=2)


def test_losses_are_those_of_the_network_in_evaluation_mode() -> None:
    network = nets.task_network(6, dense=False).train()
    found = rooms.rooms("test", 12)
    x, y = normalised(found.images.images), found.labels("scene")
    losses = image_losses(network, x, "scene", y, batch=5)
    assert network.training and losses.shape == (12,)
    with torch.no_grad():
        expected = rooms.losses("scene", network.eval()(x), y)
    assert torch.allclose(losses, expected, atol=1e-6)


# --- a zoo ------------------------------------------------------------------------------------------------------------


def test_networks_are_kept_with_cards_and_verified(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="reuselib run attribution"):
        zoo.network("depth")
    cost = zoo.train()
    assert cost.passes["student_forward"] == len(zoo.members) * TINY.updates
    folders = {path.parent.name for path in (tmp_path / "zoo" / "tiny-0").glob("*/card.json")}
    assert folders == set(zoo.members) == {"denoise", "color", "depth", "scene", "depth-residual", "scene-deep"}
    card, network = zoo.card("depth"), zoo.network("depth")
    assert card["recipe"]["task"] == "depth" and card["recipe"]["zoo"] == 0 and card["passed"] is True
    assert card["parameters"] == nets.parameter_count(network) and card["seconds"] > 0
    assert card["sha256"] == home.sha256(tmp_path / "zoo" / "tiny-0" / "depth" / "weights.safetensors")
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    labels = zoo.room_set("test").labels("depth")
    assert card["test_loss"] == pytest.approx(
        float(image_losses(network, zoo.inputs("depth", "test"), "depth", labels).mean())
    )
    assert card["blind_loss"] == pytest.approx(blind_loss("depth", zoo.lesson("depth").labels, labels))
    assert zoo.train().wall_seconds == 0 and Zoo(TINY, 0).card("depth") == card
    assert not list(tmp_path.glob("**/*.pt"))
    lines = (tmp_path / "zoo" / "tiny-0" / "scene" / "log.csv").read_text().splitlines()
    assert lines[0] == "iteration,loss" and lines[-1].startswith("4,")


def test_altered_weights_and_other_recipes_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    zoo.train(only=["depth", "scene"])
    path = tmp_path / "zoo" / "tiny-0" / "depth" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFile, match="expected sha256.*delete"):
        zoo.network("depth")
    with pytest.raises(ReuseError, match="another recipe"):
        Zoo(dataclasses.replace(TINY, updates=5), 0).network("scene")
    (path.parent / "card.json").write_text("{")
    with pytest.raises(DamagedFile, match="not valid JSON"):
        zoo.card("depth")


def test_the_gate_keeps_out_what_is_no_better_than_blind() -> None:
    strict = Zoo(dataclasses.replace(TINY, gate=1e-6), 0)
    strict.train()
    assert strict.tasks == strict.targets == ()
    assert strict.card("depth")["passed"] is False and strict.network("depth")
    loose = Zoo(dataclasses.replace(TINY, name="loose"), 0)
    loose.train()
    assert loose.tasks == TINY.tasks and loose.targets == ("denoise", "depth", "scene")


def test_transfers_leave_a_table_and_a_truth(zoo: Zoo, tmp_path: Path) -> None:
    zoo.ready()
    before = {name: players.state(zoo.network(name)) for name in zoo.tasks}
    card = zoo.piece("transfers").card()
    assert card["targets"] == ["denoise", "depth", "scene"] and card["sources"] == [*TINY.tasks, UNTRAINED]
    assert card["transfers"] == 15 and card["seconds"] == pytest.approx(
        sum(sum(each) for each in card["seconds_each"].values()), abs=0.01
    )
    assert zoo.losses.shape == (3, 4, 12) and zoo.losses.dtype == torch.float32
    truth = zoo.truth
    assert (truth.targets, truth.sources, truth.top) == (("denoise", "depth", "scene"), TINY.tasks, 1)
    assert torch.equal(truth.affinity, ordinal.affinities(zoo.losses))
    again, _ = zoo.train_readout("depth", "color")
    assert torch.equal(again, zoo.all_losses["depth"]["color"])
    assert not list(players.differences(before, {name: players.state(zoo.network(name)) for name in zoo.tasks}))
    assert not any(players.hooks(zoo.network(name)) for name in zoo.tasks)
    assert not list(tmp_path.glob("**/*.pt"))
    fresh = Zoo(TINY, 0)
    assert fresh.transfer().wall_seconds == 0 and torch.equal(fresh.losses, zoo.losses)


def test_transfers_of_other_networks_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    zoo.ready()
    folder = tmp_path / "zoo" / "tiny-0"
    card = json.loads((folder / "depth" / "card.json").read_text())
    (folder / "depth" / "card.json").write_text(json.dumps(card | {"sha256": "0" * 64}))
    with pytest.raises(ReuseError, match="another recipe"):
        Zoo(TINY, 0).truth  # noqa: B018


def test_all_sources_of_a_target_share_readout_and_batches(zoo: Zoo) -> None:
    zoo.train()

    def same(source: str, split: str, noisy: bool) -> Tensor:
        with engine.seeded(int(noisy)):
            return torch.rand(16 if split == "transfer" else 12, 8, 8, 8)

    losses = [zoo.train_readout("depth", source, same)[0] for source in ("color", "scene", UNTRAINED)]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    assert not torch.equal(zoo.train_readout("depth", "color")[0], losses[0])


def test_what_sources_are_given() -> None:
    zoo = Zoo(TINY, 0)
    zoo.train()
    images = normalised(zoo.room_set("test").images.images)
    with torch.no_grad():
        grey = zoo.network("color").represent(rooms.inputs("color", images))
        plain = zoo.network("depth").represent(images)
    assert torch.allclose(zoo.represent("color", images), grey, atol=1e-6)
    assert torch.allclose(zoo.represent("depth", images), plain, atol=1e-6)
    assert not torch.allclose(zoo.represent(UNTRAINED, images), plain, atol=1e-3)
    noisy = [zoo.inputs("denoise", "test") for _ in range(2)]
    assert torch.equal(*noisy) and not torch.equal(noisy[0], images)
    asked: list[tuple[str, str, bool]] = []

    def read(source: str, split: str, noisy: bool) -> Tensor:
        asked.append((source, split, noisy))
        return zoo.represent(source, images[:1].expand(16 if split == "transfer" else 12, -1, -1, -1))

    zoo.train_readout("denoise", "depth", read)
    zoo.train_readout("scene", "depth", read)
    assert asked == [("depth", split, noisy) for noisy in (True, False) for split in ("transfer", "test")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("**/*.safetensors")}


@pytest.mark.parametrize("call", [6, 4 * 6 + 2 * 9 + 1])
def test_a_zoo_that_was_killed_goes_on_to_the_same_bits(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dataclasses.replace(TINY, name="cut")
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / "whole"))
    Zoo(plan, 1).ready()
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / "cut"))
    monkeypatch.setattr(rooms_zoo, "rounds", lambda updates: 2)
    step = TaskLearning.step
    monkeypatch.setattr(TaskLearning, "step", _rigged_method(step, call))
    with pytest.raises(players.Explosion):
        Zoo(plan, 1).ready()
    assert list((tmp_path / "cut").glob("**/*.pt"))
    monkeypatch.setattr(TaskLearning, "step", step)
    torch.manual_seed(7)  # the global state must not matter
    Zoo(plan, 1).ready()
    whole, cut = (contents(tmp_path / name / "zoo" / "cut-1") for name in ("whole", "cut"))
    assert len(whole) == 7 and whole == cut


def _rigged_method(method: Any, at: int) -> Any:
    """A method that explodes at one of its calls, bound as methods are."""
    counted = players.rigged(method, at=at)
    return lambda self: counted(self)


def test_zoos_that_are_not_kept_leave_nothing_in_the_data_room(tmp_path: Path) -> None:
    plan = dataclasses.replace(TINY, kept=False)
    rooms_zoo.open_zoo(plan, 0).train(only=["scene"])
    assert not list(tmp_path.iterdir())
    assert rooms_zoo.open_zoo(plan, 0) is rooms_zoo.open_zoo(plan, 0)
    assert rooms_zoo.open_zoo(plan, 0).card("scene")["passed"]
    with pytest.raises(MissingFile):
        rooms_zoo.open_zoo(dataclasses.replace(plan, lr=1e-3), 0).card("scene")


def test_pieces_that_come_with_the_repository_are_read_from_there(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.train(only=["scene"])
    clone = tmp_path / "clone" / "data" / "zoo" / "tiny-0" / "scene"
    clone.parent.mkdir(parents=True)
    (tmp_path / "zoo" / "tiny-0" / "scene").rename(clone)
    assert not Zoo(TINY, 0).piece("scene").has()
    listed = {f"zoo/tiny-0/scene/{file.name}": home.sha256(file) for file in clone.iterdir()}
    monkeypatch.setattr(home, "registry", lambda: listed)
    monkeypatch.setattr(home, "CLONE", tmp_path / "clone")
    monkeypatch.setattr(home, "in_clone", lambda: True)
    assert Zoo(TINY, 0).piece("scene").has() and Zoo(TINY, 0).network("scene")
    (clone / "card.json").write_text("{}")
    with pytest.raises(DamagedFile, match="git checkout"):
        Zoo(TINY, 0).network("scene")


def test_seconds_are_those_of_the_processor_on_a_cpu() -> None:
    cost = engine.Cost(wall_seconds=5.0, cpu_seconds=2.0, passes={"a": 1})
    assert room_learning.seconds(cost, torch.device("cpu")) == 2.0
    assert room_learning.seconds(cost, torch.device("meta")) == 5.0
    room_learning.add_cost(cost, engine.Cost(1.0, 1.0, 3.0, {"a": 2, "b": 1}))
    assert (cost.wall_seconds, cost.cpu_seconds, cost.peak_memory_mb) == (6.0, 3.0, 3.0)
    assert cost.passes == {"a": 3, "b": 1}
