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

from reuselib import home, nets, run
from reuselib.attribution import ordinal, rooms_zoo
from reuselib.attribution.learning import (
    Lesson,
    TaskLearning,
    add_cost,
    blind_answer,
    blind_loss,
    compact,
    image_losses,
    in_range,
    seconds,
)
from reuselib.attribution.rooms_zoo import ENCODERS, PLAN, UNTRAINED, Member, Zoo, build, open_zoo
from reuselib.errors import DamagedFile, DeviceError, MissingFile, ReuseError, UnknownName
from reuselib.worlds import rooms

TINY = PLAN.but(
    name="tiny",
    tasks=("denoise", "color", "depth", "scene"),
    residual=("depth",),
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


def lesson(task: str, where: str = "cpu") -> Lesson:
    found = rooms.rooms("zoo", 12)
    return Lesson(task, found.images.images.to(where), compact(task, found.labels(task)).to(where))


def learning(task: str, where: str = "cpu", seed: int = 0, **options: Any) -> TaskLearning:
    asked = rooms.task(task)
    with run.seeded(seed):
        network = nets.task_network(asked.shape[0], asked.dense)
    options = {"updates": 8, "batch": 4, "precision": "fp32"} | options
    return TaskLearning(run.on_device(network, torch.device(where)), lesson(task, where), seed=seed, **options)


def transfer(task: str, where: str = "cpu", seed: int = 0, **options: Any) -> TaskLearning:
    asked, found = rooms.task(task), lesson(task, where)
    with run.seeded(seed):
        readout = nets.readout(asked.shape[0], asked.dense).to(where)
    with run.seeded(99):
        codes = torch.rand(len(found.rows), 8, 8, 8).to(where)
    options = {"updates": 8, "batch": 4, "precision": "fp32"} | options
    return TaskLearning(readout, dataclasses.replace(found, rows=codes), seed=seed, **options)


KINDS = (learning, transfer)


# --- plans and learning


def test_the_plan_of_the_laptop_scale_is_the_specs() -> None:
    sources = {task for task in PLAN.tasks if rooms.task(task).source_only}
    assert PLAN.tasks == tuple(rooms.TASKS) and len(PLAN.tasks) == 17 and sources == {"inpaint", "color"}
    assert (PLAN.images, PLAN.transfer_images, PLAN.test_images) == (8192, 1024, 512)
    assert (PLAN.updates, PLAN.batch, PLAN.lr, PLAN.weight_decay) == (1500, 64, 2e-3, 2e-6)
    assert (PLAN.transfer_updates, PLAN.transfer_lr, PLAN.transfer_weight_decay) == (150, 3e-3, 1e-6)
    assert (PLAN.gate, PLAN.top) == (0.9, 4) and list(rooms_zoo.members(PLAN))[:17] == list(rooms.TASKS)


def test_the_shipped_zoos_were_made_by_this_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REUSELIB_DATA")
    for seed in (0, 1):
        shipped = Zoo(PLAN, seed)
        for name in shipped.members:
            recipe = shipped.recipe(name)
            assert shipped.card(name)["recipe"] == json.loads(json.dumps(recipe))
        assert shipped.network("depth") is shipped.network("depth") and shipped.losses.shape == (15, 17, 512)


def test_every_network_starts_from_weights_of_its_own() -> None:
    numbers = {Member(task, encoder).number for encoder in ENCODERS for task in rooms.TASKS}
    others = [rooms_zoo.FRESH, *range(rooms_zoo.READOUTS, rooms_zoo.READOUTS + 17), rooms_zoo.NOISE]
    assert len(numbers.union(others)) == 34 + 19 and max(numbers.union(others)) < rooms_zoo.SEEDS
    firsts = [Zoo(TINY, seed).fresh(name).encoder[0][0].weight for seed in (0, 1) for name in TINY.tasks]
    assert len({tuple(weight.flatten()[:4].tolist()) for weight in firsts}) == 8
    again = Zoo(TINY.but(tasks=("depth",), residual=()), 1).fresh("depth")
    assert torch.equal(again.encoder[0][0].weight, firsts[6])
    before = torch.get_rng_state()
    for member in (Member("depth"), Member("depth", "residual"), Member("obj")):
        assert build(member, 3).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, *rooms.task(member.task).shape)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_are_kept_in_few_bytes_and_no_constant_answer_beats_the_blind_one() -> None:
    found = rooms.rooms("zoo", 41)
    for task in rooms.TASKS:
        labels = found.labels(task)
        kept = Lesson(task, found.images.images, compact(task, labels))
        answers = kept.answers(slice(None))
        assert kept.labels.element_size() <= 2 and answers.dtype == labels.dtype and answers.shape == labels.shape
        tolerance = {"rtol": 0, "atol": 0} if rooms.task(task).loss in ("ce", "bce") else {"rtol": 5e-4, "atol": 1e-6}
        torch.testing.assert_close(answers, labels, **tolerance)
        answer = blind_answer(task, kept.labels)

        def loss(constant: Tensor, task: str = task, labels: Tensor = labels) -> float:
            return float(rooms.losses(task, constant.expand(len(labels), *constant.shape), labels).mean())

        assert answer.shape == rooms.task(task).shape
        assert loss(answer) == pytest.approx(blind_loss(task, labels, labels), rel=1e-3)
        for seed in range(3):
            with run.seeded(seed):
                assert loss(answer + 0.3 * torch.randn(answer.shape)) > loss(answer) - 1e-3
    assert torch.allclose(in_range(found.images.images), found.normalised(found.images.images), atol=1e-6)


