"""One flipped bit in any file that holds a result is refused: ten of each kind."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from reuselib import home, report, run
from reuselib.errors import DamagedFile, OldSchema
from reuselib.nets import zoo

NETWORK = "digits8-conv3"


def records() -> Path:
    for seed in range(3):
        toy.make(seed=seed, accuracy=0.1 + 0.2 * seed, metrics={"long": 0.1 + 0.2, "small": 1e-17}).save()
    return home.path("results", "toy.jsonl")


def checkpoint() -> Path:
    run.save_checkpoint(home.path("toy.ckpt"), {"iteration": 3, "format": 1})
    return home.path("toy.ckpt")


def shipped(relative: str) -> Callable[[], Path]:
    def copied() -> Path:
        home.path(relative).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(home.CLONE / "data" / relative, home.path(relative)))

    return copied


KINDS: dict[str, tuple[Callable[[], Path], Callable[[], object]]] = {
    "records": (records, lambda: report.records("toy")),
    "published tables": (shipped("papers/dfad.yaml"), lambda: report.published("dfad")),
    "published numbers": (
        shipped("papers/taskonomy_affinities.csv"),
        lambda: home.shipped("papers/taskonomy_affinities.csv"),
    ),
    "cards": (shipped(f"zoo/{NETWORK}/card.json"), lambda: zoo.card(NETWORK)),
    "weights": (shipped(f"zoo/{NETWORK}/weights.safetensors"), lambda: zoo.load(NETWORK)),
    "checkpoints": (checkpoint, lambda: run.load_checkpoint(home.path("toy.ckpt"))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused(room: Path, kind: str) -> None:
    make, read = KINDS[kind]
    path = make()
    whole = path.read_bytes()
    read()
    for number in random.Random(0).sample(range(len(whole)), 10):
        path.write_bytes(whole[:number] + bytes([whole[number] ^ 1 << number % 8]) + whole[number + 1 :])
        line = f"line {whole[:number].count(10) + 1}\\b" if kind == "records" else None
        with pytest.raises((DamagedFile, OldSchema), match=line) as caught:
            read()
        assert str(path) in str(caught.value) and "Fix: " in str(caught.value)
