"""A run that was interrupted and resumed equals an uninterrupted one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import players
import pytest
import torch

from reuselib import run


def drive(name: str, rounds: int, checkpoint: Path | None, seed: int = 0, **options: Any) -> tuple[Any, run.History]:
    """Run a method on a student with dropout, which draws from torch's global generator."""
    method = players.make(name, seed=seed, dropout=0.2, **options)
    evaluating = {"evaluate": players.evaluation(method), "evaluations": rounds}
    history = players.drive(method, rounds, checkpoint=checkpoint, **evaluating)
    return players.state(method) | {"global": torch.get_rng_state(), "seed": None}, history


HALVES = (
    *("dfad", "segmentation-dfad", "inversion-cmi", "gan-one-stage", "netgraft", "amalgamation-joint"),
    *("component", "target", "supervised", "zero-shot-qfsl", "amalgamation"),
)
"""One method of each family, which is also tried in the two half precisions."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "fp32") for name in [*players.METHODS, *players.STAGED]),
        *((name, half) for name in HALVES for half in ("bf16", "fp16")),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, name: str, precision: str) -> None:
    rounds = 4 if getattr(players.make(name), "total", 8) >= 8 else 2  # some end earlier
    torch.manual_seed(1)
    state, history = drive(name, rounds, None, precision=precision)
    torch.manual_seed(1)
    drive(name, rounds // 2, tmp_path / "run.pt", precision=precision)
    torch.manual_seed(2)
    # Other weights, another seed and another global state: all of it must come from the file.
    # (But where images come from a generator outside of the method, that generator is the caller's business.)
    seed = 0 if name == "kd-generator" else 5
    resumed, resumed_history = drive(name, rounds, tmp_path / "run.pt", seed=seed, precision=precision)
    assert not list(players.differences(state, resumed))
    assert resumed_history.rounds == history.rounds
    assert resumed_history.cost.passes == history.cost.passes


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    _, history = drive("dfad", 2, tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    state, again = drive("dfad", 2, tmp_path / "run.pt")
    assert again.rounds == history.rounds and again.cost.passes == history.cost.passes
    assert state["iteration"] == 4 and (tmp_path / "run.pt").read_bytes() == before


def test_cost_adds_up_over_the_parts(tmp_path: Path) -> None:
    _, first = drive("dfad", 1, tmp_path / "run.pt")
    _, both = drive("dfad", 2, tmp_path / "run.pt")
    assert both.cost.passes == {name: 2 * count for name, count in first.cost.passes.items()}
    assert both.cost.wall_seconds > first.cost.wall_seconds and both.cost.cpu_seconds > first.cost.cpu_seconds


def test_the_learning_rate_goes_on_with_its_schedule(tmp_path: Path) -> None:
    options = {"schedule": run.step_decay([3, 5]), "lr": 0.1}
    drive("dfad", 2, tmp_path / "run.pt", **options)
    method = players.make("dfad", **options)
    players.drive(method, 4, checkpoint=tmp_path / "run.pt")
    assert method.student_optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
