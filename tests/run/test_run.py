"""Driving a method: history, evaluation, the guards against NaN and lack of memory."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import players
import pytest
import torch
from torch import Tensor, nn

from reuselib import run
from reuselib.errors import BadValue, DeviceError, NonFinite, ShapeMismatch
from reuselib.run import checkpoint as checkpoints


class Fitting(run.Method):
    """A line is fitted by plain gradient descent; some steps can be spoilt."""

    fixed = ()
    steps_per_round = 1
    batch = 8

    def __init__(self, spoilt: dict[int, float] | None = None, lr: float = 0.1) -> None:
        self.student = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr)
        self.spoilt = spoilt or {}

    def step(self) -> dict[str, Tensor]:
        x = torch.linspace(-1, 1, 8).view(8, 1)
        loss = (self.student(x) - 2 * x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"fit": loss * self.spoilt.get(self.iteration + 1, 1.0), "other": torch.ones(())}


def test_a_run_reports_every_round_in_equal_parts_and_evaluates_so_many_times_and_at_the_end() -> None:
    assert [run.divisor(*each) for each in ((2400, 50), (78, 50), (7, 50), (53, 50), (0, 50))] == [50, 39, 7, 1, 1]
    one, other = Fitting(), Fitting()
    other.student.load_state_dict(one.student.state_dict())
    fits = run.run(one, updates=6, report_every=1, progress=False).curve("fit")[1]
    means = [sum(fits[:3]) / 3, sum(fits[3:]) / 3]
    assert run.run(other, updates=6, report_every=4, progress=False).curve("fit") == ([3, 6], pytest.approx(means))
    assert not run.run(Fitting(), updates=0, progress=False).rounds
    torch.set_num_threads(2)
    try:
        for times, expected in ((None, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (1, [5])):
            method = Fitting()
            seen = {"seen": lambda method=method: float(method.iteration), "threads": torch.get_num_threads}
            history = players.drive(
                method, 5, evaluate=lambda seen=seen: {k: call() for k, call in seen.items()}, evaluations=times
            )
            assert history.curve("seen") == (expected, expected) and history.last("threads") == 1
            iterations, fits = history.curve("fit")
            assert iterations == [1, 2, 3, 4, 5] and fits == sorted(fits, reverse=True)
        assert torch.get_num_threads() == 2 and history.curve("nothing") == ([], [])
    finally:
        torch.set_num_threads(1)


def test_a_number_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path, good = tmp_path / "run.pt", Fitting()
    for checkpoint in (None, path):
        with pytest.raises(NonFinite, match="Nothing was saved"):
            players.drive(Fitting({1: float("nan")}), 3, checkpoint=checkpoint)
        with pytest.raises(NonFinite, match="'accuracy' became nan by update 1"):
            players.drive(Fitting(), 3, checkpoint=checkpoint, evaluate=lambda: {"accuracy": float("nan")})
    assert not list(tmp_path.iterdir())
    start = players.state(good.student)
    players.drive(good, 3)
    spoilt, mended = Fitting({4: float("inf")}), Fitting()
    spoilt.student.load_state_dict(start)
    words = r"'fit' became inf by update 4.*last good checkpoint, of update 3, is kept in .*run.pt.*rate.*fp32"
    with pytest.raises(NonFinite, match=words):
        players.drive(spoilt, 6, checkpoint=path)
    content = run.load_checkpoint(path)
    assert content["iteration"] == 3 and len(content["history"]["rounds"]) == 3
    assert not list(players.differences(players.state(good.student), content["state"]["student"]))
    mended.described = spoilt.described
    assert len(players.drive(mended, 6, checkpoint=path).rounds) == 6


def test_weights_that_are_not_finite_never_reach_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    for length, every in ((1, 0), (2, 0), (2, 1e9)):  # also in the middle of a round
        path.unlink(missing_ok=True)
        method = Fitting()
        method.steps_per_round = length
        players.drive(method, 2, checkpoint=path)
        method.optimizer.param_groups[0]["lr"] = float("inf")  # the next loss is still good, the weights after it not
        content = players.state(run.load_checkpoint(path))
        run.save_checkpoint(path, content | {"state": content["state"] | {"optimizer": method.optimizer.state_dict()}})
        before, other = path.read_bytes(), Fitting()
        other.steps_per_round = length
        with pytest.raises(NonFinite, match=r"(a weight of the student|fit)' became (inf|nan) by update \d.*kept in"):
            players.drive(other, 4, checkpoint=path, save_every=every)
        assert path.read_bytes() == before


def test_lack_of_memory_names_the_batch_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, path = players.make("dfad", batch=12), tmp_path / "run.pt"
    players.drive(method, 1, checkpoint=path)

    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(method.student, "forward", full)
    with pytest.raises(DeviceError, match="out of memory in update 3.*batch of 6 instead of 12"):
        players.drive(method, 3, checkpoint=path)
    assert run.load_checkpoint(path)["iteration"] == 2


class Clock:
    """Time as it passes on a machine on which an update takes long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: run.Method, seconds: float) -> None:
        self.now, self.written, step = 0.0, [], method.step
        for module in (importlib.import_module("reuselib.run.loop"), checkpoints):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(
            checkpoints, "save_checkpoint", lambda _, content: self.written.append(content["iteration"])
        )

        def slowly() -> dict[str, Tensor]:
            self.now += seconds
            return step()

        method.step = slowly


def test_checkpoints_are_written_by_the_clock_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for length, every, expected in ((1, 3, [3, 6, 7]), (7, 3, [3, 6, 7]), (7, 60, [5, 7]), (7, 0, [*range(1, 8)])):
        method = Fitting()
        method.steps_per_round = length
        clock = Clock(monkeypatch, method, seconds=1)
        players.drive(method, 7 // length, checkpoint=tmp_path / "run.pt", save_every=every)
        assert clock.written == expected


def test_on_a_slow_machine_a_bar_and_a_checkpoint_move_within_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounds of 50 updates of 10 s each: all is to be seen after the first of them."""
    method = Fitting({3: float("nan")})
    clock = Clock(monkeypatch, method, seconds=10)
    with pytest.raises(NonFinite):
        run.run(method, 50, checkpoint=tmp_path / "run.pt", save_every=20)
    shown = capsys.readouterr().err
    assert clock.written == [1] and "Fitting:   2%" in shown and "1/50" in shown and "fit=" in shown


def test_accuracy_counts_hits_and_restores_the_mode() -> None:
    cast = players.cast()
    student = cast.student.train()
    student.blocks[0].eval()
    before, modes = players.state(student), [module.training for module in student.modules()]
    measured = run.accuracy(student, cast.images, batch=7)
    assert [module.training for module in student.modules()] == modes
    assert not list(players.differences(before, players.state(student)))
    logits = student.eval()(cast.images.normalised(cast.images.images))
    hits = sum(int(row.argmax()) == int(y) for row, y in zip(logits, cast.images.labels, strict=True))
    assert measured == pytest.approx(hits / len(cast.images))
    with torch.no_grad():
        student.head.bias.fill_(float("inf"))
    few = players.nets.conv3(width=2, classes=3)
    for network, images, error, words in (
        (few, cast.images.subset(slice(0)), BadValue, "no images"),
        (few, cast.images, ShapeMismatch, "of 40 labels are none of the network's 3 classes"),
        (student, cast.images, NonFinite, "NaN or infinity for 40 of 40 images"),
    ):
        with pytest.raises(error, match=words):
            run.accuracy(network, images)
