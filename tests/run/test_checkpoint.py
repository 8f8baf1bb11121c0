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


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.5, 0.999])
def test_a_cut_off_checkpoint_is_refused_by_a_run(checkpoint: Path, share: float) -> None:
    original = checkpoint.read_bytes()
    cut = original[: int(share * len(original))]
    checkpoint.write_bytes(cut)
    with pytest.raises(DamagedFile, match="run.pt is damaged"):
        players.drive(players.make("dfad"), 2, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == cut


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


def test_a_checkpoint_of_another_method_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ReuseError, match="is of DFAD, not DAFL. Delete .*run.pt.*another checkpoint file"):
        resume(players.make("dafl"), checkpoint)


def test_a_checkpoint_made_with_another_teacher_is_refused(checkpoint: Path) -> None:
    method = players.make("dfad")
    with torch.no_grad():
        method.teacher.head.bias[0] += 1e-6
    with pytest.raises(ReuseError, match="another teacher. Delete .*run.pt"):
        resume(method, checkpoint)


@pytest.mark.parametrize("changed", ["student", "generator"])
def test_a_checkpoint_of_another_architecture_is_refused(checkpoint: Path, changed: str) -> None:
    cast = players.cast()
    if changed == "student":
        cast.student = players.nets.conv3(width=3, classes=players.CLASSES)
    else:
        cast.generator = players.nets.upsampling_generator(image=players.IMAGE, latent=6, width=4)
    method = players.MAKERS["dfad"](cast, precision="fp32")
    with pytest.raises(ReuseError, match=f"(?s)does not fit this method's {changed} .*Delete .*run.pt"):
        resume(method, checkpoint)


def test_a_checkpoint_with_another_number_of_parts_is_refused(checkpoint: Path) -> None:
    method = players.make("dfad")
    method.schedulers.pop()
    with pytest.raises(ReuseError, match="(?s)does not fit this method's schedulers .*Delete .*run.pt"):
        resume(method, checkpoint)


def test_a_checkpoint_of_another_format_is_refused(checkpoint: Path) -> None:
    run.save_checkpoint(checkpoint, run.load_checkpoint(checkpoint) | {"format": 0})
    with pytest.raises(OldSchema, match="run.pt has format 0, not 1. Delete it"):
        resume(players.make("dfad"), checkpoint)


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


@pytest.mark.parametrize(("saved", "resumed"), [("alone", "cmi"), ("cmi", "alone"), ("cmi", "adversary")])
def test_a_checkpoint_with_other_parts_is_refused(tmp_path: Path, saved: str, resumed: str) -> None:
    """A student of whom the file knows nothing would start afresh without anybody noticing."""
    path = tmp_path / "run.pt"
    players.drive(players.make(f"inversion-{saved}"), 1, checkpoint=path)
    with pytest.raises(ReuseError, match="(?s)do not both have: .*imitation.*Delete .*run.pt"):
        resume(players.make(f"inversion-{resumed}"), path)


def test_a_checkpoint_whose_held_method_has_another_architecture_is_refused(tmp_path: Path) -> None:
    path, cast = tmp_path / "run.pt", players.cast()
    players.drive(held(), 1, checkpoint=path)
    cast.student = players.nets.conv3(width=3, classes=players.CLASSES)
    with pytest.raises(ReuseError, match="(?s)does not fit this method's imitation .*Delete .*run.pt"):
        resume(players.MAKERS["inversion-cmi"](cast, precision="fp32"), path)
