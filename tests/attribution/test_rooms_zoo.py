"""The zoos of room networks: learning a task, the gate, transfers, and that whatever was cut off goes on."""

from __future__ import annotations

import json
from pathlib import Path

import players
import pytest
import torch
from torch import Tensor

from reuselib import home, nets, run
from reuselib.attribution import learning, ordinal, rooms_zoo
from reuselib.attribution.learning import Lesson, TaskLearning, blind_answer, blind_loss, image_losses, in_range
from reuselib.attribution.rooms_zoo import ENCODERS, PLAN, UNTRAINED, Member, Zoo, open_zoo
from reuselib.errors import DamagedFile, MissingFile, ReuseError
from reuselib.worlds import rooms

TINY = (
    PLAN.but(name="tiny", tasks=("denoise", "color", "depth", "scene"), residual=("depth",), gate=100.0, top=1)
    .but(images=40, transfer_images=16, test_images=12)
    .but(updates=4, transfer_updates=2, batch=8)
)


@pytest.fixture(autouse=True)
def in_a_room(room: Path) -> None:
    """Keep networks out of the clone."""


@pytest.fixture
def zoo() -> Zoo:
    return Zoo(TINY, 0)


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
    for shipped in (Zoo(PLAN, 0), Zoo(PLAN, 1)):
        for name in shipped.members:
            assert shipped.card(name)["recipe"] == json.loads(json.dumps(shipped.recipe(name)))
        assert shipped.network("depth") is shipped.network("depth") and shipped.losses.shape == (15, 17, 512)


def test_every_network_starts_from_weights_of_its_own() -> None:
    numbers = {Member(task, encoder).number for encoder in ENCODERS for task in rooms.TASKS}
    numbers |= {rooms_zoo.FRESH, *range(rooms_zoo.READOUTS, rooms_zoo.READOUTS + 17), rooms_zoo.NOISE}
    assert len(numbers) == 34 + 19 and max(numbers) < rooms_zoo.SEEDS
    before = torch.get_rng_state()
    firsts = [Zoo(TINY, seed).fresh(name).encoder[0][0].weight for seed in (0, 1) for name in TINY.tasks]
    assert len({tuple(weight.flatten()[:4].tolist()) for weight in firsts}) == 8
    again = Zoo(TINY.but(tasks=("depth",), residual=()), 1).fresh("depth")
    assert torch.equal(again.encoder[0][0].weight, firsts[6]) and torch.equal(before, torch.get_rng_state())


def test_labels_are_kept_in_few_bytes_and_no_constant_answer_beats_the_blind_one() -> None:
    found = rooms.rooms("zoo", 41)
    for task in rooms.TASKS:
        labels = found.labels(task)
        kept = Lesson(task, found.images.images, learning.compact(task, labels))
        answers = kept.answers(slice(None))
        assert kept.labels.element_size() <= 2 and answers.dtype == labels.dtype and answers.shape == labels.shape
        tolerance = {"rtol": 0, "atol": 0} if rooms.task(task).loss in ("ce", "bce") else {"rtol": 5e-4, "atol": 1e-6}
        torch.testing.assert_close(answers, labels, **tolerance)
        answer = blind_answer(task, kept.labels)

        def loss(constant: Tensor, task: str = task, labels: Tensor = labels) -> float:
            return float(rooms.losses(task, constant.expand(len(labels), *constant.shape), labels).mean())

        assert answer.shape == rooms.task(task).shape
        assert loss(answer) == pytest.approx(blind_loss(task, labels, labels), rel=1e-3)
        assert all(loss(answer + 0.3 * torch.randn(answer.shape)) > loss(answer) - 1e-3 for _ in range(3))
    assert torch.allclose(in_range(found.images.images), found.normalised(found.images.images), atol=1e-6)


