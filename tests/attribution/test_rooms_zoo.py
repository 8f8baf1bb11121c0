"""The zoos of room networks: learning a task, the gate, transfers, and that whatever was cut off goes on."""

from __future__ import annotations

import json
from pathlib import Path

import players
import pytest
import torch
from torch import Tensor

from reuselib import nets, run
from reuselib.attribution import learning, ordinal, rooms_zoo
from reuselib.attribution.learning import Lesson, TaskLearning, blind_answer, blind_loss, image_losses, in_range
from reuselib.attribution.rooms_zoo import ENCODERS, PLAN, UNTRAINED, Member, Zoo, open_zoo
from reuselib.errors import MissingFile, ReuseError
from reuselib.worlds import rooms

TINY = (
    PLAN.but(name="tiny", tasks=("denoise", "color", "depth", "scene"), residual=("depth",), gate=100.0, top=1)
    .but(images=40, transfer_images=16, test_images=12)
    .but(updates=4, transfer_updates=2, batch=8)
)
pytestmark = pytest.mark.usefixtures("room")  # networks stay out of the clone


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


@pytest.mark.parametrize("task", rooms.TASKS)
def test_labels_are_kept_in_few_bytes_and_losses_are_those_of_images_and_of_the_best_constant_answer(task: str) -> None:
    found = rooms.rooms("zoo", 41)
    labels = found.labels(task)
    kept = Lesson(task, found.images.images, learning.compact(task, labels))
    answers, whole = kept.answers(slice(None)), rooms.task(task).loss in ("ce", "bce")
    assert kept.labels.element_size() <= 2 and answers.dtype == labels.dtype
    torch.testing.assert_close(answers, labels, rtol=0 if whole else 5e-4, atol=0 if whole else 1e-6)

    def loss(constant: Tensor) -> float:
        return float(rooms.losses(task, constant.expand(len(labels), *constant.shape), labels).mean())

    network = nets.task_network(rooms.task(task).shape[0], rooms.task(task).dense).train()
    x, answer = in_range(found.images.images), blind_answer(task, kept.labels)
    losses = image_losses(network, x, task, labels, batch=30)
    assert network.training and torch.allclose(x, found.normalised(found.images.images), atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(losses, rooms.losses(task, network.eval()(x), labels))
    assert answer.shape == rooms.task(task).shape
    assert loss(answer) == pytest.approx(blind_loss(task, labels, labels), rel=1e-3)
    assert all(loss(answer + 0.3 * torch.randn(answer.shape)) > loss(answer) - 1e-3 for _ in range(3))


def test_networks_are_kept_with_cards_and_the_gate_keeps_out_what_is_no_better_than_blind(tmp_path: Path) -> None:
    zoo = Zoo(TINY.but(gate=1e-6), 0)
    with pytest.raises(MissingFile, match="reuselib run attribution"):
        zoo.network("depth")
    assert zoo.train().passes["student_forward"] == len(zoo.members) * TINY.updates
    assert set(zoo.members) == {"denoise", "color", "depth", "scene", "depth-residual"}
    card, network = zoo.card("depth"), zoo.network("depth")
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    labels, inputs = zoo.room_set("test").labels("depth"), zoo.inputs("depth", "test")
    assert card["test_loss"] == pytest.approx(float(image_losses(network, inputs, "depth", labels).mean()))
    assert card["blind_loss"] == pytest.approx(blind_loss("depth", zoo.lesson("depth").labels, labels))
    assert zoo.tasks == zoo.targets == () and not card["passed"]
    assert zoo.train().wall_seconds == 0 and not list(tmp_path.glob("**/*.pt"))
    with pytest.raises(ReuseError, match="another recipe"):
        Zoo(TINY.but(updates=5), 0).network("scene")


def test_transfers_leave_a_table_and_a_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(TINY, 0)
    zoo.ready()
    before = {name: players.state(zoo.network(name)) for name in zoo.tasks}
    card, truth = zoo.piece("transfers").card(), zoo.truth
    assert card["targets"] == ["denoise", "depth", "scene"] and card["sources"] == [*TINY.tasks, UNTRAINED]
    spent = sum(sum(each) for each in card["seconds_each"].values())
    assert card["transfers"] == 15 and card["seconds"] == pytest.approx(spent, abs=0.02)
    assert zoo.losses.shape == (3, 4, 12) and zoo.losses.dtype == torch.float32
    assert (truth.targets, truth.sources, truth.top) == (("denoise", "depth", "scene"), TINY.tasks, 1)
    assert torch.equal(truth.affinity, ordinal.affinities(zoo.losses))
    for source in ("color", UNTRAINED):
        assert torch.equal(zoo.train_readout("depth", source)[0], zoo.all_losses["depth"][source])
    assert not list(players.differences(before, {name: players.state(zoo.network(name)) for name in zoo.tasks}))
    images, noisy = in_range(zoo.room_set("test").images.images), zoo.inputs("denoise", "test")
    grey = zoo.network("color").represent(rooms.inputs("color", images))
    torch.testing.assert_close(zoo.codes("color", "test", False), grey)
    torch.testing.assert_close(zoo.codes("depth", "test", True), zoo.network("depth").represent(noisy))
    assert not torch.equal(noisy, images) and not torch.equal(zoo.codes(UNTRAINED, "test", False), grey)
    monkeypatch.setattr(
        zoo, "codes", lambda source, split, noisy: torch.ones(16 if split == "transfer" else 12, 8, 8, 8)
    )
    assert torch.equal(*(zoo.train_readout("depth", source)[0] for source in ("color", "scene")))  # the rest is shared
    fresh = Zoo(TINY, 0)
    assert fresh.ready().wall_seconds == 0 and torch.equal(fresh.losses, zoo.losses)
    said = {key: fresh.card("depth")[key] for key in ("recipe", "passed", "test_loss", "blind_loss")}
    fresh.piece("depth").save(fresh.fresh("depth"), **said)
    with pytest.raises(ReuseError, match="another recipe"):  # transfers of other networks
        Zoo(TINY, 0).truth  # noqa: B018


def test_parts_that_are_finished_are_not_made_again(tmp_path: Path) -> None:
    make = players.rigged(lambda name: (name.upper(), run.Cost(1.0, 2.0, 3.0, {"a": 1})), at=1)
    with pytest.raises(players.Explosion):
        learning.part_by_part("abc", make, tmp_path / "parts.pt", "these", disable=True)
    found = learning.part_by_part("abc", make, tmp_path / "parts.pt", "these", disable=True)
    assert found == (["A", "B", "C"], run.Cost(3.0, 6.0, 3.0, {"a": 3})) and make.calls == 4
    with pytest.raises(ReuseError, match="other settings"):
        learning.part_by_part("abc", make, tmp_path / "parts.pt", "others", disable=True)


def test_a_zoo_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TINY.but(tasks=("depth", "scene"), residual=())

    def made(name: str) -> dict[str, bytes]:
        """Make a zoo in a room of its own, or go on with it."""
        monkeypatch.setenv("REUSELIB_DATA", str(tmp_path / name))
        (tmp_path / name).mkdir(exist_ok=True)
        Zoo(plan, 1).ready()
        return {path.parent.name: path.read_bytes() for path in (tmp_path / name).glob("zoo/tiny-1/*/*.safetensors")}

    monkeypatch.setitem(run.run.__kwdefaults__, "save_every", 0.0)
    monkeypatch.setattr(run.loop, "divisor", lambda updates, most: 2)
    whole = made("whole")
    assert len(whole) == 3
    for call in (6, 4 * 2 + 2 * 3 + 1):  # in a network, in the second target
        with monkeypatch.context() as interrupted, pytest.raises(players.Explosion):
            counted = players.rigged(TaskLearning.step, at=call)
            interrupted.setattr(TaskLearning, "step", lambda self, counted=counted: counted(self))
            made(f"cut{call}")
        assert list((tmp_path / f"cut{call}").glob("**/*.pt"))
        torch.manual_seed(7)  # the global state must not matter
        assert made(f"cut{call}") == whole


def test_zoos_that_are_not_kept_leave_nothing_in_the_data_room(tmp_path: Path) -> None:
    plan = TINY.but(kept=False)
    open_zoo(plan, 0).train(only=["scene"])
    assert not list(tmp_path.iterdir())
    assert open_zoo(plan, 0) is open_zoo(plan, 0) and open_zoo(plan, 0).card("scene")["passed"]
    with pytest.raises(MissingFile):
        open_zoo(plan.but(lr=1e-3), 0).card("scene")
