"""Checkpoint files: whole, refused when altered, and refused by what they do not belong to."""

from __future__ import annotations

import hashlib
import io
import random
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
from reuselib.errors import DamagedFile, MissingFile, ReuseError
from reuselib.run.checkpoint import Checkpoint
from reuselib.run.described import describe


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint of a short DFAD run."""
    path = tmp_path / "run.pt"
    players.drive(players.make("dfad"), 1, checkpoint=path)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"a": torch.arange(3), "b": [1, 2.5, "three", None], "c": {"d": torch.ones(2, dtype=torch.bfloat16)}}
    run.save_checkpoint(tmp_path / "new" / "file.pt", content)
    assert not list(players.differences(players.state(content), run.load_checkpoint(tmp_path / "new" / "file.pt")))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"no checkpoint at .*none\.pt"):
        run.load_checkpoint(tmp_path / "none.pt")


def test_every_flipped_bit_is_noticed(checkpoint: Path) -> None:
    original, draw = checkpoint.read_bytes(), random.Random(0)
    written = original[-32:].hex()
    for position in draw.sample(range(8 * len(original)), 150):
        damaged = bytearray(original)
        damaged[position // 8] ^= 1 << position % 8
        checkpoint.write_bytes(damaged)
        with pytest.raises(DamagedFile) as caught:
            run.load_checkpoint(checkpoint)
        found = hashlib.sha256(damaged[:-32]).hexdigest()
        expected = bytes(damaged[-32:]).hex()
        message = str(caught.value)
        assert str(checkpoint) in message and expected in message and found in message and "delete it" in message
        assert written in (expected, found)
    checkpoint.write_bytes(original)
    run.load_checkpoint(checkpoint)


def test_a_cut_off_checkpoint_is_refused_by_a_run(checkpoint: Path) -> None:
    original = checkpoint.read_bytes()
    for share in (0, 0.001, 0.5, 0.999):
        checkpoint.write_bytes(original[: int(share * len(original))])
        refused(players.make("dfad"), checkpoint, "run.pt is damaged")


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


def test_where_nothing_can_be_written_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    method = players.make("dfad")
    for path, words in (
        (tmp_path, "is a folder. Give a file in it"),
        (tmp_path / "file" / "run.pt", "cannot be written"),
    ):
        with pytest.raises(ReuseError, match=words):
            players.drive(method, 1, checkpoint=path)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.raises(ReuseError, match="cannot be written: .*read-only.* Make it writable"):
        players.drive(method, 1, checkpoint=tmp_path / "run.pt")
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
    "batch": (7, "batch is 6 there, 7 now"),
    "student_steps": (4, "student_steps is 5 there, 4 now"),
    "weight_decay": (0, "weight_decay is 0.0005 there, 0 now"),
    "discrepancy": (losses.kl_divergence, "discrepancy is .*mean_absolute_error there, .*kl_divergence now"),
    "generation": (losses.negative_log, "generation is .*negative there, .*negative_log now"),
    "schedule": (run.step_decay([9]), "schedule is .*constant there, .*step_decay"),
    "precision": ("bf16", "precision is .'fp32'. there, .'bf16'. now"),
}


@pytest.mark.parametrize("option", CHANGES)
def test_a_checkpoint_of_other_options_is_refused_with_what_differs(checkpoint: Path, option: str) -> None:
    value, words = CHANGES[option]
    refused(
        of(options={option: value}),
        checkpoint,
        f"run.pt was made with other settings: {words}.*Delete .*run.pt.*another",
    )


def test_a_checkpoint_of_something_else_is_refused(checkpoint: Path) -> None:
    other_teacher, fewer, wider = of(), of(), players.nets.conv3(width=3, classes=players.CLASSES)
    generator = players.nets.upsampling_generator(image=players.IMAGE, latent=6, width=4)
    images = replace(players.cast().images, images=1 + players.cast().images.images)
    fewer.schedulers.pop()
    with torch.no_grad():
        other_teacher.teacher.head.bias[0] += 1e-6
    for method, words in (
        (of("dafl"), "method is DFAD there, DAFL now"),
        (other_teacher, "the teacher's weights is '.*' there, '.*' now. Delete .*run.pt"),
        (of(student=wider), r"student.blocks.0.0 is Conv2d\(1, 2,.* there, Conv2d\(1, 3,.* now; .*; and \d+ more"),
        (of(generator=generator), "generator.* there, .* now"),
        (fewer, "does not fit this method's schedulers .*Delete .*run.pt"),
    ):
        refused(method, checkpoint, words)
    refused(of(), checkpoint, "settings.lr is nothing there, 1 now", settings={"lr": 1})
    other = of()
    other.steps_per_round = 1
    refused(other, checkpoint, "updates a report is 2 there, 1 now")
    players.drive(of("kd-images"), 1, checkpoint=(other := checkpoint.with_name("kd.pt")))
    refused(of("kd-images", images=images), other, r"source.* is uint8 \(40, 1, 8, 8\) .* there, uint8 \(40, 1, 8, 8\)")
    run.save_checkpoint(checkpoint, run.load_checkpoint(checkpoint) | {"format": 1})
    refused(of(), checkpoint, "run.pt has format 1, not 2. Delete it")


def test_a_run_may_go_on_for_longer_but_not_for_less(checkpoint: Path) -> None:
    assert len(players.drive(of(), 2, checkpoint=checkpoint).rounds) == 2
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
    for other in ({"f": partial(decay(0.4), 1)}, {"f": partial(decay(0.5, 4), 1)}, {"f": partial(decay(0.5), 2)}):
        assert words != dict(describe(value | other))
    assert words != dict(describe(value | {"t": array + 1})) and words != dict(
        describe(value | {"n": array.numpy() + 1})
    )
    assert dict(describe(lambda: 1)) != dict(describe(lambda: 2))


# ---- a method that holds another


def test_a_held_method_is_captured_with_its_holder_and_the_teacher_is_not(tmp_path: Path) -> None:
    method = players.make("inversion-cmi")
    players.drive(method, 2, checkpoint=tmp_path / "run.pt")
    content = run.load_checkpoint(tmp_path / "run.pt")
    inner = content["state"]["imitation"]
    assert inner.keys() == {"student", "student_optimizer", "schedulers", "random", "precision"}
    assert content["state"].keys() >= {"pool", "bank", "head", "head_optimizer", "generator", "random", "imitation"}
    assert "teacher" not in content["state"]
    assert not list(players.differences(players.state(inner["student"]), players.state(method.imitation.student)))
    assert set(method.networks()) == {"teacher", "student", "generator", "head"}


def test_a_checkpoint_with_other_parts_is_refused(tmp_path: Path) -> None:
    """A student of whom the file knows nothing would start afresh without anybody noticing."""
    path, student = tmp_path / "run.pt", players.nets.conv3(width=3, classes=players.CLASSES)
    for saved, resumed in (("cmi", "alone"), ("cmi", "adversary"), ("alone", "cmi")):
        path.unlink(missing_ok=True)
        players.drive(players.make(f"inversion-{saved}"), 1, checkpoint=path)
        refused(players.make(f"inversion-{resumed}"), path, "(student|learning).* there, .* now.*Delete .*run.pt")
    refused(of("inversion-cmi", student=student), path, "student.*Delete .*run.pt")


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reuselib.run.checkpoint.save_checkpoint", lambda path, content: time.sleep(0.05))
    method = players.make("dfad")
    players.drive(method, 1)
    for every, least, most in ((0.01, 0.8, 30.0), (60.0, 59.0, 60.0), (0.0, -1.0, 0.0)):
        file = Checkpoint(tmp_path / "run.pt", method, None, every)
        file.write([], run.Cost())
        assert least < file.next - time.monotonic() <= most and file.due() == (every == 0)
    monkeypatch.undo()
    file.write([], run.Cost())
    assert file.megabytes == file.path.stat().st_size / 1e6 > 0