@pytest.mark.parametrize("name", players.ROOMS)
def test_learning_lowers_the_loss(name: str) -> None:
    method = players.make(name, updates=60, lr=1e-2)
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
    cost, folder = zoo.train(), tmp_path / "zoo" / "tiny-0"
    assert cost.passes["student_forward"] == len(zoo.members) * TINY.updates
    folders = {path.parent.name for path in folder.glob("*/card.json")}
    assert folders == set(zoo.members) == {"denoise", "color", "depth", "scene", "depth-residual"}
    card, network, path = zoo.card("depth"), zoo.network("depth"), folder / "depth" / "weights.safetensors"
    assert card["recipe"]["task"] == "depth" and card["recipe"]["zoo"] == 0 and card["passed"] is True
    assert card["parameters"] == nets.parameter_count(network) and card["seconds"] > 0
    assert card["sha256"] == home.sha256(path)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    labels, inputs = zoo.room_set("test").labels("depth"), zoo.inputs("depth", "test")
    assert card["test_loss"] == pytest.approx(float(image_losses(network, inputs, "depth", labels).mean()))
    assert card["blind_loss"] == pytest.approx(blind_loss("depth", zoo.lesson("depth").labels, labels))
    assert zoo.train().wall_seconds == 0 and Zoo(TINY, 0).card("depth") == card
    assert not list(tmp_path.glob("**/*.pt"))
    with pytest.raises(ReuseError, match="another recipe"):
        Zoo(TINY.but(updates=5), 0).network("scene")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFile, match="expected sha256.*delete"):
        Zoo(TINY, 0).network("depth")


def test_the_gate_keeps_out_what_is_no_better_than_blind() -> None:
    strict = Zoo(TINY.but(gate=1e-6), 0)
    strict.train()
    assert strict.tasks == strict.targets == () and not strict.card("depth")["passed"] and strict.network("depth")


def test_transfers_leave_a_table_and_a_truth(zoo: Zoo, tmp_path: Path) -> None:
    zoo.ready()
    before = {name: players.state(zoo.network(name)) for name in zoo.tasks}
    card, truth = zoo.piece("transfers").card(), zoo.truth
    assert card["targets"] == ["denoise", "depth", "scene"] and card["sources"] == [*TINY.tasks, UNTRAINED]
    spent = sum(sum(each) for each in card["seconds_each"].values())
    assert card["transfers"] == 15 and card["seconds"] == pytest.approx(spent, abs=0.01)
    assert zoo.losses.shape == (3, 4, 12) and zoo.losses.dtype == torch.float32
    assert (truth.targets, truth.sources, truth.top) == (("denoise", "depth", "scene"), TINY.tasks, 1)
    assert torch.equal(truth.affinity, ordinal.affinities(zoo.losses))
    again, _ = zoo.train_readout("depth", "color")
    assert torch.equal(again, zoo.all_losses["depth"]["color"])
    assert not list(players.differences(before, {name: players.state(zoo.network(name)) for name in zoo.tasks}))
    fresh = Zoo(TINY, 0)
    assert fresh.transfer().wall_seconds == 0 and torch.equal(fresh.losses, zoo.losses)
    said = {key: fresh.card("depth")[key] for key in ("recipe", "passed", "test_loss", "blind_loss")}
    fresh.piece("depth").save(fresh.fresh("depth"), **said)
    with pytest.raises(ReuseError, match="another recipe"):  # transfers of other networks
        Zoo(TINY, 0).truth  # noqa: B018


def test_what_sources_are_given_and_what_they_share(zoo: Zoo) -> None:
    zoo.train()
    images = in_range(zoo.room_set("test").images.images)
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
    for name in ("cut0", "cut1", "whole"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / name))
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
    assert [learning.seconds(cost, torch.device(where)) for where in ("cpu", "meta")] == [2.0, 5.0]
    cost.add(run.Cost(1.0, 1.0, 3.0, {"a": 2, "b": 1}))
    assert cost == run.Cost(6.0, 3.0, 3.0, {"a": 3, "b": 1})