class NoSync(TorchDispatchMode):
    """Fail on every operation whose result the host must wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "_unique2")
        return func(*args, **(kwargs or {}))


def test_a_step_runs_on_any_device_and_never_waits_for_it() -> None:
    for kind in KINDS:
        for task in ("denoise", "seg2d", "semseg", "layout", "scene", "edge3d"):
            report = kind(task, "meta").step()
            assert report.keys() == {"loss"} and report["loss"].is_meta and report["loss"].shape == ()
        method = kind("semseg", precision="bf16")
        with NoSync():
            method.step()
    with pytest.raises(DeviceError, match="on different devices"):
        TaskLearning(nets.task_network(1), lesson("depth", "meta"), updates=2)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    def trained(updates: int, checkpoint: Path | None, seed: int) -> tuple[Any, run.History]:
        method = learning("scene", seed=seed)
        torch.manual_seed(seed)  # for dropout
        history = run.run(method, updates=updates, report_every=2, checkpoint=checkpoint, progress=False)
        return players.state(method), history

    whole, history = trained(8, None, 1)
    trained(4, tmp_path / "run.pt", 1)
    resumed, again = trained(8, tmp_path / "run.pt", 5)
    assert not list(players.differences(whole, resumed))
    assert again.rounds == history.rounds and again.cost.passes == history.cost.passes
    assert (tmp_path / "run.pt").stat().st_size < 2e6, "images and labels are no part of a checkpoint"


def test_learning_lowers_the_loss() -> None:
    for kind in KINDS:
        method = kind("depth", updates=60, lr=1e-2)
        losses = run.run(method, updates=60, report_every=10, progress=False).curve("loss")[1]
        assert losses[-1] < 0.8 * losses[0] and method.scheduler.get_last_lr()[0] < 1e-4


def test_losses_are_those_of_the_network_in_evaluation_mode() -> None:
    network, found = nets.task_network(6, dense=False).train(), rooms.rooms("test", 12)
    x, y = in_range(found.images.images), found.labels("scene")
    losses = image_losses(network, x, "scene", y, batch=5)
    assert network.training and losses.shape == (12,)
    with torch.no_grad():
        assert torch.allclose(losses, rooms.losses("scene", network.eval()(x), y), atol=1e-6)


# --- a zoo


def test_networks_are_kept_with_cards_and_verified(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="reuselib run attribution"):
        zoo.network("depth")
    cost = zoo.train()
    assert cost.passes["student_forward"] == len(zoo.members) * TINY.updates
    folder = tmp_path / "zoo" / "tiny-0"
    folders = {path.parent.name for path in folder.glob("*/card.json")}
    assert folders == set(zoo.members) == {"denoise", "color", "depth", "scene", "depth-residual"}
    card, network = zoo.card("depth"), zoo.network("depth")
    assert card["recipe"]["task"] == "depth" and card["recipe"]["zoo"] == 0 and card["passed"] is True
    assert card["parameters"] == nets.parameter_count(network) and card["seconds"] > 0
    assert card["sha256"] == home.sha256(folder / "depth" / "weights.safetensors")
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    labels, inputs = zoo.room_set("test").labels("depth"), zoo.inputs("depth", "test")
    assert card["test_loss"] == pytest.approx(float(image_losses(network, inputs, "depth", labels).mean()))
    assert card["blind_loss"] == pytest.approx(blind_loss("depth", zoo.lesson("depth").labels, labels))
    assert zoo.train().wall_seconds == 0 and Zoo(TINY, 0).card("depth") == card
    assert not list(tmp_path.glob("**/*.pt")) and not Zoo(TINY.but(gate=1e-6), 0).piece("deth").has()
    with pytest.raises(ReuseError, match="another recipe"):
        Zoo(TINY.but(updates=5), 0).network("scene")
    path = folder / "depth" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFile, match="expected sha256.*delete"):
        Zoo(TINY, 0).network("depth")
    with pytest.raises(UnknownName, match="Did you mean 'depth'"):
        Zoo(TINY.but(tasks=("dept",)), 0)
    with pytest.raises(UnknownName, match="network of tiny-0 'deth'. Did you mean 'depth'"):
        zoo.network("deth")


def test_the_gate_keeps_out_what_is_no_better_than_blind() -> None:
    strict = Zoo(TINY.but(gate=1e-6), 0)
    strict.train()
    assert strict.tasks == strict.targets == ()
    assert strict.card("depth")["passed"] is False and strict.network("depth")


def test_transfers_leave_a_table_and_a_truth(zoo: Zoo, tmp_path: Path) -> None:
    zoo.ready()
    before = {name: players.state(zoo.network(name)) for name in zoo.tasks}
    card = zoo.piece("transfers").card()
    assert card["targets"] == ["denoise", "depth", "scene"] and card["sources"] == [*TINY.tasks, UNTRAINED]
    spent = sum(sum(each) for each in card["seconds_each"].values())
    assert card["transfers"] == 15 and card["seconds"] == pytest.approx(spent, abs=0.01)
    assert zoo.losses.shape == (3, 4, 12) and zoo.losses.dtype == torch.float32
    truth = zoo.truth
    assert (truth.targets, truth.sources, truth.top) == (("denoise", "depth", "scene"), TINY.tasks, 1)
    assert torch.equal(truth.affinity, ordinal.affinities(zoo.losses))
    again, _ = zoo.train_readout("depth", "color")
    assert torch.equal(again, zoo.all_losses["depth"]["color"])
    assert not list(players.differences(before, {name: players.state(zoo.network(name)) for name in zoo.tasks}))
    assert not any(players.hooks(zoo.network(name)) for name in zoo.tasks) and not list(tmp_path.glob("**/*.pt"))
    fresh = Zoo(TINY, 0)
    assert fresh.transfer().wall_seconds == 0 and torch.equal(fresh.losses, zoo.losses)
    said = {key: fresh.card("depth")[key] for key in ("recipe", "passed", "test_loss", "blind_loss")}
    fresh.piece("depth").save(fresh.fresh("depth"), **said)
    with pytest.raises(ReuseError, match="another recipe"):  # transfers of other networks
        Zoo(TINY, 0).truth  # noqa: B018


def test_what_sources_are_given_and_what_they_share(zoo: Zoo) -> None:
    zoo.train()
    images = in_range(zoo.room_set("test").images.images)
    with torch.no_grad():
        grey = zoo.network("color").represent(rooms.inputs("color", images))
        plain = zoo.network("depth").represent(images)
    assert torch.allclose(zoo.represent("color", images), grey, atol=1e-6)
    assert torch.allclose(zoo.represent("depth", images), plain, atol=1e-6)
    assert not torch.allclose(zoo.represent(UNTRAINED, images), plain, atol=1e-3)
    noisy = [zoo.inputs("denoise", "test") for _ in range(2)]
    assert torch.equal(*noisy) and not torch.equal(noisy[0], images)
    asked: list[tuple[str, bool]] = []

    def same(source: str, split: str, noisy: bool) -> Tensor:
        asked.append((split, noisy))
        with run.seeded(int(noisy)):
            return torch.rand(16 if split == "transfer" else 12, 8, 8, 8)

    losses = [zoo.train_readout("depth", source, same)[0] for source in ("color", "scene", UNTRAINED)]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])  # readout and batches are shared
    zoo.train_readout("denoise", "depth", same)
    assert asked[-4:] == [(split, noisy) for noisy in (False, True) for split in ("transfer", "test")]


def test_a_zoo_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents(name: str) -> dict[str, bytes]:
        folder = tmp_path / name / "zoo" / "tiny-1"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("**/*.safetensors")}

    monkeypatch.setitem(run.run.__kwdefaults__, "save_every", 0.0)
    monkeypatch.setattr(run.loop, "divisor", lambda updates, most: 2)
    for name in ("whole", "cut0", "cut1"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / "whole"))
    Zoo(TINY, 1).ready()
    step = TaskLearning.step
    for number, call in enumerate((6, 4 * 5 + 2 * 9 + 1)):  # in a network, in the second target
        monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / f"cut{number}"))
        counted = players.rigged(step, at=call)
        monkeypatch.setattr(TaskLearning, "step", lambda self, counted=counted: counted(self))
        with pytest.raises(players.Explosion):
            Zoo(TINY, 1).ready()
        assert list((tmp_path / f"cut{number}").glob("**/*.pt"))
        monkeypatch.setattr(TaskLearning, "step", step)
        torch.manual_seed(7)  # the global state must not matter
        Zoo(TINY, 1).ready()
        assert contents(f"cut{number}") == contents("whole") and len(contents("whole")) == 6


def test_zoos_that_are_not_kept_leave_nothing_in_the_data_room(tmp_path: Path) -> None:
    plan = TINY.but(kept=False)
    open_zoo(plan, 0).train(only=["scene"])
    assert not list(tmp_path.iterdir())
    assert open_zoo(plan, 0) is open_zoo(plan, 0) and open_zoo(plan, 0).card("scene")["passed"]
    with pytest.raises(MissingFile):
        open_zoo(plan.but(lr=1e-3), 0).card("scene")


def test_seconds_are_those_of_the_processor_on_a_cpu() -> None:
    cost = run.Cost(wall_seconds=5.0, cpu_seconds=2.0, passes={"a": 1})
    assert seconds(cost, torch.device("cpu")) == 2.0 and seconds(cost, torch.device("meta")) == 5.0
    add_cost(cost, run.Cost(1.0, 1.0, 3.0, {"a": 2, "b": 1}))
    assert (cost.wall_seconds, cost.cpu_seconds, cost.peak_memory_mb) == (6.0, 3.0, 3.0)
    assert cost.passes == {"a": 3, "b": 1}
