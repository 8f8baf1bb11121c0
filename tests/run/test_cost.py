"""Counting passes, seconds and memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import players
import pytest
import torch
from torch import nn

from reuselib import chapters, run
from reuselib.run.cost import HEADS, measured


def test_passes_of_a_known_graph_are_counted_until_the_end_or_an_exception() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    counts = {"a_forward": 1}  # to which it adds
    with pytest.raises(players.Explosion), run.count_passes({"a": a, "b": b}, counts):
        x = torch.randn(3, 2)
        b(a(x)).sum().backward()  # both forward, both backward
        b(a(x).detach()).sum().backward()  # both forward, b backward
        with torch.no_grad():
            a(x)
        a(x)
        with run.frozen(b):
            b(a(x)).sum().backward()  # a gradient through a frozen network is a backward pass
        raise players.Explosion
    a(x)
    assert counts == {"a_forward": 6, "a_backward": 2, "b_forward": 3, "b_backward": 3}
    assert players.hooks(a) == players.hooks(b) == 0


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.a(x), "b": self.b(x)}


def test_a_network_with_several_outputs_goes_backward_once() -> None:
    network, x = TwoHeads(), torch.randn(3, 2)
    with run.count_passes({"network": network}) as counts:
        sum(value.sum() for value in network(x).values()).backward()
        network(x)["b"].sum().backward()
        network(x)
    assert counts == {"network_forward": 3, "network_backward": 2}


PER_STEP = {
    "dfad": {"teacher": (6, 1), "student": (6, 6), "generator": (6, 1)},
    "dafl": {"teacher": (1, 1), "student": (1, 1), "generator": (1, 1)},
    "zskt": {"teacher": (1, 1), "student": (4, 4), "generator": (1, 1)},
    "dfad-one-stage": {"teacher": (3, 1), "student": (3, 3), "generator": (3, 1)},
    "gan-one-stage": {"generator": (1, 1), "discriminator": (2, 2)},
    "gan-two-stage-plain": {"generator": (2, 1), "discriminator": (3, 3)},
    "amalgamation-layers": {"teachers": (1, 0), "encoders": (1, 0), "adapted": (1, 0)},
    "component-one-step": {"student": (1, 1), "sources": (1, 0)},
}


@pytest.mark.parametrize("name", PER_STEP)
def test_a_run_counts_the_passes_of_its_steps_and_not_of_its_evaluation(name: str) -> None:
    method = players.make(name)
    history = players.drive(method, 2, evaluate=players.evaluation(method))
    steps = 2 * method.steps_per_round
    expected = {f"{network}_forward": forward * steps for network, (forward, _) in PER_STEP[name].items()}
    expected |= {f"{network}_backward": backward * steps for network, (_, backward) in PER_STEP[name].items()}
    assert history.cost.passes == expected


def test_seconds_and_memory_add_up_also_after_an_exception() -> None:
    cost = run.Cost(wall_seconds=10, cpu_seconds=10)
    with pytest.raises(players.Explosion), measured(cost):
        time.sleep(0.05)
        raise players.Explosion
    assert 10.05 <= cost.wall_seconds < 15
    assert 10 <= cost.cpu_seconds < cost.wall_seconds
    assert cost.peak_memory_mb > 20


def test_interleaved_work_takes_turns_in_alternating_order_and_waits_for_an_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: seen.append("."))
    timings = run.interleaved({name: lambda name=name: seen.append(name) for name in "ab"}, turns=3, warmup=2)
    assert "".join(seen) == "".join(f".{name}." for name in "ab" + "ba" + "ab" + "ba" + "ab")
    for timing in timings.values():  # of two turns of warm-up, then three
        assert len(timing.wall) == len(timing.cpu) == 3 and min(timing.wall) > 0 and min(timing.cpu) >= 0


def test_the_largest_checkpoint_is_known_ahead_and_bills_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def weigh(path: Path, content: dict[str, Any], save: Any = run.save_checkpoint) -> None:
        save(path, content)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr("reuselib.run.checkpoint.save_checkpoint", weigh)
    study, options = chapters.study("dfad", "smoke"), {"updates": 10, "evaluations": 1, "limit": 10}
    study.run("digits-dfad", checkpoint=tmp_path / "run.pt", progress=False, **options)
    written = max(sizes)
    assert 0.8 * written < study.predict("digits-dfad", **options).checkpoint < written  # which has names too
    study.settings = {row: study.settings[row] for row in ("digits-untrained", "digits-dfad", "digits-dafl")}
    total, silent = study.bill()
    each = [study.predict(row) for row in ("digits-dfad", "digits-dafl")]
    assert total.operations == sum(one.operations for one in each) > 0
    assert (total.checkpoint, total.memory) == (max(one.checkpoint for one in each), max(one.memory for one in each))
    assert silent == ["digits-untrained"]


def test_a_prediction_is_printed_in_fitting_units() -> None:
    for seconds, memory, shown in ((0.1, 2**20, "< 1 s < 1 s < 0.1 GiB"), (93600, 2**35, "26 h 3.9 h 32.0 GiB")):
        cost = str(run.Prediction(seconds * run.SUSTAINED["T4, fp16"], memory))
        assert " ".join(cost.split()) == shown and len(cost) == len(HEADS)
