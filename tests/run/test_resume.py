"""A run that was interrupted and resumed equals an uninterrupted one, bit for bit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import players
import pytest
import torch

from reuselib import run


def drive(
    method: run.Method, rounds: int, checkpoint: Path | None = None, cut: int | None = None
) -> tuple[Any, run.History | None]:
    """Run a method, evaluating on the way; its state and history, and the global random state. It may be cut off."""
    if cut is not None:
        method.step = players.rigged(method.step, at=cut)
    with pytest.raises(players.Explosion) if cut is not None else nullcontext():
        history = players.drive(method, rounds, checkpoint=checkpoint, evaluate=players.evaluation(method))
        return players.state(method) | {"global": torch.get_rng_state()}, history
    return None, None


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
    def make() -> run.Method:
        """With dropout, which draws from torch's global generator."""
        return players.make(name, dropout=0.2, precision=precision)

    rounds = max(2, min(4, getattr(make(), "total", 6) // 2))  # some methods end earlier
    torch.manual_seed(1)
    state, history = drive(make(), rounds)
    torch.manual_seed(1)
    drive(make(), rounds, tmp_path / "run.pt", cut=rounds // 2 * 2 + 1)  # in the middle of a round
    torch.manual_seed(2)
    method = make()
    method.step()  # other weights, moments, memory and draws: all of it must come from the file
    resumed, resumed_history = drive(method, rounds, tmp_path / "run.pt")
    assert not list(players.differences(state, resumed))
    assert resumed_history.rounds == history.rounds
    assert resumed_history.cost.passes == history.cost.passes


def test_a_finished_run_is_not_run_again_cost_adds_up_and_a_schedule_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def to(rounds: int) -> tuple[Any, run.History | None]:
        return drive(players.make("dfad", schedule=run.step_decay([1, 3]), lr=0.1), rounds, path)

    (_, first), (state, both), before = to(1), to(2), path.read_bytes()
    assert state["student_optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)
    assert both.cost.passes == {name: 2 * count for name, count in first.cost.passes.items()}
    assert both.cost.wall_seconds > first.cost.wall_seconds and both.cost.cpu_seconds > first.cost.cpu_seconds
    again, once_more = to(2)
    assert once_more.rounds == both.rounds and once_more.cost == both.cost
    assert again["iteration"] == state["iteration"] == 4 and path.read_bytes() == before
