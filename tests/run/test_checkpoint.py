"""Checkpoint files: whole, refused when altered, and refused by what they do not belong to."""

from __future__ import annotations

import hashlib
import inspect
import io
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import players
import pytest
import torch

from reuselib import home, run
from reuselib.dfad import losses
from reuselib.errors import MissingFile, ReuseError
from reuselib.run.checkpoint import Checkpoint
from reuselib.run.described import describe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint of a short DFAD run."""
    path = tmp_path / "run.pt"
    players.drive(players.make("dfad"), 1, checkpoint=path)
    return path


def test_what_is_written_is_read_and_what_is_missing_or_cut_off_is_named(checkpoint: Path) -> None:
    content = {"a": torch.arange(3), "b": [1, 2.5, "three", None], "c": {"d": torch.ones(2, dtype=torch.bfloat16)}}
    path = checkpoint.parent / "new" / "file.pt"
    run.save_checkpoint(path, content)
    assert not list(players.differences(players.state(content), run.load_checkpoint(path)))
    with pytest.raises(MissingFile, match=r"no checkpoint at .*none\.pt"):
        run.load_checkpoint(path.with_name("none.pt"))
    original = checkpoint.read_bytes()
    for share in (0, 0.5, 0.999):
        checkpoint.write_bytes(original[: int(share * len(original))])
        refused(of(), checkpoint, "run.pt is damaged.*delete it")


def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_go_on(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, whole = checkpoint.read_bytes(), players.make("dfad")
    players.drive(whole, 3)
    with monkeypatch.context() as full:
        full.setattr(home.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        words = r"(?s)run.pt could not be written by update 3 .*No space left.*of update 2, is kept.*Free .*it goes on"
        with pytest.raises(ReuseError, match=words):
            players.drive(players.make("dfad"), 3, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before and list(checkpoint.parent.iterdir()) == [checkpoint]
    resumed = players.make("dfad")
    players.drive(resumed, 3, checkpoint=checkpoint)
    assert not list(players.differences(players.state(whole), players.state(resumed)))


def test_where_nothing_can_be_written_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    method = players.make("dfad")
    places = {tmp_path: "is a folder. Give a file in it", tmp_path / "file" / "run.pt": "cannot be written"}
    for path, words in places.items():
        with pytest.raises(ReuseError, match=words):
            players.drive(method, 1, checkpoint=path)
    assert method.iteration == 0


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "owned"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"format": 1, "state": Evil(tmp_path / "owned")}, buffer)
    path = tmp_path / "evil.pt"
    path.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    with pytest.raises(Exception, match="(?i)weights.only"):
        run.load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def refused(method: run.Method, checkpoint: Path, words: str, **options: Any) -> None:
    """Assert that a run does not go on, and that the checkpoint is left alone."""
    before = checkpoint.read_bytes()
    with pytest.raises(ReuseError, match=f"(?s){words}"):
        players.drive(method, 2, checkpoint=checkpoint, **options)
    assert checkpoint.read_bytes() == before


def of(method: str = "dfad", options: Any = None, **parts: Any) -> run.Method:
    """A method as `players.make` makes it, but with other options, or from other parts."""
    cast = players.cast()
    vars(cast).update(parts)
    made = players.MAKERS[method](cast, **{"batch": players.BATCH, "seed": 0, "precision": "fp32"} | (options or {}))
    made.steps_per_round = 2
    return made


CHANGES = {
    "seed": (1, "seed is 0 there, 1 now"),
    "lr": (0.1, "lr is 0.05 there, 0.1 now.*optimizers.0.0.lr is 0.05"),
    "discrepancy": (losses.kl_divergence, "discrepancy is .*mean_absolute_error there, .*kl_divergence now"),
    "schedule": (run.step_decay([9]), "schedule is .*constant there, .*step_decay"),
    "precision": ("bf16", "precision is .'fp32'. there, .'bf16'. now"),
}


def test_a_checkpoint_of_something_else_is_refused_with_what_differs(checkpoint: Path) -> None:
    for option, (value, words) in CHANGES.items():
        refused(of(options={option: value}), checkpoint, f"made with other settings: {words}.*Delete .*run.pt.*another")
    other_teacher, fewer, wider = of(), of(), players.nets.conv3(width=3, classes=players.CLASSES)
    images = replace(players.cast().images, images=1 + players.cast().images.images)
    fewer.schedulers.pop()
    with torch.no_grad():
        other_teacher.teacher.head.bias[0] += 1e-6
    for method, words in (
        (of("dafl"), "method is DFAD there, DAFL now"),
        (other_teacher, "the teacher's weights is '.*' there, '.*' now. Delete .*run.pt"),
        (of(student=wider), r"student.blocks.0.0 is Conv2d\(1, 2,.* there, Conv2d\(1, 3,.* now; .*; and \d+ more"),
        (fewer, "does not fit this method's schedulers .*Delete .*run.pt"),
    ):
        refused(method, checkpoint, words)
    refused(of(), checkpoint, "settings.lr is nothing there, 1 now", settings={"lr": 1})
    players.drive(of("kd-images"), 1, checkpoint=(other := checkpoint.with_name("kd.pt")))
    refused(of("kd-images", images=images), other, r"source.* is uint8 \(40, 1, 8, 8\) .* there, uint8 \(40, 1, 8, 8\)")
    run.save_checkpoint(other, run.load_checkpoint(checkpoint) | {"format": 1})
    refused(of(), other, "kd.pt has format 1, not 2. Delete it")
    assert len(players.drive(of(), 2, checkpoint=checkpoint).rounds) == 2  # it may go on for longer, not for less
    with pytest.raises(ReuseError, match="has 4 updates, more than 2. Ask for as many"):
        players.drive(of(), 1, checkpoint=checkpoint)


def test_what_decides_a_result_is_in_words_and_the_same_each_time() -> None:
    """Functions count by their numbers and what they enclose, objects by their parts; a device decides nothing."""

    def decay(factor: float, steps: int = 3) -> Any:
        return lambda iteration: factor ** (iteration // steps) * 2

    array, none = torch.arange(3), torch.device("cpu")
    value = {"a": [1, 2.0, "x"], "f": partial(decay(0.5), 1), "t": array, "n": array.numpy(), "where": none}
    words = dict(describe(value))
    assert words == dict(describe(value | {"a": (1.0, 2, "x"), "f": partial(decay(0.5), 1)}))
    assert words["a"] == "[1, 2, 'x']" and "where" not in words
    changes: list[dict[str, Any]] = [{"t": array + 1}, {"n": array.numpy() + 1}]
    changes += [{"f": each} for each in (partial(decay(0.4), 1), partial(decay(0.5, 4), 1), partial(decay(0.5), 2))]
    assert all(words != dict(describe(value | change)) for change in changes)
    assert dict(describe(lambda: 1)) != dict(describe(lambda: 2))


@pytest.mark.parametrize("name", players.MAKERS)
def test_every_party_of_a_method_decides(name: str) -> None:
    """What a constructor passes on to another one counts, too: a checkpoint of another student is refused."""
    method = players.make(name)
    parties = [each.name for each in inspect.signature(type(method)).parameters.values() if each.default is each.empty]
    places = {place.partition(".")[0] for place in method.described}
    assert set(parties) <= places


def test_a_held_method_is_captured_with_its_holder_and_the_teacher_is_not(tmp_path: Path) -> None:
    method, path = players.make("inversion-cmi"), tmp_path / "run.pt"
    players.drive(method, 2, checkpoint=path)
    content = run.load_checkpoint(path)
    inner = content["state"]["imitation"]
    assert inner.keys() == {"student", "student_optimizer", "schedulers", "random", "precision"}
    assert content["state"].keys() >= {"pool", "bank", "head", "head_optimizer", "generator", "random", "imitation"}
    assert "teacher" not in content["state"]
    assert not list(players.differences(players.state(inner["student"]), players.state(method.imitation.student)))
    # A student of whom the file knows nothing would start afresh without anybody noticing.
    refused(players.make("inversion-alone"), path, "(student|learning).* there, .* now.*Delete .*run.pt")
    path.unlink()
    players.drive(players.make("inversion-alone"), 1, checkpoint=path)
    refused(method, path, "(student|learning).* there, .* now.*Delete .*run.pt")


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reuselib.run.checkpoint.save_checkpoint", lambda path, content: time.sleep(0.05))
    method = players.make("dfad")
    for every, least, most in ((0.01, 0.8, 30.0), (60.0, 59.0, 60.0), (0.0, -1.0, 0.0)):
        file = Checkpoint(tmp_path / "run.pt", method, None, every)
        file.write([], run.Cost())
        assert least < file.next - time.monotonic() <= most and file.due() == (every == 0)
