"""`kill -9` at random moments: the resumed run equals the uninterrupted one bit for bit, every time."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import players
import pytest

from reuselib import run

ROUNDS = 15
UPDATES = {"inversion-cmi": 12}  # its pool is full then
METHODS = ["dfad", "inversion-cmi", "zskt", "gan-one-stage", "supervised", "netgraft"]


def job(name: str, checkpoint: Path, result: Path) -> None:
    """What is killed: a run with a checkpoint after every update; its end state goes to `result`."""
    players.torch.set_num_threads(1)
    players.torch.manual_seed(1)
    method = players.make(name, dropout=0.2)
    history = players.drive(method, UPDATES.get(name, 2 * ROUNDS) // 2, checkpoint=checkpoint)
    more = {"rounds": history.rounds, "passes": history.cost.passes, "global": players.torch.get_rng_state()}
    run.save_checkpoint(result, players.state(method) | more)


def start(*arguments: object) -> BaseProcess:
    """Start a job in a process of its own, forked from a clean one that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["players"])
    process = context.Process(target=job, args=arguments)
    process.start()
    return process


NIGHTLY = [pytest.param(number, marks=pytest.mark.nightly) for number in range(1, 20)]


@pytest.mark.parametrize("number", [0, *NIGHTLY])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, number: int) -> None:
    name, draw, began = METHODS[number % len(METHODS)], random.Random(number), time.perf_counter()
    process = start(name, tmp_path / "other.pt", tmp_path / "whole")
    process.join(120)
    assert process.exitcode == 0
    longest, kills, checkpoint, result = time.perf_counter() - began, 0, tmp_path / "run.pt", tmp_path / "resumed"
    while not result.exists():
        process = start(name, checkpoint, result)
        if kills < 2:
            process.join(draw.uniform(0, longest))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        if checkpoint.exists():
            run.load_checkpoint(checkpoint)
        if result.exists() and not kills:  # it was quicker than the kill: once more, sooner
            longest /= 2
            result.unlink(), checkpoint.unlink()
    contents = [run.load_checkpoint(path) for path in (tmp_path / "whole", result)]
    assert contents[0]["iteration"] == UPDATES.get(name, 2 * ROUNDS)
    assert not list(players.differences(*contents))
