"""Checkpoint files: whole, refused when altered, and refused by what they do not belong to."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import players
import pytest
import torch

from reuselib import home, run
from reuselib.errors import DamagedFile, MissingFile, OldSchema, ReuseError


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
        with pytest.raises(DamagedFile, match="run.pt is damaged"):
            resume(players.make("dfad"), checkpoint)


def test_a_write_that_fails_leaves_the_old_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = checkpoint.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(home.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        players.drive(players.make("dfad"), 2, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before and list(checkpoint.parent.iterdir()) == [checkpoint]


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


def resume(method: run.Method, checkpoint: Path) -> None:
    """Try to go on, and assert that the checkpoint is left alone."""
    before = checkpoint.read_bytes()
    try:
        players.drive(method, 2, checkpoint=checkpoint)
    finally:
        assert checkpoint.read_bytes() == before


def of(method: str = "dfad", **parts: Any) -> run.Method:
    """A method whose cast has other parts."""
    cast = players.cast()
    vars(cast).update(parts)
    return players.MAKERS[method](cast, precision="fp32")


def test_a_checkpoint_of_something_else_is_refused_and_left_alone(checkpoint: Path) -> None:
    other_teacher, fewer, wider = of(), of(), players.nets.conv3(width=3, classes=players.CLASSES)
    generator = players.nets.upsampling_generator(image=players.IMAGE, latent=6, width=4)
    fewer.schedulers.pop()
    with torch.no_grad():
        other_teacher.teacher.head.bias[0] += 1e-6
    for method, words in (
        (of("dafl"), "is of DFAD, not DAFL. Delete .*run.pt.*another checkpoint file"),
        (other_teacher, "another teacher. Delete .*run.pt"),
        (of(student=wider), "(?s)does not fit this method's student .*Delete .*run.pt"),
        (of(generator=generator), "(?s)does not fit this method's generator .*Delete .*run.pt"),
        (fewer, "(?s)does not fit this method's schedulers .*Delete .*run.pt"),
    ):
        with pytest.raises(ReuseError, match=words):
            resume(method, checkpoint)
    run.save_checkpoint(checkpoint, run.load_checkpoint(checkpoint) | {"format": 0})
    with pytest.raises(OldSchema, match="run.pt has format 0, not 1. Delete it"):
        resume(of(), checkpoint)


# ---- a method that holds another


def held(**options: Any) -> run.Method:
    """CMI, which holds the distillation of its student."""
    return players.make("inversion-cmi", **options)


def test_a_held_method_is_captured_with_its_holder_and_the_teacher_is_not(tmp_path: Path) -> None:
    method = held()
    players.drive(method, 2, checkpoint=tmp_path / "run.pt")
    content = run.load_checkpoint(tmp_path / "run.pt")
    inner = content["state"]["imitation"]
    assert inner.keys() == {"student", "student_optimizer", "schedulers", "random", "precision"}
    assert content["state"].keys() >= {"pool", "bank", "head", "head_optimizer", "generator", "random", "imitation"}
    assert "teacher" not in content["state"] and content["fixed"].keys() == {"teacher"}
    assert not list(players.differences(players.state(inner["student"]), players.state(method.imitation.student)))
    assert set(method.networks()) == {"teacher", "student", "generator", "head"}


def test_a_held_method_is_resumed_with_its_holder(tmp_path: Path) -> None:
    whole, first, second = held(), held(), held(seed=5)
    players.drive(whole, 4)
    players.drive(first, 2, checkpoint=tmp_path / "run.pt")
    networks = players.state(second.imitation)
    players.drive(second, 2, checkpoint=tmp_path / "run.pt")
    assert not list(players.differences(players.state(first), players.state(second)))
    assert list(players.differences(networks, players.state(second.imitation)))
    players.drive(second, 4, checkpoint=tmp_path / "run.pt")
    assert not list(players.differences(players.state(whole), players.state(second)))


def test_a_checkpoint_with_other_parts_is_refused(tmp_path: Path) -> None:
    """A student of whom the file knows nothing would start afresh without anybody noticing."""
    path, student = tmp_path / "run.pt", players.nets.conv3(width=3, classes=players.CLASSES)
    for saved, resumed in (("cmi", "alone"), ("cmi", "adversary"), ("alone", "cmi")):
        path.unlink(missing_ok=True)
        players.drive(players.make(f"inversion-{saved}"), 1, checkpoint=path)
        with pytest.raises(ReuseError, match="(?s)do not both have: .*imitation.*Delete .*run.pt"):
            resume(players.make(f"inversion-{resumed}"), path)
    path.unlink()
    players.drive(held(), 1, checkpoint=path)
    with pytest.raises(ReuseError, match="(?s)does not fit this method's imitation .*Delete .*run.pt"):
        resume(of("inversion-cmi", student=student), path)
