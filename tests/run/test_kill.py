"""`kill -9` in the middle of a run: resumed in another process it equals the uninterrupted one bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import players
import pytest

from reuselib import home

CODE = """
import sys, players
method = players.make(sys.argv[1], dropout=0.2)
players.torch.manual_seed(1)
players.drive(method, 200, checkpoint=sys.argv[2])
"""


@pytest.mark.parametrize(
    "name", ["dfad", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("inversion-cmi", "zskt"))]
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / "run.pt"
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(home.CLONE), str(home.CLONE / "tests")])}
    process = subprocess.Popen([sys.executable, "-c", CODE, name, str(checkpoint)], env=there)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() < 0
    whole, resumed = (players.make(name, dropout=0.2) for _ in range(2))
    done = players.run.load_checkpoint(checkpoint)["iteration"]
    rounds = done // whole.steps_per_round + 2
    players.torch.manual_seed(1)
    players.drive(whole, rounds)
    players.drive(resumed, rounds, checkpoint=checkpoint)
    assert resumed.iteration > done and not list(players.differences(*map(players.state, (whole, resumed))))
